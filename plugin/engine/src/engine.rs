//! The engine: one event in, effects out. It owns all that magi knows at run time.
//!
//! Every event runs through the same steps: take it over (`engine/looks.rs`, `sockets.rs`, `owners.rs`, `asks.rs`), judge what it
//! changed and pursue what is condemned (`acts.rs`), and see what waits for which time (here).

mod acts;
mod asks;
mod gateway;
mod looks;
mod neighbours;
mod owners;
mod sockets;
mod verify;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::action::{Action, Answer, Effects};
use crate::aftermath::Aftermath;
use crate::agenda::Agenda;
use crate::audit::{AuditRecord, Entry, PullFacts};
use crate::bounds::LOOK_LONGEST;
use crate::breaker::Breaker;
use crate::budget::Accounts;
use crate::collection::Collection;
use crate::event::Event;
use crate::evidence::Source;
use crate::flights::Flights;
use crate::gateway::GatewayCalls;
use crate::headroom::Disks;
use crate::ids::{LeaseKey, PullId};
use crate::images::Images;
use crate::judge::Law;
use crate::keeping::Keeping;
use crate::orphans::Orphans;
use crate::picture::Picture;
use crate::pods::Pods;
use crate::policy::Policy;
use crate::pull::Pull;
use crate::questions::{Questions, Waiting};
use crate::report::{PullReport, Report};
use crate::requests::Requests;
use crate::starvation::Starvation;
use crate::switch::KillSwitch;
use crate::ties::Ties;
use crate::time::Time;

/// All that magi knows, and what it decides from it.
#[derive(Debug, Default)]
pub struct Engine {
    /// The latest time that was told.
    now: Time,
    policy: Policy,
    up: BTreeSet<Source>,
    pulls: BTreeMap<LeaseKey, Pull>,
    pulls_counted: u64,
    picture: Picture,
    ties: Ties,
    flights: Flights,
    gateway: GatewayCalls,
    questions: Questions,
    requests: Requests,
    pods: Pods,
    images: Images,
    orphans: Orphans,
    accounts: Accounts,
    switch: KillSwitch,
    breaker: Breaker,
    keeping: Keeping,
    disks: Disks,
    starvation: Starvation,
    refusals: BTreeMap<verify::Refused, verify::Refusals>,
    aftermaths: BTreeMap<PullId, Aftermath>,
    ended: VecDeque<PullReport>,
    agenda: Agenda,
    collection: Collection,
    /// The kernel refused to destroy a socket; disconnecting is the first choice from then on.
    cannot_destroy: bool,
    /// Bytes on a socket exceed what its ingest may hold: look soon, and again after this pause.
    suspicion: Option<Duration>,
    /// A socket feeds an ingest that no look has shown: look soon, and again after this pause.
    stranger: Option<Duration>,
    said: Said,
}

/// What was said of bounds that were reached; not said again until there was room.
#[derive(Debug, Default)]
struct Said {
    too_many_leases: bool,
    too_many_ties: bool,
    too_many_pods: bool,
    too_many_lost: bool,
    too_many_denials: bool,
    too_many_gateway_calls: bool,
}

impl Engine {
    /// An engine that knows nothing yet, under the built-in policy.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one event in. Time that runs backwards from call to call stands still.
    ///
    /// What a source says counts only between its [`Event::SourceUp`] and its [`Event::SourceDown`].
    pub fn handle(&mut self, now: Time, event: Event, fx: &mut Effects) {
        let now = self.now.max(now);
        self.now = now;
        self.images.forget_old(now);
        self.keeping.forget_old(now);
        self.breaker_closes(now, fx);
        // What was lost is no reason to act, not even on something else that is due by now.
        let may_act = !matches!(event, Event::SourceDown { .. } | Event::TiesLost);
        let may_tell_owners = event.may_tell_owners();
        match event {
            Event::PolicyLoaded { policy } => self.policy_loaded(policy, fx),
            Event::SourceUp { source } => self.source_up(now, source, fx),
            Event::SourceDown { source } => self.source_down(source, fx),
            Event::Looked { view } => self.looked(now, &view, fx),
            Event::ManifestRead { lease, manifest } => self.manifest_read(&lease, manifest, fx),
            Event::ManifestUnreadable {
                lease,
                digest,
                problem,
            } => self.manifest_unreadable(&lease, &digest, &problem, fx),
            Event::SocketFed { feed } => self.fed(now, feed, fx),
            Event::SocketUnfed { cookie } => self.ties.unfed(cookie),
            Event::SocketClosed { cookie } => self.closed(now, cookie),
            Event::TiesLost => self.ties.lost(),
            Event::SocketsListed { sockets } => self.listed(now, &sockets, fx),
            Event::CallBegan { call, at, request } => self.call_began(now, call, at, request),
            Event::CallEnded { call, at, end } => self.call_ended(now, call, at, end),
            Event::CallsMissed { since, until } => self.requests.missed(since, until),
            Event::GatewayCallBegan { call, at, request } => self.gateway_call_began(call, at, request, fx),
            Event::GatewayCallEnded { call } => self.gateway.ended(call),
            Event::PodsListed { pods } => self.pods_listed(pods, fx),
            Event::PodSeen { pod } => self.pod_seen(pod, fx),
            Event::PodGone { sandbox } => self.pods.gone(&sandbox),
            Event::KillSwitch { holder, engaged, by } => self.switched(holder, engaged, by, fx),
            Event::KeepDone { keep, failed } => self.keeping.came_back(keep, failed, &self.policy, fx),
            Event::CollectDone => self.collection.done(now),
            Event::DiskSeen { content, snapshots } => {
                self.disks.seen(content, snapshots);
                self.keeping.disk_seen(content, &self.policy, fx);
            }
            Event::PodLost { lost } => self.pod_lost(now, lost, fx),
            Event::ManifestResolved { manifest } => self.images.learn(&manifest),
            Event::Asked { request, question } => self.asked(now, request, question, fx),
            Event::LeverDone { attempt, outcome } => self.lever_done(now, attempt, &outcome, fx),
            Event::Tick => self.agenda.woken(),
        }
        self.join(now, may_tell_owners);
        if self.orphans.came_due(now, self.policy.orphan_grace) {
            for pull in self.pulls.values_mut() {
                pull.changed = true;
            }
        }
        self.judge_changed(now);
        if may_act {
            self.pursue(now, fx);
        }
        self.expire(now, fx);
        self.schedule(now, fx);
    }

    /// What a judgement hangs on, as it stands.
    fn law(&self, now: Time) -> Law<'_> {
        Law {
            now,
            policy: &self.policy,
            images: &self.images,
            accounts: &self.accounts,
            orphans: &self.orphans,
            disks: &self.disks,
            starvation: &self.starvation,
            halted: self.switch.is_engaged(),
        }
    }

    /// A picture of the pulls for people.
    #[must_use]
    pub fn report(&self, ended: bool) -> Report {
        let mut pulls: Vec<PullReport> = self
            .pulls
            .values()
            .map(|pull| self.report_of(pull, None))
            .collect();
        pulls.sort_by_key(|pull| pull.id);
        Report {
            pulls,
            ended: if ended {
                self.ended.iter().cloned().collect()
            } else {
                Vec::new()
            },
        }
    }

    /// Who holds the kill switch.
    #[must_use]
    pub fn kill_switch(&self) -> &KillSwitch {
        &self.switch
    }

    fn report_of(&self, pull: &Pull, ended: Option<Time>) -> PullReport {
        pull.report(ended, |dir| self.ties.feed_of(dir))
    }

    fn is_up(&self, source: Source) -> bool {
        self.up.contains(&source)
    }

    fn policy_loaded(&mut self, policy: Policy, fx: &mut Effects) {
        self.policy = policy;
        self.orphans.grace_changed();
        self.keeping.policy_loaded(&self.policy, fx);
        for pull in self.pulls.values_mut() {
            pull.changed = true;
        }
        for aftermath in self.aftermaths.values_mut() {
            aftermath.policy_loaded(&self.policy);
        }
        if self.policy.deny_for.is_zero() {
            self.images.let_all_in();
        }
        let mode = self.policy.fallback.mode();
        let rules = u64::try_from(self.policy.rules.len()).unwrap_or(u64::MAX);
        self.record(fx, None, Entry::PolicyInForce { mode, rules });
    }

    fn source_up(&mut self, now: Time, source: Source, fx: &mut Effects) {
        if !self.up.insert(source) {
            return;
        }
        self.record(fx, None, Entry::SourceChanged { source, up: true });
        match source {
            Source::Containerd => self.agenda.look_by(now),
            // Whoever asked before was not seen.
            Source::Requests => self.requests.missed(Time::default(), now),
            Source::Probes
            | Source::SocketTable
            | Source::Nri
            | Source::Verifier
            | Source::Gateway
            | Source::Master
            | Source::Operator => {}
        }
    }

    fn source_down(&mut self, source: Source, fx: &mut Effects) {
        match source {
            Source::Probes => self.ties.lost(),
            Source::SocketTable => {
                self.ties.table_lost();
                self.agenda.listed();
                self.panic_failed("the kernel's socket table cannot be listed", fx);
            }
            Source::Containerd => {
                // Every socket of that process is gone or soon will be, and what it held is no longer known.
                self.ties = Ties::default();
                self.picture.outdated();
                for pull in self.pulls.values_mut() {
                    pull.pursuit.interrupted();
                }
            }
            Source::Requests => self.requests_lost(),
            Source::Nri => self.pods.lost(),
            Source::Gateway => self.gateway.lost(),
            // What the master said stays true.
            Source::Verifier | Source::Master | Source::Operator => {}
        }
        if self.up.remove(&source) {
            self.record(fx, None, Entry::SourceChanged { source, up: false });
        }
    }

    /// Ends the waits whose patience is over.
    fn expire(&mut self, now: Time, fx: &mut Effects) {
        for (request, waiting) in self.questions.take_expired(now) {
            let why = match waiting {
                Waiting::End(_) => "the pull has not ended yet; magi goes on trying (magictl pulls shows it)",
                Waiting::Listing { .. } => "the kernel's socket table could not be listed",
                Waiting::Lever(_) => "the lever has not come back",
            };
            let answer = Answer::StillRunning { why: why.to_owned() };
            fx.push(Action::Answer { request, answer });
        }
        self.refusals_due(now, fx);
        let over: Vec<Aftermath> = self
            .aftermaths
            .extract_if(.., |_, aftermath| aftermath.expires() <= now)
            .map(|(_, aftermath)| aftermath)
            .collect();
        for aftermath in over {
            if let Some(entry) = aftermath.expired() {
                self.record(fx, Some(aftermath.facts), entry);
            }
        }
    }

    /// Runs the errands that are due, and asks to be woken for the earliest thing that waits.
    fn schedule(&mut self, now: Time, fx: &mut Effects) {
        if self.is_up(Source::Containerd) {
            if !self.aftermaths.is_empty() && !self.agenda.seeks_leftovers() {
                self.agenda.look_for_leftovers_by(now.after(LOOK_LONGEST));
            }
        } else {
            self.agenda.no_looks();
        }
        if self.agenda.start_listing(now) {
            self.ties.listing_asked(self.picture.offsets());
            fx.push(Action::ListSockets);
        }
        if let Some(look) = self.agenda.start_look(now) {
            fx.push(look);
        }
        let aftermaths = self.aftermaths.values().map(Aftermath::expires).min();
        let questions = self.questions.next_expiry();
        let others = questions
            .into_iter()
            .chain(aftermaths)
            .chain(self.images.next_expiry())
            .chain(self.keeping.next_expiry())
            .chain(self.breaker.closes())
            .chain(self.next_refusal_due())
            .chain(self.orphans.next_due(self.policy.orphan_grace));
        if let Some(wake) = self.agenda.wake(now, others) {
            fx.push(wake);
        }
    }

    fn record(&self, fx: &mut Effects, pull: Option<PullFacts>, entry: Entry) {
        fx.push(Action::Record {
            record: AuditRecord {
                pull,
                policy: self.policy.revision.clone(),
                entry,
            },
        });
    }

    fn forgotten(&self, fx: &mut Effects, pull: Option<PullFacts>, what: &str) {
        let what = what.to_owned();
        self.record(fx, pull, Entry::Forgotten { what });
    }
}

/// What the engine remembers, counted.
#[cfg(test)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Footprint {
    pub(crate) pulls: usize,
    pub(crate) ties: usize,
    pub(crate) flights: usize,
    pub(crate) questions: usize,
    pub(crate) aftermaths: usize,
    pub(crate) requests: usize,
    pub(crate) pods: usize,
    pub(crate) denials: usize,
    pub(crate) charges: usize,
    pub(crate) refusals: usize,
    pub(crate) kept: usize,
    pub(crate) gateway: usize,
}

#[cfg(test)]
impl Footprint {
    pub(crate) fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
impl Engine {
    pub(crate) fn footprint(&self) -> Footprint {
        Footprint {
            pulls: self.pulls.len(),
            ties: self.ties.len(),
            flights: self.flights.len(),
            questions: self.questions.len(),
            aftermaths: self.aftermaths.len(),
            requests: self.requests.len(),
            pods: self.pods.len(),
            denials: self.images.denials(),
            charges: self.accounts.len(),
            refusals: self.refusals.len(),
            kept: self.keeping.len(),
            gateway: self.gateway.len(),
        }
    }
}
