//! What a person reads in the error of a pull that was not let through: reason, limit, what was found, and what to do.

use crate::action::{Refusal, RefusalKind};
use crate::evidence::Reason;
use crate::pull::Verdict;

/// Characters of a policy's revision that are enough to find it.
const REVISION: usize = 19;

/// For the caller of a pull.
pub(crate) fn refusal(verdict: &Verdict, revision: &str) -> Refusal {
    Refusal {
        kind: kind(verdict.reason),
        text: text(verdict, revision),
    }
}

/// Too much of something, or not wanted.
const fn kind(reason: Reason) -> RefusalKind {
    match reason {
        Reason::ImageTooLarge
        | Reason::LayerTooLarge
        | Reason::LayerOverrunsManifest
        | Reason::NoDiskHeadroom
        | Reason::NamespaceBudget => RefusalKind::Exhausted,
        Reason::DeniedByRule
        | Reason::DeniedRecently
        | Reason::StarvingOthers
        | Reason::Orphaned
        | Reason::Operator => RefusalKind::Denied,
    }
}

/// Why, and the way to an exemption.
pub(crate) fn text(verdict: &Verdict, revision: &str) -> String {
    let fact = verdict
        .evidence
        .first()
        .map(ToString::to_string)
        .unwrap_or_default();
    if verdict.reason == Reason::Operator {
        return format!(
            "magi: operator: {fact}. Nothing keeps it from being pulled again; ask this node's operators why"
        );
    }
    let rule = verdict.rule.as_ref().map_or_else(
        || "the policy's defaults".to_owned(),
        |rule| format!("rule {rule}"),
    );
    let revision: String = revision.chars().take(REVISION).collect();
    format!(
        "magi: {}: {fact} ({rule}). To get an exemption, have this cluster's operators add a rule with `exempt: true` or \
         larger limits for this image to magi's pull policy (revision {revision})",
        verdict.reason
    )
}
