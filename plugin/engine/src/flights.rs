//! The levers in flight, and what each was pulled for.
//!
//! Changed by: a lever that is pulled, and one that comes back.

use std::collections::BTreeMap;

use crate::bounds::MAX_FLIGHTS;
use crate::ids::{AttemptId, LeaseKey, PullId};

/// What a lever in flight was pulled for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Flight {
    /// The end of a pull.
    Pull(LeaseKey, PullId),
    /// The leftovers of one that has ended.
    Aftermath(PullId),
    /// The panic button.
    Panic,
}

#[derive(Debug, Default)]
pub(crate) struct Flights {
    counted: u64,
    in_flight: BTreeMap<AttemptId, Flight>,
}

impl Flights {
    /// A new lever is on its way; also whether an old one, which never came back, is no longer waited for.
    pub(crate) fn start(&mut self, flight: Flight) -> (AttemptId, bool) {
        self.counted = self.counted.saturating_add(1);
        let attempt = AttemptId(self.counted);
        let full = self.in_flight.len() >= MAX_FLIGHTS;
        if full {
            self.in_flight.pop_first();
        }
        self.in_flight.insert(attempt, flight);
        (attempt, full)
    }

    /// A lever came back.
    pub(crate) fn land(&mut self, attempt: AttemptId) -> Option<Flight> {
        self.in_flight.remove(&attempt)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.in_flight.len()
    }
}
