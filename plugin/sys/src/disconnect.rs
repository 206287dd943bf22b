//! Ending one socket of another process through a duplicate of its descriptor: the way that is left where the
//! kernel cannot destroy sockets.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::SocketAddrAny;
use rustix::net::sockopt::socket_cookie;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use thiserror::Error;

use crate::error::SocketTableError;
use crate::owner::{OwnerError, socket_inodes};
use crate::process::kernel_pid;
use crate::socket_table::SocketTable;
use crate::tcp_socket::plain;

/// Why nothing was disconnected.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DisconnectError {
    /// The process does not exist (any more).
    #[error("there is no process {pid}")]
    NoSuchProcess {
        /// The process asked for.
        pid: u32,
    },
    /// Taking a descriptor of the process was refused; `CAP_SYS_PTRACE` is needed.
    #[error("not permitted to take a descriptor of process {pid}; CAP_SYS_PTRACE is needed")]
    NotPermitted {
        /// The process asked for.
        pid: u32,
    },
    /// No socket has this cookie and these addresses, or the process does not hold it (any more).
    #[error("process {pid} has no socket {cookie:#x}")]
    NotFound {
        /// The process asked for.
        pid: u32,
        /// The socket asked for.
        cookie: u64,
    },
    /// The descriptor has come to mean another socket. Nothing was done to it.
    #[error(
        "descriptor {descriptor} of process {pid} is socket {cookie:#x} from {local:?} to {remote:?}, not the expected one"
    )]
    NotTheSame {
        /// The process asked for.
        pid: u32,
        /// The descriptor that was looked at.
        descriptor: i32,
        /// The cookie it has.
        cookie: u64,
        /// The address it has, if any.
        local: Option<SocketAddr>,
        /// The peer it has, if any.
        remote: Option<SocketAddr>,
    },
    /// A thread of the owner waits inside a read of this socket, and this kernel (some from 5.4 to 6.6) does
    /// not disconnect under its feet.
    #[error("socket {cookie:#x} of process {pid} is in use by a blocked thread")]
    Busy {
        /// The process asked for.
        pid: u32,
        /// The socket asked for.
        cookie: u64,
    },
    /// The socket table could not be asked.
    #[error("cannot look socket {cookie:#x} up")]
    Table {
        /// The socket asked for.
        cookie: u64,
        /// What went wrong with it.
        #[source]
        source: SocketTableError,
    },
    /// The process's descriptors could not be listed.
    #[error("cannot find the descriptor of socket {cookie:#x}")]
    Descriptors {
        /// The socket asked for.
        cookie: u64,
        /// What went wrong with them.
        #[source]
        source: OwnerError,
    },
    /// A system call failed in a way that is none of the above.
    #[error("{step} failed for process {pid}")]
    Failed {
        /// The process asked for.
        pid: u32,
        /// The system call.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Ends the one TCP socket of process `pid` that has this cookie and these addresses: its owner's next read
/// fails with `ECONNRESET` (or `EPIPE`, for a thread that waits inside one), its peer gets a reset. The table
/// must be one of the process's network namespace. The duplicate lives for some microseconds only.
///
/// # Errors
/// See [`DisconnectError`]; after any of them the socket is as it was.
pub fn disconnect(
    table: &SocketTable,
    pid: u32,
    cookie: u64,
    local: SocketAddr,
    remote: SocketAddr,
) -> Result<(), DisconnectError> {
    let missing = || DisconnectError::NotFound { pid, cookie };
    let kernel_pid = kernel_pid(pid).ok_or(DisconnectError::NoSuchProcess { pid })?;
    // From here on the process cannot be mistaken for a later one with its number.
    let process =
        pidfd_open(kernel_pid, PidfdFlags::empty()).map_err(|errno| failed(pid, "pidfd_open", errno))?;
    let socket = table
        .tcp_socket(cookie, local, remote)
        .map_err(|source| DisconnectError::Table { cookie, source })?
        .ok_or_else(missing)?;
    let inodes = descriptors(pid, cookie)?;
    let descriptor = *inodes.get(&socket.inode).ok_or_else(missing)?;
    let duplicate = duplicate(&process, pid, cookie, descriptor)?;
    check(&duplicate, pid, cookie, descriptor, local, remote)?;
    rustix::net::connect_unspec(&duplicate).map_err(|errno| match errno {
        Errno::BUSY => DisconnectError::Busy { pid, cookie },
        other => failed(pid, "connect", other),
    })
}

/// Takes a duplicate of one socket of process `pid`, and gives it back at once: whether [`disconnect`] would be let.
/// Nothing is done to the socket. `false`: it has none, so nothing could be tried.
///
/// # Errors
/// `NoSuchProcess`, `NotPermitted`, `Descriptors` or `Failed`; see [`DisconnectError`].
pub fn may_duplicate(pid: u32) -> Result<bool, DisconnectError> {
    let kernel_pid = kernel_pid(pid).ok_or(DisconnectError::NoSuchProcess { pid })?;
    let process =
        pidfd_open(kernel_pid, PidfdFlags::empty()).map_err(|errno| failed(pid, "pidfd_open", errno))?;
    let inodes = descriptors(pid, 0)?;
    for descriptor in inodes.into_values() {
        match duplicate(&process, pid, 0, descriptor) {
            Ok(_closed_at_once) => return Ok(true),
            // Closed meanwhile.
            Err(DisconnectError::NotFound { .. }) => {}
            Err(refused) => return Err(refused),
        }
    }
    Ok(false)
}

fn descriptors(pid: u32, cookie: u64) -> Result<BTreeMap<u64, i32>, DisconnectError> {
    socket_inodes(pid).map_err(|source| match source {
        OwnerError::NoSuchProcess { pid } => DisconnectError::NoSuchProcess { pid },
        OwnerError::NotPermitted { pid } => DisconnectError::NotPermitted { pid },
        other @ (OwnerError::TooManyDescriptors { .. }
        | OwnerError::List { .. }
        | OwnerError::Table { .. }) => DisconnectError::Descriptors {
            cookie,
            source: other,
        },
    })
}

fn duplicate(process: &OwnedFd, pid: u32, cookie: u64, descriptor: i32) -> Result<OwnedFd, DisconnectError> {
    pidfd_getfd(process, descriptor, PidfdGetfdFlags::empty()).map_err(|errno| match errno {
        // Closed since its descriptor was found.
        Errno::BADF => DisconnectError::NotFound { pid, cookie },
        other => failed(pid, "pidfd_getfd", other),
    })
}

/// Only the duplicate itself proves what the descriptor means now.
pub(crate) fn check(
    duplicate: &OwnedFd,
    pid: u32,
    expected: u64,
    descriptor: i32,
    local: SocketAddr,
    remote: SocketAddr,
) -> Result<(), DisconnectError> {
    let cookie = match socket_cookie(duplicate) {
        Ok(cookie) => cookie,
        Err(Errno::NOTSOCK) => {
            return Err(DisconnectError::NotFound {
                pid,
                cookie: expected,
            });
        }
        Err(errno) => return Err(failed(pid, "getsockopt", errno)),
    };
    let address = |found: Option<SocketAddrAny>| {
        found
            .and_then(|address| SocketAddr::try_from(address).ok())
            .map(plain)
    };
    let is_local = address(rustix::net::getsockname(duplicate).ok());
    let is_remote = address(rustix::net::getpeername(duplicate).ok().flatten());
    if (cookie, is_local, is_remote) == (expected, Some(plain(local)), Some(plain(remote))) {
        Ok(())
    } else {
        Err(DisconnectError::NotTheSame {
            pid,
            descriptor,
            cookie,
            local: is_local,
            remote: is_remote,
        })
    }
}

fn failed(pid: u32, step: &'static str, errno: Errno) -> DisconnectError {
    match errno {
        Errno::SRCH => DisconnectError::NoSuchProcess { pid },
        Errno::PERM | Errno::ACCESS => DisconnectError::NotPermitted { pid },
        other => DisconnectError::Failed {
            pid,
            step,
            source: other.into(),
        },
    }
}
