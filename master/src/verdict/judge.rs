//! From what the ledger lost to what is said.
//!
//! An image that another live pod of the same node wants is left out of a verdict, and a verdict without images is not
//! given. But it is not forgotten: its pull may still run in the name of the pod that is gone. So it is withheld, and
//! said as soon as nobody on that node wants the image. Otherwise two pods of one image, deleted one after the other,
//! would leave the first one's pull alone for ever.
//!
//! Changed by: [`Judge::hear`], and nothing else. At most [`MAX_WITHHELD`] images are withheld, each for [`WITHHELD_FOR`].

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::{Verdict, VerdictKind};
use crate::ledger::{Ledger, Turn, Want};
use magi_engine::ids::{ImageName, PodUid};

/// How many images are withheld at most; the oldest goes first.
const MAX_WITHHELD: usize = 65_536;
/// How long an image is withheld. No pull of a pod that is gone lasts as long: containerd gives up what makes no progress.
const WITHHELD_FOR: SignedDuration = SignedDuration::from_hours(1);

/// What was not said, and what became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Withheld {
    /// Images that another live pod wanted.
    pub withheld: u64,
    /// Said later, when nobody did any more.
    pub said_later: u64,
    /// Given up: too old, or too many.
    pub given_up: u64,
}

#[derive(Debug)]
struct Item {
    want: Want,
    image: ImageName,
    /// What would have been said, without its images.
    verdict: Verdict,
}

type About = (PodUid, VerdictKind);

fn about(verdict: &Verdict) -> About {
    (verdict.uid.clone(), verdict.kind)
}

/// Decides which verdicts are given.
#[derive(Debug, Default)]
pub struct Judge {
    next: u64,
    items: BTreeMap<u64, Item>,
    /// By what it is about, so that a verdict that is judged again, as with each stream of its node, is withheld once.
    by_want: BTreeMap<Want, BTreeMap<About, u64>>,
    counts: Withheld,
}

impl Judge {
    /// Takes what one change did to `ledger`, and appends the verdicts that follow from it.
    pub fn hear(
        &mut self,
        ledger: &Ledger,
        turns: impl IntoIterator<Item = Turn>,
        verdicts: &mut Vec<Verdict>,
    ) {
        let (mut said, mut unwanted) = (Vec::new(), Vec::new());
        for turn in turns {
            match turn {
                Turn::Lost(lost) => self.lost(ledger, lost, &mut said),
                Turn::Unwanted(want, at) => unwanted.push((want, at)),
            }
        }
        for (want, at) in unwanted {
            self.unwanted(ledger, &want, at, &mut said);
        }
        verdicts.append(&mut said);
    }

    /// What was not said.
    #[must_use]
    pub const fn counts(&self) -> Withheld {
        self.counts
    }

    fn lost(&mut self, ledger: &Ledger, mut lost: Verdict, said: &mut Vec<Verdict>) {
        let images = std::mem::take(&mut lost.images);
        for image in images {
            if ledger.is_wanted(&lost.node, &image) {
                self.withhold(lost.clone(), image);
            } else {
                lost.images.push(image);
            }
        }
        if !lost.images.is_empty() {
            say(lost, said);
        }
    }

    fn withhold(&mut self, verdict: Verdict, image: ImageName) {
        let want = Want::new(verdict.node.clone(), &image);
        let same_want = self.by_want.entry(want.clone()).or_default();
        let Entry::Vacant(vacant) = same_want.entry(about(&verdict)) else {
            return;
        };
        vacant.insert(self.next);
        self.counts.withheld += 1;
        self.items.insert(self.next, Item { want, image, verdict });
        self.next += 1;
        if self.items.len() > MAX_WITHHELD
            && let Some((_, item)) = self.items.pop_first()
        {
            self.counts.given_up += 1;
            if let Some(numbers) = self.by_want.get_mut(&item.want) {
                numbers.remove(&about(&item.verdict));
                if numbers.is_empty() {
                    self.by_want.remove(&item.want);
                }
            }
        }
    }

    fn unwanted(&mut self, ledger: &Ledger, want: &Want, at: Timestamp, said: &mut Vec<Verdict>) {
        if ledger.wants(want) {
            return;
        }
        let withheld = self.by_want.remove(want).unwrap_or_default();
        let mut numbers: Vec<u64> = withheld.into_values().collect();
        numbers.sort_unstable();
        for number in numbers {
            let Some(item) = self.items.remove(&number) else {
                continue;
            };
            let mut verdict = item.verdict;
            if at.duration_since(verdict.at) > WITHHELD_FOR {
                self.counts.given_up += 1;
                continue;
            }
            self.counts.said_later += 1;
            verdict.at = verdict.at.max(at);
            verdict.images = vec![item.image];
            say(verdict, said);
        }
    }
}

/// Says it once: images of one pod that are lost together make one verdict, and a pod that is gone lost what was
/// replaced before, too.
fn say(verdict: Verdict, said: &mut Vec<Verdict>) {
    let of_this_pod = |other: &&mut Verdict| {
        other.uid == verdict.uid && (other.kind == verdict.kind || other.kind == VerdictKind::PodGone)
    };
    let Some(other) = said.iter_mut().find(of_this_pod) else {
        said.push(verdict);
        return;
    };
    for image in verdict.images {
        if !other.images.contains(&image) {
            other.images.push(image);
        }
    }
}
