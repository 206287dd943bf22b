//! What the kernel side says, as plain values.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// A file as user space names it: comparable with `st_dev` and `st_ino`.
///
/// On file systems that give each subvolume a device of its own (btrfs), `dev` is the super block's device,
/// which `stat` does not show; the directory name in the records is the better key there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// Device, in the encoding of `st_dev`.
    pub dev: u64,
    /// Inode number.
    pub inode: u64,
}

impl FileId {
    /// From the kernel's internal device number (12 bits major, 20 bits minor).
    pub(crate) fn from_kernel(dev: u32, inode: u64) -> Self {
        Self {
            dev: libc::makedev(dev >> 20, dev & 0x000f_ffff),
            inode,
        }
    }
}

/// The name of an ingest's directory: 64 hexadecimal digits, the SHA-256 of the backend's ref.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IngestDirectory([u8; Self::LENGTH]);

impl IngestDirectory {
    /// Digits in a name.
    pub const LENGTH: usize = 64;

    /// The name, if it is 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn new(name: [u8; Self::LENGTH]) -> Option<Self> {
        name.iter()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            .then_some(Self(name))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Checked by the only constructor; an empty name is the harmless answer to the impossible.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for IngestDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for IngestDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which file of an ingest directory; temporary names count as the file they will become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IngestPart {
    /// `ref`, written first by whoever opens a new ingest.
    Ref,
    /// `startedat`, written second.
    StartedAt,
    /// `updatedat`, written third, and again when an unfinished ingest is closed.
    UpdatedAt,
    /// `total`, written last before the body, if the size is known.
    Total,
    /// `data`, the bytes themselves.
    Data,
    /// Any other name.
    Other,
}

/// Who acted: process and thread as the observer's pid namespace numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Caller {
    /// Process.
    pub tgid: u32,
    /// Thread.
    pub thread: u32,
    /// The goroutine's address in that process; recycled by Go's runtime.
    pub goroutine: u64,
}

/// The states that are reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TcpState {
    /// The handshake is complete.
    Established,
    /// The socket is done; its cookie will not come again.
    Close,
}

/// One record. `at_ns` is `CLOCK_MONOTONIC` in nanoseconds.
///
/// Records are said on change, not per system call: a goroutine's step to another file or socket, then
/// every so many bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A goroutine changed a file of an ingest directory that it did not change just before, or went on
    /// with `data` after it turned to another socket.
    FileTouched {
        /// When.
        at_ns: u64,
        /// Who.
        by: Caller,
        /// The file.
        file: FileId,
        /// Its directory.
        directory: IngestDirectory,
        /// Its name.
        part: IngestPart,
    },
    /// A goroutine is done with the `data` file that it wrote: the file is a blob now (or, in the system
    /// call variant, was closed).
    FileLeft {
        /// When.
        at_ns: u64,
        /// Who.
        by: Caller,
        /// The file.
        file: FileId,
    },
    /// A goroutine read from a TCP socket that it did not read just before, or read on for a while.
    SocketRead {
        /// When.
        at_ns: u64,
        /// Who.
        by: Caller,
        /// The socket's cookie.
        cookie: u64,
        /// This side's address.
        local: SocketAddr,
        /// The peer's address.
        remote: SocketAddr,
        /// Bytes of this run: read by this goroutine with no other reader in between, since it last took
        /// another ingest directory.
        bytes_by_goroutine: u64,
        /// Bytes that anybody read on this socket since the probes first saw it.
        bytes_total: u64,
    },
    /// The watched process sent on a socket that feeds an ingest: over HTTP/1.1 the next request, so the body
    /// before it is complete, or given up.
    SocketSent {
        /// When.
        at_ns: u64,
        /// Who.
        by: Caller,
        /// The socket's cookie.
        cookie: u64,
    },
    /// A socket that the watched process opened, or was seen reading, changed its state.
    SocketState {
        /// When.
        at_ns: u64,
        /// The socket's cookie.
        cookie: u64,
        /// This side's address.
        local: SocketAddr,
        /// The peer's address.
        remote: SocketAddr,
        /// The new state.
        state: TcpState,
        /// Whether the watched process was seen opening it.
        owned: bool,
    },
    /// A thread wrote `data` through a goroutine that reads no socket itself, after reading from this socket:
    /// weak evidence, to be used by majority.
    ThreadVote {
        /// When.
        at_ns: u64,
        /// Who wrote.
        by: Caller,
        /// The socket its thread had read last.
        cookie: u64,
        /// The `data` file.
        file: FileId,
        /// Its directory.
        directory: IngestDirectory,
        /// Sum of bytes credited to this pair of socket and file since the socket's reader changed.
        bytes: u64,
    },
    /// Records were lost before this point, or the watched processes changed: what was said earlier may be
    /// stale, and will be said again where it still holds.
    Gap,
}

/// An IPv4 address mapped into IPv6, given as IPv4; any other address unchanged.
///
/// Records keep the socket's own family, which ending a socket needs; this is for comparing and for people.
#[must_use]
pub fn plain_ipv4(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::from((ip, address.port())),
        IpAddr::V6(_) => address,
    }
}
