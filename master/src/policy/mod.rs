//! The policy: read from where the operator puts it, or pushed by one; checked, numbered, and published when it changes.
//!
//! Where the settings name no file, operators push it ([`Publisher::push`]), and what is kept in the state folder is the
//! policy. Where they name one, a push is refused: the file would win a second later, or the two would disagree for ever.
//!
//! It is a file, or a folder with one YAML file in it, as a ConfigMap is mounted: its files are links through `..data`,
//! which is swapped as a whole. The file is read again every so often and compared with what is published; that costs a
//! read of the page cache, and is right whatever an editor or the kubelet does to names, times and links.
//!
//! A policy that cannot be read or is wrong changes nothing but a counter and the status: the last good one stays, and
//! is also what a master begins with that was started beside a wrong one.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use magi_config::ConfigError;
use magi_master_api::bounds::MAX_POLICY;
use magi_master_api::policy::PolicyVersion;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::counters::{Count, Counters};
use crate::files::{self, FileError};

/// What errors call a policy that no file holds.
const PUSHED: &str = "policy";
/// Entries of the policy's folder that are looked at.
const MAX_ENTRIES: usize = 1024;

/// A policy that nodes may have.
#[derive(Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its number and digest.
    pub version: PolicyVersion,
    /// Its text.
    pub bytes: Bytes,
    /// Who pushed it; none: it comes from a file.
    pub by: Option<String>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Snapshot({}, {} bytes)", self.version, self.bytes.len())
    }
}

/// Why there is no policy, or no new one.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The folder cannot be listed.
    #[error("cannot list {}", path.display())]
    List {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The folder holds no YAML file, or several.
    #[error("{} holds {found} YAML files, not one", path.display())]
    NotOne {
        /// The folder.
        path: PathBuf,
        /// How many.
        found: usize,
    },
    /// The file cannot be read or replaced.
    #[error("cannot read the policy")]
    File(#[source] FileError),
    /// It is not there.
    #[error("{} does not exist", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// It was pushed to a master that takes it from a file.
    #[error(
        "this master takes its policy from {}: change it there (a ConfigMap: `kubectl edit`), or write `policy: null` in \
         the master's settings and start it again, and it takes what is pushed", path.display()
    )]
    NotPushed {
        /// The file.
        path: PathBuf,
    },
    /// What it was to replace is not in force any more.
    #[error("revision {in_force} is in force, not {meant}: somebody else was faster")]
    Replaced {
        /// What is in force; 0: nothing.
        in_force: u64,
        /// What was to be replaced.
        meant: u64,
    },
    /// It is too large.
    #[error("the policy has more than {MAX_POLICY} bytes")]
    TooLarge,
    /// It is no text.
    #[error("{} is not UTF-8 text", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// It is wrong; the error shows each place.
    #[error(transparent)]
    Wrong(ConfigError),
    /// It cannot be kept.
    #[error("cannot keep the policy's number")]
    Keep(#[source] FileError),
    /// What was kept is broken.
    #[error("{} holds no number of a policy", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// What is kept of the last policy, beside its text.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    revision: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<String>,
}

/// Reads, numbers and publishes.
///
/// Changed by: a look at the file ([`Self::look`]), or an operator ([`Self::push`]).
#[derive(Debug)]
pub struct Publisher {
    /// None: operators push it.
    source: Option<PathBuf>,
    state: PathBuf,
    /// The number given last. Held while another is published: one at a time, so that folder and streams agree.
    last_revision: Mutex<u64>,
    current: watch::Sender<Option<Arc<Snapshot>>>,
    problems: watch::Sender<String>,
    counters: Arc<Counters>,
}

impl Publisher {
    /// Takes up the last good policy, which an earlier run kept in the folder `state`.
    ///
    /// # Errors
    /// What was kept cannot be read.
    pub fn open(source: Option<&Path>, state: &Path, counters: Arc<Counters>) -> Result<Self, PolicyError> {
        let number = state.join("policy.json");
        let kept = files::read_if_there(&number, files::SMALL).map_err(PolicyError::Keep)?;
        let text = files::read_if_there(&state.join("policy.yaml"), MAX_POLICY).map_err(PolicyError::Keep)?;
        let kept = match &kept {
            None => Kept {
                revision: 0,
                by: None,
            },
            Some(bytes) => serde_json::from_slice(bytes)
                .map_err(|source| PolicyError::Broken { path: number, source })?,
        };
        // An earlier release may have thought well of what this one finds wrong; nodes would refuse it.
        let good = text
            .filter(|_| kept.revision > 0)
            .filter(|bytes| check(Path::new(PUSHED), bytes).is_ok());
        let current = good.map(|bytes| {
            Arc::new(Snapshot {
                version: PolicyVersion::of(kept.revision, &bytes),
                bytes: bytes.into(),
                by: kept.by,
            })
        });
        Ok(Self {
            source: source.map(Path::to_owned),
            state: state.to_owned(),
            last_revision: Mutex::new(kept.revision),
            current: watch::Sender::new(current),
            problems: watch::Sender::new(String::new()),
            counters,
        })
    }

    /// The policy, as it changes.
    #[must_use]
    pub fn sender(&self) -> watch::Sender<Option<Arc<Snapshot>>> {
        self.current.clone()
    }

    /// Why the file that is there is not published; empty: it is.
    #[must_use]
    pub fn problems(&self) -> watch::Receiver<String> {
        self.problems.subscribe()
    }

    /// The file or folder that it comes from; none: operators push it.
    #[must_use]
    pub fn source(&self) -> Option<&Path> {
        self.source.as_deref()
    }

    /// Looks at the file, if there is to be one, at `now`, and publishes what is new. Whether something was.
    pub fn look(&self, now: Timestamp) -> bool {
        let Some(source) = &self.source else {
            return false;
        };
        match self.look_or_fail(source, now) {
            Ok(is_new) => {
                self.tell(String::new());
                is_new
            }
            Err(error) => {
                let problem = match std::error::Error::source(&error) {
                    Some(cause) => format!("{error}: {cause}"),
                    None => error.to_string(),
                };
                self.tell(problem);
                false
            }
        }
    }

    /// Takes what the operator `by` pushes at `now`, in place of revision `replaces` (0: of whatever there is). Gives its
    /// number, and whether it is another policy than the one before.
    ///
    /// # Errors
    /// It comes from a file, or it is wrong, or cannot be kept; nothing has changed then.
    pub fn push(
        &self,
        bytes: &[u8],
        by: &str,
        replaces: u64,
        now: Timestamp,
    ) -> Result<(PolicyVersion, bool), PolicyError> {
        if let Some(path) = &self.source {
            return Err(PolicyError::NotPushed { path: path.clone() });
        }
        if bytes.len() > MAX_POLICY {
            return Err(PolicyError::TooLarge);
        }
        check(Path::new(PUSHED), bytes)?;
        self.publish(bytes, Some(by), replaces, now)
    }

    fn tell(&self, problem: String) {
        if problem == *self.problems.borrow() {
            return;
        }
        if problem.is_empty() {
            tracing::info!("the policy's file is good again");
        } else {
            self.counters.one(Count::PolicyProblems);
            tracing::warn!(problem, "the policy cannot be used: the last good one stays");
        }
        self.problems.send_replace(problem);
    }

    fn look_or_fail(&self, source: &Path, now: Timestamp) -> Result<bool, PolicyError> {
        let path = one_file(source)?;
        let bytes = files::read_if_there(&path, MAX_POLICY)
            .map_err(PolicyError::File)?
            .ok_or_else(|| PolicyError::Missing { path: path.clone() })?;
        if self
            .current
            .borrow()
            .as_ref()
            .is_some_and(|current| current.bytes == bytes)
        {
            return Ok(false);
        }
        check(&path, &bytes)?;
        self.publish(&bytes, None, 0, now).map(|(_, is_new)| is_new)
    }

    /// Numbers what was checked, keeps it, and only then tells the streams.
    fn publish(
        &self,
        bytes: &[u8],
        by: Option<&str>,
        replaces: u64,
        now: Timestamp,
    ) -> Result<(PolicyVersion, bool), PolicyError> {
        let mut last = self.last_revision.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.current.borrow().clone();
        let in_force = current.as_ref().map_or(0, |current| current.version.revision);
        if replaces > 0 && replaces != in_force {
            return Err(PolicyError::Replaced {
                in_force,
                meant: replaces,
            });
        }
        if let Some(current) = current.filter(|current| current.bytes == bytes) {
            return Ok((current.version, false));
        }
        let now = u64::try_from(now.as_millisecond()).unwrap_or_default();
        let revision = now.max(last.saturating_add(1));
        let path = self.state.join("policy.json");
        let kept = Kept {
            revision,
            by: by.map(ToOwned::to_owned),
        };
        // The number first: should the text not follow, the next number is still higher than this one.
        let number = serde_json::to_vec(&kept).map_err(|source| PolicyError::Broken {
            path: path.clone(),
            source,
        })?;
        files::replace(&path, &number).map_err(PolicyError::Keep)?;
        *last = revision;
        files::replace(&self.state.join("policy.yaml"), bytes).map_err(PolicyError::Keep)?;
        let snapshot = Snapshot {
            version: PolicyVersion::of(revision, bytes),
            bytes: Bytes::copy_from_slice(bytes),
            by: kept.by,
        };
        let version = snapshot.version;
        self.counters.one(Count::Policies);
        tracing::info!(%version, by = snapshot.by, "policy published");
        self.current.send_replace(Some(Arc::new(snapshot)));
        Ok((version, true))
    }

    /// Looks every `every` until it is time to stop; not at all if there is no file.
    pub async fn follow(self: Arc<Self>, every: Duration, stop: CancellationToken) {
        if self.source.is_none() {
            return;
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(every) => {}
            }
            let publisher = Arc::clone(&self);
            let looked = tokio::task::spawn_blocking(move || publisher.look(Timestamp::now()));
            if looked.await.is_err() {
                return;
            }
        }
    }
}

fn check(path: &Path, bytes: &[u8]) -> Result<(), PolicyError> {
    let text = std::str::from_utf8(bytes).map_err(|_| PolicyError::NotText {
        path: path.to_owned(),
    })?;
    magi_config::parse_policy(&path.display().to_string(), text)
        .map(|_| ())
        .map_err(PolicyError::Wrong)
}

/// The file itself, or the one YAML file of a folder.
fn one_file(path: &Path) -> Result<PathBuf, PolicyError> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let failed = |source| PolicyError::List {
        path: path.to_owned(),
        source,
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)?.take(MAX_ENTRIES) {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        // Those that begin with a dot are the kubelet's, or an editor's.
        if !name.starts_with('.') && (name.ends_with(".yaml") || name.ends_with(".yml")) {
            found.push(entry.path());
        }
    }
    match found.as_slice() {
        [one] => Ok(one.clone()),
        _ => Err(PolicyError::NotOne {
            path: path.to_owned(),
            found: found.len(),
        }),
    }
}

#[cfg(test)]
mod tests;
