//! Pods that are gone, or that want images no longer, by the master's word.
//!
//! Changed by: the master's verdicts, and time. The loss of the master changes nothing: a pod that is gone does not come
//! back, another one of its name has another uid. A verdict also stands for pulls that begin later: the kubelet goes on
//! with what it has queued (kubernetes.md §2).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::bounds::{MAX_LOST_IMAGES, MAX_LOST_PODS, ORPHANS_REMEMBERED};
use crate::evidence::Evidence;
use crate::ids::{ImageName, PodUid};
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

#[derive(Debug)]
struct Image {
    name: ImageName,
    reference: Option<Reference>,
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
    /// Until then every pull was judged with what is known here.
    judged: Time,
    has_news: bool,
}

impl Orphans {
    /// Takes a verdict over; `false` if something had to be forgotten for it.
    pub(crate) fn lost(&mut self, now: Time, lost: LostPod) -> bool {
        self.has_news = true;
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
                since: now,
            });
        }
        had_room
    }

    /// Forgets what was said long ago.
    pub(crate) fn forget_old(&mut self, now: Time) {
        self.by_pod
            .retain(|_, lost| now.since(lost.heard) < ORPHANS_REMEMBERED);
    }

    /// Why a request has nobody any more who wants what it asks for, for at least this long.
    pub(crate) fn orphaned(&self, now: Time, grace: Duration, asker: &Asker) -> Option<Evidence> {
        let pod = asker.request.pod.as_ref()?;
        let lost = self.by_pod.get(&pod.uid).filter(|lost| lost.pod == *pod)?;
        let is_due = |image: &&Image| image.is(asker) && now.since(image.since) >= grace;
        lost.images.iter().find(is_due).map(|image| Evidence::PodLost {
            pod: lost.pod.clone(),
            image: image.name.clone(),
            cause: lost.cause.clone(),
        })
    }

    /// Whether the grace of something has run out since the last time this was asked.
    pub(crate) fn came_due(&mut self, now: Time, grace: Duration) -> bool {
        let before = std::mem::replace(&mut self.judged, now);
        let has_news = std::mem::take(&mut self.has_news);
        let mut due = self.images().map(|image| image.since.after(grace));
        has_news || due.any(|at| before < at && at <= now)
    }

    /// When the next grace runs out.
    pub(crate) fn next_due(&self, now: Time, grace: Duration) -> Option<Time> {
        let due = self.images().map(|image| image.since.after(grace));
        due.filter(|at| *at > now).min()
    }

    fn images(&self) -> impl Iterator<Item = &Image> {
        self.by_pod.values().flat_map(|lost| &lost.images)
    }

    /// Pods that are remembered.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_pod.len()
    }
}
