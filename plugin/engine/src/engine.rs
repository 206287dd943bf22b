//! The engine: one event in, effects out. It owns all that magi knows at run time.
//!
//! Every event runs through the same three steps: take it over, judge what it changed, pursue what is condemned. At
//! the end one wish to be woken is left, for the earliest thing that waits.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::action::{Action, Answer, Effects, Lever, LeverOutcome};
use crate::aftermath::{Aftermath, Step};
use crate::audit::{AuditRecord, Entry, PullFacts};
use crate::bounds::{LOOK_FIRST, LOOK_LONGEST, MAX_AFTERMATHS, MAX_ENDED, MAX_PULLS};
use crate::event::{Event, Feed, IngestView, Question, SocketStat, View};
use crate::evidence::{Evidence, Reason, Source};
use crate::ids::{AttemptId, Cookie, IngestDir, IngestKey, IngestRef, LeaseKey, PullId, RequestId};
use crate::judge;
use crate::manifest::Manifest;
use crate::pairing::Offsets;
use crate::policy::{Mode, Policy, RuleVerdict};
use crate::pull::Pull;
use crate::pursuit::{Circumstances, Wish};
use crate::questions::{Questions, Waiting};
use crate::report::{PullReport, Report, Stage};
use crate::ties::Ties;
use crate::time::Time;

/// All that magi knows, and what it decides from it.
#[derive(Debug, Default)]
pub struct Engine {
    policy: Policy,
    pulls: BTreeMap<LeaseKey, Pull>,
    ties: Ties,
    offsets: Offsets,
    up: BTreeSet<Source>,
    flights: BTreeMap<AttemptId, Flight>,
    questions: Questions,
    aftermaths: BTreeMap<PullId, Aftermath>,
    ended: VecDeque<PullReport>,
    pulls_counted: u64,
    attempts_counted: u64,
    /// The kernel refused to destroy a socket; disconnecting is the first choice from then on.
    cannot_destroy: bool,
    /// Bytes on a socket exceed what its ingest may hold: look soon, and again after this pause.
    suspicion: Option<Duration>,
    next_look: Option<Time>,
    wants_sockets: bool,
    wake: Option<Time>,
    full: bool,
}

/// What a lever in flight was pulled for.
#[derive(Clone, Debug)]
enum Flight {
    Pull(LeaseKey, PullId),
    Aftermath(PullId),
    Panic(RequestId),
}

impl Engine {
    /// An engine that knows nothing yet, under the built-in policy.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one event in. Times must not run backwards from call to call.
    pub fn handle(&mut self, now: Time, event: Event, fx: &mut Effects) {
        match event {
            Event::PolicyLoaded { policy } => self.policy_loaded(policy, fx),
            Event::SourceUp { source } => self.source_changed(source, true, fx),
            Event::SourceDown { source } => self.source_changed(source, false, fx),
            Event::Looked { view } => self.looked(now, &view, fx),
            Event::ManifestRead { lease, manifest } => self.manifest_read(&lease, manifest, fx),
            Event::ManifestUnreadable {
                lease,
                digest,
                problem,
            } => {
                if let Some(pull) = self.pulls.get(&lease) {
                    let facts = pull.facts();
                    self.record(
                        fx,
                        Some(facts),
                        Entry::ManifestUnreadable {
                            problem: format!("{digest}: {problem}"),
                        },
                    );
                }
            }
            Event::SocketFed { feed } => self.fed(feed, fx),
            Event::SocketUnfed { cookie } => self.ties.unfed(cookie),
            Event::SocketClosed { cookie } => self.closed(now, cookie),
            Event::TiesLost => self.ties.lost(),
            Event::SocketsListed { sockets } => self.listed(now, &sockets, fx),
            Event::Asked { request, question } => self.asked(now, request, question, fx),
            Event::LeverDone { attempt, outcome } => self.lever_done(now, attempt, &outcome, fx),
            Event::Tick => self.wake = None,
        }
        self.judge_changed();
        self.pursue(now, fx);
        self.expire_questions(now, fx);
        self.schedule(now, fx);
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

    fn report_of(&self, pull: &Pull, ended: Option<Time>) -> PullReport {
        pull.report(ended, |dir| self.ties.feed_of(dir))
    }

    fn policy_loaded(&mut self, policy: Policy, fx: &mut Effects) {
        self.policy = policy;
        for pull in self.pulls.values_mut() {
            pull.changed = true;
            pull.reconsider = true;
        }
        let mode = match self.policy.fallback {
            RuleVerdict::Exempt => None,
            RuleVerdict::Limit { mode, .. } => Some(mode),
        };
        let rules = u64::try_from(self.policy.rules.len()).unwrap_or(u64::MAX);
        self.record(fx, None, Entry::PolicyInForce { mode, rules });
    }

    fn source_changed(&mut self, source: Source, up: bool, fx: &mut Effects) {
        let changed = if up {
            self.up.insert(source)
        } else {
            self.up.remove(&source)
        };
        match (source, up) {
            (Source::Probes, false) => self.ties.lost(),
            (Source::SocketTable, false) => {
                self.ties.table_lost();
                self.wants_sockets = false;
            }
            (Source::Containerd, true) => fx.push(Action::Look { extracts: false }),
            (Source::Containerd, false) => {
                // Every socket of that process is gone or soon will be, and what it held is no longer known.
                self.ties = Ties::default();
                self.offsets.clear();
            }
            (Source::Probes | Source::SocketTable, true) | (Source::Operator, _) => {}
        }
        if changed {
            self.record(fx, None, Entry::SourceChanged { source, up });
        }
    }

    fn looked(&mut self, now: Time, view: &View, fx: &mut Effects) {
        self.next_look = None;
        self.offsets = view
            .ingests
            .iter()
            .map(|ingest| (ingest.dir, ingest.offset))
            .collect();
        self.ties.looked(&self.offsets);
        let mut ingests: BTreeMap<_, BTreeMap<&IngestRef, &IngestView>> = BTreeMap::new();
        for ingest in &view.ingests {
            ingests
                .entry(&ingest.key.namespace)
                .or_default()
                .insert(&ingest.key.reference, ingest);
        }
        let none = BTreeMap::new();
        let mut present = BTreeSet::new();
        for lease in &view.leases {
            present.insert(&lease.key);
            if !self.pulls.contains_key(&lease.key) {
                if self.pulls.len() >= MAX_PULLS {
                    self.say_full(fx);
                    continue;
                }
                self.pulls_counted = self.pulls_counted.saturating_add(1);
                let pull = Pull::new(PullId(self.pulls_counted), lease.key.clone(), now);
                self.pulls.insert(lease.key.clone(), pull);
            }
            if let Some(pull) = self.pulls.get_mut(&lease.key) {
                pull.seen(lease, ingests.get(&lease.key.namespace).unwrap_or(&none));
                pull.pursuit.still_there();
            }
        }
        let gone: Vec<LeaseKey> = self
            .pulls
            .keys()
            .filter(|key| !present.contains(key))
            .cloned()
            .collect();
        for key in gone {
            self.ended(now, &key, fx);
        }
        self.suspect_overruns(now);
        // The verdicts of this look count for the question who goes on with an ended pull's ingests.
        self.judge_changed();
        self.aftermaths_looked(now, view, fx);
    }

    fn say_full(&mut self, fx: &mut Effects) {
        if !std::mem::replace(&mut self.full, true) {
            let what = format!("pulls beyond the first {MAX_PULLS} in flight are not watched");
            self.record(fx, None, Entry::Forgotten { what });
        }
    }

    fn ended(&mut self, now: Time, key: &LeaseKey, fx: &mut Effects) {
        let Some(pull) = self.pulls.remove(key) else {
            return;
        };
        self.full = false;
        if self.ended.len() >= MAX_ENDED {
            self.ended.pop_front();
        }
        self.ended.push_back(self.report_of(&pull, Some(now)));
        for (request, _) in self.questions.take(|waiting| *waiting == Waiting::End(pull.id)) {
            fx.push(Action::Answer {
                request,
                answer: Answer::Ended,
            });
        }
        let Some(verdict) = &pull.verdict else { return };
        if verdict.mode == Mode::Observe || pull.pursuit.attempts == 0 {
            return;
        }
        let facts = pull.facts();
        let took = pull.pursuit.first.map(|first| now.since(first));
        let entry = Entry::Ended {
            reason: verdict.reason,
            attempts: pull.pursuit.attempts,
            took_micros: took.map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
        };
        self.record(fx, Some(facts.clone()), entry);
        if self.aftermaths.len() >= MAX_AFTERMATHS
            && let Some((_, oldest)) = self.aftermaths.pop_first()
        {
            let what = "too many ended pulls at once: the leftovers of this one are not watched".to_owned();
            self.record(fx, Some(oldest.facts), Entry::Forgotten { what });
        }
        let aftermath = Aftermath::new(
            facts,
            verdict.reason,
            verdict.rule.clone(),
            pull.pursuit.acted_on.clone(),
            now,
            pull.ingests.keys().cloned().collect(),
            pull.snapshots.clone(),
        );
        self.aftermaths.insert(pull.id, aftermath);
    }

    fn aftermaths_looked(&mut self, now: Time, view: &View, fx: &mut Effects) {
        if self.aftermaths.is_empty() {
            return;
        }
        let mut owners: BTreeMap<IngestKey, (PullId, bool)> = BTreeMap::new();
        for pull in self.pulls.values() {
            for (reference, _) in pull.live_ingests() {
                let key = IngestKey {
                    namespace: pull.lease.namespace.clone(),
                    reference: reference.clone(),
                };
                owners.insert(key, (pull.id, pull.is_pursued()));
            }
        }
        let mut wishes = Vec::new();
        for (id, aftermath) in &mut self.aftermaths {
            for step in aftermath.looked(now, view, |key| owners.get(key).copied()) {
                wishes.push((*id, step));
            }
        }
        for (id, step) in wishes {
            match step {
                Step::Record(entry) => {
                    let facts = self.aftermaths.get(&id).map(|aftermath| aftermath.facts.clone());
                    self.record(fx, facts, entry);
                }
                Step::Lever(lever) => self.clean_up(id, lever, fx),
                Step::Over => {
                    self.aftermaths.remove(&id);
                }
            }
        }
    }

    fn clean_up(&mut self, id: PullId, lever: Lever, fx: &mut Effects) {
        let attempt = self.next_attempt();
        let policy = self.policy.revision.clone();
        let Some(aftermath) = self.aftermaths.get_mut(&id) else {
            return;
        };
        aftermath.started(attempt);
        let entry = Entry::Intent {
            attempt,
            reason: aftermath.reason,
            rule: aftermath.rule.clone(),
            lever: lever.code().to_owned(),
            socket: None,
            evidence: aftermath.evidence.clone(),
        };
        let intent = AuditRecord {
            pull: Some(aftermath.facts.clone()),
            policy,
            entry,
        };
        self.flights.insert(attempt, Flight::Aftermath(id));
        fx.push(Action::PullLever {
            attempt,
            lever,
            intent,
        });
    }

    fn manifest_read(&mut self, lease: &LeaseKey, manifest: Manifest, fx: &mut Effects) {
        let Some(pull) = self.pulls.get_mut(lease) else {
            return;
        };
        if !pull.learn(manifest) {
            let facts = pull.facts();
            let what = "a manifest beyond the number remembered for one pull".to_owned();
            self.record(fx, Some(facts), Entry::Forgotten { what });
        }
    }

    fn fed(&mut self, feed: Feed, fx: &mut Effects) {
        if !self.ties.fed(feed) {
            let what = "the oldest socket, because too many feed ingests".to_owned();
            self.record(fx, None, Entry::Forgotten { what });
        }
        let holder = self.pulls.values().find_map(|pull| {
            pull.live_ingests()
                .find(|(_, ingest)| ingest.dir == feed.dir)
                .map(|(_, ingest)| (pull, ingest))
        });
        match holder {
            // An ingest that no look has shown yet: a pull has just begun with it.
            None => fx.push(Action::Look { extracts: false }),
            Some((pull, ingest)) => {
                let over = pull.declared_for(ingest).is_some_and(|total| feed.bytes > total);
                if over && self.suspicion.is_none() {
                    self.suspicion = Some(LOOK_FIRST);
                    fx.push(Action::Look { extracts: false });
                }
            }
        }
    }

    /// The kernel counts more bytes on a socket than its ingest may ever hold. That alone is no proof (headers, TLS),
    /// so containerd is asked again and again, at growing intervals, until it shows the overrun or the end.
    fn suspect_overruns(&mut self, now: Time) {
        let suspected = self.pulls.values().any(|pull| {
            !pull.is_pursued()
                && pull.live_ingests().any(|(_, ingest)| {
                    let fed = self.ties.feed_of(ingest.dir).map_or(0, |feed| feed.bytes);
                    pull.declared_for(ingest)
                        .is_some_and(|total| fed > total && ingest.offset <= total)
                })
        });
        self.suspicion = suspected.then(|| match self.suspicion {
            Some(pause) => {
                self.next_look = Some(now.after(pause));
                pause.saturating_mul(2).min(LOOK_LONGEST)
            }
            None => {
                self.next_look = Some(now.after(LOOK_FIRST));
                LOOK_FIRST
            }
        });
    }

    fn closed(&mut self, now: Time, cookie: Cookie) {
        self.ties.closed(cookie);
        // The end of a socket of a condemned pull is the first sign of its end.
        if self.pulls.values().any(Pull::is_pursued) {
            self.look_by(now.after(LOOK_FIRST));
        }
    }

    fn listed(&mut self, now: Time, sockets: &[SocketStat], fx: &mut Effects) {
        self.ties.listed(sockets, self.offsets.clone());
        if self.wants_sockets {
            // The pairing needs the offsets after the listing as well as before it.
            self.wants_sockets = false;
            fx.push(Action::Look { extracts: false });
        }
        let open: Vec<_> = sockets
            .iter()
            .filter(|stat| stat.established)
            .map(|stat| stat.socket)
            .collect();
        for (request, actor) in self.questions.for_listing() {
            let count = u64::try_from(open.len()).unwrap_or(u64::MAX);
            if open.is_empty() {
                self.questions
                    .take(|waiting| matches!(waiting, Waiting::Listing { .. }));
                fx.push(Action::Answer {
                    request,
                    answer: Answer::Closed { count: 0 },
                });
                continue;
            }
            let attempt = self.next_attempt();
            self.questions.now_waits_for(request, Waiting::Lever(attempt));
            let lever = Lever::DestroyAll {
                sockets: open.clone(),
            };
            let entry = Entry::Intent {
                attempt,
                reason: Reason::Operator,
                rule: None,
                lever: lever.code().to_owned(),
                socket: None,
                evidence: vec![Evidence::Asked { actor }, Evidence::SocketsOpen { count }],
            };
            let intent = AuditRecord {
                pull: None,
                policy: self.policy.revision.clone(),
                entry,
            };
            self.flights.insert(attempt, Flight::Panic(request));
            fx.push(Action::PullLever {
                attempt,
                lever,
                intent,
            });
        }
        self.look_by(now.after(LOOK_LONGEST));
    }

    fn asked(&mut self, now: Time, request: RequestId, question: Question, fx: &mut Effects) {
        match question {
            Question::Pulls { ended } => {
                let answer = Answer::Pulls {
                    report: self.report(ended),
                };
                fx.push(Action::Answer { request, answer });
            }
            Question::Abort { pull, actor } => {
                let Some(pull) = self.pulls.values_mut().find(|one| one.id == pull) else {
                    fx.push(Action::Answer {
                        request,
                        answer: Answer::NoSuchPull,
                    });
                    return;
                };
                if self.questions.wait(request, Waiting::End(pull.id), now) {
                    if !pull.is_pursued() {
                        pull.verdict = Some(judge::by_operator(pull, actor));
                        pull.pursuit.reset();
                    }
                } else {
                    fx.push(Action::Answer {
                        request,
                        answer: Answer::Busy,
                    });
                }
            }
            Question::Panic { actor } => {
                if self.questions.wait(request, Waiting::Listing { actor }, now) {
                    fx.push(Action::ListSockets);
                } else {
                    fx.push(Action::Answer {
                        request,
                        answer: Answer::Busy,
                    });
                }
            }
        }
    }

    fn lever_done(&mut self, now: Time, attempt: AttemptId, outcome: &LeverOutcome, fx: &mut Effects) {
        let Some(flight) = self.flights.remove(&attempt) else {
            return;
        };
        let facts = match &flight {
            Flight::Pull(key, id) => {
                let in_flight = self.pulls.get(key).filter(|pull| pull.id == *id).map(Pull::facts);
                in_flight.or_else(|| self.aftermaths.get(id).map(|aftermath| aftermath.facts.clone()))
            }
            Flight::Aftermath(id) => self.aftermaths.get(id).map(|aftermath| aftermath.facts.clone()),
            Flight::Panic(_) => None,
        };
        self.record(
            fx,
            facts,
            Entry::Outcome {
                attempt,
                outcome: outcome.to_string(),
            },
        );
        match flight {
            Flight::Pull(key, id) => {
                if matches!(outcome, LeverOutcome::Unsupported { .. }) {
                    self.cannot_destroy = true;
                }
                if let Some(pull) = self.pulls.get_mut(&key).filter(|pull| pull.id == id) {
                    pull.pursuit.came_back(now, attempt, outcome);
                }
                self.look_by(now.after(LOOK_FIRST));
            }
            Flight::Aftermath(id) => {
                let worked = matches!(outcome, LeverOutcome::Done { .. } | LeverOutcome::AlreadyGone);
                if let Some(aftermath) = self.aftermaths.get_mut(&id) {
                    aftermath.came_back(now, attempt, worked);
                }
            }
            Flight::Panic(request) => {
                self.questions.take(|waiting| *waiting == Waiting::Lever(attempt));
                let answer = match outcome {
                    LeverOutcome::Done { count } => Answer::Closed { count: *count },
                    LeverOutcome::AlreadyGone => Answer::Closed { count: 0 },
                    LeverOutcome::NotAsExpected { what: why }
                    | LeverOutcome::Unsupported { why }
                    | LeverOutcome::Failed { why }
                    | LeverOutcome::IntentNotWritten { why } => Answer::Failed { why: why.clone() },
                };
                fx.push(Action::Answer { request, answer });
            }
        }
    }

    fn judge_changed(&mut self) {
        for pull in self.pulls.values_mut() {
            if !std::mem::take(&mut pull.changed) {
                continue;
            }
            let by_operator = pull
                .verdict
                .as_ref()
                .is_some_and(|verdict| verdict.reason == Reason::Operator);
            if by_operator {
                continue;
            }
            let verdict = judge::judge(&self.policy, pull, None);
            // What was condemned and acted on stays so until it ends: its evidence goes away with its ingests.
            let acted = pull.is_pursued() && pull.pursuit.attempts > 0;
            if verdict.is_none() && acted && !pull.reconsider {
                continue;
            }
            pull.reconsider = false;
            let same = match (&pull.verdict, &verdict) {
                (Some(old), Some(new)) => old.mode == new.mode && old.reason == new.reason,
                (None, None) => true,
                (None, Some(_)) | (Some(_), None) => false,
            };
            if !same {
                pull.pursuit.reset();
            }
            pull.verdict = verdict;
        }
    }

    fn pursue(&mut self, now: Time, fx: &mut Effects) {
        let pursued: Vec<LeaseKey> = self
            .pulls
            .iter()
            .filter(|(_, pull)| pull.is_pursued())
            .map(|(key, _)| key.clone())
            .collect();
        self.report_observed(fx);
        if !self.up.contains(&Source::Containerd) {
            // Without containerd nothing shows that the pull still runs, or that a lever helped.
            return;
        }
        let condemned: BTreeSet<IngestDir> = pursued
            .iter()
            .filter_map(|key| self.pulls.get(key))
            .flat_map(Pull::live_ingests)
            .map(|(_, ingest)| ingest.dir)
            .collect();
        for key in pursued {
            self.pursue_one(now, &key, &condemned, fx);
        }
    }

    fn pursue_one(&mut self, now: Time, key: &LeaseKey, condemned: &BTreeSet<IngestDir>, fx: &mut Effects) {
        let Some(pull) = self.pulls.get_mut(key) else {
            return;
        };
        let Some(verdict) = pull.verdict.clone() else {
            return;
        };
        let targets = self.ties.targets(pull, condemned);
        let waits = match pull.stage() {
            Stage::Waiting | Stage::Unpacking => true,
            Stage::Resolving | Stage::Downloading | Stage::Ended => false,
        };
        let circumstances = Circumstances {
            can_destroy: !self.cannot_destroy,
            probes: self.up.contains(&Source::Probes),
            waits,
        };
        match pull.pursuit.next(now, &verdict, &targets, circumstances) {
            Wish::Lever { lever, evidence } => {
                self.attempts_counted = self.attempts_counted.saturating_add(1);
                let attempt = AttemptId(self.attempts_counted);
                pull.pursuit.started(now, attempt, evidence.clone());
                let socket = match &lever {
                    Lever::DestroySocket { socket } | Lever::DisconnectSocket { socket } => Some(*socket),
                    Lever::DestroyAll { .. } | Lever::AbortIngest { .. } | Lever::RemoveSnapshot { .. } => {
                        None
                    }
                };
                let entry = Entry::Intent {
                    attempt,
                    reason: verdict.reason,
                    rule: verdict.rule,
                    lever: lever.code().to_owned(),
                    socket,
                    evidence,
                };
                let intent = AuditRecord {
                    pull: Some(pull.facts()),
                    policy: self.policy.revision.clone(),
                    entry,
                };
                let flight = Flight::Pull(key.clone(), pull.id);
                self.flights.insert(attempt, flight);
                fx.push(Action::PullLever {
                    attempt,
                    lever,
                    intent,
                });
            }
            Wish::Unreachable { why } => {
                let facts = pull.facts();
                self.record(
                    fx,
                    Some(facts),
                    Entry::NotStopped {
                        reason: verdict.reason,
                        why: why.to_owned(),
                    },
                );
                self.look_by(now.after(LOOK_LONGEST));
            }
            Wish::LookBy { at, sockets } => {
                self.wants_sockets |= sockets && self.up.contains(&Source::SocketTable);
                self.look_by(at);
            }
            Wish::Wait { until } => self.look_by(until),
            Wish::Nothing => {}
        }
    }

    /// Observe mode: says once per verdict what enforce would have done, as soon as two sources agree.
    fn report_observed(&mut self, fx: &mut Effects) {
        let mut records = Vec::new();
        for pull in self.pulls.values_mut() {
            let Some(verdict) = pull
                .verdict
                .as_ref()
                .filter(|verdict| verdict.mode == Mode::Observe)
            else {
                continue;
            };
            if pull.pursuit.reported {
                continue;
            }
            let dirs = pull.live_ingests().map(|(_, ingest)| ingest.dir).collect();
            let mut evidence = verdict.evidence.clone();
            evidence.extend(
                self.ties
                    .targets(pull, &dirs)
                    .into_iter()
                    .take(1)
                    .map(|target| target.evidence()),
            );
            if !crate::evidence::suffices(verdict.reason, &evidence) {
                continue;
            }
            let entry = Entry::WouldAbort {
                reason: verdict.reason,
                rule: verdict.rule.clone(),
                evidence,
            };
            records.push((pull.facts(), entry));
            pull.pursuit.reported = true;
        }
        for (facts, entry) in records {
            self.record(fx, Some(facts), entry);
        }
    }

    fn expire_questions(&mut self, now: Time, fx: &mut Effects) {
        for (request, waiting) in self.questions.take_expired(now) {
            let why = match waiting {
                Waiting::End(_) => "the pull has not ended yet; magi goes on trying (magictl pulls shows it)",
                Waiting::Listing { .. } => "the kernel's socket table could not be listed",
                Waiting::Lever(_) => "the lever has not come back",
            };
            fx.push(Action::Answer {
                request,
                answer: Answer::StillRunning { why: why.to_owned() },
            });
        }
    }

    fn schedule(&mut self, now: Time, fx: &mut Effects) {
        if !self.aftermaths.is_empty() {
            self.look_by(now.after(LOOK_LONGEST));
        }
        if self.next_look.is_some_and(|at| at <= now) {
            self.next_look = None;
            if self.wants_sockets {
                fx.push(Action::ListSockets);
            } else {
                fx.push(Action::Look {
                    extracts: !self.aftermaths.is_empty(),
                });
            }
        }
        let wish = self
            .next_look
            .into_iter()
            .chain(self.questions.next_expiry())
            .min();
        if let Some(at) = wish
            && self.wake.is_none_or(|set| at < set)
        {
            self.wake = Some(at);
            fx.push(Action::WakeAt { at });
        }
    }

    fn look_by(&mut self, at: Time) {
        self.next_look = Some(self.next_look.map_or(at, |set| set.min(at)));
    }

    fn next_attempt(&mut self) -> AttemptId {
        self.attempts_counted = self.attempts_counted.saturating_add(1);
        AttemptId(self.attempts_counted)
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
}
