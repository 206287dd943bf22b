//! The parts of a log that were rotated away before a place in it: what a ledger is rebuilt from.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::{FollowError, Position, siblings};

/// How many bytes of rotated parts are read again at most. The API server keeps as much by default: ten files of 100 MB.
const MAX_PAST: u64 = 1 << 30;

/// The rotated parts of `log` from before the one that `from` is in, the oldest first: the newest ones, of 1 GiB in all.
///
/// # Errors
/// The log's folder cannot be listed, though it is there.
pub fn rotated_before(log: &Path, from: Option<&Position>) -> Result<Vec<(PathBuf, File)>, FollowError> {
    let is_there = log.parent().is_some_and(Path::exists);
    if !is_there {
        return Ok(Vec::new());
    }
    let mut room = MAX_PAST;
    let mut files = Vec::new();
    for sibling in siblings::of(log)? {
        let Some(file) = sibling.open() else { continue };
        if from.is_some_and(|from| from.is_in(&file)) {
            break;
        }
        files.push((sibling.size, sibling.path, file));
    }
    let mut rotated: Vec<_> = files
        .into_iter()
        .rev()
        .map_while(|(size, path, file)| {
            room = room.checked_sub(size)?;
            Some((path, file))
        })
        .collect();
    rotated.reverse();
    Ok(rotated)
}
