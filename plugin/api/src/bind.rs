//! A listening socket as a file: root-only from its first moment, gone when its owner is. The control socket has one node;
//! the gateway's is taken over by whoever comes next.

#[cfg(test)]
mod tests;

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 64;

/// How often the lock file may vanish while it is being locked: once for each node that ends meanwhile.
const LOCK_TRIES: usize = 8;

/// Why the control socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The path has no folder or no file name.
    #[error("{} cannot name a socket", path.display())]
    NotAName {
        /// The path.
        path: PathBuf,
    },
    /// The kernel takes no unix socket of this name, mostly because it has more than 107 bytes.
    #[error("{} cannot be the address of a unix socket (at most 103 bytes)", path.display())]
    NotAnAddress {
        /// The path.
        path: PathBuf,
        /// The kernel's view.
        #[source]
        source: io::Error,
    },
    /// The folder cannot be made or looked at.
    #[error("cannot prepare the folder {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others could replace the socket.
    #[error(
        "the folder {} must belong to root or uid {own}, writable by nobody else; it belongs to uid {owner}, mode {mode:04o}",
        path.display()
    )]
    UnsafeFolder {
        /// The folder.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Who the node runs as.
        own: u32,
        /// Its permissions.
        mode: u32,
    },
    /// Another node holds the lock.
    #[error("another magi-node holds {}", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The lock file cannot be opened or locked.
    #[error("cannot lock {}", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something listens on the socket.
    #[error("another process answers on {}", path.display())]
    Answered {
        /// The socket.
        path: PathBuf,
    },
    /// Something else stands there; it is left alone.
    #[error("{} exists and is no socket", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// Whether the socket in place is stale cannot be found out.
    #[error("cannot tell whether anybody answers on {}", path.display())]
    Probe {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// One step of making the socket failed.
    #[error("cannot {step} {}", path.display())]
    Make {
        /// The step.
        step: &'static str,
        /// The socket, or its name before it is in place.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A listening control socket. Dropped, it removes its file.
#[derive(Debug)]
pub struct ControlSocket {
    pub(crate) listener: UnixListener,
    place: Place,
}

impl ControlSocket {
    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.place.path
    }

    pub(crate) fn split(self) -> (UnixListener, Place) {
        (self.listener, self.place)
    }
}

/// The socket's file and the lock on it, if there is one.
#[derive(Debug)]
pub(crate) struct Place {
    path: PathBuf,
    inode: (u64, u64),
    // Held for its lock, which goes last.
    lock: Option<Lock>,
}

/// A listening socket that others may take over. Dropped, it removes its file, if it is still its own.
#[derive(Debug)]
pub struct OpenSocket {
    /// What listens.
    pub listener: UnixListener,
    place: Place,
}

impl OpenSocket {
    /// Removes its file. Whoever has connected before still waits in what listens.
    #[must_use]
    pub fn close(self) -> UnixListener {
        drop(self.place);
        self.listener
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Only our own file: whoever replaced it since keeps theirs.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.inode) {
            let _gone_anyway = fs::remove_file(&self.path);
        }
        if let Some(lock) = &self.lock {
            let _gone_anyway = fs::remove_file(&lock.path);
        }
    }
}

#[derive(Debug)]
struct Lock {
    path: PathBuf,
    _file: File,
}

/// Makes the control socket at `path`, mode 0600, and listens on it. Its folder is made with mode 0700 if there is none.
///
/// A socket that is in place already is replaced only if nobody listens on it.
///
/// # Errors
/// Another node listens or holds the lock; the folder is open to others; something else stands at `path`; or the
/// system refuses.
pub fn bind(path: &Path) -> Result<ControlSocket, BindError> {
    prepare_folder(path)?;
    let lock = take_lock(suffixed(path, ".lock"))?;
    clear_stale(path)?;
    let (listener, inode) = listen_at(path)?;
    Ok(ControlSocket {
        listener,
        place: Place {
            path: path.to_owned(),
            inode,
            lock: Some(lock),
        },
    })
}

/// As [`bind()`], but takes the place of whoever listens at `path` now: they keep the connections that they have, and
/// get no others.
///
/// # Errors
/// The folder is open to others, or the system refuses.
pub fn take_over(path: &Path) -> Result<OpenSocket, BindError> {
    prepare_folder(path)?;
    if fs::symlink_metadata(path).is_ok_and(|found| !found.file_type().is_socket()) {
        return Err(BindError::NotASocket {
            path: path.to_owned(),
        });
    }
    let (listener, inode) = listen_at(path)?;
    let path = path.to_owned();
    Ok(OpenSocket {
        listener,
        place: Place {
            path,
            inode,
            lock: None,
        },
    })
}

fn prepare_folder(path: &Path) -> Result<(), BindError> {
    let (Some(folder), Some(_)) = (path.parent(), path.file_name()) else {
        return Err(BindError::NotAName {
            path: path.to_owned(),
        });
    };
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    let failed = |source| BindError::Folder {
        path: folder.to_owned(),
        source,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(failed)?;
    let found = fs::metadata(folder).map_err(failed)?;
    let own = rustix::process::geteuid().as_raw();
    let (owner, mode) = (found.uid(), found.mode() & 0o7777);
    if (owner != own && owner != 0) || mode & 0o022 != 0 {
        return Err(BindError::UnsafeFolder {
            path: folder.to_owned(),
            owner,
            own,
            mode,
        });
    }
    Ok(())
}

/// The lock file is removed by its holder at the end, so that what was locked may no longer be what has the name.
fn take_lock(path: PathBuf) -> Result<Lock, BindError> {
    for _ in 0..LOCK_TRIES {
        let failed = |source| BindError::Lock {
            path: path.clone(),
            source,
        };
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => break,
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let locked = file.metadata().map_err(failed)?;
        if fs::symlink_metadata(&path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (locked.dev(), locked.ino()))
        {
            return Ok(Lock { path, _file: file });
        }
    }
    Err(BindError::Locked { path })
}

fn clear_stale(path: &Path) -> Result<(), BindError> {
    let probe = |source: io::Error| BindError::Probe {
        path: path.to_owned(),
        source,
    };
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {}
        Ok(_) => {
            return Err(BindError::NotASocket {
                path: path.to_owned(),
            });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(probe(error)),
    }
    let socket = stream_socket().map_err(|errno| probe(errno.into()))?;
    match rustix::net::connect(&socket, &address(path)?) {
        // A full backlog (AGAIN) has a listener behind it.
        Ok(()) | Err(Errno::AGAIN) => Err(BindError::Answered {
            path: path.to_owned(),
        }),
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(()),
        Err(errno) => Err(probe(errno.into())),
    }
}

/// Binds under another name, so that the socket appears in its place complete: with its mode, and listening.
fn listen_at(path: &Path) -> Result<(UnixListener, (u64, u64)), BindError> {
    let making = suffixed(path, ".new");
    let failed = |step, source| BindError::Make {
        step,
        path: making.clone(),
        source,
    };
    match fs::remove_file(&making) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove the remains of an earlier start,", error));
        }
        Ok(()) | Err(_) => {}
    }
    let socket = stream_socket().map_err(|errno| failed("make a socket for", errno.into()))?;
    rustix::net::bind(&socket, &address(&making)?).map_err(|errno| failed("bind", errno.into()))?;
    let placed = (|| {
        // Nobody can connect before `listen`, so the mode that the umask left is never in force.
        fs::set_permissions(&making, Permissions::from_mode(0o600)).map_err(|e| failed("restrict", e))?;
        rustix::net::listen(&socket, BACKLOG).map_err(|errno| failed("listen on", errno.into()))?;
        let made = fs::symlink_metadata(&making).map_err(|e| failed("look at", e))?;
        fs::rename(&making, path).map_err(|e| failed("put into place", e))?;
        Ok((made.dev(), made.ino()))
    })();
    if placed.is_err() {
        let _gone_anyway = fs::remove_file(&making);
    }
    Ok((UnixListener::from(socket), placed?))
}

fn stream_socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

fn address(path: &Path) -> Result<SocketAddrUnix, BindError> {
    SocketAddrUnix::new(path).map_err(|errno| BindError::NotAnAddress {
        path: path.to_owned(),
        source: errno.into(),
    })
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
