//! The circuit breaker: whoever stops very many pulls in a short while is more likely wrong than right.
//!
//! Changed by: each pull that magi stops of its own accord, and time. Repetitions do not count: a client that asks again
//! and again for what was stopped is one pull that was stopped, and must not be able to switch magi off.

use std::collections::VecDeque;

use crate::policy::Breaker as Bound;
use crate::time::Time;

/// Stops of late, and until when no more follow.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    stops: VecDeque<Time>,
    open_until: Option<Time>,
}

impl Breaker {
    /// A pull is stopped; tells how many were within the window, if these are too many and nothing may be stopped any
    /// more.
    pub(crate) fn count(&mut self, now: Time, bound: Bound) -> Option<usize> {
        if bound.stops == 0 {
            self.stops.clear();
            return None;
        }
        self.stops.retain(|at| now.since(*at) < bound.window);
        self.stops.push_back(now);
        let most = usize::try_from(bound.stops).unwrap_or(usize::MAX);
        if self.stops.len() < most {
            return None;
        }
        let stops = self.stops.len();
        self.stops.clear();
        self.open_until = Some(now.after(bound.window));
        Some(stops)
    }

    /// Whether it was open, and is no more.
    pub(crate) fn has_closed(&mut self, now: Time) -> bool {
        self.open_until.take_if(|until| now >= *until).is_some()
    }

    /// When it closes.
    pub(crate) const fn closes(&self) -> Option<Time> {
        self.open_until
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Breaker;
    use crate::policy::Breaker as Bound;
    use crate::time::Time;

    const BOUND: Bound = Bound {
        stops: 3,
        window: Duration::from_secs(10),
    };

    fn at(seconds: u64) -> Time {
        Time::from_micros(1_000_000 * seconds)
    }

    #[test]
    fn many_within_the_window_open_it_and_time_closes_it() {
        let mut breaker = Breaker::default();
        assert_eq!(breaker.count(at(1), BOUND), None);
        assert_eq!(breaker.count(at(2), BOUND), None);
        // The first is out of the window by now.
        assert_eq!(breaker.count(at(11), BOUND), None);
        assert_eq!(breaker.count(at(11), BOUND), Some(3));
        assert_eq!(breaker.closes(), Some(at(21)));
        assert!(!breaker.has_closed(at(20)));
        assert!(breaker.has_closed(at(21)));
        assert!(!breaker.has_closed(at(22)));
        assert_eq!(breaker.count(at(22), BOUND), None);
    }

    #[test]
    fn a_policy_may_do_without() {
        let mut breaker = Breaker::default();
        for second in 0..100 {
            assert_eq!(breaker.count(at(second), Bound { stops: 0, ..BOUND }), None);
        }
        assert!(breaker.stops.is_empty());
    }
}
