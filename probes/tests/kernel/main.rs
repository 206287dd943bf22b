//! The probes on this kernel: one process plays containerd, with goroutines imitated down to the register, and
//! with a unix socket that it serves.
//! Needs root, BTF and clang at build time; where one is missing, each test checks that loading says so.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise, also in its helpers"
)]

mod conversations;
mod goroutine;
mod listening;
mod loading;
mod scene;
mod transfer;
