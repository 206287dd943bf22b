//! Which pulls would fill the node's disk: chosen so that the others fit.
//!
//! What a pull still needs is what is missing of its layers, and what these will unpack to. A layer that is there as a
//! whole counts no more: what it unpacks to shows in the free space. So nothing is counted twice, and too little rather
//! than too much; the free space itself, looked at again and again, makes up for it.
//!
//! Changed by: what is told of the disks, and each choice that is made anew. Who was chosen stays the first choice, so
//! that progress of one pull does not condemn another beside it.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::event::Room;
use crate::evidence::{DiskPlace, DiskUnit, Evidence};
use crate::ids::{Digest, PullId};
use crate::policy::{DiskOrder, Headroom};
use crate::pull::Pull;

/// The disks, and who is chosen.
#[derive(Debug, Default)]
pub(crate) struct Disks {
    content: Option<Room>,
    /// None: where the blobs are.
    snapshots: Option<Room>,
    chosen: BTreeMap<PullId, Evidence>,
    /// Something was told since the last choice.
    is_news: bool,
}

/// What a pull still needs.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    pull: PullId,
    /// For each layer that is not there yet.
    layers: Vec<(&'a Digest, Need)>,
    /// Bytes of all that it declares: what it is ordered by, as that does not change with progress.
    declared: u64,
    /// Only after all that are not spared.
    is_spared: bool,
    may_be_stopped: bool,
}

/// Bytes that are still to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Need {
    download: u64,
    unpack: u64,
}

impl Need {
    const fn plus(self, other: Self) -> Self {
        Self {
            download: self.download.saturating_add(other.download),
            unpack: self.unpack.saturating_add(other.unpack),
        }
    }

    const fn minus(self, other: Self) -> Self {
        Self {
            download: self.download.saturating_sub(other.download),
            unpack: self.unpack.saturating_sub(other.unpack),
        }
    }
}

impl<'a> Claim<'a> {
    /// None, if it is not known what it needs: nothing is guessed.
    pub(crate) fn of(
        pull: &'a Pull,
        policy: &Headroom,
        is_spared: bool,
        may_be_stopped: bool,
    ) -> Option<Self> {
        let [image] = pull.declared.images.as_slice() else {
            return None;
        };
        let stored: BTreeMap<&Digest, u64> = pull
            .stored_by_layer()
            .map(|(digest, _, stored)| (digest, stored))
            .collect();
        // Layers come in their order. One that is unpacked already is not fetched, and nothing shows that of it but that
        // a later one has begun.
        let ordered = pull.layers_of(&image.manifest);
        let needed = ordered.skip_while(|layer| !pull.has_begun(&layer.digest));
        let missing = needed.filter_map(|layer| {
            let stored = stored.get(&layer.digest).copied().unwrap_or_default();
            let unpack = u128::from(layer.size) * u128::from(policy.unpack_percent) / 100;
            let need = Need {
                download: layer.size.saturating_sub(stored),
                unpack: u64::try_from(unpack).unwrap_or(u64::MAX),
            };
            (need.download > 0).then_some((&layer.digest, need))
        });
        Some(Self {
            pull: pull.id,
            layers: missing.collect(),
            declared: image.bytes,
            is_spared,
            may_be_stopped,
        })
    }

    fn need(&self) -> Need {
        self.layers
            .iter()
            .fold(Need::default(), |sum, (_, need)| sum.plus(*need))
    }
}

/// A disk on which something is to be written.
#[derive(Clone, Copy, Debug)]
struct Disk {
    place: DiskPlace,
    room: Room,
    /// Bytes that are to stay free.
    keep: u64,
}

impl Disk {
    fn new(place: DiskPlace, room: Room, policy: &Headroom) -> Self {
        let keep = u128::from(room.total) * u128::from(policy.free_percent) / 100;
        Self {
            place,
            room,
            keep: u64::try_from(keep).unwrap_or(u64::MAX),
        }
    }

    /// What of a need goes here.
    const fn share(&self, need: Need) -> u64 {
        match self.place {
            DiskPlace::Content => need.download,
            DiskPlace::Snapshots => need.unpack,
            DiskPlace::Both => need.download.saturating_add(need.unpack),
        }
    }

    fn is_too_small_for(&self, need: Need) -> bool {
        self.share(need) > self.room.free.saturating_sub(self.keep)
    }

    /// Files are made where is unpacked; how many, nobody declares.
    fn is_out_of_inodes(&self, policy: &Headroom) -> bool {
        let needed = u128::from(self.room.inodes) * u128::from(policy.inodes_percent);
        self.place != DiskPlace::Content && u128::from(self.room.free_inodes) * 100 < needed
    }
}

impl Disks {
    /// How full they are.
    pub(crate) const fn seen(&mut self, content: Room, snapshots: Option<Room>) {
        self.content = Some(content);
        self.snapshots = snapshots;
        self.is_news = true;
    }

    /// Whether something was told since this was asked last.
    pub(crate) const fn take_news(&mut self) -> bool {
        std::mem::replace(&mut self.is_news, false)
    }

    /// Why this one is to be stopped, if it is.
    pub(crate) fn chosen(&self, pull: PullId) -> Option<&Evidence> {
        self.chosen.get(&pull)
    }

    /// Chooses anew; without a policy, nobody.
    pub(crate) fn choose(&mut self, policy: Option<&Headroom>, claims: &[Claim<'_>]) {
        self.chosen = policy
            .map(|policy| self.chosen_of(policy, claims))
            .unwrap_or_default();
    }

    fn disks(&self, policy: &Headroom) -> Vec<Disk> {
        let Some(content) = self.content else {
            return Vec::new();
        };
        match self.snapshots {
            None => vec![Disk::new(DiskPlace::Both, content, policy)],
            Some(snapshots) => vec![
                Disk::new(DiskPlace::Content, content, policy),
                Disk::new(DiskPlace::Snapshots, snapshots, policy),
            ],
        }
    }

    fn chosen_of(&self, policy: &Headroom, claims: &[Claim<'_>]) -> BTreeMap<PullId, Evidence> {
        let disks = self.disks(policy);
        let mut wanted = Wanted::of(claims);
        let mut candidates: Vec<&Claim<'_>> = claims.iter().filter(|claim| claim.may_be_stopped).collect();
        candidates.sort_by_key(|claim| {
            let by = match policy.first {
                DiskOrder::Largest => claim.declared,
                DiskOrder::Youngest => claim.pull.0,
            };
            let is_new = !self.chosen.contains_key(&claim.pull);
            (is_new, claim.is_spared, Reverse(by), Reverse(claim.pull))
        });
        let mut chosen = BTreeMap::new();
        for claim in candidates {
            let own = claim.need();
            let fact = |disk: &Disk, unit, free, keep, wanted| Evidence::DiskShort {
                place: disk.place,
                unit,
                free,
                keep,
                wanted,
                needed: disk.share(own),
            };
            let full = disks
                .iter()
                .find(|disk| disk.is_too_small_for(wanted.sum) && disk.share(own) >= policy.least.max(1));
            let by_bytes = full.map(|disk| {
                let wanted = disk.share(wanted.sum);
                fact(disk, DiskUnit::Bytes, disk.room.free, disk.keep, wanted)
            });
            // One at a time: what it frees shows before the next.
            let short = disks.iter().find(|disk| {
                chosen.is_empty() && disk.is_out_of_inodes(policy) && own.unpack >= policy.least.max(1)
            });
            let by_inodes = short.map(|disk| {
                let keep = u128::from(disk.room.inodes) * u128::from(policy.inodes_percent) / 100;
                let keep = u64::try_from(keep).unwrap_or(u64::MAX);
                fact(
                    disk,
                    DiskUnit::Inodes,
                    disk.room.free_inodes,
                    keep,
                    disk.share(wanted.sum),
                )
            });
            if let Some(fact) = by_bytes.or(by_inodes) {
                wanted.without(claim);
                chosen.insert(claim.pull, fact);
            }
        }
        chosen
    }
}

/// What all pulls together want; a layer that several want is fetched once.
struct Wanted<'a> {
    by_layer: BTreeMap<&'a Digest, (usize, Need)>,
    sum: Need,
}

impl<'a> Wanted<'a> {
    fn of(claims: &[Claim<'a>]) -> Self {
        let mut wanted = Self {
            by_layer: BTreeMap::new(),
            sum: Need::default(),
        };
        for (digest, need) in claims.iter().flat_map(|claim| &claim.layers) {
            let (count, least) = wanted.by_layer.entry(digest).or_insert((0, *need));
            *count += 1;
            // Who waits for another one's ingest shows nothing stored of its own.
            least.download = least.download.min(need.download);
        }
        wanted.sum = wanted
            .by_layer
            .values()
            .fold(Need::default(), |sum, (_, need)| sum.plus(*need));
        wanted
    }

    fn without(&mut self, claim: &Claim<'a>) {
        for (digest, _) in &claim.layers {
            if let Some((count, need)) = self.by_layer.get_mut(digest) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.sum = self.sum.minus(*need);
                }
            }
        }
    }
}
