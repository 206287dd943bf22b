//! The audit trail on its way to the master: handed over without waiting, after it was written on the node.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use magi_engine::audit::Entry;
use magi_master_api::client::ToMaster;
use magi_master_api::message::{AuditMark, AuditRecord};
use tokio::sync::mpsc;
use tracing::warn;

/// What became of pulls since the agent started, as the trail tells it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stops(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    stopped: AtomicU64,
    would_have_stopped: AtomicU64,
}

impl Stops {
    pub(super) fn stopped(&self) -> u64 {
        self.0.stopped.load(Ordering::Relaxed)
    }

    pub(super) fn would_have_stopped(&self) -> u64 {
        self.0.would_have_stopped.load(Ordering::Relaxed)
    }

    fn count(&self, entry: &Entry) {
        if matches!(entry, Entry::Ended { .. }) {
            self.0.stopped.fetch_add(1, Ordering::Relaxed);
        } else if matches!(entry, Entry::WouldAbort { .. }) {
            self.0.would_have_stopped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Hands records over.
///
/// Changed by: a record that is written on the node.
#[derive(Debug)]
pub(crate) struct Trail {
    say: mpsc::Sender<ToMaster>,
    stops: Stops,
    /// Records that the master will not hear of, since the start; its own count has only what the client drops.
    lost: u64,
    /// The last record was one of them.
    is_losing: bool,
}

impl Trail {
    pub(super) fn new(say: mpsc::Sender<ToMaster>) -> Self {
        Self {
            say,
            stops: Stops::default(),
            lost: 0,
            is_losing: false,
        }
    }

    pub(crate) fn stops(&self) -> Stops {
        self.stops.clone()
    }

    /// Hands over the record `line`, a JSON object without a line break, which stands at `mark` in the node's trail.
    pub(crate) fn hand(&mut self, mark: AuditMark, line: Vec<u8>, entry: &Entry) {
        self.stops.count(entry);
        let json = Bytes::from(line);
        let said = self.say.try_send(ToMaster::Audit(AuditRecord { mark, json }));
        if said.is_ok() {
            self.is_losing = false;
            return;
        }
        self.lost = self.lost.saturating_add(1);
        if !std::mem::replace(&mut self.is_losing, true) {
            warn!(
                so_far = self.lost,
                "audit records come too fast for the master; they stand in the node's own file"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_waits_and_losses_are_counted() {
        let (say, mut said) = mpsc::channel(1);
        let mut trail = Trail::new(say);
        let entry = Entry::Forgotten { what: String::new() };
        for sequence in 0..3 {
            trail.hand(AuditMark { run: 1, sequence }, b"{}".to_vec(), &entry);
        }
        assert_eq!(trail.lost, 2);
        let first = said.try_recv().unwrap();
        assert!(matches!(first, ToMaster::Audit(record) if record.mark.sequence == 0));
        trail.hand(AuditMark { run: 1, sequence: 3 }, b"{}".to_vec(), &entry);
        assert_eq!((trail.lost, trail.is_losing), (2, false));
    }
}
