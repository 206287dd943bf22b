//! When containerd is looked at, when sockets are listed, and when the engine wants to be woken.
//!
//! Whoever waits says by when; the earliest counts. No errand is run twice within [`LOOK_FIRST`], nor while its answer
//! is under way, unless that seems to be lost. So the pace of looks is bounded however many events come in.
//!
//! Changed by: wishes, answers, ticks, and the end of every event.

use crate::action::Action;
use crate::bounds::{ANSWER_LOST_AFTER, LOOK_FIRST};
use crate::time::Time;

#[derive(Debug, Default)]
pub(crate) struct Agenda {
    look: Errand,
    listing: Errand,
    /// When extract snapshots must be looked at as well.
    extracts: Option<Time>,
    wake: Option<Time>,
}

/// Something to be asked of a source.
#[derive(Debug, Default)]
struct Errand {
    due: Option<Time>,
    asked: Option<Time>,
    under_way: bool,
}

impl Errand {
    fn by(&mut self, at: Time) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    fn answered(&mut self) {
        self.due = None;
        self.under_way = false;
    }

    /// The earliest time at which it may be run, if it were due.
    fn not_before(&self) -> Option<Time> {
        let pause = if self.under_way {
            ANSWER_LOST_AFTER
        } else {
            LOOK_FIRST
        };
        self.asked.map(|asked| asked.after(pause))
    }

    /// When it is to be run.
    fn at(&self, due: Option<Time>) -> Option<Time> {
        Some(due?.max(self.not_before().unwrap_or_default()))
    }

    /// An answer that is lost is no longer waited for.
    fn give_up_lost(&mut self, now: Time) {
        self.under_way &= self.lost_at().is_some_and(|at| at > now);
    }

    fn started(&mut self, now: Time) {
        self.asked = Some(now);
        self.under_way = true;
        self.due = None;
    }

    /// When the answer counts as lost.
    fn lost_at(&self) -> Option<Time> {
        self.not_before().filter(|_| self.under_way)
    }
}

impl Agenda {
    /// containerd is to be looked at, by then.
    pub(crate) fn look_by(&mut self, at: Time) {
        self.look.by(at);
    }

    /// containerd is to be looked at with its extract snapshots, by then.
    pub(crate) fn look_for_leftovers_by(&mut self, at: Time) {
        self.extracts = Some(self.extracts.map_or(at, |due| due.min(at)));
    }

    /// Whether somebody waits for a look with extract snapshots.
    pub(crate) const fn seeks_leftovers(&self) -> bool {
        self.extracts.is_some()
    }

    /// The sockets are to be listed, by then.
    pub(crate) fn list_by(&mut self, at: Time) {
        self.listing.by(at);
    }

    /// When the sockets were last to be listed.
    pub(crate) fn listing_asked(&self) -> Option<Time> {
        self.listing.asked
    }

    /// A look came. Who needs another says so again.
    pub(crate) fn looked(&mut self, with_extracts: bool) {
        self.look.answered();
        if with_extracts {
            self.extracts = None;
        }
    }

    /// A listing came.
    pub(crate) fn listed(&mut self) {
        self.listing.answered();
    }

    /// containerd is gone: no look will be answered.
    pub(crate) fn no_looks(&mut self) {
        self.look.answered();
        self.extracts = None;
    }

    /// The engine was woken.
    pub(crate) fn woken(&mut self) {
        self.wake = None;
    }

    /// Whether the sockets are to be listed now; then they are.
    pub(crate) fn start_listing(&mut self, now: Time) -> bool {
        self.listing.give_up_lost(now);
        let due = self.listing.at(self.listing.due).is_some_and(|at| at <= now);
        if due {
            self.listing.started(now);
        }
        due
    }

    /// Whether containerd is to be looked at now; then it is, with extract snapshots if somebody waits for them.
    pub(crate) fn start_look(&mut self, now: Time) -> Option<Action> {
        self.look.give_up_lost(now);
        let due = self.look_at().is_some_and(|at| at <= now);
        due.then(|| {
            self.look.started(now);
            Action::Look {
                extracts: self.extracts.is_some(),
            }
        })
    }

    fn look_at(&self) -> Option<Time> {
        let due = self.look.due.into_iter().chain(self.extracts).min();
        self.look.at(due)
    }

    /// The wish to be woken, if it is a new one; `others` are the times for which somebody else waits. Whatever is due
    /// by now must have been done before.
    pub(crate) fn wake(&mut self, now: Time, others: impl IntoIterator<Item = Time>) -> Option<Action> {
        let errands = [
            self.look_at(),
            self.look.lost_at(),
            self.listing.at(self.listing.due),
            self.listing.lost_at(),
        ];
        let at = errands.into_iter().flatten().chain(others).min()?;
        let is_new = self.wake.is_none_or(|set| at < set || set <= now);
        is_new.then(|| {
            self.wake = Some(at);
            Action::WakeAt { at }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(micros: u64) -> Time {
        Time::from_micros(micros)
    }

    const LOOK: Option<Action> = Some(Action::Look { extracts: false });

    #[test]
    fn a_look_is_not_asked_again_while_it_is_under_way() {
        let mut agenda = Agenda::default();
        agenda.look_by(at(0));
        assert_eq!(agenda.start_look(at(0)), LOOK);
        agenda.look_by(at(0));
        assert_eq!(agenda.start_look(at(100_000)), None);
        agenda.looked(false);
        agenda.look_by(at(100_000));
        assert_eq!(agenda.start_look(at(100_000)), LOOK);
    }

    #[test]
    fn a_lost_answer_is_asked_for_again() {
        let mut agenda = Agenda::default();
        agenda.look_by(at(0));
        assert_eq!(agenda.start_look(at(0)), LOOK);
        let Some(Action::WakeAt { at: lost }) = agenda.wake(at(0), None) else {
            panic!("nobody asks whether it is lost");
        };
        agenda.look_by(lost);
        assert_eq!(agenda.start_look(lost), LOOK);
    }

    #[test]
    fn wishes_at_once_are_one_look() {
        let mut agenda = Agenda::default();
        for now in 0..4_999 {
            agenda.look_by(at(now));
            assert_eq!(agenda.start_look(at(now)).is_some(), now == 0);
            agenda.looked(false);
        }
        agenda.look_by(at(5_000));
        assert_eq!(agenda.start_look(at(5_000)), LOOK);
    }

    #[test]
    fn a_look_without_extracts_does_not_serve_who_waits_for_them() {
        let mut agenda = Agenda::default();
        agenda.look_for_leftovers_by(at(9_000));
        agenda.looked(false);
        assert_eq!(
            agenda.start_look(at(9_000)),
            Some(Action::Look { extracts: true })
        );
        agenda.looked(true);
        assert_eq!(agenda.start_look(at(90_000)), None);
    }

    #[test]
    fn only_an_earlier_wish_or_a_missed_one_is_told() {
        let mut agenda = Agenda::default();
        assert_eq!(
            agenda.wake(at(0), [at(90_000)]),
            Some(Action::WakeAt { at: at(90_000) })
        );
        assert_eq!(agenda.wake(at(1), [at(95_000)]), None);
        assert_eq!(
            agenda.wake(at(2), [at(50_000)]),
            Some(Action::WakeAt { at: at(50_000) })
        );
        assert_eq!(
            agenda.wake(at(60_000), [at(95_000)]),
            Some(Action::WakeAt { at: at(95_000) })
        );
    }
}
