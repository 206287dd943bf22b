//! What clients say to containerd over its CRI socket, read off the bytes that pass: `PullImage` requests and their ends.
//!
//! [`Snoop`] is told the bytes that containerd read and wrote, in order, and says who asked for which image. It may join
//! in mid-connection, it survives lost bytes, and it needs nothing of HPACK: the request stands in DATA frames, and what
//! call it is shows in its shape. What it cannot tell it reports as [`Seen::Missed`]; it never guesses.
//!
//! A request is read while it passes. Only the few texts that are wanted are ever copied; a registry's credentials
//! (field 2 of the request) are stepped over where they lie, and the caller's bytes are overwritten before
//! [`Snoop::piece`] returns. So no credential outlives that call, and 256 KiB of annotations cost no memory.
//!
//! Reading order: this file, `snoop` (connections and their bounds), `connection` (streams), `track` (where frames begin),
//! `frame`, `message` (gRPC), `request` (protobuf).

mod connection;
mod frame;
mod message;
mod request;
mod snoop;
mod track;

use std::collections::BTreeMap;
use std::fmt;

pub use snoop::{Counters, Snoop};

/// Longest image name that is taken, in bytes.
pub const MAX_IMAGE: usize = 4096;
/// Longest name, namespace or uid of a pod, in bytes. Kubernetes' own bound is 253.
pub const MAX_POD_TEXT: usize = 512;
/// Most labels of a pod; of a pod with more, none are told.
pub const MAX_LABELS: usize = 256;
/// Most bytes in the labels of a pod, keys and values; of a pod with more, none are told.
pub const MAX_LABEL_BYTES: usize = 32 << 10;
/// Longest request that is followed, in bytes; a longer one is none that containerd would take.
/// Source: containerd 2.1.9 defaults/defaults.go, `DefaultMaxRecvMsgSize`.
pub const MAX_MESSAGE: u32 = 16 << 20;
/// Most requests of one connection that are being read at once.
pub const MAX_REQUESTS: usize = 64;
/// Most calls of one connection that are followed to their end at once.
pub const MAX_CALLS: usize = 1024;
/// Most connections. Beyond them the one that was silent for longest is forgotten.
pub const MAX_CONNECTIONS: usize = 256;
/// Most bytes of unfinished requests in all.
pub const MAX_HELD: usize = 4 << 20;
/// How long nothing must have passed in one direction before a piece is believed to begin with a frame, in nanoseconds.
///
/// Whoever writes hands over whole frames, unless it has more to say than fits at once; then the rest follows without a
/// pause. The pause keeps text within a request, which a stranger may have written, from being read as frames.
pub const QUIET: u64 = 10_000_000;

/// Which way bytes went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// containerd read them.
    FromClient,
    /// containerd wrote them.
    ToClient,
}

/// Bytes that passed.
pub struct Piece<'a> {
    /// Names the connection; not used again before [`Snoop::closed`], unless records were lost.
    pub connection: u64,
    /// Which way they went.
    pub direction: Direction,
    /// Where the first of them stands in its direction, counted in bytes since the connection was first seen. A number
    /// that does not continue the piece before means that bytes were lost.
    pub offset: u64,
    /// When they passed, in nanoseconds of the kernel's monotonic clock.
    pub at: u64,
    /// They are overwritten with zeros.
    pub bytes: &'a mut [u8],
}

impl fmt::Debug for Piece<'_> {
    /// Without the bytes: they may hold credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Piece")
            .field("connection", &self.connection)
            .field("direction", &self.direction)
            .field("offset", &self.offset)
            .field("at", &self.at)
            .field("len", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

/// A call, as long as its connection lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Call {
    /// The connection.
    pub connection: u64,
    /// The HTTP/2 stream in it. Never used twice in one connection.
    pub stream: u32,
}

/// What was seen. Times are nanoseconds of the kernel's monotonic clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// containerd has read the whole of a request.
    Began {
        /// The call.
        call: Call,
        /// When its last byte was read.
        at: u64,
        /// What is asked for.
        request: PullRequest,
    },
    /// A call that began is over. Comes once for each.
    Ended {
        /// The call.
        call: Call,
        /// When.
        at: u64,
        /// How.
        how: CallEnd,
    },
    /// Requests may have passed in this time that were not seen.
    Missed {
        /// From when on.
        since: u64,
        /// Until when.
        until: u64,
    },
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CallEnd {
    /// With an answer: the image is there.
    Answered,
    /// With an error, or reset by containerd.
    Refused,
    /// Reset by the client.
    Cancelled,
    /// With its connection.
    ConnectionClosed,
    /// Unknown: bytes were lost, among which the end may have been. Nothing more will be said of this call.
    Lost,
}

/// A request to pull an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullRequest {
    /// The image as it was written, printable ASCII without spaces. Whether it is a reference is for others to say.
    pub image: String,
    /// For which pod.
    pub pod: Option<Pod>,
    /// Whether it can be nothing else: it names a pod. Otherwise `ImageStatus`, `RemoveImage`, and lists filtered by an id,
    /// look the same on the wire.
    pub certain: bool,
}

/// A pod, as the client names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its uid; never empty.
    pub uid: String,
    /// Its name; never empty.
    pub name: String,
    /// Its namespace; never empty.
    pub namespace: String,
    /// How often its sandbox was created before.
    pub attempt: u32,
    /// The sandbox's labels; `None` if there are more than [`MAX_LABELS`] or [`MAX_LABEL_BYTES`] allow.
    pub labels: Option<BTreeMap<String, String>>,
}

#[cfg(test)]
mod tests;
