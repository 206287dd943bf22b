//! Pods that are gone, or that want images no longer, by the master's word.
//!
//! Changed by: the master's verdicts, and time. The loss of the master changes nothing: a pod that is gone does not come
//! back, another one of its name has another uid. A verdict also stands for pulls that begin later: the kubelet goes on
//! with what it has queued (kubernetes.md §2).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::bounds::{MAX_LOST_IMAGES, MAX_LOST_PODS, ORPHANS_REMEMBERED};
use crate::evidence::Evidence;
use crate::ids::{ImageName, PodUid, VerdictId};
use crate::owner::{LostPod, PodIdentity};
use crate::reference::Reference;
use crate::requests::Asker;
use crate::time::Time;

/// What one pod has lost.
#[derive(Debug)]
struct Lost {
    pod: PodIdentity,
    cause: String,
    images: Vec<Image>,
    heard: Time,
}

impl Lost {
    fn is_remembered(&self, now: Time) -> bool {
        now.since(self.heard) < ORPHANS_REMEMBERED
    }
}

#[derive(Debug)]
struct Image {
    name: ImageName,
    reference: Option<Reference>,
    verdict: VerdictId,
    since: Time,
}

impl Image {
    fn is(&self, asker: &Asker) -> bool {
        match (&self.reference, &asker.reference) {
            (Some(one), Some(other)) => one == other,
            (None, _) | (_, None) => self.name == asker.request.image,
        }
    }
}

/// The pods that have lost something, by uid.
#[derive(Debug, Default)]
pub(crate) struct Orphans {
    by_pod: BTreeMap<PodUid, Lost>,
    /// Since when something is lost whose grace was not over yet when the pulls were last judged; the oldest first.
    in_grace: VecDeque<Time>,
}

impl Orphans {
    /// Takes a verdict over; `false` if something had to be forgotten for it.
    pub(crate) fn lost(&mut self, now: Time, lost: LostPod) -> bool {
        self.forget_old(now);
        let mut had_room = true;
        if self.by_pod.len() >= MAX_LOST_PODS && !self.by_pod.contains_key(&lost.pod.uid) {
            had_room = false;
            let oldest = self.by_pod.iter().min_by_key(|(_, one)| one.heard);
            if let Some(oldest) = oldest.map(|(uid, _)| uid.clone()) {
                self.by_pod.remove(&oldest);
            }
        }
        let uid = lost.pod.uid.clone();
        let one = self.by_pod.entry(uid).or_insert_with(|| Lost {
            pod: lost.pod,
            cause: lost.cause.clone(),
            images: Vec::new(),
            heard: now,
        });
        one.heard = now;
        one.cause = lost.cause;
        for name in lost.images {
            if one.images.iter().any(|image| image.name == name) {
                continue;
            }
            if one.images.len() >= MAX_LOST_IMAGES {
                return false;
            }
            one.images.push(Image {
                reference: Reference::parse(name.as_str()).ok(),
                name,
                verdict: lost.id.clone(),
                since: now,
            });
            if self.in_grace.back() != Some(&now) {
                self.in_grace.push_back(now);
            }
        }
        had_room
    }

    /// Forgets what was said long ago; what is left over until then counts no more.
    fn forget_old(&mut self, now: Time) {
        self.by_pod.retain(|_, lost| lost.is_remembered(now));
    }

    /// Why a request has nobody any more who wants what it asks for, for at least this long.
    pub(crate) fn orphaned(&self, now: Time, grace: Duration, asker: &Asker) -> Option<Evidence> {
        let pod = asker.request.pod.as_ref()?;
        let lost = self.by_pod.get(&pod.uid)?;
        if lost.pod != *pod || !lost.is_remembered(now) {
            return None;
        }
        let is_due = |image: &&Image| image.is(asker) && now.since(image.since) >= grace;
        lost.images.iter().find(is_due).map(|image| Evidence::PodLost {
            verdict: image.verdict.clone(),
            pod: lost.pod.clone(),
            image: image.name.clone(),
            cause: lost.cause.clone(),
        })
    }

    /// Whether the grace of something is over, for the first time that this is asked.
    pub(crate) fn came_due(&mut self, now: Time, grace: Duration) -> bool {
        let before = self.in_grace.len();
        while self.next_due(grace).is_some_and(|due| due <= now) {
            self.in_grace.pop_front();
        }
        self.in_grace.len() < before
    }

    /// When the next grace is over.
    pub(crate) fn next_due(&self, grace: Duration) -> Option<Time> {
        self.in_grace.front().map(|since| since.after(grace))
    }

    /// The policy's grace has changed, perhaps: what was due may be so later.
    pub(crate) fn grace_changed(&mut self) {
        let images = self.by_pod.values().flat_map(|lost| &lost.images);
        let since: BTreeSet<Time> = images.map(|image| image.since).collect();
        self.in_grace = since.into_iter().collect();
    }

    /// Pods that are remembered.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_pod.len()
    }
}
