//! The kill switch: set by an operator, kept over restarts, followed by every stream.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use magi_master_api::message;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::files::{self, FileError};

/// Its state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    /// Milliseconds since the epoch when it was set, or one more than the last; 0: never touched.
    pub revision: u64,
    /// Nothing is stopped.
    pub engaged: bool,
    /// Who set it.
    pub by: String,
    /// Why.
    pub reason: String,
}

impl From<Switch> for message::KillSwitch {
    fn from(switch: Switch) -> Self {
        Self {
            revision: switch.revision,
            engaged: switch.engaged,
            by: switch.by,
            reason: switch.reason,
        }
    }
}

/// Why the switch cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// Its file cannot be read or written.
    #[error("cannot keep the kill switch")]
    File(#[source] FileError),
    /// Its file is broken.
    #[error("{} holds no kill switch", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// Sets it. Changed by: operators ([`Self::set`]).
#[derive(Debug)]
pub struct Switchboard {
    path: PathBuf,
    current: watch::Sender<Switch>,
    /// One at a time, so that file and streams agree.
    setting: Mutex<()>,
}

impl Switchboard {
    /// As it was left in `folder`.
    ///
    /// # Errors
    /// What was left cannot be read. Nobody may guess whether things may be stopped.
    pub fn open(folder: &Path) -> Result<Self, SwitchError> {
        let path = folder.join("kill-switch.json");
        let switch = match files::read_if_there(&path, files::SMALL).map_err(SwitchError::File)? {
            None => Switch::default(),
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|source| SwitchError::Broken {
                path: path.clone(),
                source,
            })?,
        };
        Ok(Self {
            path,
            current: watch::Sender::new(switch),
            setting: Mutex::new(()),
        })
    }

    /// What streams follow.
    #[must_use]
    pub fn sender(&self) -> watch::Sender<Switch> {
        self.current.clone()
    }

    /// Sets or clears it at `now_ms`, in milliseconds since the epoch. It is on the disk before any node hears of it.
    ///
    /// # Errors
    /// It cannot be written, and stays as it was.
    pub fn set(&self, engaged: bool, by: &str, reason: &str, now_ms: u64) -> Result<Switch, SwitchError> {
        let _one = self.setting.lock().unwrap_or_else(PoisonError::into_inner);
        let last = self.current.borrow().revision;
        let switch = Switch {
            revision: now_ms.max(last.saturating_add(1)),
            engaged,
            by: by.to_owned(),
            reason: reason.to_owned(),
        };
        let bytes = serde_json::to_vec(&switch).map_err(|source| SwitchError::Broken {
            path: self.path.clone(),
            source,
        })?;
        files::replace(&self.path, &bytes).map_err(SwitchError::File)?;
        self.current.send_replace(switch.clone());
        Ok(switch)
    }
}
