//! The pods, as far as they are known: where each one is, what it wants, and whether it is gone.
//!
//! Pods are known by uid, and by namespace and name for changes that tell no uid. Changes may come twice, out of order,
//! and from several intakes: a uid that is gone stays gone, an older version never replaces a newer one, and what one
//! change left out a later one may fill in. So replaying the same changes rebuilds the same ledger.
//!
//! Changed by: [`Ledger::hear`], and nothing else. Gone pods are remembered until [`Bounds::gone`] others went after
//! them, live ones until [`Bounds::live`] others came after them; who is forgotten for lack of room is counted.

mod changes;
mod identity;
mod pod;
mod wants;

use std::collections::{BTreeMap, HashMap, VecDeque};

use jiff::{SignedDuration, Timestamp};
use magi_engine::ids::{ImageName, PodName, PodNamespace, PodUid};
use serde::Serialize;

use crate::change::{Change, What};
use crate::names::NodeName;
use crate::verdict::{Cause, Verdict};

use pod::Pod;
pub use wants::Want;
use wants::Wants;

/// How long a mirror pod that somebody deleted goes on speaking for its static pod, which the kubelet never stopped.
/// It comes back under a new uid within about 10 ms.
const MIRROR_COMES_BACK: SignedDuration = SignedDuration::from_secs(30);

/// How much a ledger holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Pods that are there. Kubernetes is built for 150,000 in a cluster.
    pub live: usize,
    /// Pods that are gone, remembered so that nothing said late or twice brings them back.
    pub gone: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            live: 200_000,
            gone: 65_536,
        }
    }
}

/// What a change did to the ledger, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// A pod lost its need for these images. Whether others want them is not yet looked at.
    Lost(Verdict),
    /// No live pod of a node wants an image any more.
    Unwanted(Want, Timestamp),
}

/// What became of changes that made no turn, and of room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Changes told by name, about a pod that had the name before the one that is known.
    pub about_an_earlier_pod: u64,
    /// A uid that came with another name than before.
    pub contradictions: u64,
    /// Replaced images of a bound pod whose uid is not known.
    pub replaced_without_uid: u64,
    /// Live pods that were forgotten for lack of room.
    pub forgotten_live: u64,
    /// Gone pods that were forgotten for lack of room.
    pub forgotten_gone: u64,
}

/// Pods that are gone, and about which no verdict could be given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Unknowable {
    /// It never had a node, so nobody pulls for it. This is no lack.
    pub never_bound: u64,
    /// It mirrors a static pod, which deleting it does not stop. This is no lack.
    pub mirror: u64,
    /// Its uid was never told.
    pub no_uid: u64,
    /// Its node was never told.
    pub no_node: u64,
    /// Its images were never told.
    pub no_images: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Id(u64);

/// The pods.
#[derive(Debug, Default)]
pub struct Ledger {
    bounds: Bounds,
    next: u64,
    pods: HashMap<Id, Pod>,
    by_uid: HashMap<PodUid, Id>,
    /// Who has a name now, or had it last.
    by_name: BTreeMap<PodNamespace, BTreeMap<PodName, Id>>,
    wants: Wants,
    in_order: VecDeque<Id>,
    gone_in_order: VecDeque<Id>,
    lingering: VecDeque<(Timestamp, Id)>,
    counts: Counts,
    forgotten: Unknowable,
}

impl Ledger {
    /// An empty ledger.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            ..Self::default()
        }
    }

    /// Takes a change, and tells what it did.
    pub fn hear(&mut self, change: Change, turns: &mut Vec<Turn>) {
        self.stop_lingering(change.at, turns);
        match change.what {
            What::Pod(act, facts) => self.hear_pod(act, *facts, change.began, change.at, turns),
            What::NamespaceCleared(namespace, cause) => {
                self.clear(&namespace, cause, change.began, change.at, turns);
            }
            What::AllListed { version, uids } => self.keep_only(version, &uids, change.at, turns),
        }
        self.make_room(turns);
    }

    /// Whether a live pod of this node wants this image.
    #[must_use]
    pub fn is_wanted(&self, node: &NodeName, image: &ImageName) -> bool {
        self.wants(&Want::new(node.clone(), image))
    }

    /// The same, for a want that is at hand.
    #[must_use]
    pub fn wants(&self, want: &Want) -> bool {
        self.wants.is_wanted(want)
    }

    /// How many pods are held: those that are there, and those that are gone.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        let gone = self.gone_in_order.len();
        (self.pods.len().saturating_sub(gone), gone)
    }

    /// What made no turn.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// Which gone pods no verdict could be given about, and why. Looks at every gone pod.
    #[must_use]
    pub fn unknowable(&self) -> Unknowable {
        let mut sum = self.forgotten;
        for id in &self.gone_in_order {
            if let Some(pod) = self.pods.get(id) {
                pod.add_to(&mut sum);
            }
        }
        sum
    }

    /// Brings a pod's wants up to date, and says what nobody wants any more.
    fn refresh(&mut self, id: Id, at: Timestamp, turns: &mut Vec<Turn>) {
        if let Some(pod) = self.pods.get_mut(&id)
            && let Some(wanted) = pod.take_new_wants()
        {
            for want in self.wants.update(id, &mut pod.wants_held, wanted) {
                turns.push(Turn::Unwanted(want, at));
            }
        }
    }

    /// Marks a pod as gone, unless it is.
    fn end(&mut self, id: Id, cause: Cause, static_too: bool, at: Timestamp) {
        let Some(pod) = self.pods.get_mut(&id) else { return };
        if pod.gone.is_some() {
            return;
        }
        pod.end(cause, at, static_too);
        self.gone_in_order.push_back(id);
        if pod.lingers
            && let Ok(until) = at.checked_add(MIRROR_COMES_BACK)
        {
            self.lingering.push_back((until, id));
        }
    }

    /// After a change to a pod: its wants, and its verdict if it is due.
    fn settle(&mut self, id: Id, at: Timestamp, turns: &mut Vec<Turn>) {
        self.refresh(id, at, turns);
        if let Some(lost) = self.pods.get_mut(&id).and_then(Pod::take_loss) {
            turns.push(Turn::Lost(lost));
        }
    }

    fn stop_lingering(&mut self, now: Timestamp, turns: &mut Vec<Turn>) {
        while let Some((_, id)) = self.lingering.pop_front_if(|(until, _)| *until < now) {
            if let Some(pod) = self.pods.get_mut(&id) {
                pod.stop_lingering();
                self.refresh(id, now, turns);
            }
        }
    }

    fn make_room(&mut self, turns: &mut Vec<Turn>) {
        while self.gone_in_order.len() > self.bounds.gone {
            let Some(id) = self.gone_in_order.pop_front() else {
                break;
            };
            self.counts.forgotten_gone += 1;
            self.forget(id, turns);
        }
        while self.pods.len().saturating_sub(self.gone_in_order.len()) > self.bounds.live {
            let Some(id) = self.in_order.pop_front() else {
                break;
            };
            if self.pods.get(&id).is_some_and(|pod| pod.gone.is_none()) {
                self.counts.forgotten_live += 1;
                self.forget(id, turns);
            }
        }
        // Those who went stay in this queue until they come to its front, so it is cleared out now and then.
        if self.in_order.len() > 2 * self.bounds.live {
            let pods = &self.pods;
            self.in_order
                .retain(|id| pods.get(id).is_some_and(|pod| pod.gone.is_none()));
        }
    }

    fn forget(&mut self, id: Id, turns: &mut Vec<Turn>) {
        let Some(mut pod) = self.pods.remove(&id) else {
            return;
        };
        if pod.gone.is_some() {
            pod.add_to(&mut self.forgotten);
        }
        let at = pod.heard;
        for want in self.wants.update(id, &mut pod.wants_held, Vec::new()) {
            turns.push(Turn::Unwanted(want, at));
        }
        if let Some(uid) = &pod.uid {
            self.by_uid.remove(uid);
        }
        if let Some(names) = self.by_name.get_mut(&pod.namespace) {
            if names.get(&pod.name) == Some(&id) {
                names.remove(&pod.name);
            }
            if names.is_empty() {
                self.by_name.remove(&pod.namespace);
            }
        }
    }
}

#[cfg(test)]
mod tests;
