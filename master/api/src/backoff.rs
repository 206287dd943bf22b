//! How long to wait before the next attempt: longer each time, and never at the same moment as everybody else.

use std::time::Duration;

use rand::Rng;

/// Changed by: an attempt that failed (doubles), one that held (begins anew).
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// Waits about `first` at first, and at most `most`.
    #[must_use]
    pub fn new(first: Duration, most: Duration) -> Self {
        Self {
            first,
            most,
            next: first,
        }
    }

    /// Begins anew.
    pub fn reset(&mut self) {
        self.next = self.first;
    }

    /// How long to wait now: between half and all of what doubles with every call.
    pub fn wait(&mut self, random: &mut impl Rng) -> Duration {
        let now = self.next;
        self.next = now.saturating_mul(2).min(self.most);
        now.mul_f64(random.random_range(0.5..=1.0))
    }
}

/// `every`, give or take a fifth.
#[must_use]
pub fn jittered(every: Duration, random: &mut impl Rng) -> Duration {
    every.mul_f64(random.random_range(0.8..=1.2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn waits_grow_to_their_bound_and_begin_anew() {
        let mut random = rand::rngs::SmallRng::seed_from_u64(1);
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for expected in [100, 200, 400, 800, 1000, 1000] {
            let wait = backoff.wait(&mut random).as_millis();
            assert!((expected / 2..=expected).contains(&wait), "{wait} for {expected}");
        }
        backoff.reset();
        assert!(backoff.wait(&mut random) <= Duration::from_millis(100));
    }
}
