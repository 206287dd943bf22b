//! The program itself, run as containerd runs it, beside nodes that answer, and nodes that misbehave.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod doubts;
mod harness;
mod speed;
mod verdicts;
