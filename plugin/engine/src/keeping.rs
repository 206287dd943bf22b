//! What is kept of orphaned pulls: their finished layers, for whoever creates the pod again.
//!
//! Upstream's objection to cancelling a pull is that finished layers are thrown away. So they are held for a while, by a
//! lease of magi's own, which containerd itself lets expire should magi be gone by then.
//!
//! Changed by: a lever that ends an orphaned pull, what became of the wish to keep, time, a disk that is short, and a
//! policy that keeps less.

use std::collections::{BTreeMap, BTreeSet};

use crate::action::{Action, Effects, Hold};
use crate::audit::{AuditRecord, Entry, PullFacts};
use crate::bounds::{MAX_KEEPS, MAX_KEPT_RESOURCES};
use crate::event::Room;
use crate::ids::{Digest, KeepId};
use crate::policy::Policy;
use crate::pull::Pull;
use crate::time::Time;

/// What is held, and how much room there is.
#[derive(Debug, Default)]
pub(crate) struct Keeping {
    kept: BTreeMap<KeepId, Kept>,
    counted: u64,
    disk: Option<Room>,
}

#[derive(Debug)]
struct Kept {
    hold: Hold,
    facts: PullFacts,
    bytes: u64,
    layers: u64,
}

impl Keeping {
    /// An orphaned pull is about to end: wishes to keep what is finished of it, as far as the policy allows.
    pub(crate) fn keep(&mut self, now: Time, policy: &Policy, pull: &Pull, fx: &mut Effects) {
        if policy.orphan_keep.time.is_zero() || self.is_short(policy) || self.kept.len() >= MAX_KEEPS {
            return;
        }
        let Some(share) = Share::of(pull, policy.orphan_keep.bytes.saturating_sub(self.bytes())) else {
            return;
        };
        let hold = Hold {
            keep: KeepId(self.counted),
            namespace: pull.lease.namespace.clone(),
            until: now.after(policy.orphan_keep.time),
        };
        self.counted = self.counted.saturating_add(1);
        self.kept.insert(
            hold.keep,
            Kept {
                hold: hold.clone(),
                facts: pull.facts(),
                bytes: share.bytes,
                layers: share.layers,
            },
        );
        fx.push(Action::Keep {
            hold,
            content: share.content,
        });
    }

    /// Bytes that are held.
    fn bytes(&self) -> u64 {
        self.kept
            .values()
            .fold(0, |sum, one| sum.saturating_add(one.bytes))
    }

    /// containerd holds it now, or does not.
    pub(crate) fn came_back(
        &mut self,
        keep: KeepId,
        failed: Option<String>,
        policy: &Policy,
        fx: &mut Effects,
    ) {
        let Some(kept) = self.kept.get(&keep) else { return };
        let entry = Entry::Kept {
            layers: kept.layers,
            bytes: kept.bytes,
            until: kept.hold.until,
            failed: failed.clone(),
        };
        let pull = Some(kept.facts.clone());
        if failed.is_some() {
            self.kept.remove(&keep);
        }
        fx.push(Action::Record {
            record: AuditRecord {
                pull,
                policy: policy.revision.clone(),
                entry,
            },
        });
    }

    /// How full the file system of the blobs is.
    pub(crate) fn disk_seen(&mut self, room: Room, policy: &Policy, fx: &mut Effects) {
        self.disk = Some(room);
        if self.is_short(policy) {
            self.release("the disk is short", policy, fx);
        }
    }

    fn is_short(&self, policy: &Policy) -> bool {
        self.disk.is_some_and(|room| {
            let needed = u128::from(room.total) * u128::from(policy.orphan_keep.free_percent);
            u128::from(room.free) * 100 < needed
        })
    }

    /// Another policy is in force.
    pub(crate) fn policy_loaded(&mut self, policy: &Policy, fx: &mut Effects) {
        if policy.orphan_keep.time.is_zero()
            || self.bytes() > policy.orphan_keep.bytes
            || self.is_short(policy)
        {
            self.release("the policy keeps less", policy, fx);
        }
    }

    fn release(&mut self, why: &str, policy: &Policy, fx: &mut Effects) {
        for kept in std::mem::take(&mut self.kept).into_values() {
            fx.push(Action::Record {
                record: AuditRecord {
                    pull: Some(kept.facts),
                    policy: policy.revision.clone(),
                    entry: Entry::Released { why: why.to_owned() },
                },
            });
            fx.push(Action::Release { hold: kept.hold });
        }
    }

    /// containerd lets go of what has expired by itself.
    pub(crate) fn forget_old(&mut self, now: Time) {
        self.kept.retain(|_, one| one.hold.until > now);
    }

    /// When the next one expires.
    pub(crate) fn next_expiry(&self) -> Option<Time> {
        self.kept.values().map(|one| one.hold.until).min()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.kept.len()
    }
}

/// What of a pull is kept.
struct Share {
    content: Vec<Digest>,
    layers: u64,
    bytes: u64,
}

impl Share {
    /// At most so many bytes; none: there is nothing that is worth it.
    fn of(pull: &Pull, most: u64) -> Option<Self> {
        let finished: Vec<(&Digest, u64)> = pull
            .declared
            .layers
            .iter()
            .filter(|(digest, _)| pull.content.contains(*digest))
            .map(|(digest, size)| (digest, *size))
            .collect();
        let mut share = Self {
            content: Vec::new(),
            layers: 0,
            bytes: 0,
        };
        let mut is_whole = true;
        for (digest, size) in finished {
            let bytes = share.bytes.saturating_add(size);
            if bytes > most || share.content.len() >= MAX_KEPT_RESOURCES {
                is_whole = false;
                continue;
            }
            share.bytes = bytes;
            share.layers = share.layers.saturating_add(1);
            share.content.push(digest.clone());
        }
        // A manifest holds whatever of its layers is there, so it is kept only if all of them are.
        if is_whole {
            let layers: BTreeSet<&Digest> = pull.declared.layers.keys().collect();
            let documents = pull.content.iter().filter(|digest| !layers.contains(digest));
            let room = MAX_KEPT_RESOURCES.saturating_sub(share.content.len());
            share.content.extend(documents.take(room).cloned());
        }
        (share.layers > 0).then_some(share)
    }
}
