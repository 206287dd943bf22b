//! What the image verifier is told, before the first byte.

use super::Engine;
use crate::action::{Action, Answer, Effects};
use crate::audit::Entry;
use crate::bounds::{MAX_DENIALS, REFUSAL_RECORDED_EVERY};
use crate::evidence::Source;
use crate::ids::{Digest, ImageName, RequestId};
use crate::policy::Mode;
use crate::pull::Verdict;
use crate::requests::Owners;
use crate::time::Time;

/// Refusals of one digest since the last record of them.
#[derive(Debug)]
pub(super) struct Refusals {
    recorded: Time,
    unrecorded: u64,
    /// The latest of these.
    last: Option<(ImageName, Verdict)>,
}

impl Engine {
    pub(super) fn verify(
        &mut self,
        now: Time,
        request: RequestId,
        image: ImageName,
        digest: Digest,
        fx: &mut Effects,
    ) {
        self.requests.resolved(image.clone(), digest.clone(), now);
        let askers = self.who_verifies(now, &image);
        let law = self.law(now);
        let known = !self.images.declared(&digest).is_empty();
        let Some(verdict) = law.verify(&image, &digest, &askers) else {
            let answer = Answer::Admitted { known };
            fx.push(Action::Answer { request, answer });
            return;
        };
        let answer = match verdict.mode {
            Mode::Enforce => Answer::Refused {
                why: why(&verdict, &self.policy.revision),
            },
            Mode::Observe => Answer::Admitted { known },
        };
        self.record_refusal(now, image, digest, verdict, fx);
        fx.push(Action::Answer { request, answer });
    }

    /// Who may be asking: whoever has a request for that image in flight. Nobody, or perhaps others: anybody.
    fn who_verifies(&self, now: Time, image: &ImageName) -> Owners {
        let askers = self.requests.asking_for(image);
        let sure = self.is_up(Source::Requests) && !self.requests.missed_lately(now);
        if sure && !askers.is_empty() {
            Owners::OneOf(askers)
        } else {
            Owners::Unknown
        }
    }

    /// A client that retries for ever must not fill the audit trail: one record, and later one for the others.
    fn record_refusal(
        &mut self,
        now: Time,
        image: ImageName,
        digest: Digest,
        verdict: Verdict,
        fx: &mut Effects,
    ) {
        if let Some(before) = self.refusals.get_mut(&digest) {
            before.unrecorded = before.unrecorded.saturating_add(1);
            before.last = Some((image, verdict));
            return;
        }
        if self.refusals.len() >= MAX_DENIALS {
            let oldest = self.refusals.iter().min_by_key(|(_, one)| one.recorded);
            if let Some(oldest) = oldest.map(|(digest, _)| digest.clone())
                && let Some(refusals) = self.refusals.remove(&oldest)
            {
                self.record_unrecorded(oldest, refusals, fx);
            }
        }
        let refusals = Refusals {
            recorded: now,
            unrecorded: 0,
            last: None,
        };
        self.refusals.insert(digest.clone(), refusals);
        self.refused(image, digest, verdict, 0, fx);
    }

    /// Records what was not recorded one by one, as soon as a record is due again.
    pub(super) fn refusals_due(&mut self, now: Time, fx: &mut Effects) {
        let due: Vec<(Digest, Refusals)> = self
            .refusals
            .extract_if(.., |_, one| now.since(one.recorded) >= REFUSAL_RECORDED_EVERY)
            .collect();
        for (digest, refusals) in due {
            if let Some(again) = self.record_unrecorded(digest.clone(), refusals, fx) {
                let recorded = now;
                self.refusals.insert(digest, Refusals { recorded, ..again });
            }
        }
    }

    pub(super) fn next_refusal_due(&self) -> Option<Time> {
        let due = |one: &Refusals| one.recorded.after(REFUSAL_RECORDED_EVERY);
        self.refusals.values().map(due).min()
    }

    /// One record for all that have none; then they are forgotten. None: there was nothing to record.
    fn record_unrecorded(&self, digest: Digest, refusals: Refusals, fx: &mut Effects) -> Option<Refusals> {
        let (image, verdict) = refusals.last?;
        self.refused(image, digest, verdict, refusals.unrecorded.saturating_sub(1), fx);
        Some(Refusals {
            unrecorded: 0,
            last: None,
            ..refusals
        })
    }

    /// `unrecorded` others were refused before this one.
    fn refused(&self, image: ImageName, digest: Digest, verdict: Verdict, unrecorded: u64, fx: &mut Effects) {
        let entry = Entry::Refused {
            image,
            digest,
            reason: verdict.reason,
            rule: verdict.rule,
            mode: verdict.mode,
            evidence: verdict.evidence,
            unrecorded,
        };
        self.record(fx, None, entry);
    }
}

/// What a person reads in the pull's error: reason, limit, what was found, and the way to an exemption.
fn why(verdict: &Verdict, revision: &str) -> String {
    let fact = verdict
        .evidence
        .first()
        .map(ToString::to_string)
        .unwrap_or_default();
    let rule = verdict.rule.as_ref().map_or_else(
        || "the policy's defaults".to_owned(),
        |rule| format!("rule {rule}"),
    );
    let revision: String = revision.chars().take(19).collect();
    format!(
        "magi: {}: {fact} ({rule}). To get an exemption, have this cluster's operators add a rule with `exempt: true` or \
         larger limits for this image to magi's pull policy (revision {revision})",
        verdict.reason
    )
}
