//! The one clock: monotonic, anchored at the wall clock once.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use magi_engine::Time;

/// The wall clock, which containerd stamps leases with: comparable with those stamps, and with nothing else.
pub(crate) fn wall() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time::from_micros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// The time in UTC, to the microsecond.
pub(crate) fn rfc3339(at: Time) -> String {
    let micros = i64::try_from(at.as_micros()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_microsecond(micros).map_or_else(|_| micros.to_string(), |time| format!("{time:.6}"))
}

/// Reads [`Time`]; never steps back, whatever happens to the wall clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    anchor: Instant,
    at_anchor: Time,
}

impl Clock {
    /// Anchors the clock now.
    pub(crate) fn start() -> Self {
        Self {
            anchor: Instant::now(),
            at_anchor: wall(),
        }
    }

    /// The time now.
    pub(crate) fn now(&self) -> Time {
        self.at_anchor.after(self.anchor.elapsed())
    }

    /// The instant at which [`Self::now`] will read `time`.
    pub(crate) fn instant(&self, time: Time) -> Instant {
        self.anchor + time.since(self.at_anchor)
    }
}
