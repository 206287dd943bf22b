//! From what is known of a pull to a verdict, by policy alone.
//!
//! A pull is condemned only if every way in which the policy may apply to it condemns it, and enforced only if every
//! way says enforce.

use crate::evidence::{Evidence, Reason};
use crate::ids::PodNamespace;
use crate::policy::{Limits, Mode, Policy, RuleVerdict};
use crate::pull::{Pull, Verdict};

/// Judges `pull` anew; `namespace` is its pod's, where that is known. What a person asked for stands, unless the policy
/// wanted the same before.
pub(crate) fn judge(policy: &Policy, pull: &Pull, namespace: Option<&PodNamespace>) -> Option<Verdict> {
    let by_policy = by_policy(policy, pull, namespace);
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

fn by_policy(policy: &Policy, pull: &Pull, namespace: Option<&PodNamespace>) -> Option<Verdict> {
    let mut verdict: Option<Verdict> = None;
    for way in policy.applied(namespace, &pull.declared.repositories) {
        let (mode, limits) = match way.verdict {
            RuleVerdict::Exempt => return None,
            RuleVerdict::Limit { mode, limits } => (mode, limits),
        };
        let (reason, fact) = too_large(&limits, pull).or_else(|| overrun(&limits, pull))?;
        match &mut verdict {
            Some(earlier) => earlier.mode = earlier.mode.min(mode),
            None => {
                verdict = Some(Verdict {
                    reason,
                    mode,
                    rule: way.rule.map(ToOwned::to_owned),
                    evidence: vec![fact],
                });
            }
        }
    }
    verdict
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

fn too_large(limits: &Limits, pull: &Pull) -> Option<(Reason, Evidence)> {
    for image in &pull.declared.images {
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
