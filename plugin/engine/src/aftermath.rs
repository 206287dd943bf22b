//! After a condemned pull has ended: is anything of it left, and who goes on with its ingests?
//!
//! containerd collects leftovers itself within seconds (containerd.md §4: 0.6–2.3 s measured). Only what is left
//! after that, and what no lease holds, is removed, through containerd's API.

use std::collections::{BTreeMap, BTreeSet};

use crate::action::Lever;
use crate::audit::{Entry, PullFacts};
use crate::bounds::{AFTERMATH_LONGEST, CLEANUP_GRACE, RETRY_AFTER};
use crate::event::View;
use crate::evidence::{Evidence, Reason};
use crate::ids::{AttemptId, IngestKey, IngestRef, PullId, SnapshotName};
use crate::time::Time;

/// An ended pull whose leftovers are watched.
#[derive(Debug)]
pub(crate) struct Aftermath {
    pub(crate) facts: PullFacts,
    pub(crate) reason: Reason,
    pub(crate) rule: Option<String>,
    pub(crate) evidence: Vec<Evidence>,
    since: Time,
    ingests: BTreeSet<IngestRef>,
    snapshots: BTreeSet<SnapshotName>,
    taken_over: BTreeSet<IngestRef>,
    /// Offsets of the unowned ingests at the last look: one that still grows has a writer, and is left alone.
    unowned: BTreeMap<IngestRef, u64>,
    in_flight: Option<AttemptId>,
    not_before: Time,
    removed: u32,
}

/// What an aftermath wants.
#[derive(Debug)]
pub(crate) enum Step {
    /// Write this record.
    Record(Entry),
    /// Pull this lever; then call [`Aftermath::started`].
    Lever(Lever),
    /// It is over.
    Over,
}

impl Aftermath {
    pub(crate) fn new(
        facts: PullFacts,
        reason: Reason,
        rule: Option<String>,
        evidence: Vec<Evidence>,
        since: Time,
        ingests: BTreeSet<IngestRef>,
        snapshots: BTreeSet<SnapshotName>,
    ) -> Self {
        Self {
            facts,
            reason,
            rule,
            evidence,
            since,
            ingests,
            snapshots,
            taken_over: BTreeSet::new(),
            unowned: BTreeMap::new(),
            in_flight: None,
            not_before: since,
            removed: 0,
        }
    }

    /// What follows from a fresh look. `owner` tells which pull in flight holds an ingest, and whether it is condemned.
    pub(crate) fn looked(
        &mut self,
        now: Time,
        view: &View,
        owner: impl Fn(&IngestKey) -> Option<(PullId, bool)>,
    ) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut left = Vec::new();
        let mut growing = false;
        let before = std::mem::take(&mut self.unowned);
        for ingest in &view.ingests {
            let ours = ingest.key.namespace == self.facts.lease.namespace
                && self.ingests.contains(&ingest.key.reference);
            if !ours {
                continue;
            }
            match owner(&ingest.key) {
                Some((by, condemned)) => {
                    if self.taken_over.insert(ingest.key.reference.clone()) {
                        let ingest = ingest.key.reference.clone();
                        steps.push(Step::Record(Entry::TakenOver {
                            ingest,
                            by,
                            condemned,
                        }));
                    }
                }
                None => {
                    self.unowned.insert(ingest.key.reference.clone(), ingest.offset);
                    if before.get(&ingest.key.reference) == Some(&ingest.offset) {
                        left.push(Lever::AbortIngest {
                            ingest: ingest.key.clone(),
                        });
                    } else {
                        growing = true;
                    }
                }
            }
        }
        let Some(extracts) = &view.extracts else {
            return steps;
        };
        let held = |name: &SnapshotName| view.leases.iter().any(|lease| lease.snapshots.contains(name));
        left.extend(
            self.snapshots
                .iter()
                .filter(|name| extracts.contains(name) && !held(name))
                .map(|name| Lever::RemoveSnapshot {
                    snapshot: name.clone(),
                }),
        );
        if self.in_flight.is_some() {
            return steps;
        }
        let age = now.since(self.since);
        if left.is_empty() && !growing {
            steps.push(Step::Record(Entry::Clean {
                removed: self.removed,
            }));
            steps.push(Step::Over);
        } else if age >= AFTERMATH_LONGEST {
            let what = left.iter().take(16).map(describe).collect();
            steps.push(Step::Record(Entry::NotClean { what }));
            steps.push(Step::Over);
        } else if age >= CLEANUP_GRACE && now >= self.not_before {
            steps.extend(left.into_iter().take(1).map(Step::Lever));
        }
        steps
    }

    pub(crate) fn started(&mut self, attempt: AttemptId) {
        self.in_flight = Some(attempt);
    }

    pub(crate) fn came_back(&mut self, now: Time, attempt: AttemptId, worked: bool) {
        if self.in_flight == Some(attempt) {
            self.in_flight = None;
            if worked {
                self.removed = self.removed.saturating_add(1);
            } else {
                self.not_before = now.after(RETRY_AFTER);
            }
        }
    }
}

fn describe(lever: &Lever) -> String {
    match lever {
        Lever::AbortIngest { ingest } => format!("ingest {}", ingest.reference),
        Lever::RemoveSnapshot { snapshot } => format!("snapshot {}", snapshot.key),
        Lever::DestroySocket { socket } | Lever::DisconnectSocket { socket } => format!("socket {socket}"),
        Lever::DestroyAll { sockets } => format!("{} sockets", sockets.len()),
    }
}
