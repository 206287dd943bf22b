//! The way out: a bounded channel that is never waited for while the runtime waits for an answer.
//!
//! Who falls behind is told everything anew as soon as there is room, instead of every step.

use tokio::sync::mpsc;
use tracing::warn;

use super::inventory::{Inventory, PodChange};

/// The sending end.
#[derive(Debug)]
pub(super) struct Outbox {
    changes: mpsc::Sender<PodChange>,
    /// Changes that found no room since the listener last knew everything.
    missed: u64,
    /// The listener was told that nothing is heard, or never heard anything.
    down: bool,
}

impl Outbox {
    pub(super) fn new(changes: mpsc::Sender<PodChange>) -> Self {
        Self {
            changes,
            missed: 0,
            down: true,
        }
    }

    /// Whether the listener lacks something; then [`Self::room`] is to be waited for, and [`Self::catch_up`] called.
    pub(super) fn is_behind(&self) -> bool {
        self.missed > 0
    }

    /// Hands over a change if there is room, and else remembers that one is missing.
    pub(super) fn deliver(&mut self, change: PodChange) {
        self.down = change == PodChange::Down;
        // Once one is missing, those after it make no sense.
        if self.is_behind() {
            self.missed = self.missed.saturating_add(1);
        } else if let Err(mpsc::error::TrySendError::Full(_)) = self.changes.try_send(change) {
            warn!("whoever follows the pods is slow; it will be told all of them anew");
            self.missed = 1;
        }
    }

    /// Says that nothing more is heard, once.
    pub(super) fn go_down(&mut self) {
        if !self.down {
            self.deliver(PodChange::Down);
        }
    }

    /// Waits until there is room for a change.
    pub(super) async fn room(&self) {
        // A closed channel has room for nothing, which `closed` tells.
        if self.changes.reserve().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Tells how things stand: all pods, or that nothing is heard.
    pub(super) fn catch_up(&mut self, inventory: Option<&Inventory>) {
        let missed = std::mem::take(&mut self.missed);
        self.deliver(inventory.map_or(PodChange::Down, Inventory::whole));
        if !self.is_behind() {
            warn!(missed, "whoever follows the pods knows all of them again");
        }
    }

    /// Waits until nobody listens any more.
    pub(super) async fn closed(&self) {
        self.changes.closed().await;
    }
}
