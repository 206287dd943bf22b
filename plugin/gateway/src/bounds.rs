//! Every bound of the gateway, named in one place.

use std::time::Duration;

/// Connections of clients at once; one more waits until one of them ends. A kubelet has one or two.
pub(crate) const MAX_CONNECTIONS: usize = 256;
/// Calls at once on one connection; one more waits at its client.
pub(crate) const MAX_STREAMS: u32 = 4096;
/// Metadata of one call, in bytes as HTTP/2 counts them: what containerd's own server takes
/// (grpc-go internal/transport/defaults.go, `defaultServerMaxHeaderListSize`).
pub(crate) const MAX_HEADERS: u32 = 16 << 20;
/// Bytes of one call, or of one connection, that may be on their way unread.
pub(crate) const STREAM_WINDOW: u32 = 1 << 20;
/// See [`STREAM_WINDOW`].
pub(crate) const CONNECTION_WINDOW: u32 = 4 << 20;
/// Longest request that is read before it is passed on: containerd's own bound for messages
/// (2.1.9 defaults/defaults.go, `DefaultMaxRecvMsgSize`). A longer one passes unseen.
pub(crate) const MAX_MESSAGE: usize = 16 << 20;
/// Pulls in flight that magi-node is told of; those beyond pass unseen.
pub(crate) const MAX_CALLS: usize = 1024;
/// Labels of one pod that magi-node is told of, in bytes; with more it hears of none.
pub(crate) const MAX_LABEL_BYTES: usize = 32 << 10;
/// First and longest pause between two attempts to reach magi-node.
pub(crate) const RECONNECT_FIRST: Duration = Duration::from_millis(50);
/// See [`RECONNECT_FIRST`].
pub(crate) const RECONNECT_LONGEST: Duration = Duration::from_secs(2);
/// How long magi-node may take to read what it is told; then the connection is given up.
pub(crate) const TELL_WITHIN: Duration = Duration::from_secs(5);
/// Accepts that may fail in a row before the socket counts as broken.
pub(crate) const ACCEPT_FAILURES: u32 = 100;
/// Pause after a failed accept: descriptors may become free again.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
