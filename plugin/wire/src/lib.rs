//! The protocols of others, as code: containerd's services and CRI v1.
//!
//! Generated from the files in `proto/` at build time; no logic lives here. What is generated stops at each source's
//! `decode.rs`.
#![expect(missing_docs, reason = "generated code carries the comments of the protocol files, or none")]
#![expect(unused_qualifications, reason = "generated code is not ours to shape")]
#![expect(clippy::all, reason = "generated code is not ours to shape")]

include!(concat!(env!("OUT_DIR"), "/all.rs"));
