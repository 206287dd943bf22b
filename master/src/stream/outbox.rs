//! What a node has still to hear: verdicts in order, kept while it is away, bounded in number and age. Pure code.
//!
//! Changed by: a verdict ([`Outbox::push`]), time ([`Outbox::expire`]), a stream that begins ([`Outbox::begin`]) or takes one ([`Outbox::next`]),
//! the node's answer ([`Outbox::answered`]), and its having heard of losses ([`Outbox::told`]).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use magi_master_api::message::{self, VerdictId};

use super::encode::{self, Unsayable};
use crate::verdict::Verdict;

/// Verdicts that wait for one node. A node has no more pods than a few hundred.
pub(super) const MAX_WAITING: usize = 512;
/// Answered verdicts that are remembered, so that another intake's repeat is not sent.
const MAX_ANSWERED: usize = 128;

/// One node's verdicts.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    last_number: u64,
    waiting: VecDeque<Waiting>,
    answered: VecDeque<VerdictId>,
    lost: u64,
    lost_ever: u64,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    id: VerdictId,
    verdict: Verdict,
    since: Instant,
    /// Whether the present stream took it.
    is_sent: bool,
}

/// What became of a verdict that was to be queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It waits.
    Queued,
    /// It waits, and the oldest one had to go.
    QueuedForAnother,
    /// It waits already, or was answered a while ago.
    Repeated,
}

/// What a new stream found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Begun {
    /// Verdicts that an earlier stream delivered, by what the node says.
    pub delivered: u64,
    /// Verdicts that are too old.
    pub expired: u64,
    /// Verdicts that hold no longer.
    pub moot: u64,
}

impl Outbox {
    /// Queues a verdict.
    pub(super) fn push(&mut self, verdict: Verdict, now: Instant) -> Pushed {
        let id = encode::id(&verdict);
        if self.answered.contains(&id) || self.waiting.iter().any(|waiting| waiting.id == id) {
            return Pushed::Repeated;
        }
        let is_full = self.waiting.len() >= MAX_WAITING;
        if is_full {
            self.waiting.pop_front();
            self.lost = self.lost.saturating_add(1);
            self.lost_ever = self.lost_ever.saturating_add(1);
        }
        self.last_number = self.last_number.saturating_add(1);
        self.waiting.push_back(Waiting {
            number: self.last_number,
            id,
            verdict,
            since: now,
            is_sent: false,
        });
        if is_full {
            Pushed::QueuedForAnother
        } else {
            Pushed::Queued
        }
    }

    /// Forgets what is older than `age`; returns how many.
    pub(super) fn expire(&mut self, now: Instant, age: Duration) -> u64 {
        let mut expired = 0_u64;
        while self
            .waiting
            .front()
            .is_some_and(|oldest| now.saturating_duration_since(oldest.since) > age)
        {
            self.waiting.pop_front();
            expired = expired.saturating_add(1);
        }
        expired
    }

    /// A stream begins, whose node has heard everything up to `heard`. What is too old goes, and so does what `still`
    /// says nothing of; what `still` says holds is what will be sent.
    pub(super) fn begin(
        &mut self,
        heard: Option<u64>,
        now: Instant,
        age: Duration,
        still: impl Fn(&Verdict) -> Option<Verdict>,
    ) -> Begun {
        let mut begun = Begun {
            expired: self.expire(now, age),
            ..Begun::default()
        };
        for mut waiting in std::mem::take(&mut self.waiting) {
            if heard.is_some_and(|heard| waiting.number <= heard) {
                begun.delivered = begun.delivered.saturating_add(1);
                self.remember(waiting.id);
            } else if let Some(verdict) = still(&waiting.verdict) {
                waiting.verdict = verdict;
                waiting.is_sent = false;
                self.waiting.push_back(waiting);
            } else {
                begun.moot = begun.moot.saturating_add(1);
            }
        }
        begun
    }

    /// The next verdict that the present stream has not taken; none: there is none. One that cannot be said is forgotten.
    pub(super) fn next(&mut self) -> Option<Result<message::Verdict, Unsayable>> {
        let index = self.waiting.iter().position(|waiting| !waiting.is_sent)?;
        let waiting = self.waiting.get_mut(index)?;
        waiting.is_sent = true;
        let said = encode::message(&waiting.verdict, waiting.number, waiting.id);
        if said.is_err() {
            self.waiting.remove(index);
        }
        Some(said)
    }

    /// The node answered; whether it was waited for.
    pub(super) fn answered(&mut self, id: VerdictId) -> bool {
        let Some(index) = self.waiting.iter().position(|waiting| waiting.id == id) else {
            return false;
        };
        self.waiting.remove(index);
        if self.waiting.is_empty() {
            // Most nodes have nothing to hear most of the time, and there are thousands.
            self.waiting = VecDeque::new();
        }
        self.remember(id);
        true
    }

    fn remember(&mut self, id: VerdictId) {
        if self.answered.len() >= MAX_ANSWERED {
            self.answered.pop_front();
        }
        self.answered.push_back(id);
    }

    /// Verdicts that were forgotten since the node was told.
    #[must_use]
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// Verdicts that were ever forgotten.
    #[must_use]
    pub(super) fn lost_ever(&self) -> u64 {
        self.lost_ever
    }

    /// The node knows of so many that were forgotten.
    pub(super) fn told(&mut self, lost: u64) {
        self.lost = self.lost.saturating_sub(lost);
    }

    /// Verdicts that wait for the node or for its answer.
    #[must_use]
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::tests::verdict;

    const AGE: Duration = Duration::from_secs(600);

    fn taken(outbox: &mut Outbox) -> Vec<String> {
        std::iter::from_fn(|| outbox.next())
            .map(|said| said.unwrap().uid)
            .collect()
    }

    #[test]
    fn each_is_taken_once_by_each_stream_until_it_is_answered() {
        let now = Instant::now();
        let mut outbox = Outbox::default();
        assert_eq!(outbox.push(verdict("n", "a"), now), Pushed::Queued);
        assert_eq!(outbox.push(verdict("n", "b"), now), Pushed::Queued);
        assert_eq!(outbox.push(verdict("n", "a"), now), Pushed::Repeated);
        assert_eq!(taken(&mut outbox), ["a", "b"]);
        assert!(taken(&mut outbox).is_empty());
        assert!(outbox.answered(encode::id(&verdict("n", "a"))));
        assert!(!outbox.answered(encode::id(&verdict("n", "a"))));
        assert_eq!(outbox.push(verdict("n", "a"), now), Pushed::Repeated);
        outbox.begin(None, now, AGE, |verdict| Some(verdict.clone()));
        assert_eq!(taken(&mut outbox), ["b"]);
    }

    #[test]
    fn a_new_stream_gets_what_still_matters_and_nothing_else() {
        let start = Instant::now();
        let mut outbox = Outbox::default();
        outbox.push(verdict("n", "old"), start);
        let later = start + AGE / 2;
        for uid in ["heard", "moot", "good"] {
            outbox.push(verdict("n", uid), later);
        }
        outbox.next();
        outbox.next();
        // The node heard number 2, and not number 1, which an earlier stream took and lost.
        let begun = outbox.begin(Some(0), later, AGE, |verdict| Some(verdict.clone()));
        assert_eq!(begun, Begun::default());
        let begun = outbox.begin(None, start + AGE + Duration::from_secs(1), AGE, |verdict| {
            (verdict.uid.as_str() != "moot").then(|| verdict.clone())
        });
        assert_eq!(
            begun,
            Begun {
                expired: 1,
                moot: 1,
                delivered: 0
            }
        );
        let begun = outbox.begin(Some(2), later, AGE, |verdict| Some(verdict.clone()));
        assert_eq!(begun.delivered, 1);
        assert_eq!(taken(&mut outbox), ["good"]);
        assert_eq!(outbox.push(verdict("n", "heard"), later), Pushed::Repeated);
    }

    #[test]
    fn what_is_forgotten_is_counted_until_the_node_is_told() {
        let now = Instant::now();
        let mut outbox = Outbox::default();
        for number in 0..MAX_WAITING + 3 {
            outbox.push(verdict("n", &format!("uid-{number}")), now);
        }
        assert_eq!((outbox.waiting(), outbox.lost()), (MAX_WAITING, 3));
        assert_eq!(taken(&mut outbox).first().map(String::as_str), Some("uid-3"));
        outbox.told(3);
        assert_eq!((outbox.lost(), outbox.lost_ever()), (0, 3));
    }
}
