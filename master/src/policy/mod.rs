//! The policy: read from where the operator puts it, checked, numbered, and published when it changes.
//!
//! It is a file, or a folder with one YAML file in it, as a ConfigMap is mounted: its files are links through `..data`,
//! which is swapped as a whole. The file is read again every so often and compared with what is published; that costs a
//! read of the page cache, and is right whatever an editor or the kubelet does to names, times and links.
//!
//! A policy that cannot be read or is wrong changes nothing but a counter and the status: the last good one stays, and
//! is also what a master begins with that was started beside a wrong one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
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

/// Entries of the policy's folder that are looked at.
const MAX_ENTRIES: usize = 1024;

/// A policy that nodes may have.
#[derive(Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its number and digest.
    pub version: PolicyVersion,
    /// Its text.
    pub bytes: Bytes,
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
}

/// Reads, numbers and publishes.
///
/// Changed by: a look at the file ([`Self::look`]).
#[derive(Debug)]
pub struct Publisher {
    source: PathBuf,
    state: PathBuf,
    last_revision: u64,
    /// What was seen last and is not published, so that its problem is told once.
    problem: String,
    current: watch::Sender<Option<Arc<Snapshot>>>,
    problems: watch::Sender<String>,
    counters: Arc<Counters>,
}

impl Publisher {
    /// Takes up the last good policy, which an earlier run kept in the folder `state`.
    ///
    /// # Errors
    /// What was kept cannot be read.
    pub fn open(source: &Path, state: &Path, counters: Arc<Counters>) -> Result<Self, PolicyError> {
        let number = state.join("policy.json");
        let kept = files::read_if_there(&number, files::SMALL).map_err(PolicyError::Keep)?;
        let text = files::read_if_there(&state.join("policy.yaml"), MAX_POLICY).map_err(PolicyError::Keep)?;
        let last_revision = match &kept {
            None => 0,
            Some(bytes) => {
                let kept: Kept = serde_json::from_slice(bytes)
                    .map_err(|source| PolicyError::Broken { path: number, source })?;
                kept.revision
            }
        };
        // An earlier release may have thought well of what this one finds wrong; nodes would refuse it.
        let good = text
            .filter(|_| last_revision > 0)
            .filter(|bytes| check(source, bytes).is_ok());
        let current = good.map(|bytes| {
            Arc::new(Snapshot {
                version: PolicyVersion::of(last_revision, &bytes),
                bytes: bytes.into(),
            })
        });
        Ok(Self {
            source: source.to_owned(),
            state: state.to_owned(),
            last_revision,
            problem: String::new(),
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

    /// Looks at the file, at `now`, and publishes what is new. Whether something was.
    pub fn look(&mut self, now: Timestamp) -> bool {
        match self.look_or_fail(now) {
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

    fn tell(&mut self, problem: String) {
        if problem == self.problem {
            return;
        }
        if problem.is_empty() {
            tracing::info!("the policy's file is good again");
        } else {
            self.counters.one(Count::PolicyProblems);
            tracing::warn!(problem, "the policy cannot be used: the last good one stays");
        }
        self.problem.clone_from(&problem);
        self.problems.send_replace(problem);
    }

    fn look_or_fail(&mut self, now: Timestamp) -> Result<bool, PolicyError> {
        let path = one_file(&self.source)?;
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
        let now = u64::try_from(now.as_millisecond()).unwrap_or_default();
        let revision = now.max(self.last_revision.saturating_add(1));
        // The number first: should the text not follow, the next number is still higher than this one.
        let number = serde_json::to_vec(&Kept { revision }).map_err(|source| PolicyError::Broken {
            path: path.clone(),
            source,
        })?;
        files::replace(&self.state.join("policy.json"), &number).map_err(PolicyError::Keep)?;
        self.last_revision = revision;
        files::replace(&self.state.join("policy.yaml"), &bytes).map_err(PolicyError::Keep)?;
        let snapshot = Snapshot {
            version: PolicyVersion::of(revision, &bytes),
            bytes: bytes.into(),
        };
        self.counters.one(Count::Policies);
        tracing::info!(version = %snapshot.version, "policy published");
        self.current.send_replace(Some(Arc::new(snapshot)));
        Ok(true)
    }

    /// Looks every `every` until it is time to stop.
    pub async fn follow(mut self, every: Duration, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(every) => {}
            }
            let looked = tokio::task::spawn_blocking(move || {
                self.look(Timestamp::now());
                self
            });
            match looked.await {
                Ok(publisher) => self = publisher,
                Err(_) => return,
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
