//! What the judge would say of a pull of the past, of which only a record is left: for trying a policy before it is in
//! force.
//!
//! A record does not tell all that the engine knew. So the judge is asked twice, about the smallest and about the largest
//! pull that fits the record; and of the ways in which the policy may apply, one was the real one. What all ways condemn at
//! the smallest size would have been stopped; what none condemns at the largest size would have gone on; the rest cannot be
//! told.

use std::sync::Arc;

use super::{Condemnation, Law, unanimous};
use crate::budget::Accounts;
use crate::evidence::Reason;
use crate::headroom::Disks;
use crate::ids::{CallId, Digest, IngestDir, IngestRef, LeaseKey, PullId, RepositoryName};
use crate::images::Images;
use crate::manifest::Layer;
use crate::orphans::Orphans;
use crate::owner::{LostPod, Owner, PullRequest};
use crate::policy::{Mode, Policy};
use crate::pull::{Declared, DeclaredImage, Ingest, Pull};
use crate::reference::Reference;
use crate::requests::{Asker, Owners};
use crate::time::Time;

/// What a record tells of a pull.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Who may have asked for it, and nobody else; empty: not known.
    pub owners: Vec<Owner>,
    /// Where containerd says that it comes from; empty: where the owners say.
    pub repositories: Vec<RepositoryName>,
    /// Its manifests and indexes, as far as known.
    pub digests: Vec<Digest>,
    /// Declared compressed bytes of all layers.
    pub declared: Option<u64>,
    /// Those of the largest layer that is known.
    pub largest: Option<u64>,
    /// No layer is larger than that.
    pub is_largest: bool,
    /// Bytes stored and bytes declared of a layer that has more than it should. None: there was none.
    pub overrun: Option<(u64, u64)>,
    /// Pods that were gone while it went on; it is taken to have gone on for longer than any grace.
    pub lost: Vec<LostPod>,
}

/// What the judge says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opinion {
    /// It would have been condemned.
    Condemned {
        /// Why.
        reason: Reason,
        /// Stopped, or only recorded.
        mode: Mode,
        /// The rule; none: the policy's defaults.
        rule: Option<String>,
    },
    /// It would have gone on.
    Spared,
    /// That hangs on what the record does not tell, which is at least one of these.
    Unknown(Vec<Missing>),
}

/// What a record does not tell, and the policy asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Missing {
    /// Which pod it was for.
    Owner,
    /// The labels of that pod.
    Labels,
    /// Where it came from.
    Repository,
    /// All of its digests.
    Digests,
    /// How large its image was declared.
    ImageSize,
    /// How large its largest layer was declared.
    LayerSize,
}

impl Missing {
    /// In words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Owner => "its pod",
            Self::Labels => "its pod's labels",
            Self::Repository => "its repository",
            Self::Digests => "all of its digests",
            Self::ImageSize => "its declared size",
            Self::LayerSize => "its largest layer",
        }
    }
}

/// Judges a pull of the past by `policy`. Of budgets, of disks, and of images that were stopped a short while before it knows nothing:
/// they hang on other pulls.
#[must_use]
pub fn judge(policy: &Policy, recorded: &Recorded) -> Opinion {
    let mut orphans = Orphans::default();
    let then = Time::default();
    for lost in &recorded.lost {
        orphans.lost(then, lost.clone());
    }
    let law = Law {
        now: then.after(policy.orphan_grace),
        policy,
        images: &Images::default(),
        accounts: &Accounts::default(),
        orphans: &orphans,
        disks: &Disks::default(),
        halted: false,
    };
    let smallest = law.ways(&recorded.pull(Bound::Least), false);
    if let Some(verdict) = unanimous(smallest.into_iter()) {
        return Opinion::Condemned {
            reason: verdict.reason,
            mode: verdict.mode,
            rule: verdict.rule,
        };
    }
    let largest: Vec<Option<Condemnation>> = law.ways(&recorded.pull(Bound::Most), false);
    if largest.iter().all(Option::is_none) {
        Opinion::Spared
    } else {
        Opinion::Unknown(recorded.missing(policy))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bound {
    Least,
    Most,
}

impl Recorded {
    /// The pull as it stood, as small or as large as it may have been.
    fn pull(&self, bound: Bound) -> Pull {
        let mut pull = Pull::new(PullId(0), LeaseKey::stand_in(), Time::default());
        let askers: Vec<Arc<Asker>> = self.owners.iter().map(asker).collect();
        let of_owners = askers
            .iter()
            .filter_map(|asker| asker.reference.as_ref()?.label());
        let mut repositories = self.repositories.clone();
        if repositories.is_empty() {
            repositories.extend(of_owners);
        }
        pull.owners = match askers.as_slice() {
            [] => Owners::Unknown,
            [one] => Owners::Known(Arc::clone(one)),
            [_, _, ..] => Owners::OneOf(askers),
        };
        let mut roots = self.digests.clone();
        if roots.is_empty() && bound == Bound::Most {
            // A rule that denies by name has to name something.
            roots.push(Digest::stand_in());
        }
        let known = self.largest.unwrap_or_default();
        let (bytes, largest) = match bound {
            Bound::Least => (self.declared.or(self.largest), known),
            Bound::Most if self.is_largest => (self.declared.or(Some(u64::MAX)), known),
            Bound::Most => {
                let most = self.declared.unwrap_or(u64::MAX);
                (Some(most), known.max(most))
            }
        };
        let image = |bytes| DeclaredImage {
            manifest: self.digests.first().cloned().unwrap_or_else(Digest::stand_in),
            bytes,
            largest: Some(Layer {
                digest: Digest::stand_in(),
                size: largest,
            }),
        };
        pull.declared = Declared {
            images: bytes.map(image).into_iter().collect(),
            repositories,
            roots,
            ..Declared::default()
        };
        if let Some((stored, declared)) = self.overrun {
            let ingest = Ingest {
                dir: IngestDir::from_hash([0; 32]),
                digest: None,
                offset: stored,
                highest: stored,
                total: declared,
                gone: true,
            };
            pull.ingests.insert(IngestRef::stand_in(), ingest);
        }
        pull
    }

    /// What it does not tell of what the policy asks for.
    fn missing(&self, policy: &Policy) -> Vec<Missing> {
        let asks =
            |what: fn(&crate::policy::Selector) -> bool| policy.rules.iter().any(|rule| what(&rule.selector));
        let is_owner_known = matches!(self.owners.as_slice(), [one] if one.pod.is_some());
        let is_image_known = !self.owners.is_empty() || self.repositories.len() == 1;
        let about = [
            (
                Missing::Owner,
                !is_owner_known && asks(|one| !one.namespaces.is_empty()),
            ),
            (Missing::Labels, asks(|one| !one.labels.is_empty())),
            (
                Missing::Repository,
                !is_image_known && asks(|one| !one.images.is_empty()),
            ),
            (Missing::Digests, asks(|one| !one.digests.is_empty())),
            (Missing::ImageSize, self.declared.is_none()),
            (Missing::LayerSize, !self.is_largest),
        ];
        about
            .into_iter()
            .filter_map(|(what, is_missing)| is_missing.then_some(what))
            .collect()
    }
}

fn asker(owner: &Owner) -> Arc<Asker> {
    Arc::new(Asker {
        call: CallId(0),
        reference: Reference::parse(owner.image.as_str()).ok(),
        request: PullRequest {
            image: owner.image.clone(),
            pod: owner.pod.clone(),
            labels: None,
            certain: true,
        },
    })
}

#[cfg(test)]
mod tests;
