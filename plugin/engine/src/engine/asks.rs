//! What people ask, and how they are answered.

use super::Engine;
use crate::action::{Action, Answer, Effects, Lever, LeverOutcome};
use crate::audit::{AuditRecord, Entry};
use crate::event::{Question, SocketStat, UnpackStop};
use crate::evidence::{Evidence, Reason, Source};
use crate::flights::Flight;
use crate::ids::{AttemptId, RequestId};
use crate::pull::Pull;
use crate::questions::Waiting;
use crate::switch::SwitchHolder;
use crate::time::Time;

/// People that the record of a panic names, and pulls of which is recorded that their layer was stopped.
const MAX_ACTORS: usize = 16;

impl Engine {
    pub(super) fn asked(&mut self, now: Time, request: RequestId, question: Question, fx: &mut Effects) {
        let mut answer = |answer| fx.push(Action::Answer { request, answer });
        match question {
            Question::Pulls { ended } => {
                let report = self.report(ended);
                answer(Answer::Pulls { report });
            }
            Question::Abort { pull, actor } => {
                let Some(pull) = self.pulls.values_mut().find(|one| one.id == pull) else {
                    answer(Answer::NoSuchPull);
                    return;
                };
                if let Some(why) = self.switch.objection() {
                    answer(Answer::Failed { why });
                    return;
                }
                if self.questions.wait(request, Waiting::End(pull.id), now) {
                    pull.asked.get_or_insert(actor);
                    pull.changed = true;
                } else {
                    answer(Answer::Busy);
                }
            }
            Question::Verify { image, digest } => self.verify(now, request, image, digest, fx),
            Question::Admit { request: asked } => self.admit(now, request, asked, fx),
            Question::UnpackStopped { stop } => self.unpack_stopped(request, stop, fx),
            Question::Pods => {
                let pods = self.is_up(Source::Nri).then(|| self.pods.all());
                answer(Answer::Pods { pods });
            }
            Question::Panic { actor } => {
                if let Some(why) = self.switch.objection() {
                    answer(Answer::Failed { why });
                } else if self.questions.wait(request, Waiting::Listing { actor }, now) {
                    self.agenda.list_by(now);
                } else {
                    answer(Answer::Busy);
                }
            }
        }
    }

    /// magi-unpack has stopped a layer: nothing is left to be done, but to say whose it was.
    fn unpack_stopped(&mut self, request: RequestId, stop: UnpackStop, fx: &mut Effects) {
        let has_it = |pull: &&mut Pull| {
            let its = stop
                .layer
                .as_ref()
                .map(|layer| pull.declared.layers.contains_key(layer));
            its.unwrap_or(false)
        };
        let mut whose = Vec::new();
        for pull in self.pulls.values_mut().filter(has_it) {
            pull.unpack_stop = Some(stop.clone());
            whose.push(pull.facts());
        }
        let pulls = u64::try_from(whose.len()).unwrap_or(u64::MAX);
        let mut whose: Vec<_> = whose.into_iter().take(MAX_ACTORS).map(Some).collect();
        if whose.is_empty() {
            whose.push(None);
        }
        for facts in whose {
            let entry = Entry::UnpackStopped { stop: stop.clone() };
            self.record(fx, facts, entry);
        }
        let answer = Answer::Noted { pulls };
        fx.push(Action::Answer { request, answer });
    }

    /// Somebody sets the kill switch. Who waits for something to be stopped waits in vain, and hears so.
    pub(super) fn switched(&mut self, holder: SwitchHolder, engaged: bool, by: String, fx: &mut Effects) {
        if !self.switch.set(holder, engaged, &by) {
            return;
        }
        self.record(fx, None, Entry::KillSwitch { holder, engaged, by });
        for pull in self.pulls.values_mut() {
            pull.changed = true;
        }
        let Some(why) = self.switch.objection() else {
            return;
        };
        for pull in self.pulls.values_mut() {
            pull.asked = None;
        }
        let in_vain = |waiting: &Waiting| matches!(waiting, Waiting::End(_) | Waiting::Listing { .. });
        for request in self.questions.take(in_vain) {
            let answer = Answer::Failed { why: why.clone() };
            fx.push(Action::Answer { request, answer });
        }
    }

    /// A pull is stopped, and not at a person's wish: too many, and nothing more is.
    pub(super) fn count_stop(&mut self, now: Time, fx: &mut Effects) {
        let bound = self.policy.breaker;
        if let Some(stops) = self.breaker.count(now, bound) {
            let by = format!(
                "{stops} pulls were stopped within {} s: magi only observes for as long",
                bound.window.as_secs()
            );
            self.switched(SwitchHolder::Breaker, true, by, fx);
        }
    }

    /// Its time may be over.
    pub(super) fn breaker_closes(&mut self, now: Time, fx: &mut Effects) {
        if self.breaker.has_closed(now) {
            let by = "its time is over".to_owned();
            self.switched(SwitchHolder::Breaker, false, by, fx);
        }
    }

    /// The sockets were listed: whoever pressed the panic button gets one lever for all of them.
    pub(super) fn panic_listed(&mut self, sockets: &[SocketStat], fx: &mut Effects) {
        let mut actors: Vec<&str> = self.questions.want_listing().collect();
        if actors.is_empty() {
            return;
        }
        actors.sort_unstable();
        actors.dedup();
        let sockets: Vec<_> = sockets
            .iter()
            .filter(|stat| stat.established)
            .map(|stat| stat.socket)
            .collect();
        if sockets.is_empty() {
            for request in self
                .questions
                .take(|waiting| matches!(waiting, Waiting::Listing { .. }))
            {
                let answer = Answer::Closed { count: 0 };
                fx.push(Action::Answer { request, answer });
            }
            return;
        }
        let asked = actors.into_iter().take(MAX_ACTORS).map(|actor| Evidence::Asked {
            actor: actor.to_owned(),
        });
        let count = u64::try_from(sockets.len()).unwrap_or(u64::MAX);
        let evidence = asked.chain([Evidence::SocketsOpen { count }]).collect();
        let attempt = self.start_flight(Flight::Panic, fx);
        self.questions.listing_led_to(attempt);
        let lever = Lever::DestroyAll { sockets };
        let intent = AuditRecord {
            pull: None,
            policy: self.policy.revision.clone(),
            entry: Entry::Intent {
                attempt,
                reason: Reason::Operator,
                rule: None,
                lever: lever.code().to_owned(),
                socket: None,
                evidence,
            },
        };
        fx.push(Action::PullLever {
            attempt,
            lever,
            intent,
            recorded: false,
        });
    }

    /// The sockets cannot be listed.
    pub(super) fn panic_failed(&mut self, why: &str, fx: &mut Effects) {
        for request in self
            .questions
            .take(|waiting| matches!(waiting, Waiting::Listing { .. }))
        {
            let answer = Answer::Failed { why: why.to_owned() };
            fx.push(Action::Answer { request, answer });
        }
    }

    /// The panic button's lever came back; who has lost patience meanwhile has had an answer.
    pub(super) fn panic_done(&mut self, attempt: AttemptId, outcome: &LeverOutcome, fx: &mut Effects) {
        let answer = match outcome {
            LeverOutcome::Done { count } => Answer::Closed { count: *count },
            LeverOutcome::AlreadyGone => Answer::Closed { count: 0 },
            LeverOutcome::NotAsExpected { what: why }
            | LeverOutcome::Unsupported { why }
            | LeverOutcome::Failed { why }
            | LeverOutcome::IntentNotWritten { why } => Answer::Failed { why: why.clone() },
        };
        for request in self.questions.take(|waiting| *waiting == Waiting::Lever(attempt)) {
            let answer = answer.clone();
            fx.push(Action::Answer { request, answer });
        }
    }
}
