//! The parts of a log that were rotated away before a place in it: what a ledger is rebuilt from.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{FollowError, Position, siblings};
use crate::intake::audit::MAX_LINE;

/// How many bytes of what was handled are read again at most: of the log, and of its rotated parts together. The API server keeps as much by default: ten files of 100 MB.
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

/// Where reading again begins in a log that was handled up to `offset`: at its beginning, or at a line's beginning about
/// 1 GiB before that place. No line is longer than [`MAX_LINE`]; where one seems to be, nothing is read again.
pub(super) fn start(file: &File, offset: u64) -> io::Result<u64> {
    start_within(file, offset, MAX_PAST)
}

fn start_within(file: &File, offset: u64, most: u64) -> io::Result<u64> {
    let Some(mut at) = offset.checked_sub(most).filter(|at| *at > 0) else {
        return Ok(0);
    };
    // The byte before may be the newline that ends the line before.
    at -= 1;
    let until = offset.min(at.saturating_add(MAX_LINE as u64));
    let mut piece = [0; 4096];
    while at < until {
        let read = file.read_at(&mut piece, at)?;
        let bytes = piece.get(..read).unwrap_or_default();
        if bytes.is_empty() {
            break;
        }
        if let Some(newline) = memchr::memchr(b'\n', bytes) {
            return Ok(offset.min(at + newline as u64 + 1));
        }
        at += bytes.len() as u64;
    }
    Ok(offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_again_is_bounded_and_begins_with_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        std::fs::write(&path, "aaa\nbbb\nccc\nddd\n").unwrap();
        let file = File::open(&path).unwrap();
        let starts: Vec<u64> = [20, 16, 9, 8, 7, 5, 4, 3, 1]
            .into_iter()
            .map(|most| start_within(&file, 16, most).unwrap())
            .collect();
        assert_eq!(starts, [0, 0, 8, 8, 12, 12, 12, 16, 16]);
    }
}
