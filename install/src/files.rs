//! Files read with bounds, and written so that there is either the old file or the new one, never half of either.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, XattrFlags};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Longest list of names of extended attributes, and longest value.
const XATTR: usize = 64 * 1024;

/// A file as it was found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) bytes: Vec<u8>,
    pub(crate) owner: Owner,
}

/// Who may do what with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// What could not be done with a file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A link, a folder, a pipe, a device.
    #[error("{} is {kind}, not a regular file; name the file itself, or make it one", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// It has several names, and replacing it would part them.
    #[error("{} has {links} names (hard links); replacing it would part them. Make it a file of its own", path.display())]
    Links {
        /// The file.
        path: PathBuf,
        /// How many.
        links: u64,
    },
    /// Longer than anybody writes by hand.
    #[error("{} is longer than {bound} bytes", path.display())]
    Long {
        /// The file.
        path: PathBuf,
        /// The bound.
        bound: u64,
    },
    /// The system said no.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// The step.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

pub(crate) fn failed(what: &'static str, path: &Path) -> impl Fn(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError::Io {
        what,
        path: path.clone(),
        source,
    }
}

/// Whether a link may stand in for the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Links {
    Follow,
    /// For a file that may be replaced.
    Refuse,
}

/// Reads a regular file of at most `bound` bytes; `None` if there is none.
pub(crate) fn read(path: &Path, bound: u64, links: Links) -> Result<Option<Found>, FileError> {
    let kind = |kind| FileError::Kind {
        path: path.to_owned(),
        kind,
    };
    let linked = path.symlink_metadata().is_ok_and(|meta| meta.is_symlink());
    if links == Links::Refuse && linked {
        return Err(kind("a symbolic link"));
    }
    // A pipe must not make us wait.
    let mut flags = OFlags::NONBLOCK | OFlags::CLOEXEC;
    if links == Links::Refuse {
        flags |= OFlags::NOFOLLOW;
    }
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or_default())
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !linked => return Ok(None),
        Err(error) => return Err(failed("open", path)(error)),
    };
    let meta = file.metadata().map_err(failed("look at", path))?;
    if !meta.is_file() {
        return Err(kind(if meta.is_dir() {
            "a folder"
        } else {
            "a special file"
        }));
    }
    if links == Links::Refuse && meta.nlink() > 1 {
        return Err(FileError::Links {
            path: path.to_owned(),
            links: meta.nlink(),
        });
    }
    let mut bytes = Vec::new();
    let length = file
        .take(bound + 1)
        .read_to_end(&mut bytes)
        .map_err(failed("read", path))?;
    if u64::try_from(length).unwrap_or(u64::MAX) > bound {
        return Err(FileError::Long {
            path: path.to_owned(),
            bound,
        });
    }
    Ok(Some(Found {
        bytes,
        owner: Owner {
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
        },
    }))
}

/// The sha256 of bytes, in hex.
pub(crate) fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Writes a whole file beside its place, makes it durable, and only then gives it its name. `like` hands over extended
/// attributes, as security labels and access lists.
pub(crate) fn replace(
    path: &Path,
    temp: &Path,
    bytes: &[u8],
    owner: Owner,
    like: Option<&Path>,
) -> Result<(), FileError> {
    remove(temp)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(temp)
        .map_err(failed("create", temp))?;
    let written = fill(&mut file, temp, bytes, owner, like)
        .and_then(|()| fs::rename(temp, path).map_err(failed("put in place", path)));
    if written.is_err() {
        // The error that matters is the first one.
        let _first_error_counts = fs::remove_file(temp);
    }
    written?;
    sync_folder_of(path)?;
    sync_folder_of(temp)
}

fn fill(
    file: &mut File,
    temp: &Path,
    bytes: &[u8],
    owner: Owner,
    like: Option<&Path>,
) -> Result<(), FileError> {
    file.write_all(bytes).map_err(failed("write", temp))?;
    let meta = file.metadata().map_err(failed("look at", temp))?;
    if (meta.uid(), meta.gid()) != (owner.uid, owner.gid) {
        std::os::unix::fs::fchown(&*file, Some(owner.uid), Some(owner.gid))
            .map_err(failed("give away", temp))?;
    }
    if let Some(like) = like {
        copy_attributes(like, file).map_err(failed("copy the attributes to", temp))?;
    }
    let mode = fs::Permissions::from_mode(owner.mode);
    file.set_permissions(mode)
        .map_err(failed("set the mode of", temp))?;
    file.sync_all().map_err(failed("make durable", temp))
}

fn copy_attributes(from: &Path, to: &File) -> io::Result<()> {
    let mut names = vec![0; XATTR];
    let length = match rustix::fs::listxattr(from, &mut names) {
        Ok(length) => length,
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let names = names.get(..length).unwrap_or_default();
    let mut value = vec![0; XATTR];
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let length = rustix::fs::getxattr(from, name, &mut value)?;
        let value = value.get(..length).unwrap_or_default();
        rustix::fs::fsetxattr(to, name, value, XattrFlags::empty())?;
    }
    Ok(())
}

/// Makes names in a file's folder durable.
pub(crate) fn sync_folder_of(path: &Path) -> Result<(), FileError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(failed("make durable", folder))
}

/// Removes a file, if there is one.
pub(crate) fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error)
            if error.kind() != io::ErrorKind::NotFound && error.kind() != io::ErrorKind::NotADirectory =>
        {
            Err(failed("remove", path)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes a folder, if it is there and empty.
pub(crate) fn remove_empty_folder(path: &Path) -> Result<(), FileError> {
    match fs::remove_dir(path) {
        Ok(()) => sync_folder_of(path),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(failed("remove", path)(error)),
    }
}

/// The folders on the way to `folder` that are missing, outermost first.
pub(crate) fn missing_folders(folder: &Path) -> Vec<PathBuf> {
    let mut missing: Vec<PathBuf> = folder
        .ancestors()
        .take_while(|ancestor| !ancestor.exists())
        .map(Path::to_owned)
        .collect();
    missing.reverse();
    missing
}

/// What is written beside `path` for a moment, before it gets that name.
pub(crate) fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.magi-tmp"))
}
