//! The files that a log's earlier parts were rotated to.
//!
//! The API server renames `audit.log` to `audit-<UTC time>.log` (lumberjack); logrotate to `audit.log.1` and so on. So
//! every file of the folder whose name begins like the log's, and has its extension somewhere, may be one. In time they
//! are ordered by their last write.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::FollowError;

/// How many files of a folder are looked at.
const MAX_FILES: usize = 4096;

/// A file beside the log.
#[derive(Debug)]
pub(super) struct Sibling {
    pub(super) path: PathBuf,
    pub(super) inode: u64,
    pub(super) size: u64,
    /// Seconds and nanoseconds of its last write.
    pub(super) written: (i64, i64),
}

impl Sibling {
    /// Opens it, unless it is gone or another file meanwhile.
    pub(super) fn open(&self) -> Option<File> {
        let file = File::open(&self.path).ok()?;
        let is_same = file.metadata().ok()?.ino() == self.inode;
        is_same.then_some(file)
    }
}

/// The files that `log` may have been rotated to, the oldest first.
pub(super) fn of(log: &Path) -> Result<Vec<Sibling>, FollowError> {
    let folder = match log.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    };
    let start = log.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let end = log
        .extension()
        .map_or_else(String::new, |end| format!(".{}", end.to_string_lossy()));
    let is_alike = |name: &str| name.strip_prefix(&start).is_some_and(|rest| rest.contains(&end));
    let entries = fs::read_dir(folder).map_err(|source| FollowError::List {
        folder: folder.to_owned(),
        source,
    })?;
    let mut siblings: Vec<Sibling> = entries
        .take(MAX_FILES)
        .flatten()
        .filter(|entry| is_alike(&entry.file_name().to_string_lossy()) && entry.path() != log)
        .filter(|entry| entry.path().extension().is_none_or(|end| end != "gz"))
        .filter_map(|entry| {
            let metadata = entry.metadata().ok().filter(fs::Metadata::is_file)?;
            Some(Sibling {
                path: entry.path(),
                inode: metadata.ino(),
                size: metadata.len(),
                written: (metadata.mtime(), metadata.mtime_nsec()),
            })
        })
        .collect();
    siblings.sort_by(|a, b| (a.written, &a.path).cmp(&(b.written, &b.path)));
    Ok(siblings)
}
