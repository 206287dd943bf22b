//! A judge of the checker's own, written from the words of DESIGN.md §4 and §5 and not from the engine's code.

use std::collections::BTreeMap;

use super::{Checker, Seen};
use crate::evidence::{Evidence, Source};
use crate::ids::{Digest, LeaseKey, RepositoryName};
use crate::manifest::{Manifest, ManifestBody};
use crate::policy::{Limits, Mode, Policy, RuleVerdict};

/// Whether and how the policy speaks against a pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tests) enum Condemned {
    No,
    Observed,
    Enforced,
}

impl Checker {
    /// What the policy in force says of a lease that the last look showed.
    pub(in crate::tests) fn by_policy(&self, lease: &LeaseKey) -> Condemned {
        let Some(seen) = self.leases.get(lease) else {
            return Condemned::No;
        };
        let roots = seen.roots();
        let mut repositories: Vec<&RepositoryName> =
            roots.iter().flat_map(|root| &root.repositories).collect();
        repositories.sort();
        repositories.dedup();
        let mut enforced = true;
        for way in ways(&self.policy, &repositories) {
            let RuleVerdict::Limit { mode, limits } = way else {
                return Condemned::No;
            };
            if !seen.breaks(&limits) {
                return Condemned::No;
            }
            enforced &= mode == Mode::Enforce;
        }
        if enforced {
            Condemned::Enforced
        } else {
            Condemned::Observed
        }
    }

    /// Whether levers may be pulled for it: by policy, or because a person asked.
    pub(super) fn must_stop(&self, lease: &LeaseKey) -> bool {
        self.by_policy(lease) == Condemned::Enforced
            || self.leases.get(lease).is_some_and(|seen| !seen.asked.is_empty())
    }

    /// Whether this piece of evidence is what its source said.
    pub(super) fn is_true(&self, lease: &LeaseKey, evidence: &Evidence) -> bool {
        let Some(seen) = self.leases.get(lease) else {
            return false;
        };
        match evidence {
            Evidence::DeclaredImage {
                manifest,
                declared,
                limit,
            } => seen
                .image(manifest)
                .is_some_and(|image| bytes(image) == *declared && declared > limit),
            Evidence::DeclaredLayer {
                manifest,
                layer,
                declared,
                limit,
            } => seen.image(manifest).is_some_and(|image| {
                declared > limit
                    && image
                        .layers()
                        .iter()
                        .any(|one| one.digest == *layer && one.size == *declared)
            }),
            Evidence::IngestOverrun {
                ingest,
                offset,
                total,
            } => seen.ingests.get(ingest).is_some_and(|held| {
                offset > total && held.offset >= *offset && seen.declared_for(held) == Some(*total)
            }),
            Evidence::SocketFeeds { socket, ingest, .. } => match evidence.source() {
                Source::Probes => self.feeds.get(&socket.cookie).is_some_and(|(feed, _)| {
                    feed.socket == *socket
                        && self.view.ingests.iter().any(|view| {
                            view.dir == feed.dir
                                && view.key.reference == *ingest
                                && view.key.namespace == lease.namespace
                        })
                        && self
                            .owners
                            .get(&feed.dir)
                            .is_some_and(|owners| owners.contains(lease))
                }),
                Source::SocketTable => {
                    let listed = self.listed.iter().flatten();
                    listed
                        .filter(|stat| stat.established)
                        .any(|stat| stat.socket == *socket)
                        && self
                            .view
                            .leases
                            .iter()
                            .any(|one| one.key == *lease && one.ingests.contains(ingest))
                }
                Source::Containerd | Source::Operator => false,
            },
            // The number is that of the moment in which the person asked.
            Evidence::LeaseInFlight { .. } => true,
            Evidence::SocketsOpen { .. } => false,
            Evidence::Asked { actor } => seen.asked.contains(actor),
        }
    }
}

impl Seen {
    /// Its documents, without those that another one names as a layer or config.
    fn roots(&self) -> Vec<&Manifest> {
        let used = |digest: &Digest| {
            self.manifests.values().any(|other| match &other.body {
                ManifestBody::Image { config, layers } => {
                    config == digest || layers.iter().any(|layer| layer.digest == *digest)
                }
                ManifestBody::Index { .. } => false,
            })
        };
        self.manifests.values().filter(|one| !used(&one.digest)).collect()
    }

    fn image(&self, digest: &Digest) -> Option<&Manifest> {
        self.roots().into_iter().find(|root| root.digest == *digest)
    }

    fn declared_for(&self, held: &super::Held) -> Option<u64> {
        if held.total > 0 {
            return Some(held.total);
        }
        let digest = held.digest.as_ref()?;
        self.roots()
            .into_iter()
            .flat_map(Manifest::layers)
            .filter(|layer| layer.digest == *digest)
            .map(|layer| layer.size)
            .max()
    }

    fn breaks(&self, limits: &Limits) -> bool {
        let over = |bytes: u64, limit: Option<u64>| limit.is_some_and(|limit| bytes > limit);
        self.roots().into_iter().any(|root| {
            over(bytes(root), limits.image)
                || root.layers().iter().any(|layer| over(layer.size, limits.layer))
        }) || self.ingests.values().any(|held| {
            limits.overrun.is_some_and(|allowance| {
                self.declared_for(held)
                    .is_some_and(|total| held.offset > total.saturating_add(allowance))
            })
        })
    }
}

/// Declared bytes, each layer once.
fn bytes(image: &Manifest) -> u64 {
    let once: BTreeMap<&Digest, u64> = image
        .layers()
        .iter()
        .map(|layer| (&layer.digest, layer.size))
        .collect();
    once.values().sum()
}

/// Every verdict that may apply, the namespace of the pod being unknown.
fn ways(policy: &Policy, repositories: &[&RepositoryName]) -> Vec<RuleVerdict> {
    let mut ways = Vec::new();
    for rule in &policy.rules {
        let hits = repositories
            .iter()
            .filter(|name| rule.images.iter().any(|pattern| pattern.matches(name.as_str())))
            .count();
        let surely_not = !rule.images.is_empty() && !repositories.is_empty() && hits == 0;
        if surely_not {
            continue;
        }
        ways.push(rule.verdict);
        let every_image = rule.images.is_empty() || (hits > 0 && hits == repositories.len());
        if every_image && rule.namespaces.is_empty() {
            return ways;
        }
    }
    ways.push(policy.fallback);
    ways
}
