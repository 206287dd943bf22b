//! Which pull holds download slots and hardly uses them, while others get none.
//!
//! From containerd 2.1 on the limit of concurrent downloads holds for the whole node (containerd.md §7). A pull is slow
//! if it falls behind the rate that the policy asks for by what that rate brings in the policy's span. It falls behind only
//! while it downloads: who waits, or unpacks, is not slow.
//!
//! A download that waits for its slot has an ingest already, with nothing in it (seen on 2.1.9). So one that has brought
//! its first mebibyte holds a slot, and so does one that a goroutine of containerd was seen to fetch, which takes 64 KiB or
//! ten seconds; since when, the kernel says. Of the others it is not known, and they are nobody's fault.
//!
//! Changed by: each look, and each choice that is made anew. One is chosen at a time, and stays so while it is slow.

use std::cmp::Reverse;
use std::time::Duration;

use crate::bounds::{UNPACKS_AT_LEAST, WAITS_FOR_SLOT};
use crate::evidence::Evidence;
use crate::ids::PullId;
use crate::policy::Starving;
use crate::time::Time;

/// containerd writes to an ingest in steps of 1 MiB (containerd.md §8): an honest pull may be as far behind for each.
const STEP: u64 = 1 << 20;

/// How far a pull has fallen behind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pace {
    at: Option<Time>,
    /// Bytes; none: it is not counted.
    behind: Option<u64>,
    /// It was seen to unpack then, and is not slow before it.
    unpacked: Option<Time>,
    fetched: u64,
    complete: u64,
    /// What is complete is unpacked until then, at the slowest.
    unpacks_until: Option<Time>,
    /// Since when it has nothing to download, and is not done.
    idle_since: Option<Time>,
}

/// What a look shows of a pull.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    /// Bytes that it has fetched itself.
    pub(crate) fetched: u64,
    /// Bytes of its layers that are there as a whole.
    pub(crate) complete: u64,
    /// Ingests of its own that are known to be fetched.
    pub(crate) downloads: u64,
    /// The first of these is known to be fetched since then.
    pub(crate) since: Option<Time>,
    /// Something is missing that nobody else fetches for it.
    pub(crate) lacks: bool,
}

impl Pace {
    /// Takes in what a look shows.
    pub(crate) fn seen(&mut self, now: Time, rate: u64, progress: Progress) {
        let passed = self.at.replace(now).map_or(Duration::ZERO, |at| now.since(at));
        let complete = progress.complete.saturating_sub(self.complete);
        let fetched = progress.fetched.saturating_sub(self.fetched);
        (self.complete, self.fetched) = (progress.complete, progress.fetched);
        if complete > 0 {
            let from = self.unpacks_until.unwrap_or(now).max(now);
            self.unpacks_until = Some(from.after(Duration::from_secs(complete / UNPACKS_AT_LEAST)));
        }
        let unpacks = self.unpacks_until.is_some_and(|until| now < until);
        if unpacks {
            self.unpacked = Some(now);
        }
        if progress.downloads == 0 || unpacks {
            self.behind = None;
        } else {
            let known = progress.since.map_or(Duration::ZERO, |since| {
                now.since(since.max(self.unpacked.unwrap_or(since)))
            });
            let passed = match self.behind {
                Some(_) => passed,
                None => passed.max(known),
            };
            let due = u128::from(rate) * passed.as_micros() / 1_000_000;
            let due = u64::try_from(due).unwrap_or(u64::MAX);
            let behind = self.behind.unwrap_or_default();
            self.behind = Some(behind.saturating_add(due).saturating_sub(fetched));
        }
        let is_idle = progress.downloads == 0 && progress.lacks && !unpacks;
        self.idle_since = is_idle.then(|| self.idle_since.unwrap_or(now));
    }

    fn behind(&self) -> u64 {
        self.behind.unwrap_or_default()
    }

    fn waits_for_slot(&self, now: Time) -> bool {
        self.idle_since
            .is_some_and(|since| now.since(since) >= WAITS_FOR_SLOT)
    }
}

/// A pull, as the choice sees it.
#[derive(Debug)]
pub(crate) struct Runner<'a> {
    pub(crate) pull: PullId,
    pub(crate) pace: &'a Pace,
    /// Ingests that are known to be fetched, and all.
    pub(crate) downloads: u64,
    pub(crate) ingests: u64,
    pub(crate) may_be_stopped: bool,
}

/// Who is chosen.
#[derive(Debug, Default)]
pub(crate) struct Starvation {
    chosen: Option<(PullId, Evidence)>,
}

impl Starvation {
    /// Why this one is to be stopped, if it is.
    pub(crate) fn chosen(&self, pull: PullId) -> Option<&Evidence> {
        self.chosen
            .as_ref()
            .filter(|(chosen, _)| *chosen == pull)
            .map(|(_, why)| why)
    }

    /// Chooses anew; without a policy, nobody.
    pub(crate) fn choose(&mut self, now: Time, policy: Option<&Starving>, runners: &[Runner<'_>]) {
        let before = self.chosen.take().map(|(pull, _)| pull);
        let Some(policy) = policy else { return };
        let ingests = runners
            .iter()
            .fold(0_u64, |sum, one| sum.saturating_add(one.ingests));
        let waiting = runners.iter().filter(|one| one.pace.waits_for_slot(now)).count();
        if ingests < u64::from(policy.slots) || waiting == 0 {
            return;
        }
        let lag = policy.rate.saturating_mul(policy.time.as_secs());
        let is_slow = |one: &&Runner<'_>| {
            one.downloads > 0
                && one.may_be_stopped
                && one.pace.behind() >= lag.max(one.downloads.saturating_mul(2 * STEP))
        };
        let slowest = runners.iter().filter(is_slow).max_by_key(|one| {
            let is_chosen = before == Some(one.pull);
            (is_chosen, one.pace.behind(), Reverse(one.pull))
        });
        self.chosen = slowest.map(|one| {
            let why = Evidence::HoldsSlots {
                downloads: one.downloads,
                rate: policy.rate,
                behind: one.pace.behind(),
                waiting: u64::try_from(waiting).unwrap_or(u64::MAX),
            };
            (one.pull, why)
        });
    }
}
