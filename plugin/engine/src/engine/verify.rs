//! What the image verifier and the gateway are told, before the first byte.

use std::sync::Arc;

use super::Engine;
use crate::action::{Action, Answer, Effects};
use crate::audit::Entry;
use crate::bounds::{MAX_DENIALS, REFUSAL_RECORDED_EVERY};
use crate::evidence::Source;
use crate::ids::{CallId, Digest, ImageName, RequestId};
use crate::owner::PullRequest;
use crate::policy::Mode;
use crate::pull::Verdict;
use crate::reference::Reference;
use crate::refusal;
use crate::requests::{Asker, Owners};
use crate::time::Time;

/// What was refused: an image whose digest is known, or one that was only named.
pub(super) type Refused = (Option<Digest>, ImageName);

/// Refusals of one image since the last record of them.
#[derive(Debug)]
pub(super) struct Refusals {
    recorded: Time,
    unrecorded: u64,
    /// The latest of these.
    last: Option<Verdict>,
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
                why: refusal::text(&verdict, &self.policy.revision),
            },
            Mode::Observe => Answer::Admitted { known },
        };
        self.record_refusal(now, (Some(digest), image), verdict, fx);
        fx.push(Action::Answer { request, answer });
    }

    /// The gateway asks for a pull that containerd has not heard of: who asks is known, what it is perhaps only by name.
    pub(super) fn admit(&mut self, now: Time, question: RequestId, request: PullRequest, fx: &mut Effects) {
        let image = request.image.clone();
        let asker = Arc::new(Asker::of(CallId(0), request));
        let verdict = self.law(now).admit(&asker);
        let mut answer = Answer::Admitted { known: false };
        if let Some(verdict) = verdict {
            if verdict.mode == Mode::Enforce {
                let refusal = refusal::refusal(&verdict, &self.policy.revision);
                answer = Answer::TurnedAway { refusal };
            }
            let digest = asker.reference.as_ref().and_then(Reference::digest).cloned();
            self.record_refusal(now, (digest, image), verdict, fx);
        }
        let request = question;
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
    fn record_refusal(&mut self, now: Time, refused: Refused, verdict: Verdict, fx: &mut Effects) {
        if let Some(before) = self.refusals.get_mut(&refused) {
            before.unrecorded = before.unrecorded.saturating_add(1);
            before.last = Some(verdict);
            return;
        }
        if self.refusals.len() >= MAX_DENIALS {
            let oldest = self.refusals.iter().min_by_key(|(_, one)| one.recorded);
            if let Some(oldest) = oldest.map(|(refused, _)| refused.clone())
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
        self.refusals.insert(refused.clone(), refusals);
        self.refused(refused, verdict, 0, fx);
    }

    /// Records what was not recorded one by one, as soon as a record is due again.
    pub(super) fn refusals_due(&mut self, now: Time, fx: &mut Effects) {
        let due: Vec<(Refused, Refusals)> = self
            .refusals
            .extract_if(.., |_, one| now.since(one.recorded) >= REFUSAL_RECORDED_EVERY)
            .collect();
        for (refused, refusals) in due {
            if let Some(again) = self.record_unrecorded(refused.clone(), refusals, fx) {
                let recorded = now;
                self.refusals.insert(refused, Refusals { recorded, ..again });
            }
        }
    }

    pub(super) fn next_refusal_due(&self) -> Option<Time> {
        let due = |one: &Refusals| one.recorded.after(REFUSAL_RECORDED_EVERY);
        self.refusals.values().map(due).min()
    }

    /// One record for all that have none; then they are forgotten. None: there was nothing to record.
    fn record_unrecorded(&self, refused: Refused, refusals: Refusals, fx: &mut Effects) -> Option<Refusals> {
        let verdict = refusals.last?;
        self.refused(refused, verdict, refusals.unrecorded.saturating_sub(1), fx);
        Some(Refusals {
            unrecorded: 0,
            last: None,
            ..refusals
        })
    }

    /// `unrecorded` others were refused before this one.
    fn refused(&self, (digest, image): Refused, verdict: Verdict, unrecorded: u64, fx: &mut Effects) {
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
