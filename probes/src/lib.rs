//! The kernel's view of a pull: which TCP socket of containerd feeds which ingest of its content store, and what
//! its clients say to it.
//!
//! [`Probes`] loads a handful of eBPF programs and hands out typed [`Record`]s; [`attribution`] turns records
//! into "socket C feeds ingest D", purely. [`Conversations`] loads others, by itself, and hands out the bytes that
//! pass on containerd's unix socket. Nothing here decides or acts, and nothing else depends on it:
//! without BTF or privileges loading fails with an error that says so, and the node agent goes on without.

pub mod attribution;
mod bounded;
mod conversations;
mod decode;
mod load;
mod memory;
mod object;
mod privilege;
mod probes;
mod record;
mod watch;

pub use conversations::{
    ConversationOptions, Conversations, Direction, Hooks, Lost, MAX_CONVERSATIONS, MAX_PATH_BYTES, MAX_PATHS,
    Passed, Piece, SweepError,
};
pub use decode::{DecodeError, decode};
pub use load::{Level, LoadError, Options, Strategy};
pub use memory::{release_memory, return_freed_memory};
pub use privilege::Capability;
pub use probes::{Probes, ReadError};
pub use record::{Caller, FileId, IngestDirectory, IngestPart, Record, TcpState, plain_ipv4};
pub use watch::{MAX_TARGETS, WatchError};
