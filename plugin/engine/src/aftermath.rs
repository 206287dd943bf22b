//! After a condemned pull has ended: is anything of it left, and who goes on with its ingests?
//!
//! containerd collects leftovers itself within seconds (containerd.md §4: 0.6–2.3 s measured). Only what is left
//! after that, and what no lease holds, is removed, through containerd's API.

use std::collections::{BTreeMap, BTreeSet};

use crate::action::Lever;
use crate::audit::{Entry, PullFacts};
use crate::bounds::{AFTERMATH_LONGEST, CLEANUP_GRACE, MAX_REMOVALS, RETRY_AFTER};
use crate::event::View;
use crate::evidence::Reason;
use crate::ids::{AttemptId, ContainerdNamespace, IngestKey, IngestRef, LeaseKey, PullId, SnapshotName};
use crate::picture::is_whole;
use crate::policy::{Mode, Policy, Subject};
use crate::pursuit::Acted;
use crate::time::Time;

/// An ended pull whose leftovers are watched.
#[derive(Debug)]
pub(crate) struct Aftermath {
    pub(crate) facts: PullFacts,
    pub(crate) acted: Acted,
    since: Time,
    ingests: BTreeSet<IngestRef>,
    snapshots: BTreeSet<SnapshotName>,
    taken_over: BTreeSet<IngestRef>,
    left: BTreeMap<Leftover, Left>,
    in_flight: Option<(AttemptId, Option<Leftover>)>,
    not_before: Time,
    removed: u32,
    /// Nothing was left; only take-overs are of interest from then on.
    clean: bool,
    /// The policy still wants such pulls stopped.
    may_act: bool,
}

/// Something that a pull left behind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Leftover {
    Ingest(IngestRef),
    Snapshot(SnapshotName),
}

/// What is known of a leftover.
#[derive(Clone, Copy, Debug)]
struct Left {
    /// Bytes in it: one that still grows has a writer, and is left alone.
    offset: u64,
    /// Since when it is unowned and does not grow.
    since: Time,
    tries: u8,
    /// A lever said that it was removed.
    removed: bool,
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

/// A look, indexed by what an aftermath asks of it.
#[derive(Debug)]
pub(crate) struct Scene<'a> {
    offsets: BTreeMap<&'a IngestKey, u64>,
    holders: BTreeMap<(&'a ContainerdNamespace, &'a IngestRef), &'a LeaseKey>,
    extracts: Option<BTreeSet<&'a SnapshotName>>,
    held: BTreeSet<&'a SnapshotName>,
    is_whole: bool,
}

impl<'a> Scene<'a> {
    pub(crate) fn of(view: &'a View) -> Self {
        let leases = || view.leases.iter();
        Self {
            offsets: view
                .ingests
                .iter()
                .map(|ingest| (&ingest.key, ingest.offset))
                .collect(),
            holders: leases()
                .flat_map(|lease| {
                    let key = &lease.key;
                    lease
                        .ingests
                        .iter()
                        .map(move |reference| ((&key.namespace, reference), key))
                })
                .collect(),
            extracts: view.extracts.as_ref().map(|extracts| extracts.iter().collect()),
            held: leases().flat_map(|lease| &lease.snapshots).collect(),
            is_whole: is_whole(view),
        }
    }
}

impl Aftermath {
    pub(crate) fn new(
        facts: PullFacts,
        acted: Acted,
        since: Time,
        ingests: BTreeSet<IngestRef>,
        snapshots: BTreeSet<SnapshotName>,
        in_flight: Option<AttemptId>,
    ) -> Self {
        Self {
            facts,
            acted,
            since,
            ingests,
            snapshots,
            taken_over: BTreeSet::new(),
            left: BTreeMap::new(),
            in_flight: in_flight.map(|attempt| (attempt, None)),
            not_before: since,
            removed: 0,
            clean: false,
            may_act: true,
        }
    }

    /// What the policy may ask of the ended pull.
    fn subject(&self) -> Subject<'_> {
        let pod = self.facts.owner.as_ref().and_then(|owner| owner.pod.as_ref());
        Subject {
            namespace: pod.map(|pod| &pod.namespace),
            repositories: &self.facts.repositories,
            ..Subject::default()
        }
    }

    /// A policy was loaded: who may no longer be stopped by it is no longer cleaned up after, either.
    pub(crate) fn policy_loaded(&mut self, policy: &Policy) {
        self.may_act = self.acted.reason == Reason::Operator
            || policy
                .applied(&self.subject())
                .iter()
                .all(|way| way.verdict.mode() == Some(Mode::Enforce));
    }

    /// What follows from a fresh look. `pull_of` tells which pull in flight has a lease, and whether it is condemned.
    pub(crate) fn looked(
        &mut self,
        now: Time,
        scene: &Scene<'_>,
        pull_of: impl Fn(&LeaseKey) -> Option<(PullId, bool)>,
    ) -> Vec<Step> {
        let mut steps = Vec::new();
        for reference in std::mem::take(&mut self.ingests) {
            let key = IngestKey {
                namespace: self.facts.lease.namespace.clone(),
                reference,
            };
            let holder = scene.holders.get(&(&key.namespace, &key.reference));
            match (scene.offsets.get(&key), holder) {
                (Some(_), Some(lease)) => {
                    self.left.remove(&Leftover::Ingest(key.reference.clone()));
                    if let Some((by, condemned)) = pull_of(lease)
                        && self.taken_over.insert(key.reference.clone())
                        && self.acted.reason != Reason::DeniedRecently
                    {
                        steps.push(Step::Record(Entry::TakenOver {
                            ingest: key.reference.clone(),
                            by,
                            condemned,
                        }));
                    }
                }
                (Some(offset), None) => self.is_left(now, Leftover::Ingest(key.reference.clone()), *offset),
                (None, _) => self.is_gone(&Leftover::Ingest(key.reference.clone())),
            }
            self.ingests.insert(key.reference);
        }
        let Some(extracts) = &scene.extracts else {
            return steps;
        };
        for name in std::mem::take(&mut self.snapshots) {
            let leftover = Leftover::Snapshot(name.clone());
            if extracts.contains(&name) && !scene.held.contains(&name) {
                self.is_left(now, leftover, 0);
            } else {
                self.is_gone(&leftover);
            }
            self.snapshots.insert(name);
        }
        steps.extend(self.conclude(now, scene.is_whole));
        steps
    }

    fn is_left(&mut self, now: Time, what: Leftover, offset: u64) {
        let left = self.left.entry(what).or_insert(Left {
            offset,
            since: now,
            tries: 0,
            removed: false,
        });
        if left.offset != offset {
            (left.offset, left.since) = (offset, now);
        }
    }

    fn is_gone(&mut self, what: &Leftover) {
        if self.left.remove(what).is_some_and(|left| left.removed) {
            self.removed = self.removed.saturating_add(1);
        }
    }

    fn conclude(&mut self, now: Time, is_whole: bool) -> Option<Step> {
        if self.clean {
            return (now.since(self.since) >= CLEANUP_GRACE).then_some(Step::Over);
        }
        if self.left.is_empty() {
            self.clean = true;
            if self.acted.reason == Reason::DeniedRecently && self.removed == 0 {
                return None;
            }
            return Some(Step::Record(Entry::Clean {
                removed: self.removed,
            }));
        }
        let free = self.in_flight.is_none() && now >= self.not_before;
        if !(free && is_whole && self.may_act) {
            return None;
        }
        let ripe = |left: &&mut Left| left.tries < MAX_REMOVALS && now.since(left.since) >= CLEANUP_GRACE;
        let (what, left) = self.left.iter_mut().find(|(_, left)| ripe(left))?;
        left.tries = left.tries.saturating_add(1);
        Some(Step::Lever(match what {
            Leftover::Ingest(reference) => Lever::AbortIngest {
                ingest: IngestKey {
                    namespace: self.facts.lease.namespace.clone(),
                    reference: reference.clone(),
                },
            },
            Leftover::Snapshot(snapshot) => Lever::RemoveSnapshot {
                snapshot: snapshot.clone(),
            },
        }))
    }

    /// When its patience is over.
    pub(crate) fn expires(&self) -> Time {
        self.since.after(AFTERMATH_LONGEST)
    }

    /// What is to be recorded when its patience is over.
    pub(crate) fn expired(&self) -> Option<Entry> {
        if self.clean {
            return None;
        }
        let what = if self.left.is_empty() {
            vec!["containerd could not be looked at".to_owned()]
        } else {
            self.left.keys().take(16).map(Leftover::describe).collect()
        };
        Some(Entry::NotClean { what })
    }

    pub(crate) fn started(&mut self, attempt: AttemptId, lever: &Lever) {
        let what = match lever {
            Lever::AbortIngest { ingest } => Some(Leftover::Ingest(ingest.reference.clone())),
            Lever::RemoveSnapshot { snapshot } => Some(Leftover::Snapshot(snapshot.clone())),
            Lever::CancelCalls { .. }
            | Lever::DeleteLease { .. }
            | Lever::DestroySocket { .. }
            | Lever::DisconnectSocket { .. }
            | Lever::DestroyAll { .. } => None,
        };
        self.in_flight = Some((attempt, what));
    }

    pub(crate) fn came_back(&mut self, now: Time, attempt: AttemptId, worked: bool) {
        let Some((_, what)) = self.in_flight.take_if(|(ours, _)| *ours == attempt) else {
            return;
        };
        if !worked {
            self.not_before = now.after(RETRY_AFTER);
        }
        if let Some(left) = what.and_then(|what| self.left.get_mut(&what)) {
            left.removed |= worked;
        }
    }
}

impl Leftover {
    fn describe(&self) -> String {
        match self {
            Self::Ingest(reference) => format!("ingest {reference}"),
            Self::Snapshot(name) => format!("snapshot {}", name.key),
        }
    }
}
