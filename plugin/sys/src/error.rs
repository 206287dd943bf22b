//! What can go wrong between us and the kernel's socket table.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

/// Why the socket table could not answer, or did not obey.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SocketTableError {
    /// The network namespace to look into could not be opened: no such process, or not allowed.
    #[error("cannot open the network namespace {}", path.display())]
    Namespace {
        /// The namespace's file under `/proc`.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// No thread could be started (or it died) to open a socket in another network namespace.
    #[error("cannot run a thread in the other network namespace")]
    NamespaceThread {
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// Joining the other network namespace was refused; it needs `CAP_SYS_ADMIN`.
    #[error("cannot join the other network namespace")]
    Join {
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The netlink socket could not be made.
    #[error("cannot open a sock_diag socket")]
    Open {
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// This kernel cannot list TCP sockets (`CONFIG_INET_DIAG` and `CONFIG_INET_TCP_DIAG` are off, or their
    /// modules cannot be loaded). Without this check every lookup would say "no such socket".
    #[error("this kernel has no TCP socket table to ask (tcp_diag is missing)")]
    Unavailable,
    /// The question could not be sent.
    #[error("cannot send a question to sock_diag")]
    Send {
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The answer could not be read.
    #[error("cannot read the answer of sock_diag")]
    Receive {
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel did not finish its answer in time.
    #[error("sock_diag did not answer within {waited:?}")]
    Timeout {
        /// How long was waited.
        waited: Duration,
    },
    /// Answers were dropped on the way, because they came faster than they were read.
    #[error("answers of sock_diag were lost")]
    AnswersLost,
    /// One answer was longer than the largest that the kernel is known to send.
    #[error("an answer of sock_diag has {length} bytes, more than the {limit} there is room for")]
    TooLong {
        /// Bytes of the answer.
        length: usize,
        /// Bytes there is room for.
        limit: usize,
    },
    /// The answer does not follow the format.
    #[error("malformed answer of sock_diag: {detail}")]
    Malformed {
        /// What is wrong with it.
        detail: String,
    },
    /// The table changed so much during each of several attempts that no consistent list was had.
    #[error("the socket table kept changing while it was listed")]
    Interrupted,
    /// More sockets match than are kept. Ask for fewer.
    #[error("more than {limit} sockets match")]
    TooManySockets {
        /// How many are kept.
        limit: usize,
    },
    /// The cookie is one that does not name a socket: 0 is "not known", and the all-ones value is the kernel's
    /// wildcard, which would match whatever socket has the addresses.
    #[error("{cookie:#x} names no socket")]
    InvalidCookie {
        /// The cookie that was given.
        cookie: u64,
    },
    /// One address is IPv4, the other IPv6: no socket has such a pair.
    #[error("no socket goes from {local} to {remote}")]
    MixedFamilies {
        /// The local address.
        local: SocketAddr,
        /// The remote address.
        remote: SocketAddr,
    },
    /// This kernel cannot destroy sockets (`CONFIG_INET_DIAG_DESTROY` is off).
    #[error("this kernel cannot destroy TCP sockets")]
    Unsupported,
    /// `CAP_NET_ADMIN` is missing in the user namespace that owns the network namespace.
    #[error("not permitted; CAP_NET_ADMIN is needed")]
    NotPermitted,
    /// Any other refusal.
    #[error("sock_diag refused")]
    Refused {
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}
