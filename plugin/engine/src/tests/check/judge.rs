//! A judge of the checker's own, written from the words of DESIGN.md §4 and §5 and not from the engine's code.

use std::collections::BTreeMap;

use super::{Checker, Seen};
use crate::evidence::{Evidence, Reason, Source};
use crate::ids::{Digest, ImageName, LeaseKey, RepositoryName};
use crate::manifest::{Manifest, ManifestBody};
use crate::owner::PullRequest;
use crate::policy::{Limits, Mode, Pattern, Policy, Rule, RuleVerdict, Selector};
use crate::reference::Reference;
use crate::switch::SwitchHolder;

/// Whether and how the policy speaks against a pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::tests) enum Condemned {
    No,
    Observed,
    Enforced,
}

impl From<Mode> for Condemned {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Observe => Self::Observed,
            Mode::Enforce => Self::Enforced,
        }
    }
}

/// A pull, or an image before its first byte, as a policy sees it. What is empty or none is not known.
struct Case<'a> {
    request: Option<&'a PullRequest>,
    reference: Option<Reference>,
    repositories: Vec<&'a RepositoryName>,
    /// Manifests and indexes; and whether these are all.
    digests: Vec<&'a Digest>,
    all_digests: bool,
}

impl Checker {
    /// What the policy in force says of a lease that the last look showed.
    pub(in crate::tests) fn by_policy(&self, lease: &LeaseKey) -> Condemned {
        let Some(seen) = self.leases.get(lease) else {
            return Condemned::No;
        };
        let hypotheses = self.hypotheses(lease).into_iter();
        hypotheses
            .map(|request| self.as_asked_by(lease, seen, request))
            .chain(self.switched_off())
            .min()
            .unwrap_or(Condemned::No)
    }

    fn as_asked_by(&self, lease: &LeaseKey, seen: &Seen, request: Option<&PullRequest>) -> Condemned {
        let roots = seen.roots();
        let case = Case {
            request,
            reference: request.and_then(|request| Reference::parse(request.image.as_str()).ok()),
            repositories: seen.repositories(),
            digests: roots.iter().map(|root| &root.digest).collect(),
            all_digests: roots.iter().any(|root| is_image(root)),
        };
        // These hang on what other pulls do.
        let by_others = self.over_budget(lease).max(self.is_in_the_way(lease));
        let orphaned = |mode: Mode| {
            let lost = request.is_some_and(|request| self.is_lost(request));
            if lost { mode.into() } else { Condemned::No }
        };
        ways(&self.policy, &case)
            .into_iter()
            .map(|way| match way {
                RuleVerdict::Exempt => Condemned::No,
                // Nobody may have it: but what it is must be known.
                RuleVerdict::Deny { mode } if !roots.is_empty() => Condemned::from(mode).max(by_others),
                RuleVerdict::Deny { mode } => by_others.max(orphaned(mode)),
                RuleVerdict::Limit { mode, limits } => {
                    let broken = seen.breaks(&limits) || self.is_denied(&limits, &roots, &case.repositories);
                    let by_limits = if broken { mode.into() } else { Condemned::No };
                    by_limits.max(by_others).max(orphaned(mode))
                }
            })
            .min()
            .unwrap_or(Condemned::No)
    }

    /// Whether one of these was stopped lately for what it is, and these limits would stop it again.
    fn is_denied(&self, limits: &Limits, roots: &[&Manifest], repositories: &[&RepositoryName]) -> bool {
        roots.iter().any(|root| {
            self.denials
                .get(&root.digest)
                .is_some_and(|denial| match denial.reason {
                    Reason::ImageTooLarge | Reason::LayerTooLarge => {
                        roots.iter().any(|one| is_large(one, limits))
                    }
                    // Who sent too much is the registry, not the image.
                    Reason::LayerOverrunsManifest => {
                        limits.overrun.is_some()
                            && denial.from.is_some()
                            && repositories.len() == 1
                            && denial.from.as_ref() == repositories.first().copied()
                    }
                    Reason::DeniedByRule
                    | Reason::DeniedRecently
                    | Reason::NamespaceBudget
                    | Reason::NoDiskHeadroom
                    | Reason::StarvingOthers
                    | Reason::Orphaned
                    | Reason::Operator => false,
                })
        })
    }

    /// The most that may be said while the kill switch is on.
    fn switched_off(&self) -> Option<Condemned> {
        // The stops that have opened the breaker were pulled before.
        let just_opened = self.has_just_opened;
        let counts = |holder: &&SwitchHolder| !(just_opened && **holder == SwitchHolder::Breaker);
        let mut holders = self.switched.iter().filter(counts);
        holders.next().map(|_| Condemned::Observed)
    }

    /// What must be answered to the verifier.
    pub(super) fn verified(&self, image: &ImageName, digest: &Digest) -> Condemned {
        self.verified_for(image, digest, self.may_verify(image))
    }

    /// What must be answered to the gateway: by the image's digest, if its name has one, and by the name.
    pub(super) fn admitted(&self, request: &PullRequest) -> Condemned {
        let reference = Reference::parse(request.image.as_str()).ok();
        let digest = reference.as_ref().and_then(Reference::digest);
        let by_digest = digest.map(|digest| self.verified_for(&request.image, digest, vec![Some(request)]));
        if let Some(condemned) = by_digest.filter(|condemned| *condemned != Condemned::No) {
            return condemned;
        }
        let case = Case {
            request: Some(request),
            reference: reference.clone(),
            repositories: Vec::new(),
            digests: digest.into_iter().collect(),
            all_digests: false,
        };
        let by_name = ways(&self.policy, &case).into_iter().map(|way| match way {
            RuleVerdict::Deny { mode } => mode.into(),
            RuleVerdict::Limit { mode, .. } if self.is_lost(request) => mode.into(),
            RuleVerdict::Exempt | RuleVerdict::Limit { .. } => Condemned::No,
        });
        by_name.chain(self.switched_off()).min().unwrap_or(Condemned::No)
    }

    fn verified_for(
        &self,
        image: &ImageName,
        digest: &Digest,
        askers: Vec<Option<&PullRequest>>,
    ) -> Condemned {
        let reference = Reference::parse(image.as_str()).ok();
        let label = reference.as_ref().and_then(|reference| {
            RepositoryName::new(format!(
                "{}/{}",
                reference.domain_without_port(),
                reference.path()
            ))
            .ok()
        });
        let images = self.images_of(digest);
        let each: Vec<Vec<&Manifest>> = if images.is_empty() {
            vec![Vec::new()]
        } else {
            images.into_iter().map(|image| vec![image]).collect()
        };
        let mut verdict = self.switched_off().unwrap_or(Condemned::Enforced);
        for request in askers {
            for image in &each {
                let case = Case {
                    request,
                    reference: reference.clone(),
                    repositories: Vec::new(),
                    digests: std::iter::once(digest)
                        .chain(image.iter().map(|image| &image.digest))
                        .collect(),
                    all_digests: !image.is_empty(),
                };
                let named: Vec<&Manifest> = image.iter().copied().chain(self.manifests.get(digest)).collect();
                for way in ways(&self.policy, &case) {
                    verdict = verdict.min(match way {
                        RuleVerdict::Exempt => Condemned::No,
                        RuleVerdict::Deny { mode } => mode.into(),
                        RuleVerdict::Limit { mode, limits } => {
                            let from: Vec<&RepositoryName> = label.iter().collect();
                            let broken = image.iter().any(|image| is_large(image, &limits))
                                || self.is_denied(&limits, &named, &from);
                            if broken { mode.into() } else { Condemned::No }
                        }
                    });
                }
            }
        }
        verdict
    }

    /// The image of a digest, or what its index lists, as far as it was told.
    pub(super) fn images_of(&self, digest: &Digest) -> Vec<&Manifest> {
        match self.manifests.get(digest) {
            Some(Manifest {
                body: ManifestBody::Index { manifests },
                ..
            }) => manifests
                .iter()
                .filter_map(|one| self.manifests.get(one))
                .filter(|one| is_image(one))
                .collect(),
            Some(image) => vec![image],
            None => Vec::new(),
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
                Source::Containerd
                | Source::Requests
                | Source::Nri
                | Source::Verifier
                | Source::Gateway
                | Source::Master
                | Source::Operator => false,
            },
            // The number is that of the moment in which the person asked.
            Evidence::LeaseInFlight { .. } => true,
            Evidence::SocketsOpen { .. } => false,
            Evidence::DeniedImage { image } => {
                let digests = seen.roots().into_iter().map(|root| root.digest.to_string());
                let names = seen.repositories().into_iter().map(ToString::to_string);
                digests.chain(names).any(|name| name == *image)
            }
            Evidence::StoppedBefore {
                manifest,
                reason,
                seconds_left,
            } => self.denials.get(manifest).is_some_and(|denial| {
                seen.roots().iter().any(|root| root.digest == *manifest)
                    && denial.reason == *reason
                    && denial.until.since(self.now).as_secs() == *seconds_left
            }),
            Evidence::BudgetUsed { .. } => self.is_used_up(lease, evidence),
            Evidence::DiskShort { .. } => self.is_short(lease, evidence),
            Evidence::HoldsSlots { .. } => self.holds_slots(lease, evidence),
            Evidence::AskedFor { image, pod } => {
                let owner = self.claims.get(lease).and_then(|claim| claim.owner.as_ref());
                owner.map_or_else(
                    || {
                        let mut asked = self.requests_for(lease);
                        asked.any(|one| one.image == *image && one.pod == *pod)
                    },
                    |owner| owner.image == *image && owner.pod == *pod,
                )
            }
            Evidence::CalledThrough { image, pod, calls } => {
                let mut hypotheses = self.hypotheses(lease).into_iter().flatten();
                *calls > 0 && hypotheses.any(|request| request.image == *image && request.pod == *pod)
            }
            Evidence::PodLost { pod, image, .. } => {
                self.hypotheses(lease).into_iter().flatten().any(|request| {
                    request.pod.as_ref() == Some(pod) && request.image == *image && self.is_lost(request)
                })
            }
            Evidence::Asked { actor } => seen.asked.contains(actor),
        }
    }
}

impl Seen {
    /// Its documents, without those that another one names as a layer or config.
    pub(super) fn roots(&self) -> Vec<&Manifest> {
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

    /// Where it may come from, each name once.
    pub(super) fn repositories(&self) -> Vec<&RepositoryName> {
        let roots = self.roots();
        let mut names: Vec<_> = roots.iter().flat_map(|root| &root.repositories).collect();
        names.sort();
        names.dedup();
        names
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
        self.roots().into_iter().any(|root| is_large(root, limits))
            || self.ingests.values().any(|held| {
                limits.overrun.is_some_and(|allowance| {
                    self.declared_for(held)
                        .is_some_and(|total| held.offset > total.saturating_add(allowance))
                })
            })
    }
}

fn is_image(manifest: &Manifest) -> bool {
    matches!(manifest.body, ManifestBody::Image { .. })
}

fn is_large(image: &Manifest, limits: &Limits) -> bool {
    let over = |bytes: u64, limit: Option<u64>| limit.is_some_and(|limit| bytes > limit);
    over(bytes(image), limits.image) || image.layers().iter().any(|layer| over(layer.size, limits.layer))
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

/// Every verdict that may apply: the first rule that surely matches, and those before it of which one cannot be sure.
fn ways(policy: &Policy, case: &Case<'_>) -> Vec<RuleVerdict> {
    let mut ways = Vec::new();
    for Rule {
        selector, verdict, ..
    } in &policy.rules
    {
        let parts = parts(selector, case);
        if parts.contains(&Some(false)) {
            continue;
        }
        ways.push(*verdict);
        if !parts.contains(&None) {
            return ways;
        }
    }
    ways.push(policy.fallback);
    ways
}

/// Whether each part of a selector matches; none: nobody knows.
fn parts(selector: &Selector, case: &Case<'_>) -> [Option<bool>; 4] {
    let pod = case.request.and_then(|request| request.pod.as_ref());
    let namespace = pod.map(|pod| any(&selector.namespaces, pod.namespace.as_str()));
    let labels = pod.and(case.request).and_then(|request| request.labels.as_ref());
    let labels = labels.map(|labels| {
        let mut wanted = selector.labels.iter();
        wanted.all(|(key, pattern)| labels.iter().any(|(k, v)| k == key && pattern.matches(v)))
    });
    let listed = case
        .digests
        .iter()
        .any(|digest| selector.digests.contains(digest));
    let digests = (listed || case.all_digests).then_some(listed);
    let unless_empty = |is_empty: bool, matches| if is_empty { Some(true) } else { matches };
    [
        unless_empty(selector.namespaces.is_empty(), namespace),
        unless_empty(selector.labels.is_empty(), labels),
        unless_empty(selector.images.is_empty(), image_matches(&selector.images, case)),
        unless_empty(selector.digests.is_empty(), digests),
    ]
}

fn any(patterns: &[Pattern], text: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(text))
}

/// The exact reference decides, with its port or without; else the names in containerd's labels, which lack the port.
fn image_matches(patterns: &[Pattern], case: &Case<'_>) -> Option<bool> {
    if let Some(reference) = &case.reference {
        let portless = format!("{}/{}", reference.domain_without_port(), reference.path());
        return Some(any(patterns, reference.repository().as_str()) || any(patterns, &portless));
    }
    let without_ports: Vec<Pattern> = patterns
        .iter()
        .filter_map(|pattern| {
            let (host, path) = String::from(pattern.clone())
                .split_once('/')
                .map(|(h, p)| (h.to_owned(), p.to_owned()))?;
            let (name, _port) = host.rsplit_once(':')?;
            Some(Pattern::new(&format!("{name}/{path}")))
        })
        .collect();
    let each = case.repositories.iter().map(|name| {
        if any(patterns, name.as_str()) {
            Some(true)
        } else if any(&without_ports, name.as_str()) {
            None
        } else {
            Some(false)
        }
    });
    each.reduce(|one, other| if one == other { one } else { None })
        .flatten()
}
