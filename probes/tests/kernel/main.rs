//! The probes on this kernel: one process plays containerd, with goroutines imitated down to the register.
//! Needs root, BTF and clang at build time; where one is missing, each test checks that loading says so.

mod goroutine;
mod loading;
mod scene;
mod transfer;
