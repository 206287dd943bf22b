//! Which TCP sockets belong to a process: the socket table crossed with the process's descriptors.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;
use thiserror::Error;

use crate::error::SocketTableError;
use crate::socket_table::SocketTable;
use crate::tcp_socket::{TcpFilter, TcpSocket, TcpState};

/// The most descriptors of one process that are looked at; it is the kernel's own default bound.
pub const MAX_DESCRIPTORS: usize = 1_048_576;

/// Why a process's sockets are not known.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OwnerError {
    /// The process does not exist (any more).
    #[error("there is no process {pid}")]
    NoSuchProcess {
        /// The process asked for.
        pid: u32,
    },
    /// Its descriptors may not be listed: another user's process needs `CAP_SYS_PTRACE` and
    /// `CAP_DAC_READ_SEARCH`.
    #[error("not permitted to list the descriptors of process {pid}")]
    NotPermitted {
        /// The process asked for.
        pid: u32,
    },
    /// It has more descriptors than are looked at.
    #[error("process {pid} has more than {limit} descriptors")]
    TooManyDescriptors {
        /// The process asked for.
        pid: u32,
        /// How many are looked at.
        limit: usize,
    },
    /// Its descriptors could not be listed for another reason.
    #[error("cannot list the descriptors of process {pid}")]
    List {
        /// The process asked for.
        pid: u32,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The socket table could not be asked.
    #[error("cannot list the sockets of process {pid}")]
    Table {
        /// The process asked for.
        pid: u32,
        /// What went wrong with it.
        #[source]
        source: SocketTableError,
    },
}

/// A TCP socket and the descriptor by which the process holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedSocket {
    /// The socket.
    pub socket: TcpSocket,
    /// The descriptor's number in the owner; the lowest where it has several for the one socket.
    pub descriptor: i32,
}

/// The TCP sockets of one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedTcp {
    /// Its sockets that do not listen.
    pub sockets: Vec<OwnedSocket>,
    /// The addresses at which it accepts connections.
    pub listening: BTreeSet<SocketAddr>,
}

impl OwnedTcp {
    /// Only the sockets that the process itself connected. What stands at one of its listening addresses was
    /// accepted. A socket accepted by a listener that was closed since cannot be told from a connected one.
    pub fn connected(&self) -> impl Iterator<Item = &OwnedSocket> {
        self.sockets
            .iter()
            .filter(|owned| !self.accepts_at(owned.socket.local))
    }

    fn accepts_at(&self, local: SocketAddr) -> bool {
        // An unspecified address may accept for both families: when in doubt, the socket is not ours to end.
        self.listening.iter().any(|listener| {
            listener.port() == local.port() && (listener.ip().is_unspecified() || listener.ip() == local.ip())
        })
    }
}

/// The inodes of all sockets (not only TCP) that the process holds, each with its lowest descriptor.
///
/// # Errors
/// See [`OwnerError`].
pub fn socket_inodes(pid: u32) -> Result<BTreeMap<u64, i32>, OwnerError> {
    let failed = |source: io::Error| reason(pid, source);
    let mut inodes = BTreeMap::new();
    for (position, entry) in std::fs::read_dir(format!("/proc/{pid}/fd"))
        .map_err(failed)?
        .enumerate()
    {
        if position >= MAX_DESCRIPTORS {
            return Err(OwnerError::TooManyDescriptors {
                pid,
                limit: MAX_DESCRIPTORS,
            });
        }
        let entry = entry.map_err(failed)?;
        let Some(descriptor) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        let target = match std::fs::read_link(entry.path()) {
            Ok(target) => target,
            // Closed since the listing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(error)),
        };
        if let Some(inode) = socket_inode(target.as_os_str()) {
            inodes
                .entry(inode)
                .and_modify(|lowest: &mut i32| *lowest = descriptor.min(*lowest))
                .or_insert(descriptor);
        }
    }
    Ok(inodes)
}

/// The TCP sockets of the process, as far as they are in the table's network namespace.
///
/// # Errors
/// See [`OwnerError`].
pub fn owned_tcp(pid: u32, table: &SocketTable) -> Result<OwnedTcp, OwnerError> {
    let inodes = socket_inodes(pid)?;
    let found = table
        .tcp_sockets_where(&TcpFilter::held(), |socket| inodes.contains_key(&socket.inode))
        .map_err(|source| OwnerError::Table { pid, source })?;
    let mut owned = OwnedTcp {
        sockets: Vec::new(),
        listening: BTreeSet::new(),
    };
    for socket in found {
        if socket.state == TcpState::Listen {
            owned.listening.insert(socket.local);
        } else if let Some(&descriptor) = inodes.get(&socket.inode) {
            owned.sockets.push(OwnedSocket { socket, descriptor });
        }
    }
    Ok(owned)
}

/// From a link's target as the kernel writes it for sockets, `socket:[<inode>]`. No file can have that target:
/// paths begin with a slash.
fn socket_inode(target: &OsStr) -> Option<u64> {
    let number = target.as_bytes().strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

fn reason(pid: u32, source: io::Error) -> OwnerError {
    let is = |expected: Errno| source.raw_os_error() == Some(expected.raw_os_error());
    if is(Errno::NOENT) || is(Errno::SRCH) {
        OwnerError::NoSuchProcess { pid }
    } else if is(Errno::ACCESS) || is(Errno::PERM) {
        OwnerError::NotPermitted { pid }
    } else {
        OwnerError::List { pid, source }
    }
}
