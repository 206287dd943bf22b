//! What must be so where a pull is said to fill the disk: an upper bound of what all pulls may still write, reckoned from
//! the looks alone, and without the engine's order of who goes first.

use std::collections::BTreeMap;

use super::judge::Condemned;
use super::{Checker, Seen};
use crate::event::Room;
use crate::evidence::{DiskPlace, DiskUnit, Evidence, Reason};
use crate::ids::{Digest, LeaseKey};
use crate::policy::Headroom;
use crate::report::Report;

impl Checker {
    /// Whom the engine says to fill the disk.
    pub(super) fn hear_chosen(&mut self, report: &Report) {
        let is_chosen = |reason| reason == Reason::NoDiskHeadroom;
        let chosen = report
            .pulls
            .iter()
            .filter(|pull| pull.verdict.as_ref().is_some_and(|one| is_chosen(one.reason)));
        self.chosen = chosen.map(|pull| pull.lease.clone()).collect();
    }

    /// Whether it may be, and what follows.
    pub(super) fn fills_disk(&self, lease: &LeaseKey) -> Condemned {
        let (Some(policy), Some(seen)) = (&self.policy.headroom, self.leases.get(lease)) else {
            return Condemned::No;
        };
        let is_full = |(place, room): (DiskPlace, Room)| {
            let own: u64 = most(seen, policy, place).into_values().sum();
            let is_short = self.wanted(policy, place) > room.free.saturating_sub(keep(room, policy))
                || place != DiskPlace::Content && room.free_inodes * 100 < room.inodes * 10;
            is_short && own >= policy.least.max(1)
        };
        if self.chosen.contains(lease) && self.places().into_iter().any(is_full) {
            policy.mode.into()
        } else {
            Condemned::No
        }
    }

    fn places(&self) -> Vec<(DiskPlace, Room)> {
        match self.rooms {
            None => Vec::new(),
            Some((content, None)) => vec![(DiskPlace::Both, content)],
            Some((content, Some(snapshots))) => {
                vec![(DiskPlace::Content, content), (DiskPlace::Snapshots, snapshots)]
            }
        }
    }

    /// The most that all pulls together may still write there.
    fn wanted(&self, policy: &Headroom, place: DiskPlace) -> u64 {
        let mut all: BTreeMap<&Digest, u64> = BTreeMap::new();
        for (digest, bytes) in self.leases.values().flat_map(|seen| most(seen, policy, place)) {
            let most = all.entry(digest).or_default();
            *most = bytes.max(*most);
        }
        all.values().sum()
    }

    /// Whether the disk was told to be so, and the pulls may want as much as is said.
    pub(super) fn is_short(&self, lease: &LeaseKey, evidence: &Evidence) -> bool {
        let Evidence::DiskShort {
            place: which,
            unit,
            free,
            keep: kept,
            wanted,
            needed,
        } = evidence
        else {
            return false;
        };
        let (Some(policy), Some(seen)) = (&self.policy.headroom, self.leases.get(lease)) else {
            return false;
        };
        self.places().into_iter().any(|(place, room)| {
            let own: u64 = most(seen, policy, place).into_values().sum();
            let is_so = match unit {
                DiskUnit::Bytes => {
                    *free == room.free && *kept == keep(room, policy) && free.saturating_sub(*kept) < *wanted
                }
                DiskUnit::Inodes => *free == room.free_inodes && free < kept,
            };
            place == *which && is_so && *needed <= own && *wanted <= self.wanted(policy, place)
        })
    }
}

fn keep(room: Room, policy: &Headroom) -> u64 {
    room.total * u64::from(policy.free_percent) / 100
}

/// What each of its layers may still write there, at most.
fn most<'a>(seen: &'a Seen, policy: &Headroom, place: DiskPlace) -> BTreeMap<&'a Digest, u64> {
    let layers = seen.roots().into_iter().flat_map(|root| root.layers());
    layers
        .map(|layer| {
            let unpacked = layer.size * u64::from(policy.unpack_percent) / 100;
            let bytes = match place {
                DiskPlace::Content => layer.size,
                DiskPlace::Snapshots => unpacked,
                DiskPlace::Both => layer.size + unpacked,
            };
            (&layer.digest, bytes)
        })
        .collect()
}
