//! The protocols of others, as code: containerd's services and CRI v1.
//!
//! Generated from the files in `proto/` at build time; no logic lives here. What is generated stops at each source's
//! `decode.rs`.

include!(concat!(env!("OUT_DIR"), "/all.rs"));
