//! Questions that wait for their answer: each gets exactly one.

use std::collections::BTreeMap;

use crate::bounds::{ANSWER_WITHIN, MAX_QUESTIONS};
use crate::ids::{AttemptId, PullId, RequestId};
use crate::time::Time;

/// What a waiting question waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// The end of a pull.
    End(PullId),
    /// A listing of sockets, for the panic button.
    Listing { actor: String },
    /// The panic button's lever.
    Lever(AttemptId),
}

/// The questions that wait.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    waiting: BTreeMap<RequestId, (Waiting, Time)>,
}

impl Questions {
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Lets a question wait; `false` if too many do already, or this id does.
    pub(crate) fn wait(&mut self, request: RequestId, what: Waiting, now: Time) -> bool {
        if self.waiting.len() >= MAX_QUESTIONS || self.waiting.contains_key(&request) {
            return false;
        }
        self.waiting.insert(request, (what, now.after(ANSWER_WITHIN)));
        true
    }

    /// Takes the questions out that wait for this.
    pub(crate) fn take(&mut self, matches: impl Fn(&Waiting) -> bool) -> Vec<RequestId> {
        self.waiting
            .extract_if(.., |_, (waiting, _)| matches(waiting))
            .map(|(request, _)| request)
            .collect()
    }

    /// Who waits for a listing of sockets.
    pub(crate) fn want_listing(&self) -> impl Iterator<Item = &str> {
        self.waiting.values().filter_map(|(waiting, _)| match waiting {
            Waiting::Listing { actor } => Some(actor.as_str()),
            Waiting::End(_) | Waiting::Lever(_) => None,
        })
    }

    /// Whoever waited for a listing waits for this lever now.
    pub(crate) fn listing_led_to(&mut self, attempt: AttemptId) {
        for (waiting, _) in self.waiting.values_mut() {
            if matches!(waiting, Waiting::Listing { .. }) {
                *waiting = Waiting::Lever(attempt);
            }
        }
    }

    /// Takes out the questions whose patience is over.
    pub(crate) fn take_expired(&mut self, now: Time) -> Vec<(RequestId, Waiting)> {
        self.waiting
            .extract_if(.., |_, (_, until)| *until <= now)
            .map(|(request, (waiting, _))| (request, waiting))
            .collect()
    }

    /// When the next patience is over.
    pub(crate) fn next_expiry(&self) -> Option<Time> {
        self.waiting.values().map(|(_, until)| *until).min()
    }
}
