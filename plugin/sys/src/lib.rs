//! The kernel, asked directly: the table of TCP sockets, which process owns which, and how one of them is ended.
//!
//! Everything here is synchronous, small, and knows nothing of pulls or policies. What the kernel says is
//! parsed as if a stranger had sent it: every read is bounded and every odd answer is a typed error.

mod capability;
mod channel;
mod disconnect;
mod error;
mod owner;
mod proc_file;
mod process;
mod reply;
mod socket_table;
mod tcp_socket;

pub use capability::{Capabilities, Capability, CapabilityError};
pub use disconnect::{DisconnectError, disconnect, may_duplicate};
pub use error::SocketTableError;
pub use owner::{MAX_DESCRIPTORS, OwnedSocket, OwnedTcp, OwnerError, owned_tcp, socket_inodes};
pub use process::{ProcessError, exists, start_time};
pub use socket_table::{Destroyed, MAX_SOCKETS, SocketTable};
pub use tcp_socket::{TcpFilter, TcpSocket, TcpState};

#[cfg(test)]
mod tests;
