//! What must hold of each effect in the moment in which it is wished for.

use super::{Broken, Checker, Invariant};
use crate::action::Action;
use crate::audit::{AuditRecord, Entry};
use crate::evidence::Reason;
use crate::switch::SwitchHolder;

impl Checker {
    /// Whether the intent of an earlier lever on the same pull was written, for the same denial.
    fn was_recorded(&self, intent: &AuditRecord) -> bool {
        let before = intent
            .pull
            .as_ref()
            .and_then(|facts| self.leases.get(&facts.lease));
        let is_denial = matches!(
            &intent.entry,
            Entry::Intent {
                reason: Reason::DeniedRecently,
                ..
            }
        );
        is_denial
            && before.is_some_and(|seen| seen.stopped_for == Some(Reason::DeniedRecently) && seen.written)
    }

    pub(super) fn effect(&mut self, effect: &Action) -> Result<(), Broken> {
        match effect {
            Action::PullLever {
                attempt,
                lever,
                intent,
                recorded,
            } => {
                if let Some(facts) = &intent.pull {
                    self.identity(facts)?;
                }
                self.ensure(
                    !recorded || self.was_recorded(intent),
                    Invariant::TwoSources,
                    || format!("nothing was written before {effect:?}"),
                )?;
                let new = self.attempts.insert(*attempt);
                self.ensure(new, Invariant::Identity, || {
                    format!("attempt {attempt} is used twice")
                })?;
                self.lever(*attempt, lever, intent)?;
                self.count_stop(intent);
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
                self.refusal(&record.entry)
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
            Action::Keep { hold, content } => {
                let is_new = self.keeps.insert(hold.keep);
                self.ensure(is_new, Invariant::Identity, || {
                    format!("{} is used twice", hold.keep)
                })?;
                let held = self.leases.iter().any(|(lease, seen)| {
                    let is_its = |digest| seen.content.contains(digest);
                    lease.namespace == hold.namespace && !content.is_empty() && content.iter().all(is_its)
                });
                self.ensure(held && hold.until > self.now, Invariant::RightPull, || {
                    format!("no lease holds all of this: {effect:?}")
                })
            }
            Action::Collect { .. } => {
                let is_second = std::mem::replace(&mut self.collecting, true);
                self.ensure(!is_second, Invariant::NoStorm, || {
                    "garbage is collected while it is collected".to_owned()
                })?;
                self.ensure(self.switched.is_empty(), Invariant::ObserveOnlyLooks, || {
                    "the kill switch is on, and garbage is collected".to_owned()
                })
            }
            Action::Release { hold } => {
                let was_kept = self.keeps.contains(&hold.keep);
                self.ensure(was_kept, Invariant::RightPull, || {
                    format!("{} was never kept", hold.keep)
                })
            }
            Action::Answer { request, answer } => self.answer(*request, answer),
        }
    }

    /// Too many pulls that nobody asked to be stopped, and none may follow for a while.
    fn count_stop(&mut self, intent: &AuditRecord) {
        let (Some(facts), Entry::Intent { reason, .. }) = (&intent.pull, &intent.entry) else {
            return;
        };
        let bound = self.policy.breaker;
        let counts = !matches!(reason, Reason::Operator | Reason::DeniedRecently) && bound.stops > 0;
        if !self.levered.insert(facts.id) || !counts {
            return;
        }
        self.stops.retain(|at| self.now.since(*at) < bound.window);
        self.stops.push(self.now);
        if self.stops.len() >= usize::try_from(bound.stops).unwrap() {
            self.stops.clear();
            self.opened = Some(self.now);
            self.open_until = Some(self.now.after(bound.window));
            self.switch(SwitchHolder::Breaker, true);
        }
    }
}
