//! How often containerd is asked to collect its garbage: its metadata cannot be written meanwhile.
//!
//! Changed by: [`Event::CollectDone`](crate::event::Event::CollectDone), and by each collection that is asked for.

use crate::bounds::{COLLECT_EVERY, COLLECT_LONGEST, COLLECT_SHARE};
use crate::time::Time;

/// The collections that magi asks for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Collection {
    /// Since when one is under way.
    asked: Option<Time>,
    /// When the next one may be asked for.
    not_before: Option<Time>,
}

impl Collection {
    /// Whether one may be asked for now; if so, it counts as under way.
    pub(crate) fn take(&mut self, now: Time) -> bool {
        let under_way = self.asked.is_some_and(|asked| now.since(asked) < COLLECT_LONGEST);
        let may = !under_way && self.not_before.is_none_or(|then| now >= then);
        if may {
            self.asked = Some(now);
        }
        may
    }

    /// It came back. As containerd does itself, the next one waits for many times as long as this one took.
    pub(crate) fn done(&mut self, now: Time) {
        if let Some(asked) = self.asked.take() {
            let took = now.since(asked);
            self.not_before = Some(now.after(took.saturating_mul(COLLECT_SHARE).max(COLLECT_EVERY)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Collection;
    use crate::bounds::{COLLECT_EVERY, COLLECT_LONGEST};
    use crate::time::Time;

    const START: Time = Time::from_micros(1_000_000);

    fn millis(millis: u64) -> Time {
        START.after(Duration::from_millis(millis))
    }

    #[test]
    fn quick_ones_may_follow_soon_and_slow_ones_late() {
        let mut collection = Collection::default();
        assert!(collection.take(START));
        collection.done(millis(1));
        assert!(!collection.take(millis(50)));
        assert!(collection.take(millis(1).after(COLLECT_EVERY)));
        let slow = millis(1).after(COLLECT_EVERY + Duration::from_millis(400));
        collection.done(slow);
        assert!(!collection.take(slow.after(Duration::from_secs(19))));
        assert!(collection.take(slow.after(Duration::from_secs(20))));
    }

    #[test]
    fn one_at_a_time_and_none_is_waited_for_without_end() {
        let mut collection = Collection::default();
        assert!(collection.take(START));
        assert!(!collection.take(millis(20_000)));
        assert!(collection.take(START.after(COLLECT_LONGEST)));
    }
}
