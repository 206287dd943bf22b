//! From verdicts to levers, and from levers to outcomes.

use super::Engine;
use crate::action::{Action, Effects, Lever, LeverOutcome};
use crate::audit::{AuditRecord, Entry, PullFacts};
use crate::bounds::{ANSWER_LOST_AFTER, LOOK_FIRST, LOOK_LONGEST};
use crate::evidence::{Evidence, Reason, Source, TieMethod, suffices};
use crate::flights::Flight;
use crate::gateway::wanted;
use crate::ids::{AttemptId, IngestDir, LeaseKey, PullId};
use crate::judge::Law;
use crate::policy::Mode;
use crate::pull::{Pull, Verdict};
use crate::pursuit::{Acted, Cancellation, Circumstances, Wish};
use crate::refusal::refusal;
use crate::report::Stage;
use crate::requests::Owners;
use crate::ties::Target;
use crate::time::Time;

impl Engine {
    pub(super) fn judge_changed(&mut self, now: Time) {
        self.count_budgets(now);
        self.choose_for_disks(now);
        self.choose_for_slots(now);
        let law = Law {
            now,
            policy: &self.policy,
            images: &self.images,
            accounts: &self.accounts,
            orphans: &self.orphans,
            disks: &self.disks,
            starvation: &self.starvation,
            halted: self.switch.is_engaged(),
        };
        for pull in self.pulls.values_mut() {
            let passes = pull
                .verdict
                .as_ref()
                .is_some_and(|verdict| verdict.reason.passes());
            if !std::mem::take(&mut pull.changed) && !passes {
                continue;
            }
            let verdict = law.judge(pull);
            let key = |verdict: &Verdict| (verdict.mode, verdict.reason);
            if pull.verdict.as_ref().map(key) != verdict.as_ref().map(key) {
                pull.pursuit.reset();
            }
            pull.verdict = verdict;
        }
    }

    pub(super) fn pursue(&mut self, now: Time, fx: &mut Effects) {
        self.report_observed(fx);
        if !self.is_up(Source::Containerd) {
            // Without containerd nothing shows that the pull still runs, or that a lever helped.
            return;
        }
        if !self.picture.is_there() {
            self.agenda.look_by(now);
            return;
        }
        let pursued: Vec<LeaseKey> = self
            .pulls
            .iter()
            .filter(|(_, pull)| pull.is_pursued())
            .map(|(key, _)| key.clone())
            .collect();
        for key in pursued {
            // The breaker may open at any of them.
            if !self.switch.is_engaged() {
                self.pursue_one(now, &key, fx);
            }
        }
    }

    fn pursue_one(&mut self, now: Time, key: &LeaseKey, fx: &mut Effects) {
        let waits = self
            .pulls
            .get(key)
            .is_some_and(|pull| self.is_fetched_by_others(pull));
        if let Some(pull) = self.pulls.get_mut(key) {
            pull.has_waited |= waits;
        }
        let Some(pull) = self.pulls.get(key) else { return };
        let Some(verdict) = pull.verdict.clone() else {
            return;
        };
        let targets = self.targets(pull, Pull::is_pursued);
        // What is finished by now is to be kept, so the picture must be of now.
        let keeps = verdict.reason == Reason::Orphaned
            && pull.pursuit.first.is_none()
            && !self.policy.orphan_keep.time.is_zero();
        let circumstances = Circumstances {
            calls: self.cancellation(pull, &verdict),
            calls_soon: self.knows_call_soon(pull),
            lease: self.may_lose_lease(now, pull).then(|| pull.lease.clone()),
            can_destroy: !self.cannot_destroy,
            probes: self.is_up(Source::Probes),
            waits: matches!(pull.stage, Stage::Waiting | Stage::Unpacking),
            fresh: if keeps {
                self.picture.is_just_taken(now)
            } else {
                self.picture.holds(now)
            },
        };
        let Some(pull) = self.pulls.get_mut(key) else {
            return;
        };
        match pull.pursuit.next(now, &verdict, &targets, &circumstances) {
            Wish::Lever { lever, evidence } => {
                let id = pull.id;
                let acted = Acted {
                    reason: verdict.reason,
                    rule: verdict.rule,
                    evidence,
                };
                self.act(now, key, id, lever, acted, fx);
            }
            Wish::NotStopped { why } => {
                let (facts, reason, why) = (pull.facts(), verdict.reason, why.to_owned());
                self.record(fx, Some(facts), Entry::NotStopped { reason, why });
                self.agenda.look_by(now.after(LOOK_LONGEST));
            }
            Wish::LookBy { at, sockets } => {
                self.agenda.look_by(at);
                if sockets && !self.ties.awaits_look() {
                    self.list_by(at);
                }
            }
        }
    }

    /// How to end the pull through the gateway, if its call is there.
    fn cancellation(&self, pull: &Pull, verdict: &Verdict) -> Option<Cancellation> {
        let calls = self.calls_of(pull, Pull::is_pursued)?;
        let asker = pull.owners.hypotheses().into_iter().flatten().next()?;
        let evidence = Evidence::CalledThrough {
            image: asker.request.image.clone(),
            pod: asker.request.pod.clone(),
            calls: u64::try_from(calls.len()).unwrap_or(u64::MAX),
        };
        let refusal = refusal(verdict, &self.policy.revision);
        Some(Cancellation {
            lever: Lever::CancelCalls { calls, refusal },
            evidence,
        })
    }

    /// Whether the pull's call may be in the gateway, which is proven as soon as no other lease can be the call's.
    fn knows_call_soon(&self, pull: &Pull) -> bool {
        match (&pull.owners, &pull.likely) {
            (Owners::Unknown, Some(likely)) => !self.gateway.that_want(wanted(&likely.request)).is_empty(),
            (Owners::Unknown, None) => !self.gateway.is_empty(),
            (Owners::Known(_) | Owners::OneOf(_), _) => false,
        }
    }

    /// Whether deleting its lease would end the pull, and its end would show: a layer that has begun would go on unseen,
    /// and without a lease only the end of the request tells that the pull is over.
    fn may_lose_lease(&self, now: Time, pull: &Pull) -> bool {
        self.picture.is_just_taken(now)
            && self.is_up(Source::Probes)
            && pull.pursuit.lease_deleted.is_none()
            && pull.is_before_layers()
            && !pull.has_waited
            && pull
                .asker()
                .is_some_and(|asker| asker.request.certain && self.requests.is_open(asker.call))
    }

    /// Whether another pull fetches one of its layers, as far as the last look shows: then it waits for that one, and
    /// would go on waiting without its lease, to fail only when the other one is done.
    pub(super) fn is_fetched_by_others(&self, pull: &Pull) -> bool {
        let mut held = pull
            .declared
            .foreseen
            .keys()
            .filter_map(|dir| self.picture.ingest(*dir))
            .flat_map(|held| &held.leases);
        held.any(|lease| *lease != pull.lease)
    }

    /// A table that cannot be listed is asked again all the same, but rarely: nobody else would notice that it can.
    fn list_by(&mut self, at: Time) {
        let asked = self.agenda.listing_asked();
        let again = asked.map(|asked| asked.after(ANSWER_LOST_AFTER));
        let at = match again {
            Some(again) if !self.is_up(Source::SocketTable) => at.max(again),
            Some(_) | None => at,
        };
        self.agenda.list_by(at);
    }

    /// What may be closed for a pull; all pulls that have its ingest must be `condemned`, and where another one may
    /// have taken it over since the last look, another look must come first.
    fn targets(&self, pull: &Pull, condemned: impl Fn(&Pull) -> bool) -> Vec<Target> {
        let is_condemned = |lease: &LeaseKey| self.pulls.get(lease).is_some_and(&condemned);
        let all_condemned = |dir: IngestDir| {
            self.picture
                .ingest(dir)
                .is_some_and(|held| held.leases.iter().all(is_condemned))
        };
        let mut targets = self.ties.targets(pull, all_condemned);
        let is_innocent =
            |other: &Pull| other.id != pull.id && !condemned(other) && other.may_share_connections();
        if pull.may_share_connections() && self.pulls.values().any(is_innocent) {
            // HTTP/2 is read by a goroutine of its own; one that reads its layer itself has the connection to itself.
            targets.retain(|target| target.feed.method == TieMethod::Goroutine);
        }
        for target in targets.iter_mut().filter(|target| !target.confirmed) {
            let digest = pull
                .ingests
                .get(&target.ingest)
                .and_then(|ingest| ingest.digest.as_ref());
            target.confirmed = !self.pulls.values().any(|other| {
                other.lease.namespace == pull.lease.namespace && !condemned(other) && other.may_want(digest)
            });
        }
        targets
    }

    fn act(&mut self, now: Time, key: &LeaseKey, id: PullId, lever: Lever, acted: Acted, fx: &mut Effects) {
        let attempt = self.start_flight(Flight::Pull(key.clone(), id), fx);
        let Some(pull) = self.pulls.get_mut(key) else {
            return;
        };
        // Its content is still held: containerd collects it only some time after the pull has failed.
        if acted.reason == Reason::Orphaned && pull.pursuit.first.is_none() {
            self.keeping.keep(now, &self.policy, pull, fx);
        }
        let is_first = pull.pursuit.first.is_none();
        let call = pull.asker().map(|asker| asker.call);
        pull.pursuit.started(now, attempt, &lever, call, acted.clone());
        let recorded =
            acted.reason == Reason::DeniedRecently && pull.pursuit.recorded == Some(Reason::DeniedRecently);
        let facts = pull.facts();
        self.pull_lever(attempt, lever, facts, &acted, recorded, fx);
        if is_first && !matches!(acted.reason, Reason::Operator | Reason::DeniedRecently) {
            self.count_stop(now, fx);
        }
        self.agenda.look_by(now.after(LOOK_LONGEST));
    }

    pub(super) fn clean_up(&mut self, id: PullId, lever: Lever, fx: &mut Effects) {
        if self.switch.is_engaged() {
            return;
        }
        let attempt = self.start_flight(Flight::Aftermath(id), fx);
        let Some(aftermath) = self.aftermaths.get_mut(&id) else {
            return;
        };
        aftermath.started(attempt, &lever);
        let (facts, acted) = (aftermath.facts.clone(), aftermath.acted.clone());
        self.pull_lever(attempt, lever, facts, &acted, false, fx);
    }

    fn pull_lever(
        &self,
        attempt: AttemptId,
        lever: Lever,
        facts: PullFacts,
        acted: &Acted,
        recorded: bool,
        fx: &mut Effects,
    ) {
        let socket = match &lever {
            Lever::DestroySocket { socket } | Lever::DisconnectSocket { socket } => Some(*socket),
            Lever::CancelCalls { .. }
            | Lever::DeleteLease { .. }
            | Lever::DestroyAll { .. }
            | Lever::AbortIngest { .. }
            | Lever::RemoveSnapshot { .. } => None,
        };
        let intent = AuditRecord {
            pull: Some(facts),
            policy: self.policy.revision.clone(),
            entry: Entry::Intent {
                attempt,
                reason: acted.reason,
                rule: acted.rule.clone(),
                lever: lever.code().to_owned(),
                socket,
                evidence: acted.evidence.clone(),
            },
        };
        fx.push(Action::PullLever {
            attempt,
            lever,
            intent,
            recorded,
        });
    }

    pub(super) fn start_flight(&mut self, flight: Flight, fx: &mut Effects) -> AttemptId {
        let (attempt, evicted) = self.flights.start(flight);
        if evicted {
            self.forgotten(
                fx,
                None,
                "the oldest lever, which has not come back: too many are in flight",
            );
        }
        attempt
    }

    pub(super) fn lever_done(
        &mut self,
        now: Time,
        attempt: AttemptId,
        outcome: &LeverOutcome,
        fx: &mut Effects,
    ) {
        let Some(flight) = self.flights.land(attempt) else {
            return;
        };
        let entry = Entry::Outcome {
            attempt,
            outcome: outcome.to_string(),
            of_run: None,
        };
        let worked = matches!(outcome, LeverOutcome::Done { .. } | LeverOutcome::AlreadyGone);
        if !(worked && self.is_repetition(&flight)) {
            self.record(fx, self.facts_of(&flight), entry);
        }
        match flight {
            Flight::Pull(key, id) => {
                if let Some(aftermath) = self.aftermaths.get_mut(&id) {
                    aftermath.came_back(now, attempt, worked);
                } else if let Some(pull) = self.pulls.get_mut(&key).filter(|pull| pull.id == id) {
                    self.cannot_destroy |= pull.pursuit.came_back(now, attempt, outcome);
                    self.agenda.look_by(now.after(LOOK_FIRST));
                }
            }
            Flight::Aftermath(id) => {
                if let Some(aftermath) = self.aftermaths.get_mut(&id) {
                    aftermath.came_back(now, attempt, worked);
                    self.agenda.look_for_leftovers_by(now.after(LOOK_FIRST));
                }
            }
            Flight::Panic => self.panic_done(attempt, outcome, fx),
        }
    }

    /// Whether this lever only repeats what was done to the same image a short while ago. One record, the intent, must
    /// do for each: a client that retries for ever shall not fill the audit trail.
    fn is_repetition(&self, flight: &Flight) -> bool {
        let acted = match flight {
            Flight::Pull(key, id) => {
                let in_flight = self.pulls.get(key).filter(|pull| pull.id == *id);
                let acted = in_flight.and_then(|pull| pull.pursuit.acted.as_ref());
                acted.or_else(|| self.aftermaths.get(id).map(|aftermath| &aftermath.acted))
            }
            Flight::Aftermath(id) => self.aftermaths.get(id).map(|aftermath| &aftermath.acted),
            Flight::Panic => None,
        };
        acted.is_some_and(|acted| acted.reason == Reason::DeniedRecently)
    }

    fn facts_of(&self, flight: &Flight) -> Option<PullFacts> {
        let ended = |id| self.aftermaths.get(id).map(|aftermath| aftermath.facts.clone());
        match flight {
            Flight::Pull(key, id) => {
                let in_flight = self.pulls.get(key).filter(|pull| pull.id == *id);
                in_flight.map(Pull::facts).or_else(|| ended(id))
            }
            Flight::Aftermath(id) => ended(id),
            Flight::Panic => None,
        }
    }

    /// Observe mode: says once per verdict what enforce would have done, as soon as two sources agree.
    fn report_observed(&mut self, fx: &mut Effects) {
        let unsaid = |pull: &&Pull| {
            let observed = pull
                .verdict
                .as_ref()
                .is_some_and(|verdict| verdict.mode == Mode::Observe);
            observed && !pull.pursuit.reported
        };
        let mut said = Vec::new();
        for pull in self.pulls.values().filter(unsaid) {
            let Some(verdict) = &pull.verdict else { continue };
            let targets = self.targets(pull, |other| other.verdict.is_some());
            let target = targets.iter().find(|target| target.confirmed);
            let evidence: Vec<Evidence> = verdict
                .evidence
                .iter()
                .cloned()
                .chain(target.map(Target::evidence))
                .collect();
            if suffices(verdict.reason, &evidence) {
                let (reason, rule) = (verdict.reason, verdict.rule.clone());
                let entry = Entry::WouldAbort {
                    reason,
                    rule,
                    evidence,
                };
                said.push((pull.lease.clone(), pull.facts(), entry));
            }
        }
        for (lease, facts, entry) in said {
            self.record(fx, Some(facts), entry);
            if let Some(pull) = self.pulls.get_mut(&lease) {
                pull.pursuit.reported = true;
            }
        }
    }
}
