//! What the streams ask the ledger: whether something that was said a while ago still holds.

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
