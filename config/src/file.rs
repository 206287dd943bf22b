//! Reads a configuration file: once, up to a bound, and nothing but a file.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use crate::error::ReadError;
use crate::problem::Place;

/// Bytes that a configuration file may have. A ConfigMap of Kubernetes holds no more either.
pub const MAX_FILE: usize = 1 << 20;

/// Reads the text of `path`.
pub(crate) fn read(path: &Path) -> Result<String, ReadError> {
    let file = open(path)?;
    let kind = file
        .metadata()
        .map_err(|source| ReadError::Examine {
            path: path.to_owned(),
            source,
        })?
        .file_type();
    if !kind.is_file() {
        return Err(ReadError::NotAFile {
            path: path.to_owned(),
            kind: name_of(kind),
        });
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| ReadError::Read {
            path: path.to_owned(),
            source,
        })?;
    if bytes.len() > MAX_FILE {
        return Err(ReadError::TooLarge {
            path: path.to_owned(),
            limit: MAX_FILE,
        });
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error
            .as_bytes()
            .get(..error.utf8_error().valid_up_to())
            .unwrap_or_default();
        ReadError::NotUtf8 {
            path: path.to_owned(),
            place: end_of(&String::from_utf8_lossy(good)),
        }
    })
}

/// Opens without waiting, which a pipe that nobody writes to would make us do for ever.
fn open(path: &Path) -> Result<File, ReadError> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(|source| {
            let path = path.to_owned();
            if source.kind() == io::ErrorKind::NotFound {
                ReadError::NotFound { path, source }
            } else if source.kind() == io::ErrorKind::PermissionDenied {
                ReadError::Denied { path, source }
            } else if source.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) {
                ReadError::NotAFile {
                    path,
                    kind: "a socket or a device",
                }
            } else {
                ReadError::Open { path, source }
            }
        })
}

fn name_of(kind: std::fs::FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_char_device() || kind.is_block_device() {
        "a device"
    } else {
        "something else"
    }
}

fn end_of(text: &str) -> Place {
    let line = text.rsplit('\n').next().unwrap_or_default();
    Place {
        line: text.matches('\n').count() + 1,
        column: line.chars().count() + 1,
    }
}
