//! What is made to fail.

use std::time::{Duration, Instant};

use serde::Serialize;

/// Who fails, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// magi-node is killed.
    Node,
    /// magi-gateway is killed; its socket stays, as systemd holds it.
    Gateway,
    /// magi-gateway is told to end, and the next one takes the socket over.
    GatewayInOrder,
    /// containerd is killed.
    Containerd,
    /// magi-master is killed.
    Master,
    /// The registry is killed.
    Registry,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Node,
        Self::Gateway,
        Self::GatewayInOrder,
        Self::Containerd,
        Self::Master,
        Self::Registry,
    ];

    pub(super) fn of(index: usize) -> Self {
        Self::ALL.get(index).copied().unwrap_or(Self::Node)
    }
}

/// A fault that has happened.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    pub(super) at: Instant,
    /// When it served again.
    pub(super) over: Instant,
    /// From when magi-node could attach (it, or containerd, was there) until it had; none: it was not concerned.
    pub(super) attached: Option<Duration>,
}
