//! One pod: what is known of it, and how a newer or an older word changes that.
//!
//! Changed by: [`Pod::take`] (facts), the ledger's `end` (it is gone) and `settle` (its loss was told).

use jiff::Timestamp;
use magi_engine::ids::{ImageName, PodName, PodNamespace, PodUid};

use super::wants::image_key;
use super::{Unknowable, Want};
use crate::change::{Act, Images, Node, Phase, PodFacts, Slot, SlotList, SlotPatch};
use crate::verdict::{Cause, Verdict, VerdictKind};

/// The most images that one pod's entry keeps. The API server takes objects of up to 1.5 MiB, so some pod may have more.
const MAX_SLOTS: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone {
    pub(super) cause: Cause,
    pub(super) at: Timestamp,
}

#[derive(Debug)]
pub(super) struct Pod {
    pub(super) uid: Option<PodUid>,
    pub(super) namespace: PodNamespace,
    pub(super) name: PodName,
    /// The newest version that was told.
    pub(super) version: Option<u64>,
    /// The request that created it, if it was heard: when it began, and when it was answered.
    pub(super) creation: Option<(Timestamp, Timestamp)>,
    /// It was not created before this.
    pub(super) born: Option<Timestamp>,
    /// It existed at this time, or had.
    pub(super) alive_by: Timestamp,
    /// The last change about it.
    pub(super) heard: Timestamp,
    pub(super) mirror: bool,
    pub(super) gone: Option<Gone>,
    /// Gone, but it speaks for a static pod that is not.
    pub(super) lingers: bool,
    pub(super) wants_held: Vec<Want>,
    node: Node,
    /// That it had no node was said at its end, so it never had one.
    ended_without_node: bool,
    slots: Option<Vec<Slot>>,
    phase: Phase,
    told: bool,
    /// What it wants may have changed.
    is_stale: bool,
}

/// What facts changed that matters to others.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Images that it had and has no longer.
    pub(super) replaced: Vec<ImageName>,
    /// The kubelet gave it up.
    pub(super) given_up: bool,
}

impl Pod {
    pub(super) fn new(facts: &PodFacts, at: Timestamp) -> Self {
        Self {
            uid: facts.uid.clone(),
            namespace: facts.namespace.clone(),
            name: facts.name.clone(),
            version: None,
            creation: None,
            born: None,
            alive_by: at,
            heard: at,
            mirror: false,
            gone: None,
            lingers: false,
            wants_held: Vec::new(),
            node: Node::Unknown,
            ended_without_node: false,
            slots: None,
            phase: Phase::Active,
            told: false,
            is_stale: false,
        }
    }

    pub(super) fn end(&mut self, cause: Cause, at: Timestamp, static_too: bool) {
        self.gone = Some(Gone { cause, at });
        self.lingers = self.mirror && !static_too;
        self.is_stale = true;
    }

    pub(super) fn stop_lingering(&mut self) {
        self.lingers = false;
        self.is_stale = true;
    }

    /// Takes facts over: what is newer, and what was missing.
    pub(super) fn take(&mut self, act: Act, facts: PodFacts, began: Timestamp, at: Timestamp) -> Taken {
        let is_newer = match (facts.version, self.version) {
            (Some(new), Some(old)) => new >= old,
            (Some(_) | None, None) | (None, Some(_)) => at >= self.heard,
        };
        if act == Act::Created {
            self.creation = Some((began, at));
            self.born = Some(began);
        } else if self.born.is_none() {
            self.born = facts.created;
        }
        self.alive_by = self.alive_by.min(at);
        self.heard = self.heard.max(at);
        self.version = self.version.max(facts.version);
        self.uid = self.uid.take().or(facts.uid);
        self.mirror = facts.mirror.unwrap_or(self.mirror);
        let is_end = facts.marked.is_some() || matches!(act, Act::Gone { .. });
        self.ended_without_node |= is_end && facts.node == Node::None;
        self.take_node(facts.node, facts.version.is_some());

        let mut taken = Taken::default();
        if let Some(phase) = facts.phase
            && is_newer
            && !self.phase.is_over()
        {
            self.is_stale |= self.phase != phase;
            self.phase = phase;
            taken.given_up = phase == Phase::GivenUp;
        }
        taken.replaced = self.take_images(facts.images, is_newer);
        taken
    }

    /// A pod never changes its node, so what its own object says beats what was concluded from a name.
    fn take_node(&mut self, node: Node, is_from_object: bool) {
        let takes = match (&self.node, &node) {
            (_, Node::Unknown) | (Node::On(_), Node::None) => false,
            (Node::Unknown | Node::None, _) => true,
            (Node::On(old), Node::On(new)) => is_from_object && old != new,
        };
        if takes {
            self.node = node;
            self.is_stale = true;
        }
    }

    fn take_images(&mut self, images: Images, is_newer: bool) -> Vec<ImageName> {
        let mut slots = match (images, &self.slots) {
            (Images::Unknown, _) | (Images::Patched(_), None) => return Vec::new(),
            (Images::Whole(slots), None) => {
                self.slots = Some(slots.into_iter().take(MAX_SLOTS).collect());
                self.is_stale = true;
                return Vec::new();
            }
            (Images::Whole(_) | Images::Patched(_), Some(_)) if !is_newer => return Vec::new(),
            (Images::Whole(slots), Some(_)) => slots,
            (Images::Patched(patches), Some(old)) => patched(old.clone(), patches),
        };
        slots.truncate(MAX_SLOTS);
        let Some(old) = self.slots.replace(slots) else {
            return Vec::new();
        };
        let Some(new) = &self.slots else { return Vec::new() };
        if old == *new {
            return Vec::new();
        }
        self.is_stale = true;
        let kept: Vec<_> = new.iter().map(|slot| image_key(&slot.image)).collect();
        unique(
            old.into_iter()
                .map(|slot| slot.image)
                .filter(|image| !kept.contains(&image_key(image))),
        )
    }

    /// Whether it may still pull.
    pub(super) const fn is_live(&self) -> bool {
        self.gone.is_none() && !self.phase.is_over()
    }

    /// What it wants now, if that may differ from what it wanted the last time.
    pub(super) fn take_new_wants(&mut self) -> Option<Vec<Want>> {
        if !std::mem::take(&mut self.is_stale) {
            return None;
        }
        let wants = self.is_live() || (self.lingers && !self.phase.is_over());
        let (Node::On(node), Some(slots), true) = (&self.node, &self.slots, wants) else {
            return Some(Vec::new());
        };
        Some(
            slots
                .iter()
                .map(|slot| Want::new(node.clone(), &slot.image))
                .collect(),
        )
    }

    /// The verdict about it, the first time that it is gone and all is known.
    pub(super) fn take_loss(&mut self) -> Option<Verdict> {
        let gone = self.gone.filter(|_| !self.told && !self.mirror)?;
        let images = unique(self.slots.iter().flatten().map(|slot| slot.image.clone()));
        let verdict = self.verdict(VerdictKind::PodGone, gone.cause, gone.at, images)?;
        self.told = true;
        Some(verdict)
    }

    /// A verdict about these images of it, if uid and node are known.
    pub(super) fn verdict(
        &self,
        kind: VerdictKind,
        cause: Cause,
        at: Timestamp,
        images: Vec<ImageName>,
    ) -> Option<Verdict> {
        let Node::On(node) = &self.node else { return None };
        if images.is_empty() {
            return None;
        }
        Some(Verdict {
            at,
            kind,
            cause,
            uid: self.uid.clone()?,
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            node: node.clone(),
            images,
        })
    }

    pub(super) const fn is_bound(&self) -> bool {
        matches!(self.node, Node::On(_))
    }

    /// Adds it to the sum, under the first thing that is missing.
    pub(super) fn add_to(&self, sum: &mut Unknowable) {
        if self.gone.is_none() || self.told {
            return;
        }
        let place = if self.mirror {
            &mut sum.mirror
        } else if self.node == Node::None && self.ended_without_node {
            &mut sum.never_bound
        } else if self.uid.is_none() {
            &mut sum.no_uid
        } else if !self.is_bound() {
            &mut sum.no_node
        } else {
            &mut sum.no_images
        };
        *place += 1;
    }
}

/// The slots with these patches on them. What names no known container is added: to want too much does no harm.
fn patched(mut slots: Vec<Slot>, patches: Vec<SlotPatch>) -> Vec<Slot> {
    for patch in patches {
        match patch {
            SlotPatch::Named(new) => {
                let same = |slot: &&mut Slot| slot.list == new.list && slot.name == new.name;
                match slots.iter_mut().find(same) {
                    Some(slot) => slot.image = new.image,
                    None => slots.push(new),
                }
            }
            SlotPatch::At { list, index, image } => {
                if let Some(slot) = slots.iter_mut().filter(|slot| slot.list == list).nth(index) {
                    slot.image = image;
                } else {
                    slots.push(Slot {
                        list: SlotList::Ephemeral,
                        name: "".into(),
                        image,
                    });
                }
            }
        }
    }
    slots
}

/// Each image once, in order.
fn unique(images: impl Iterator<Item = ImageName>) -> Vec<ImageName> {
    let mut all: Vec<ImageName> = Vec::new();
    for image in images {
        if !all.contains(&image) {
            all.push(image);
        }
    }
    all
}
