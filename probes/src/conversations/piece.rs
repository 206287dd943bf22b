//! What is handed out. The bytes of a piece are never printed.

use std::fmt;

/// Which way bytes went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// The watched process read them.
    ToServer,
    /// The watched process wrote them.
    FromServer,
}

/// Consecutive bytes of one direction of one connection, lent for as long as they are looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Piece<'a> {
    /// The connection: its cookie or, from [`Hooks::SyscallTracepoints`](crate::Hooks), its inode number.
    pub connection: u64,
    /// The watched process, as this process's pid namespace numbers it.
    pub tgid: u32,
    /// Which way.
    pub direction: Direction,
    /// Bytes that passed this way before these since the connection was first seen. More than the last piece's
    /// offset and length together: what lies between is lost. It never goes back; a connection that comes again
    /// after it was told as closed begins anew.
    pub offset: u64,
    /// When the call that moved them was done, in nanoseconds of `CLOCK_MONOTONIC`. The pieces of one call share it.
    pub at_ns: u64,
    /// The bytes, one at least. They may hold credentials: whoever copies them must clear the copy.
    pub bytes: &'a [u8],
}

impl fmt::Debug for Piece<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Piece")
            .field("connection", &self.connection)
            .field("tgid", &self.tgid)
            .field("direction", &self.direction)
            .field("offset", &self.offset)
            .field("at_ns", &self.at_ns)
            .field("length", &self.bytes.len())
            .finish()
    }
}

/// One thing that happened on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passed<'a> {
    /// Bytes passed.
    Piece(Piece<'a>),
    /// The client is gone (end of file, or a reset), the socket is, or its process is not watched any more.
    /// A piece that another thread was sending may still come.
    Closed {
        /// The connection.
        connection: u64,
        /// When, in nanoseconds of `CLOCK_MONOTONIC`; where only the absence of the socket was seen: when that was told.
        at_ns: u64,
    },
}

/// What was not handed over, since loading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lost {
    /// Bytes for which the ring had no room: it is drained too slowly.
    pub ring_full: u64,
    /// Bytes beyond what is copied of one call, or moved by a call whose buffers are not looked at.
    pub not_copied: u64,
    /// Calls on connections for which the table had no room; of these connections nothing is known.
    pub no_room: u64,
}
