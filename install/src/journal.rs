//! What was done, written before it is done: enough to take all of it back, even after a crash in the middle.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::edit::Setting;
use crate::files::{self, FileError, Links, Owner};
use crate::unpack::Tables;

const FORMAT: u32 = 1;
const NAME: &str = "manifest.json";
/// Longest journal: some files of a megabyte, as JSON.
const LONGEST: u64 = 16 << 20;
/// It holds whole configurations, and those may hold credentials.
const OWNER: Owner = Owner {
    mode: 0o600,
    uid: 0,
    gid: 0,
};

/// All that magi did to this node. Paths are the node's, without the prefix of a chroot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Journal {
    format: u32,
    pub(crate) phase: Phase,
    /// The version of containerd that it was done for.
    pub(crate) containerd: String,
    pub(crate) files: Vec<Edited>,
    pub(crate) program: Option<Program>,
    /// Folders that were made, outermost first.
    pub(crate) folders: Vec<PathBuf>,
}

/// How far it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// Some of it may not be done yet.
    Installing,
    Installed,
    /// Some of it may be undone already.
    Removing,
}

/// A configuration file that was made or edited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Edited {
    pub(crate) path: PathBuf,
    /// As it was; `None` if it did not exist.
    pub(crate) before: Option<Before>,
    /// The sha256 of what it became.
    pub(crate) after: String,
    pub(crate) settings: Vec<Setting>,
    /// Tables that were appended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tables: Option<Tables>,
}

/// A file as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Before {
    pub(crate) sha256: String,
    /// TOML is UTF-8, so text holds every byte.
    pub(crate) text: String,
    pub(crate) owner: Owner,
}

/// The verifier's program, which did not exist before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) temp: PathBuf,
    pub(crate) sha256: String,
}

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// It cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Nobody but magictl writes it.
    #[error(
        "{} cannot be understood: somebody changed it, or a newer magictl wrote it. It holds the originals; see to them before you remove it",
        path.display()
    )]
    Damaged {
        /// The journal.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// Of a later magictl.
    #[error("{} is of format {format}, and this magictl knows format {FORMAT} only; use the one that wrote it", path.display())]
    Format {
        /// The journal.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
}

impl Journal {
    pub(crate) fn new(containerd: String) -> Self {
        Self {
            format: FORMAT,
            phase: Phase::Installing,
            containerd,
            files: Vec::new(),
            program: None,
            folders: Vec::new(),
        }
    }

    /// Reads it from the state folder, with the digest of its bytes; `None` if there is none.
    pub(crate) fn read(state: &Path) -> Result<Option<(Self, String)>, JournalError> {
        let path = state.join(NAME);
        let Some(found) = files::read(&path, LONGEST, Links::Refuse)? else {
            return Ok(None);
        };
        let journal: Self = serde_json::from_slice(&found.bytes).map_err(|source| JournalError::Damaged {
            path: path.clone(),
            source,
        })?;
        if journal.format != FORMAT {
            return Err(JournalError::Format {
                path,
                format: journal.format,
            });
        }
        Ok(Some((journal, files::digest(&found.bytes))))
    }

    pub(crate) fn write(&self, state: &Path) -> Result<(), JournalError> {
        let path = state.join(NAME);
        let json = serde_json::to_vec(self).map_err(|source| JournalError::Damaged {
            path: path.clone(),
            source,
        })?;
        let owner = Owner {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            ..OWNER
        };
        Ok(files::replace(
            &path,
            &files::temporary(&path),
            &json,
            owner,
            None,
        )?)
    }

    pub(crate) fn remove(state: &Path) -> Result<(), JournalError> {
        let path = state.join(NAME);
        files::remove(&files::temporary(&path))?;
        Ok(files::remove(&path)?)
    }

    /// Every name that something half-written may have.
    pub(crate) fn temps(&self) -> Vec<PathBuf> {
        let files = self.files.iter().map(|file| files::temporary(&file.path));
        files
            .chain(self.program.as_ref().map(|program| program.temp.clone()))
            .collect()
    }

    pub(crate) fn file(&self, path: &Path) -> Option<&Edited> {
        self.files.iter().find(|file| file.path == path)
    }
}
