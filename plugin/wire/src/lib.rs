//! The protocols of others, as code: containerd's services, CRI v1, and the messages of NRI v1alpha1 and of ttrpc.
//!
//! Generated from the files in `proto/` at build time; no logic lives here. What is generated stops at each source's
//! `decode.rs`.

include!(concat!(env!("OUT_DIR"), "/all.rs"));
