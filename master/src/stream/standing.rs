//! What the streams ask the ledger: whether something that was said a while ago still holds.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::names::NodeName;
use crate::verdict::Verdict;

/// The ledger, as far as the streams know it. Called from many tasks, for a moment each; it must not wait for anything
/// but its own lock.
pub trait Standing: Send + Sync {
    /// The verdict as it holds now: without images that a live pod of the node wants meanwhile. None: nothing of it holds.
    fn still(&self, verdict: &Verdict) -> Option<Verdict>;

    /// What was said of pods of `node` since `since`, and still holds, oldest first and bounded. It is what a node gets
    /// that comes back to a master which was restarted, or which had to forget some of it.
    fn since(&self, node: &NodeName, since: Timestamp) -> Vec<Verdict>;

    /// What all of it is known from.
    fn sources(&self) -> Vec<Source> {
        Vec::new()
    }
}

/// A way in which the master hears of pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// `audit-log`, `webhook` or `watch`.
    pub kind: &'static str,
    /// The file, the address, or the API server.
    pub whence: String,
    /// Whether it works, as far as is known.
    pub is_up: bool,
    /// When it last told something.
    pub heard: Option<Timestamp>,
    /// Lines, events or changes so far.
    pub events: u64,
    /// What could not be used, by why.
    pub unusable: BTreeMap<String, u64>,
    /// Why it does not work at present; empty if it does.
    pub trouble: String,
}

/// No ledger: everything that was said holds, and nothing is remembered.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unknowing;

impl Standing for Unknowing {
    fn still(&self, verdict: &Verdict) -> Option<Verdict> {
        Some(verdict.clone())
    }

    fn since(&self, _: &NodeName, _: Timestamp) -> Vec<Verdict> {
        Vec::new()
    }
}
