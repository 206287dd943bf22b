//! The invariants of DESIGN.md §9, checked from outside: from events and effects alone, with nothing of the engine's
//! insides. It keeps its own picture of the world, and its own judge.

mod accounts;
mod answers;
mod askers;
mod effects;
mod judge;
mod levers;
mod neighbours;
mod stage;
mod tests;
mod waits;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use self::accounts::{Charged, Denied};
use self::askers::{Claim, Told};
use crate::action::{Action, LeverOutcome};
use crate::audit::PullFacts;
use crate::bounds::{LOOK_FIRST, LOOKS_TO_CONFIRM};
use crate::event::{Event, Feed, IngestView, LeaseView, Question, Room, SocketStat, View};
use crate::evidence::{Evidence, Reason, Source};
use crate::ids::{
    AttemptId, CallId, Cookie, Digest, GatewayCallId, ImageName, IngestDir, IngestRef, KeepId, LeaseKey,
    PodUid, PullId, RequestId, SandboxId, SnapshotName,
};
use crate::manifest::Manifest;
use crate::owner::{NodePod, PullRequest};
use crate::policy::Policy;
use crate::report::Report;
use crate::switch::SwitchHolder;
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
    /// Who is named as the owner of a pull has asked for it; in doubt nobody is named.
    RightOwner,
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
    calls: BTreeMap<CallId, Told>,
    missed_until: Option<Time>,
    pods: BTreeMap<SandboxId, NodePod>,
    /// Images that a pod wants no longer, and since when that is known.
    lost: BTreeMap<PodUid, LostImages>,
    /// What the engine says of owners; and what it says after the event that is being observed.
    claims: BTreeMap<LeaseKey, Claim>,
    heard: Option<Report>,
    /// Every manifest that was told, for the verifier.
    manifests: BTreeMap<Digest, Manifest>,
    denials: BTreeMap<Digest, Denied>,
    charged: Vec<Charged>,
    /// When the refusal of a digest was last recorded.
    refused: BTreeMap<(Option<Digest>, ImageName), Time>,
    /// Calls in the gateway.
    gateway: BTreeMap<GatewayCallId, PullRequest>,
    /// Who holds the kill switch.
    switched: BTreeSet<SwitchHolder>,
    keeps: BTreeSet<KeepId>,
    collecting: bool,
    /// Pulls that a lever was pulled for; when those that count were; and until when no more may.
    levered: BTreeSet<PullId>,
    stops: Vec<Time>,
    has_just_opened: bool,
    open_until: Option<Time>,
    rooms: Option<(Room, Option<Room>)>,
    /// Whom the engine says to be in the way of others.
    chosen: BTreeMap<LeaseKey, Reason>,
}

/// What a pod has lost, and when that was said last.
#[derive(Debug, Default)]
struct LostImages {
    heard: Time,
    since: BTreeMap<ImageName, Time>,
}

/// A lease in the last look.
#[derive(Clone, Debug, Default)]
struct Seen {
    id: Option<PullId>,
    /// First seen.
    since: Time,
    /// When containerd made it.
    created: Option<Time>,
    manifests: BTreeMap<Digest, Manifest>,
    /// Highest offset and declared size of each ingest that it ever held.
    ingests: BTreeMap<IngestRef, Held>,
    snapshots: BTreeSet<SnapshotName>,
    content: BTreeSet<Digest>,
    /// Who asked for its end.
    asked: BTreeSet<String>,
    /// What the last lever was pulled on, and why.
    acted_on: Vec<Evidence>,
    stopped_for: Option<Reason>,
    /// The intent of a lever on it was written.
    written: bool,
    /// A lever may have deleted its lease: no look tells any more whether it runs.
    lease_deleted: Option<AttemptId>,
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
    /// What the engine says of its pulls after the event that is observed next.
    pub(super) fn hear(&mut self, report: Report) {
        self.heard = Some(report);
    }

    /// Takes one event and its effects in.
    pub(super) fn observe(&mut self, now: Time, event: &Event, effects: &[Action]) -> Result<(), Broken> {
        self.now = now;
        self.has_just_opened = false;
        if self.open_until.take_if(|until| now >= *until).is_some() {
            self.switch(SwitchHolder::Breaker, false);
        }
        self.denials.retain(|_, denial| denial.until > now);
        self.take_in(event);
        self.forget_old();
        self.take_in_report()?;
        self.owners_have_asked()?;
        let lost = matches!(event, Event::SourceDown { .. } | Event::TiesLost);
        for effect in effects {
            let lever = matches!(effect, Action::PullLever { .. });
            self.ensure(
                !lever || self.switched.is_empty(),
                Invariant::ObserveOnlyLooks,
                || format!("the kill switch is on: {effect:?}"),
            )?;
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
                let new = self.up.insert(*source);
                match source {
                    Source::Containerd if new => self.fresh = false,
                    // Whoever asked before was not seen.
                    Source::Requests if new => self.missed(self.now),
                    Source::Containerd
                    | Source::Requests
                    | Source::Probes
                    | Source::SocketTable
                    | Source::Nri
                    | Source::Verifier
                    | Source::Gateway
                    | Source::Master
                    | Source::Operator => {}
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
                    Source::Requests => self.calls.clear(),
                    Source::Nri => self.pods.clear(),
                    Source::Gateway => self.gateway.clear(),
                    Source::Verifier | Source::Master | Source::Operator => {}
                }
            }
            Event::Looked { view } => self.take_in_view(view),
            Event::ManifestRead { lease, manifest } => {
                if let Some(seen) = self.leases.get_mut(lease) {
                    seen.manifests.insert(manifest.digest.clone(), manifest.clone());
                    self.manifests.insert(manifest.digest.clone(), manifest.clone());
                }
            }
            Event::ManifestResolved { manifest } => {
                self.manifests.insert(manifest.digest.clone(), manifest.clone());
            }
            Event::CallBegan { call, at, request } => self.call_began(*call, *at, request),
            Event::CallEnded { call, at, end: _ } => self.call_ended(*call, *at),
            Event::GatewayCallBegan { call, at: _, request } => {
                if self.up.contains(&Source::Gateway) {
                    self.gateway.insert(*call, request.clone());
                }
            }
            Event::GatewayCallEnded { call } => {
                self.gateway.remove(call);
            }
            Event::CallsMissed { until, .. } => self.missed(*until),
            Event::PodsListed { pods } => {
                if self.up.contains(&Source::Nri) {
                    self.pods = pods
                        .iter()
                        .map(|pod| (pod.sandbox.clone(), pod.clone()))
                        .collect();
                }
            }
            Event::PodSeen { pod } => {
                if self.up.contains(&Source::Nri) {
                    self.pods.insert(pod.sandbox.clone(), pod.clone());
                }
            }
            Event::KillSwitch { holder, engaged, .. } => self.switch(*holder, *engaged),
            Event::PodLost { lost } => self.pod_lost(lost),
            Event::PodGone { sandbox } => {
                self.pods.remove(sandbox);
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
                    && self.switched.is_empty()
                    && let Some(seen) = self.ids.get(pull).and_then(|lease| self.leases.get_mut(lease))
                    && seen.id == Some(*pull)
                {
                    seen.asked.insert(actor.clone());
                }
            }
            Event::LeverDone { attempt, outcome } => {
                let untouched = matches!(outcome, LeverOutcome::IntentNotWritten { .. });
                let pull = self.in_flight.remove(attempt).flatten();
                let mut leases = self.leases.values_mut();
                if let Some(seen) = leases.find(|seen| pull.is_some() && seen.id == pull) {
                    seen.written |= !untouched;
                }
                let mut leases = self.leases.values_mut();
                if untouched && let Some(seen) = leases.find(|seen| seen.lease_deleted == Some(*attempt)) {
                    seen.lease_deleted = None;
                }
            }
            Event::Tick => self.wake = None,
            Event::DiskSeen { content, snapshots } => self.rooms = Some((*content, *snapshots)),
            Event::CollectDone => self.collecting = false,
            Event::ManifestUnreadable { .. } | Event::KeepDone { .. } => {}
        }
    }

    fn switch(&mut self, holder: SwitchHolder, engaged: bool) {
        if engaged {
            self.switched.insert(holder);
            // What somebody asked for is not taken up again when it is off.
            for seen in self.leases.values_mut() {
                seen.asked.clear();
            }
        } else {
            self.switched.remove(&holder);
        }
    }

    fn take_in_view(&mut self, view: &View) {
        if !self.up.contains(&Source::Containerd) {
            return;
        }
        self.fresh = true;
        let view = &self.with_leaseless(view);
        let mut owners: BTreeMap<IngestDir, BTreeSet<LeaseKey>> = BTreeMap::new();
        let mut leases: BTreeMap<LeaseKey, Seen> = BTreeMap::new();
        let shown: BTreeSet<&LeaseKey> = view.leases.iter().map(|lease| &lease.key).collect();
        for (lease, seen) in self
            .leases
            .extract_if(.., |lease, _| !shown.contains(lease))
            .collect::<Vec<_>>()
        {
            if let Some(id) = seen.id {
                let gone = Gone { at: self.now, seen };
                self.settle(&lease, &gone);
                self.gone.insert(id, gone);
            }
        }
        for lease in &view.leases {
            let mut seen = self.leases.remove(&lease.key).unwrap_or_else(|| Seen {
                since: self.now,
                ..Seen::default()
            });
            seen.created = lease.created;
            seen.content.extend(lease.content.iter().cloned());
            // What is denied is known by its digest alone.
            for denied in lease.content.iter().filter_map(|digest| self.denials.get(digest)) {
                if let Some(manifest) = &denied.document {
                    let digest = manifest.digest.clone();
                    seen.manifests.entry(digest).or_insert_with(|| manifest.clone());
                }
            }
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
        self.leases = leases;
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

    /// The view, and in it those pulls whose leases were deleted by a lever while their requests are open: what nobody
    /// else holds of their layers counts as theirs.
    fn with_leaseless(&self, view: &View) -> View {
        let reported = |lease: &LeaseKey| {
            let pulls = self.heard.iter().flat_map(|report| &report.pulls);
            pulls.into_iter().any(|pull| pull.lease == *lease)
        };
        let shown = |lease: &LeaseKey| view.leases.iter().any(|one| one.key == *lease);
        let mut extended = view.clone();
        for (key, seen) in &self.leases {
            let is_asked_for = self.requests_for(key).next().is_some();
            if seen.lease_deleted.is_none() || shown(key) || !reported(key) || !is_asked_for {
                continue;
            }
            let layers = || seen.roots().into_iter().flat_map(Manifest::layers);
            let is_free = |ingest: &&IngestView| {
                let holds = |lease: &LeaseView| {
                    lease.key.namespace == ingest.key.namespace
                        && lease.ingests.contains(&ingest.key.reference)
                };
                ingest.key.namespace == key.namespace
                    && layers().any(|layer| ingest.digest.as_ref() == Some(&layer.digest))
                    && !view.leases.iter().any(holds)
            };
            let ingests = view.ingests.iter().filter(is_free);
            extended.leases.push(LeaseView {
                key: key.clone(),
                created: seen.created,
                content: Vec::new(),
                ingests: ingests.map(|ingest| ingest.key.reference.clone()).collect(),
                snapshots: Vec::new(),
            });
        }
        extended
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
        self.named(facts.id, &facts.lease)
    }

    fn named(&mut self, pull: PullId, lease: &LeaseKey) -> Result<(), Broken> {
        let known = self.ids.entry(pull).or_insert_with(|| lease.clone()).clone();
        self.ensure(known == *lease, Invariant::Identity, || {
            format!("{pull} is {known} and {lease}")
        })?;
        if self.gone.contains_key(&pull) {
            return Ok(());
        }
        if let Some(seen) = self.leases.get_mut(lease) {
            let id = *seen.id.get_or_insert(pull);
            self.ensure(id == pull, Invariant::Identity, || {
                format!("{lease} is {id} and {pull}")
            })?;
        }
        Ok(())
    }

    /// What the engine now says of its pulls.
    fn take_in_report(&mut self) -> Result<(), Broken> {
        let Some(report) = self.heard.take() else {
            return Ok(());
        };
        for pull in &report.pulls {
            self.named(pull.id, &pull.lease)?;
        }
        self.hear_owners(&report);
        self.hear_chosen(&report);
        Ok(())
    }

    fn missed(&mut self, until: Time) {
        self.missed_until = self.missed_until.max(Some(until));
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

impl Seen {
    /// Bytes that it has fetched itself.
    fn fetched(&self) -> u64 {
        self.ingests.values().map(|held| held.offset).sum()
    }
}
