//! The files of the store, oldest first, and their lines with a bound.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use magi_master_api::bounds::MAX_RECORD;

use super::{StoreError, StoreSettings};

/// Bytes of a line: a record, and what the store writes around it.
const MAX_LINE: usize = MAX_RECORD + 2048;

/// The rotated file of this number; a higher one is older.
pub(super) fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// Opens all files that are there, oldest first: what is rotated meanwhile stays readable.
pub(super) fn open_all(settings: &StoreSettings) -> Result<Vec<(PathBuf, File)>, StoreError> {
    let mut open = Vec::new();
    let rotated = (1..=settings.keep)
        .rev()
        .map(|number| numbered(&settings.path, number));
    for path in rotated.chain([settings.path.clone()]) {
        match File::open(&path) {
            Ok(file) => open.push((path, file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(StoreError::Open { path, source }),
        }
    }
    Ok(open)
}

/// Hands each whole line of a file to `take`, without its end. A longer line than any of ours is skipped; so is a last one
/// without an end, which is being written or never was. Returns the bytes up to the end of the last whole line.
pub(super) fn each_line(file: File, mut take: impl FnMut(&[u8])) -> io::Result<u64> {
    let mut reader = BufReader::with_capacity(64 << 10, file);
    let mut line = Vec::new();
    let (mut read, mut whole) = (0_u64, 0_u64);
    let mut is_long = false;
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(whole);
        }
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let piece = buffer.get(..end.unwrap_or(buffer.len())).unwrap_or_default();
        is_long |= line.len().saturating_add(piece.len()) > MAX_LINE;
        if !is_long {
            line.extend_from_slice(piece);
        }
        let used = piece.len().saturating_add(usize::from(end.is_some()));
        reader.consume(used);
        read = read.saturating_add(used as u64);
        if end.is_some() {
            whole = read;
            if !is_long {
                take(&line);
            }
            line.clear();
            is_long = false;
        }
    }
}
