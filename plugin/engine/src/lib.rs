//! The vocabulary of magi and its decisions, pure.
//!
//! Sources turn what they see into [`Event`]s, the [`Engine`] turns events into [`Action`]s, levers carry actions out
//! and answer with events. Nothing here reads a clock, a file, a socket or a random number: time is an argument and
//! every effect is a value, so a recorded trace of events replays to the same effects.
//!
//! Reading order: [`ids`], [`event`], [`action`], [`evidence`], [`policy`], then [`engine`].

pub mod action;
pub mod audit;
pub mod bounds;
pub mod engine;
pub mod event;
pub mod evidence;
pub mod ids;
pub mod manifest;
pub mod owner;
pub mod policy;
pub mod reference;
pub mod report;
pub mod switch;
pub mod time;
pub mod trace;

mod aftermath;
mod agenda;
mod breaker;
mod budget;
mod collection;
mod flights;
mod gateway;
mod headroom;
mod images;
mod judge;
mod keeping;
mod orphans;
mod pairing;
mod picture;
mod pods;
mod pull;
mod pursuit;
mod questions;
mod refusal;
mod requests;
mod starvation;
mod ties;

pub use action::{Action, Effects, Lever};
pub use audit::AuditRecord;
pub use engine::Engine;
pub use event::Event;
pub use evidence::{Evidence, Reason, Source};
pub use judge::trial;
pub use policy::Policy;
pub use time::Time;

#[cfg(test)]
mod tests;
