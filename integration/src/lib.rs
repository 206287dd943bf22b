//! The test harness: real containerds, a registry that can misbehave, and measurements taken from the outside.
//!
//! Scenario tests, the demo and the benches stand on it. Nothing here knows magi: what a run reports about itself is
//! compared with what the registry sent, what containerd's API says, and what the pull returned.
//!
//! Start with [`Containerd::start`], [`Registry::start`], [`image::ImageBuilder`] and [`Cri::pull`].
#![expect(
    clippy::expect_used,
    reason = "a harness may stop at the first broken assumption, with its message"
)]

pub mod api;
pub mod channel;
pub mod chaos;
pub mod containerd;
pub mod cri;
pub mod crictl;
pub mod demo;
pub mod disk;
pub mod docker_registry;
#[path = "../../master/tests/fake_api/mod.rs"]
#[expect(
    clippy::unwrap_used,
    dead_code,
    reason = "it is the fake of the master's own tests"
)]
mod fake_api;
pub mod gateway;
pub mod hostile;
pub mod http_client;
pub mod image;
pub mod link;
pub mod magi;
pub mod master;
pub mod orphans;
pub mod owners;
pub mod parts;
pub mod process;
pub mod proxy;
pub mod registry;
pub mod residue;
pub mod sandbox;
pub mod soak;
pub mod stats;
pub mod tree;
pub mod unpack;
pub mod verifier;
pub mod wait;

pub use api::Api;
pub use containerd::{Containerd, Line};
pub use cri::{Cri, Pod};
pub use link::Link;
pub use magi::Magi;
pub use registry::{Behaviour, Registry};
pub use sandbox::Sandboxes;
