//! What waits, and that nothing waits for ever or in silence.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Broken, Checker, Invariant};
use crate::bounds::ANSWER_WITHIN;
use crate::evidence::Source;
use crate::ids::{LeaseKey, PullId};
use crate::time::Time;

/// Longest sleep that the engine may ask for while something waits for it.
const LONGEST_SLEEP: Duration = Duration::from_secs(11);

impl Checker {
    /// Whether and since when each lease is to be stopped, and whether a socket could be closed for it.
    pub(super) fn follow_condemned(&mut self) {
        let now = self.now;
        let sees = self.up.contains(&Source::Containerd) && self.fresh;
        let condemned: BTreeSet<LeaseKey> = self
            .leases
            .keys()
            .filter(|lease| self.must_stop(lease))
            .cloned()
            .collect();
        let tied: BTreeSet<LeaseKey> = condemned
            .iter()
            .filter(|lease| {
                self.feeds.values().any(|(feed, _)| {
                    self.owners.get(&feed.dir).is_some_and(|owners| {
                        owners.contains(*lease) && owners.iter().all(|owner| condemned.contains(owner))
                    })
                })
            })
            .cloned()
            .collect();
        for (lease, seen) in &mut self.leases {
            if sees && condemned.contains(lease) {
                seen.condemned_since.get_or_insert(now);
            } else {
                seen.condemned_since = None;
            }
            if !condemned.contains(lease) {
                seen.signs.clear();
            }
            if sees && tied.contains(lease) {
                seen.tied_since.get_or_insert(now);
            } else {
                seen.tied_since = None;
            }
        }
    }

    pub(super) fn waits_are_bounded(&self) -> Result<(), Broken> {
        for (request, (question, asked)) in &self.questions {
            let deadline = asked.after(ANSWER_WITHIN);
            self.ensure(self.now < deadline, Invariant::OneAnswer, || {
                format!("{request} still waits: {question:?}")
            })?;
            self.ensure(
                self.wake.is_some_and(|at| at <= deadline),
                Invariant::Wakes,
                || {
                    format!(
                        "{request} waits until {deadline:?}, the engine sleeps until {:?}",
                        self.wake
                    )
                },
            )?;
        }
        let in_flight: BTreeSet<PullId> = self.in_flight.values().flatten().copied().collect();
        for (lease, seen) in &self.leases {
            let waits = seen.condemned_since.is_some() && seen.id.is_none_or(|id| !in_flight.contains(&id));
            let soon = self.wake.is_some_and(|at| at <= self.now.after(LONGEST_SLEEP));
            self.ensure(!waits || soon, Invariant::Wakes, || {
                format!(
                    "{lease} is to be stopped, the engine sleeps until {:?}",
                    self.wake
                )
            })?;
        }
        Ok(())
    }

    /// After a time since `start` in which everything was delivered at once: was anything given up in silence?
    pub(in crate::tests) fn nothing_was_given_up(&self, start: Time) -> Result<(), Broken> {
        for (lease, seen) in &self.leases {
            let Some(since) = seen.condemned_since.filter(|since| *since <= start) else {
                continue;
            };
            self.ensure(!seen.signs.is_empty(), Invariant::NoGivingUp, || {
                format!("{lease} is to be stopped since {since:?}, and nothing is done or said")
            })?;
            let tied = seen.tied_since.is_some_and(|since| since <= start);
            let tried = seen.signs.iter().any(|sign| *sign > start);
            self.ensure(!tied || tried, Invariant::NoGivingUp, || {
                format!(
                    "{lease} is to be stopped, its socket is known since before {start:?}, and it is let run"
                )
            })?;
        }
        Ok(())
    }
}
