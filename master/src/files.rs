//! Small files of the master's own: read with a bound, and replaced as a whole.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes of a file that holds a few fields.
pub const SMALL: usize = 64 << 10;

/// What could not be done with a file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A folder cannot be made.
    #[error("cannot make the folder {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is too large.
    #[error("{} has more than {most} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Bytes that are allowed.
        most: usize,
    },
    /// It cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Makes a folder that only this user may look into, if it is not there.
///
/// # Errors
/// It cannot be made.
pub fn folder(path: &Path) -> Result<(), FileError> {
    folder_for(path, 0o700)
}

/// Makes a folder with this mode, if it is not there.
///
/// # Errors
/// It cannot be made.
pub fn folder_for(path: &Path, mode: u32) -> Result<(), FileError> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|source| FileError::Folder {
            path: path.to_owned(),
            source,
        })
}

/// The bytes of a file; none: there is no such file.
///
/// # Errors
/// It cannot be read, or has more than `most` bytes.
pub fn read_if_there(path: &Path, most: usize) -> Result<Option<Vec<u8>>, FileError> {
    let failed = |source| FileError::Read {
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > most {
        return Err(FileError::TooLarge {
            path: path.to_owned(),
            most,
        });
    }
    Ok(Some(bytes))
}

/// Replaces a file that only this user may read: whoever reads it sees the old one or the new one, also after the machine
/// lost its power.
///
/// # Errors
/// It cannot be written; the old one stays.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    replace_for(path, bytes, 0o600)
}

/// The same, with this mode.
///
/// # Errors
/// It cannot be written; the old one stays.
pub fn replace_for(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let failed = |source| FileError::Write {
        path: path.to_owned(),
        source,
    };
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    // What a crash left there may have another mode, or be a link.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        Ok(()) | Err(_) => {}
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&beside)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&beside, path))
        .and_then(|()| File::open(folder.unwrap_or(Path::new(".")))?.sync_all())
        .map_err(failed)
}
