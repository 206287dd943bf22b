//! The invariants of DESIGN.md §9, checked from outside: from events and effects alone, with nothing of the engine's
//! insides. It keeps its own picture of the world, and its own judge.

mod judge;
mod levers;
mod stage;
mod tests;
mod waits;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::action::{Action, Answer, Lever};
use crate::audit::{Entry, PullFacts};
use crate::bounds::{LOOK_FIRST, LOOKS_TO_CONFIRM};
use crate::event::{Event, Feed, Question, SocketStat, View};
use crate::evidence::{Evidence, Source};
use crate::ids::{
    AttemptId, Cookie, Digest, IngestDir, IngestRef, LeaseKey, PullId, RequestId, SnapshotName,
};
use crate::manifest::Manifest;
use crate::policy::Policy;
use crate::time::Time;

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    pub(super) invariant: Invariant,
    pub(super) what: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.invariant, self.what)
    }
}

/// Those of DESIGN.md §9, by their numbers there, and what follows from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Invariant {
    /// 1: two sources, and what they are said to have said is what they said.
    TwoSources,
    /// 2: nothing is done to a pull that has ended, nor to another generation of it, nor to a bystander.
    RightPull,
    /// 3: at most one lever in flight per pull.
    OneLever,
    /// 4: each question gets exactly one answer, in time.
    OneAnswer,
    /// 5: observe, and exempt, never pull a lever.
    ObserveOnlyLooks,
    /// 6: no lever while the sources that it needs are down, and none because one went.
    LossIsHarmless,
    /// 8: a condemned pull that stays gets levers, or a record says that it could not be stopped.
    NoGivingUp,
    /// 8 and 9: bounded memory, and none of what is over.
    BoundedMemory,
    /// Whoever waits asks to be woken.
    Wakes,
    /// containerd is not asked more often than every [`LOOK_FIRST`].
    NoStorm,
    /// Ids are never used twice, and records name the pull that they are about.
    Identity,
}

/// What the checker knows.
#[derive(Debug, Default)]
pub(super) struct Checker {
    now: Time,
    up: BTreeSet<Source>,
    policy: Policy,
    view: View,
    view_before: View,
    /// A look has come since containerd is up.
    fresh: bool,
    owners: BTreeMap<IngestDir, BTreeSet<LeaseKey>>,
    leases: BTreeMap<LeaseKey, Seen>,
    /// What the probes said, and how many looks have come since.
    feeds: BTreeMap<Cookie, (Feed, u8)>,
    listed: Option<Vec<SocketStat>>,
    ids: BTreeMap<PullId, LeaseKey>,
    gone: BTreeMap<PullId, Gone>,
    attempts: BTreeSet<AttemptId>,
    in_flight: BTreeMap<AttemptId, Option<PullId>>,
    questions: BTreeMap<RequestId, (Question, Time)>,
    answered: BTreeSet<RequestId>,
    wake: Option<Time>,
    looked: Option<Time>,
    listing_asked: Option<Time>,
}

/// A lease in the last look.
#[derive(Clone, Debug, Default)]
struct Seen {
    id: Option<PullId>,
    manifests: BTreeMap<Digest, Manifest>,
    /// Highest offset and declared size of each ingest that it ever held.
    ingests: BTreeMap<IngestRef, Held>,
    snapshots: BTreeSet<SnapshotName>,
    /// Who asked for its end.
    asked: BTreeSet<String>,
    /// What the last lever was pulled on.
    acted_on: Vec<Evidence>,
    /// Since when it is to be stopped, without a break in that or in the view of containerd.
    condemned_since: Option<Time>,
    /// When a lever was pulled for it, or a record said that it cannot be stopped.
    signs: Vec<Time>,
    /// Since when a socket is tied to it without a break.
    tied_since: Option<Time>,
}

#[derive(Clone, Debug)]
struct Held {
    digest: Option<Digest>,
    offset: u64,
    total: u64,
}

/// A lease that is gone.
#[derive(Clone, Debug)]
struct Gone {
    at: Time,
    seen: Seen,
}

impl Checker {
    /// Takes one event and its effects in.
    pub(super) fn observe(&mut self, now: Time, event: &Event, effects: &[Action]) -> Result<(), Broken> {
        self.now = now;
        self.take_in(event);
        let lost = matches!(event, Event::SourceDown { .. } | Event::TiesLost);
        for effect in effects {
            let lever = matches!(effect, Action::PullLever { .. });
            self.ensure(!(lost && lever), Invariant::LossIsHarmless, || {
                format!("{event:?} led to {effect:?}")
            })?;
            self.effect(effect)?;
        }
        self.follow_condemned();
        self.waits_are_bounded()
    }

    fn ensure(&self, holds: bool, invariant: Invariant, what: impl FnOnce() -> String) -> Result<(), Broken> {
        if holds {
            return Ok(());
        }
        let what = format!("at {}: {}", self.now.as_micros(), what());
        Err(Broken { invariant, what })
    }

    fn take_in(&mut self, event: &Event) {
        match event {
            Event::PolicyLoaded { policy } => self.policy = policy.clone(),
            Event::SourceUp { source } => {
                if self.up.insert(*source) && *source == Source::Containerd {
                    self.fresh = false;
                }
            }
            Event::SourceDown { source } => {
                self.up.remove(source);
                match source {
                    Source::Containerd => {
                        self.fresh = false;
                        self.feeds.clear();
                        self.listed = None;
                    }
                    Source::Probes => self.feeds.clear(),
                    Source::SocketTable => self.listed = None,
                    Source::Operator => {}
                }
            }
            Event::Looked { view } => self.take_in_view(view),
            Event::ManifestRead { lease, manifest } => {
                if let Some(seen) = self.leases.get_mut(lease) {
                    seen.manifests.insert(manifest.digest.clone(), manifest.clone());
                }
            }
            Event::SocketFed { feed } => {
                if self.up.contains(&Source::Probes) {
                    let before = self.feeds.get(&feed.socket.cookie);
                    let looks = before
                        .filter(|(before, _)| before.dir == feed.dir)
                        .map_or(0, |(_, looks)| *looks);
                    self.feeds.insert(feed.socket.cookie, (*feed, looks));
                }
            }
            Event::SocketUnfed { cookie } | Event::SocketClosed { cookie } => {
                self.feeds.remove(cookie);
            }
            Event::TiesLost => self.feeds.clear(),
            Event::SocketsListed { sockets } => {
                if self.up.contains(&Source::SocketTable) {
                    self.listed = Some(sockets.clone());
                }
            }
            Event::Asked { request, question } => {
                self.questions.insert(*request, (question.clone(), self.now));
                if let Question::Abort { pull, actor } = question
                    && let Some(seen) = self.ids.get(pull).and_then(|lease| self.leases.get_mut(lease))
                    && seen.id == Some(*pull)
                {
                    seen.asked.insert(actor.clone());
                }
            }
            Event::LeverDone { attempt, .. } => {
                self.in_flight.remove(attempt);
            }
            Event::Tick => self.wake = None,
            Event::ManifestUnreadable { .. } => {}
        }
    }

    fn take_in_view(&mut self, view: &View) {
        if !self.up.contains(&Source::Containerd) {
            return;
        }
        self.fresh = true;
        let mut owners: BTreeMap<IngestDir, BTreeSet<LeaseKey>> = BTreeMap::new();
        let mut leases: BTreeMap<LeaseKey, Seen> = BTreeMap::new();
        for lease in &view.leases {
            let mut seen = self.leases.remove(&lease.key).unwrap_or_default();
            seen.snapshots.extend(lease.snapshots.iter().cloned());
            for ingest in view.ingests.iter().filter(|ingest| {
                ingest.key.namespace == lease.key.namespace && lease.ingests.contains(&ingest.key.reference)
            }) {
                owners.entry(ingest.dir).or_default().insert(lease.key.clone());
                let held = seen
                    .ingests
                    .entry(ingest.key.reference.clone())
                    .or_insert_with(|| Held {
                        digest: ingest.digest.clone(),
                        offset: 0,
                        total: 0,
                    });
                held.offset = held.offset.max(ingest.offset);
                held.total = ingest.total;
            }
            leases.insert(lease.key.clone(), seen);
        }
        for (_, seen) in std::mem::replace(&mut self.leases, leases) {
            if let Some(id) = seen.id {
                self.gone.insert(id, Gone { at: self.now, seen });
            }
        }
        // A tie that was learnt while somebody else had the ingest says nothing of who has it now.
        let nobody = BTreeSet::new();
        for (dir, before) in std::mem::replace(&mut self.owners, owners) {
            let now = self.owners.get(&dir).unwrap_or(&nobody);
            if !before.is_subset(now) {
                self.feeds.retain(|_, (feed, _)| feed.dir != dir);
            }
        }
        // Nor does one of an ingest that is not there.
        let dirs: BTreeSet<IngestDir> = view.ingests.iter().map(|ingest| ingest.dir).collect();
        self.feeds.retain(|_, (feed, looks)| {
            *looks = looks.saturating_add(1);
            *looks < LOOKS_TO_CONFIRM || dirs.contains(&feed.dir)
        });
        self.view_before = std::mem::replace(&mut self.view, view.clone());
    }

    fn effect(&mut self, effect: &Action) -> Result<(), Broken> {
        match effect {
            Action::PullLever {
                attempt,
                lever,
                intent,
            } => {
                if let Some(facts) = &intent.pull {
                    self.identity(facts)?;
                }
                let new = self.attempts.insert(*attempt);
                self.ensure(new, Invariant::Identity, || {
                    format!("attempt {attempt} is used twice")
                })?;
                self.lever(*attempt, lever, intent)?;
                self.in_flight
                    .insert(*attempt, intent.pull.as_ref().map(|pull| pull.id));
                Ok(())
            }
            Action::Record { record } => {
                if let Some(facts) = &record.pull {
                    self.identity(facts)?;
                    if matches!(record.entry, Entry::NotStopped { .. }) {
                        self.sign(facts);
                    }
                }
                Ok(())
            }
            Action::Look { .. } => {
                let before = self.looked.replace(self.now);
                self.paced("Look", before)
            }
            Action::ListSockets => {
                let before = self.listing_asked.replace(self.now);
                self.paced("ListSockets", before)
            }
            Action::WakeAt { at } => {
                self.wake = Some(*at);
                self.ensure(*at > self.now, Invariant::NoStorm, || {
                    "wants to be woken in the past".to_owned()
                })
            }
            Action::Answer { request, answer } => self.answer(*request, answer),
        }
    }

    fn paced(&self, what: &str, before: Option<Time>) -> Result<(), Broken> {
        let pause = before.map(|before| self.now.since(before));
        self.ensure(
            pause.is_none_or(|pause| pause >= LOOK_FIRST),
            Invariant::NoStorm,
            || format!("{what} again after {pause:?}"),
        )
    }

    fn identity(&mut self, facts: &PullFacts) -> Result<(), Broken> {
        let known = self
            .ids
            .entry(facts.id)
            .or_insert_with(|| facts.lease.clone())
            .clone();
        self.ensure(known == facts.lease, Invariant::Identity, || {
            format!("{} is {known} and {}", facts.id, facts.lease)
        })?;
        if self.gone.contains_key(&facts.id) {
            return Ok(());
        }
        if let Some(seen) = self.leases.get_mut(&facts.lease) {
            let id = *seen.id.get_or_insert(facts.id);
            self.ensure(id == facts.id, Invariant::Identity, || {
                format!("{} is {id} and {}", facts.lease, facts.id)
            })?;
        }
        Ok(())
    }

    fn sign(&mut self, facts: &PullFacts) {
        let now = self.now;
        if let Some(seen) = self
            .leases
            .get_mut(&facts.lease)
            .filter(|seen| seen.id == Some(facts.id))
        {
            seen.signs.push(now);
        }
    }

    fn answer(&mut self, request: RequestId, answer: &Answer) -> Result<(), Broken> {
        let asked = self.questions.remove(&request);
        let twice = !self.answered.insert(request);
        self.ensure(asked.is_some() && !twice, Invariant::OneAnswer, || {
            format!("{request} is answered, but nobody waits: {answer:?}")
        })?;
        if let Answer::Pulls { report } = answer {
            for pull in &report.pulls {
                let facts = PullFacts {
                    id: pull.id,
                    lease: pull.lease.clone(),
                    repositories: Vec::new(),
                    declared: None,
                    stored: 0,
                };
                self.identity(&facts)?;
            }
        }
        let right = match (&asked, answer) {
            (Some((Question::Pulls { .. }, _)), answer) => matches!(answer, Answer::Pulls { .. }),
            (Some((Question::Abort { pull, .. }, _)), Answer::Ended) => self.gone.contains_key(pull),
            (Some((Question::Abort { pull, .. }, _)), Answer::NoSuchPull) => {
                !self.leases.values().any(|seen| seen.id == Some(*pull))
            }
            (Some((Question::Abort { .. }, _)), answer) => {
                matches!(answer, Answer::StillRunning { .. } | Answer::Busy)
            }
            (Some((Question::Panic { .. }, _)), answer) => matches!(
                answer,
                Answer::Closed { .. } | Answer::Failed { .. } | Answer::StillRunning { .. } | Answer::Busy
            ),
            (None, _) => false,
        };
        self.ensure(right, Invariant::OneAnswer, || {
            format!("{asked:?} is answered with {answer:?}")
        })
    }

    /// Whether the engine was told of this lease in the last look, and knows no reason to stop it.
    pub(super) fn is_innocent(&self, lease: &LeaseKey) -> bool {
        self.leases.contains_key(lease) && !self.must_stop(lease)
    }

    /// Whether it is to be stopped, and no ingest of it may as well be an innocent pull's.
    pub(super) fn could_be_stopped(&self, lease: &LeaseKey) -> bool {
        self.must_stop(lease)
            && self
                .owners
                .values()
                .filter(|owners| owners.contains(lease))
                .all(|owners| owners.iter().all(|owner| self.must_stop(owner)))
    }

    /// Pulls that the engine has named and the last look has shown.
    pub(super) fn pulls_in_flight(&self) -> Vec<PullId> {
        self.leases.values().filter_map(|seen| seen.id).collect()
    }

    /// How many questions wait for their answer.
    pub(super) fn questions_waiting(&self) -> usize {
        self.questions.len()
    }
}

/// Whether a lever closes sockets or cleans up afterwards.
fn closes_sockets(lever: &Lever) -> bool {
    match lever {
        Lever::DestroySocket { .. } | Lever::DisconnectSocket { .. } | Lever::DestroyAll { .. } => true,
        Lever::AbortIngest { .. } | Lever::RemoveSnapshot { .. } => false,
    }
}
