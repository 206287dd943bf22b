//! How far a log was read, kept in a file.
//!
//! The position names the file by its inode and by the bytes that it begins with, so that a rotated file is found under
//! its new name, and another file that got the same inode is not taken for it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::FollowError;
use crate::files::{self, FileError};

/// How many bytes of a file's beginning name it. An event's times and ids stand in its first kilobyte.
const HEAD: u64 = 1024;
/// A state file is smaller than this.
const MAX_STATE: u64 = 4096;

/// A place in a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The file's inode.
    pub inode: u64,
    /// Where the first line begins that was not handled.
    pub offset: u64,
    /// What the file begins with.
    pub head: Head,
}

/// What a file begins with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// How many bytes of it, at most a kilobyte.
    len: u64,
    /// Their SHA-256, in hexadecimal digits.
    sha256: String,
}

impl Head {
    /// The head of a file of which `known` bytes were read.
    pub(super) fn of(file: &File, known: u64) -> io::Result<Self> {
        let len = known.min(HEAD);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(Self {
            len,
            sha256: hex(&Sha256::digest(&bytes)),
        })
    }

    /// Whether the file begins like this. Everything begins with nothing, which proves nothing.
    pub(super) fn fits(&self, file: &File) -> bool {
        self.len > 0 && Self::of(file, self.len).is_ok_and(|head| head == *self)
    }

    /// Whether the whole head is known, and not only of a short beginning.
    pub(super) const fn is_full(&self) -> bool {
        self.len == HEAD
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

/// The file that keeps a position.
#[derive(Clone, Debug)]
pub struct Progress {
    path: PathBuf,
}

impl Progress {
    /// Kept at `path`.
    #[must_use]
    pub const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The position that was saved last; `None` if there is none yet.
    ///
    /// # Errors
    /// The file cannot be read, or is no position.
    pub fn load(&self) -> Result<Option<Position>, FollowError> {
        let failed = |source| FollowError::LoadProgress {
            path: self.path.clone(),
            source,
        };
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(problem) if problem.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(problem) => return Err(failed(problem)),
        };
        let mut text = Vec::new();
        file.take(MAX_STATE).read_to_end(&mut text).map_err(failed)?;
        let position = serde_json::from_slice(&text).map_err(|problem| failed(problem.into()))?;
        Ok(Some(position))
    }

    /// Saves a position, so that either it or the one before is there after a crash.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, position: &Position) -> Result<(), FollowError> {
        let text = serde_json::to_vec(position).map_err(|problem| FileError::Write {
            path: self.path.clone(),
            source: problem.into(),
        });
        text.and_then(|text| files::replace(&self.path, &text))
            .map_err(FollowError::SaveProgress)
    }
}
