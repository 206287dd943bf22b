//! What a node tells of itself when it greets.

use std::collections::BTreeSet;

use magi_engine::Source;
use magi_master_api::client::ToMaster;
use magi_master_api::message::{Coverage, NodeFacts};
use tokio::sync::{mpsc, watch};

use super::super::containerd::Attached;

/// Where it is known from.
pub(super) struct Known {
    pub(super) attached: watch::Receiver<Option<Attached>>,
    pub(super) up: watch::Receiver<BTreeSet<Source>>,
    pub(super) watched: Vec<Source>,
}

impl Known {
    pub(super) fn facts(&self) -> NodeFacts {
        let up = self.up.borrow();
        let coverage = self.watched.iter().map(|source| Coverage {
            name: source.to_string(),
            works: up.contains(source),
            detail: String::new(),
        });
        let attached = self.attached.borrow();
        NodeFacts {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            containerd: attached
                .as_ref()
                .map(|found| found.version.clone())
                .unwrap_or_default(),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            coverage: coverage.collect(),
        }
    }
}

/// Hands the facts to the client whenever they change; it tells them with its next greeting. Ends when the agent stops.
pub(super) async fn tell(mut known: Known, say: mpsc::Sender<ToMaster>) {
    loop {
        let changed = tokio::select! {
            changed = known.attached.changed() => changed,
            changed = known.up.changed() => changed,
        };
        if changed.is_err() || say.send(ToMaster::Facts(known.facts())).await.is_err() {
            return;
        }
    }
}
