//! From what is known of a pull to a verdict, by policy alone.
//!
//! A pull is condemned only if every way in which the policy may apply to it condemns it, whoever may have asked for
//! it, and enforced only if every way says enforce.

pub mod trial;

use std::sync::Arc;

use crate::budget::Accounts;
use crate::evidence::{Evidence, Reason};
use crate::headroom::Disks;
use crate::ids::{Digest, ImageName, RepositoryName};
use crate::images::{Denial, Images};
use crate::orphans::Orphans;
use crate::policy::{Applied, Limits, Mode, Policy, RuleVerdict, Subject};
use crate::pull::{DeclaredImage, Pull, Verdict};
use crate::reference::Reference;
use crate::requests::{Asker, Owners};
use crate::starvation::Starvation;
use crate::time::Time;

/// What a judgement hangs on beside the pull itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Law<'a> {
    pub(crate) now: Time,
    pub(crate) policy: &'a Policy,
    pub(crate) images: &'a Images,
    pub(crate) accounts: &'a Accounts,
    pub(crate) orphans: &'a Orphans,
    pub(crate) disks: &'a Disks,
    pub(crate) starvation: &'a Starvation,
    /// The kill switch is on: whatever is condemned is only observed.
    pub(crate) halted: bool,
}

/// One way in which the policy condemns.
struct Condemnation {
    reason: Reason,
    mode: Mode,
    rule: Option<String>,
    fact: Evidence,
}

impl Law<'_> {
    /// Judges `pull` anew. What a person asked for stands, unless the policy wanted the same before.
    pub(crate) fn judge(&self, pull: &Pull) -> Option<Verdict> {
        self.judged(pull).map(|verdict| self.if_allowed(verdict))
    }

    fn if_allowed(&self, verdict: Verdict) -> Verdict {
        Verdict {
            mode: if self.halted { Mode::Observe } else { verdict.mode },
            ..verdict
        }
    }

    fn judged(&self, pull: &Pull) -> Option<Verdict> {
        let by_policy = self.by_policy(pull);
        let Some(actor) = &pull.asked else {
            return by_policy;
        };
        let earlier = pull
            .verdict
            .as_ref()
            .filter(|verdict| verdict.reason == Reason::Operator);
        if earlier.is_none()
            && by_policy
                .as_ref()
                .is_some_and(|verdict| verdict.mode == Mode::Enforce)
        {
            return by_policy;
        }
        Some(
            earlier
                .cloned()
                .unwrap_or_else(|| by_operator(pull, actor.clone())),
        )
    }

    /// What the verifier is told of an image that nobody has begun to fetch; `askers` are all who may be asking, `None`
    /// among them somebody unknown.
    pub(crate) fn verify(&self, image: &ImageName, digest: &Digest, askers: &Owners) -> Option<Verdict> {
        let reference = Reference::parse(image.as_str()).ok();
        let from = reference.as_ref().and_then(Reference::label);
        // Which image of an index this node wants is not known: each must be condemned.
        let images: Vec<Option<&DeclaredImage>> = match self.images.declared(digest) {
            none if none.is_empty() => vec![None],
            some => some.into_iter().map(Some).collect(),
        };
        let cases = askers
            .hypotheses()
            .into_iter()
            .flat_map(|asker| images.iter().map(move |image| (asker, *image)));
        let verdict = unanimous(cases.flat_map(|(asker, image)| {
            let manifest = image
                .map(|image| &image.manifest)
                .filter(|manifest| *manifest != digest);
            let digests: Vec<&Digest> = std::iter::once(digest).chain(manifest).collect();
            let subject = Subject {
                reference: reference.as_ref(),
                digests: &digests,
                all_digests: image.is_some(),
                ..subject_of(asker)
            };
            let image = image.as_slice();
            self.policy
                .applied(&subject)
                .into_iter()
                .map(|way| {
                    self.by_digest(&way, &digests, image, from.as_slice())
                        .or_else(|| by_size(&way, image))
                })
                .collect::<Vec<_>>()
        }));
        verdict.map(|verdict| self.if_allowed(verdict))
    }

    /// What the gateway is told of a pull of which containerd has not heard yet.
    pub(crate) fn admit(&self, asker: &Arc<Asker>) -> Option<Verdict> {
        let digest = asker.reference.as_ref().and_then(Reference::digest);
        let known = digest.and_then(|digest| {
            let asker = Owners::Known(Arc::clone(asker));
            self.verify(&asker.known()?.request.image, digest, &asker)
        });
        known.or_else(|| {
            let from = asker.reference.as_ref().and_then(Reference::label);
            let digests: Vec<&Digest> = digest.into_iter().collect();
            let subject = Subject {
                digests: &digests,
                ..subject_of(Some(asker.as_ref()))
            };
            let ways = self.policy.applied(&subject).into_iter().map(|way| {
                self.by_digest(&way, &digests, &[], from.as_slice())
                    .or_else(|| self.by_orphan(&way, Some(asker.as_ref())))
            });
            unanimous(ways).map(|verdict| self.if_allowed(verdict))
        })
    }

    fn by_policy(&self, pull: &Pull) -> Option<Verdict> {
        let verdict = unanimous(self.ways(pull, !pull.declared.images.is_empty()).into_iter());
        let asked = pull.asker().map(|asker| Evidence::AskedFor {
            image: asker.request.image.clone(),
            pod: asker.request.pod.clone(),
        });
        verdict.map(|mut verdict| {
            verdict.evidence.extend(asked);
            verdict
        })
    }

    /// What each way says in which the policy may apply, whoever may have asked; `all_digests`: those that are known of
    /// the pull are all it has.
    fn ways(&self, pull: &Pull, all_digests: bool) -> Vec<Option<Condemnation>> {
        let images: Vec<&DeclaredImage> = pull.declared.images.iter().collect();
        let digests: Vec<&Digest> = pull.declared.roots.iter().collect();
        let askers = pull.owners.hypotheses().into_iter();
        let ways = askers.flat_map(|asker| {
            let subject = Subject {
                all_digests,
                ..subject_of_pull(pull, &digests, asker)
            };
            self.policy
                .applied(&subject)
                .into_iter()
                .map(|way| {
                    let condemned = self
                        .by_digest(&way, &digests, &images, &pull.declared.repositories)
                        .or_else(|| by_size(&way, &images))
                        .or_else(|| by_overrun(&way, pull))
                        .or_else(|| self.by_orphan(&way, asker));
                    match condemned {
                        Some(Condemnation {
                            mode: Mode::Enforce, ..
                        }) => condemned,
                        Some(_) | None => self
                            .by_budget(&way, pull, asker)
                            .or_else(|| self.by_headroom(&way, pull))
                            .or_else(|| self.by_starvation(&way, pull))
                            .or(condemned),
                    }
                })
                .collect::<Vec<_>>()
        });
        ways.collect()
    }

    /// What is said of the image itself: a rule denies it, or it was stopped a short while ago for a reason that would
    /// hold again.
    fn by_digest(
        &self,
        way: &Applied<'_>,
        digests: &[&Digest],
        images: &[&DeclaredImage],
        repositories: &[RepositoryName],
    ) -> Option<Condemnation> {
        let condemned = |reason, mode, fact| Condemnation {
            reason,
            mode,
            rule: way.rule.map(ToOwned::to_owned),
            fact,
        };
        match way.verdict {
            RuleVerdict::Exempt => None,
            RuleVerdict::Deny { mode } => {
                let by_repository = repositories.first().map(ToString::to_string);
                let image = by_repository.or_else(|| digests.first().map(ToString::to_string))?;
                Some(condemned(
                    Reason::DeniedByRule,
                    mode,
                    Evidence::DeniedImage { image },
                ))
            }
            RuleVerdict::Limit { mode, limits } => {
                let denied = self.images.denied(self.now, digests.iter().copied());
                let again =
                    |(_, denial): &(&Digest, &Denial)| holds_again(denial, &limits, images, repositories);
                denied.into_iter().find(again).map(|(manifest, denial)| {
                    let fact = Evidence::StoppedBefore {
                        manifest: manifest.clone(),
                        reason: denial.reason,
                        seconds_left: denial.until.since(self.now).as_secs(),
                    };
                    condemned(Reason::DeniedRecently, mode, fact)
                })
            }
        }
    }

    /// Whoever asked is gone. An asker that is not known may be anybody.
    fn by_orphan(&self, way: &Applied<'_>, asker: Option<&Asker>) -> Option<Condemnation> {
        let mode = match way.verdict {
            RuleVerdict::Exempt => return None,
            RuleVerdict::Deny { mode } | RuleVerdict::Limit { mode, .. } => mode,
        };
        let fact = self
            .orphans
            .orphaned(self.now, self.policy.orphan_grace, asker?)?;
        Some(Condemnation {
            reason: Reason::Orphaned,
            mode,
            rule: way.rule.map(ToOwned::to_owned),
            fact,
        })
    }

    /// Whether no rule that may apply exempts it.
    pub(crate) fn may_stop(&self, pull: &Pull) -> bool {
        let digests: Vec<&Digest> = pull.declared.roots.iter().collect();
        pull.owners.hypotheses().into_iter().all(|asker| {
            let subject = subject_of_pull(pull, &digests, asker);
            let ways = self.policy.applied(&subject);
            ways.iter().all(|way| way.verdict != RuleVerdict::Exempt)
        })
    }

    fn by_headroom(&self, way: &Applied<'_>, pull: &Pull) -> Option<Condemnation> {
        let mode = self.policy.headroom.as_ref()?.mode;
        by_others(way, Reason::NoDiskHeadroom, mode, self.disks.chosen(pull.id)?)
    }

    fn by_starvation(&self, way: &Applied<'_>, pull: &Pull) -> Option<Condemnation> {
        let mode = self.policy.starving.as_ref()?.mode;
        by_others(
            way,
            Reason::StarvingOthers,
            mode,
            self.starvation.chosen(pull.id)?,
        )
    }

    fn by_budget(&self, way: &Applied<'_>, pull: &Pull, asker: Option<&Asker>) -> Option<Condemnation> {
        if way.verdict == RuleVerdict::Exempt {
            return None;
        }
        let namespace = &asker?.request.pod.as_ref()?.namespace;
        let (mode, budget, fact) = self
            .accounts
            .exceeded(self.now, self.policy, namespace, pull.id)?;
        Some(Condemnation {
            reason: Reason::NamespaceBudget,
            mode,
            rule: Some(budget),
            fact,
        })
    }
}

/// As if those digests that are known were all it has.
fn subject_of_pull<'a>(pull: &'a Pull, digests: &'a [&'a Digest], asker: Option<&'a Asker>) -> Subject<'a> {
    Subject {
        repositories: &pull.declared.repositories,
        digests,
        all_digests: !pull.declared.images.is_empty(),
        ..subject_of(asker)
    }
}

/// Chosen for what other pulls need; what is exempt is never chosen.
fn by_others(way: &Applied<'_>, reason: Reason, mode: Mode, fact: &Evidence) -> Option<Condemnation> {
    (way.verdict != RuleVerdict::Exempt).then(|| Condemnation {
        reason,
        mode,
        rule: None,
        fact: fact.clone(),
    })
}

fn subject_of(asker: Option<&Asker>) -> Subject<'_> {
    let request = asker.map(|asker| &asker.request);
    let pod = request.and_then(|request| request.pod.as_ref());
    Subject {
        namespace: pod.map(|pod| &pod.namespace),
        labels: pod.and(request).and_then(|request| request.labels.as_ref()),
        reference: asker.and_then(|asker| asker.reference.as_ref()),
        ..Subject::default()
    }
}

/// One verdict of all ways, none if one of them does not condemn. The first names reason and rule; observed if one way
/// only observes.
fn unanimous(ways: impl Iterator<Item = Option<Condemnation>>) -> Option<Verdict> {
    let mut verdict: Option<Verdict> = None;
    for way in ways {
        let Condemnation {
            reason,
            mode,
            rule,
            fact,
        } = way?;
        match &mut verdict {
            Some(earlier) => earlier.mode = earlier.mode.min(mode),
            None => {
                verdict = Some(Verdict {
                    reason,
                    mode,
                    rule,
                    evidence: vec![fact],
                });
            }
        }
    }
    verdict
}

/// Whether what an image was stopped for would stop it under these limits, too: another namespace may allow more.
fn holds_again(
    denial: &Denial,
    limits: &Limits,
    images: &[&DeclaredImage],
    repositories: &[RepositoryName],
) -> bool {
    match denial.reason {
        Reason::ImageTooLarge | Reason::LayerTooLarge => too_large(limits, images).is_some(),
        // Who sent too much is a registry: the same image from another one is innocent, and where there are two, it
        // is not known which it was.
        Reason::LayerOverrunsManifest => {
            limits.overrun.is_some()
                && denial
                    .from
                    .as_ref()
                    .is_some_and(|from| repositories == [from.clone()])
        }
        // These say nothing of the image.
        Reason::DeniedByRule
        | Reason::DeniedRecently
        | Reason::NamespaceBudget
        | Reason::NoDiskHeadroom
        | Reason::StarvingOthers
        | Reason::Orphaned
        | Reason::Operator => false,
    }
}

fn by_size(way: &Applied<'_>, images: &[&DeclaredImage]) -> Option<Condemnation> {
    by_limits(way, |limits| too_large(limits, images))
}

fn by_overrun(way: &Applied<'_>, pull: &Pull) -> Option<Condemnation> {
    by_limits(way, |limits| overrun(limits, pull))
}

fn by_limits(
    way: &Applied<'_>,
    exceeded: impl Fn(&Limits) -> Option<(Reason, Evidence)>,
) -> Option<Condemnation> {
    let RuleVerdict::Limit { mode, limits } = way.verdict else {
        return None;
    };
    let (reason, fact) = exceeded(&limits)?;
    Some(Condemnation {
        reason,
        mode,
        rule: way.rule.map(ToOwned::to_owned),
        fact,
    })
}

/// The verdict that a person asked for; it needs no limit and no mode.
fn by_operator(pull: &Pull, actor: String) -> Verdict {
    let ingests = u64::try_from(pull.live_ingests().count()).unwrap_or(u64::MAX);
    Verdict {
        reason: Reason::Operator,
        mode: Mode::Enforce,
        rule: None,
        evidence: vec![Evidence::Asked { actor }, Evidence::LeaseInFlight { ingests }],
    }
}

fn too_large(limits: &Limits, images: &[&DeclaredImage]) -> Option<(Reason, Evidence)> {
    for image in images {
        if let Some(limit) = limits.image
            && image.bytes > limit
        {
            let fact = Evidence::DeclaredImage {
                manifest: image.manifest.clone(),
                declared: image.bytes,
                limit,
            };
            return Some((Reason::ImageTooLarge, fact));
        }
        if let (Some(limit), Some(layer)) = (limits.layer, &image.largest)
            && layer.size > limit
        {
            let fact = Evidence::DeclaredLayer {
                manifest: image.manifest.clone(),
                layer: layer.digest.clone(),
                declared: layer.size,
                limit,
            };
            return Some((Reason::LayerTooLarge, fact));
        }
    }
    None
}

fn overrun(limits: &Limits, pull: &Pull) -> Option<(Reason, Evidence)> {
    let allowance = limits.overrun?;
    // Also where the ingest is gone by now: the end of an overrun is no excuse.
    pull.ingests.iter().find_map(|(reference, ingest)| {
        let total = pull.declared_for(ingest)?;
        (ingest.highest > total.saturating_add(allowance)).then(|| {
            let fact = Evidence::IngestOverrun {
                ingest: reference.clone(),
                offset: ingest.highest,
                total,
            };
            (Reason::LayerOverrunsManifest, fact)
        })
    })
}
