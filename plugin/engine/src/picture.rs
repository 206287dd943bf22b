//! The last look at containerd, indexed by what is asked of it: who holds which ingest, and how fresh that is.
//!
//! Changed by: a look, and the loss of containerd.

use std::collections::{BTreeMap, BTreeSet};

use crate::bounds::{MAX_PULLS, MAX_RESOURCES_PER_LEASE, PICTURE_HOLDS, PICTURE_IS_NEW};
use crate::event::{IngestView, LeaseView, View};
use crate::ids::{IngestDir, IngestRef, LeaseKey};
use crate::pairing::Offsets;
use crate::time::Time;

#[derive(Debug, Default)]
pub(crate) struct Picture {
    /// When it came; none: not since containerd is up.
    at: Option<Time>,
    ingests: BTreeMap<IngestDir, Held>,
}

/// An ingest and the leases that list it. All leases, also those that are too many to be watched.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) reference: IngestRef,
    pub(crate) leases: BTreeSet<LeaseKey>,
    offset: u64,
}

impl Picture {
    /// Takes a look over. Tells the directories that somebody has given up: a tie that was learnt while a pull held
    /// one of them says nothing of who holds it now, or will.
    pub(crate) fn taken(&mut self, now: Time, view: &View) -> Vec<IngestDir> {
        self.at = Some(now);
        let by_key: BTreeMap<_, &IngestView> =
            view.ingests.iter().map(|ingest| (&ingest.key, ingest)).collect();
        let mut ingests: BTreeMap<IngestDir, Held> = by_key
            .values()
            .map(|ingest| {
                let held = Held {
                    reference: ingest.key.reference.clone(),
                    leases: BTreeSet::new(),
                    offset: ingest.offset,
                };
                (ingest.dir, held)
            })
            .collect();
        let by_name: BTreeMap<_, IngestDir> = by_key
            .values()
            .map(|ingest| ((&ingest.key.namespace, &ingest.key.reference), ingest.dir))
            .collect();
        for lease in &view.leases {
            for reference in &lease.ingests {
                let dir = by_name.get(&(&lease.key.namespace, reference));
                if let Some(held) = dir.and_then(|dir| ingests.get_mut(dir)) {
                    held.leases.insert(lease.key.clone());
                }
            }
        }
        let before = std::mem::replace(&mut self.ingests, ingests);
        before
            .into_iter()
            .filter(|(dir, held)| {
                let now = self.ingests.get(dir).map(|held| &held.leases);
                !held.leases.is_empty() && !now.is_some_and(|now| held.leases.is_subset(now))
            })
            .map(|(dir, _)| dir)
            .collect()
    }

    /// containerd is gone: what it last showed no longer counts.
    pub(crate) fn outdated(&mut self) {
        self.at = None;
    }

    /// Whether there is one since containerd is up.
    pub(crate) const fn is_there(&self) -> bool {
        self.at.is_some()
    }

    /// Whether it is fresh enough to act on.
    pub(crate) fn holds(&self, now: Time) -> bool {
        self.at.is_some_and(|at| now.since(at) < PICTURE_HOLDS)
    }

    /// Whether it is so fresh that nothing which takes a round trip to the registry has happened since.
    pub(crate) fn is_just_taken(&self, now: Time) -> bool {
        self.at.is_some_and(|at| now.since(at) < PICTURE_IS_NEW)
    }

    /// The ingest in this directory.
    pub(crate) fn ingest(&self, dir: IngestDir) -> Option<&Held> {
        self.ingests.get(&dir)
    }

    /// Bytes stored in each ingest.
    pub(crate) fn offsets(&self) -> Offsets {
        self.ingests
            .iter()
            .map(|(dir, held)| (*dir, held.offset))
            .collect()
    }
}

/// Whether nothing was left out of the view for want of room, so that what it does not show is not there.
pub(crate) fn is_whole(view: &View) -> bool {
    let resources = |lease: &LeaseView| {
        lease
            .content
            .len()
            .saturating_add(lease.ingests.len())
            .saturating_add(lease.snapshots.len())
    };
    view.leases.len() < MAX_PULLS
        && view
            .leases
            .iter()
            .all(|lease| resources(lease) < MAX_RESOURCES_PER_LEASE)
}
