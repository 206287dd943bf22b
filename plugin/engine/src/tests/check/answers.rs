//! What is answered to whom, and what is recorded of refusals.

use super::judge::Condemned;
use super::{Broken, Checker, Invariant};
use crate::action::Answer;
use crate::audit::Entry;
use crate::bounds::REFUSAL_RECORDED_EVERY;
use crate::event::Question;
use crate::evidence::{Evidence, Reason, Source};
use crate::ids::{Digest, ImageName, RequestId};
use crate::manifest::Manifest;
use crate::policy::Mode;

impl Checker {
    pub(super) fn answer(&mut self, request: RequestId, answer: &Answer) -> Result<(), Broken> {
        let asked = self.questions.remove(&request);
        let twice = !self.answered.insert(request);
        self.ensure(asked.is_some() && !twice, Invariant::OneAnswer, || {
            format!("{request} is answered, but nobody waits: {answer:?}")
        })?;
        if let Answer::Pulls { report } = answer {
            for pull in &report.pulls {
                self.named(pull.id, &pull.lease)?;
            }
        }
        let right = match (&asked, answer) {
            (Some((Question::Pulls { .. }, _)), answer) => matches!(answer, Answer::Pulls { .. }),
            (Some((Question::Pods, _)), Answer::Pods { pods: None }) => !self.up.contains(&Source::Nri),
            (Some((Question::Pods, _)), Answer::Pods { pods: Some(pods) }) => {
                self.up.contains(&Source::Nri) && pods.iter().eq(self.pods.values())
            }
            (Some((Question::Verify { image, digest }, _)), answer) => {
                self.admission(image, digest, answer)?
            }
            (Some((Question::Admit { request }, _)), answer) => {
                let enforced = self.admitted(request) == Condemned::Enforced;
                if let Answer::TurnedAway { refusal } = answer {
                    enforced && refusal.text.contains("exempt")
                } else {
                    !enforced && *answer == Answer::Admitted { known: false }
                }
            }
            (Some((Question::Abort { pull, .. }, _)), Answer::Ended) => self.gone.contains_key(pull),
            (Some((Question::Abort { pull, .. }, _)), Answer::NoSuchPull) => {
                !self.leases.values().any(|seen| seen.id == Some(*pull))
            }
            (Some((Question::Abort { .. }, _)), Answer::Failed { .. }) => !self.switched.is_empty(),
            (Some((Question::Abort { .. }, _)), answer) => {
                matches!(answer, Answer::StillRunning { .. } | Answer::Busy)
            }
            (Some((Question::Panic { .. }, _)), answer) => matches!(
                answer,
                Answer::Closed { .. } | Answer::Failed { .. } | Answer::StillRunning { .. } | Answer::Busy
            ),
            (Some((Question::UnpackStopped { stop }, _)), Answer::Noted { pulls }) => {
                let has_it = |layer: &Digest| {
                    let seen = self.leases.values();
                    seen.filter(|seen| {
                        let mut layers = seen.roots().into_iter().flat_map(Manifest::layers);
                        layers.any(|one| one.digest == *layer)
                    })
                    .count()
                };
                usize::try_from(*pulls) == Ok(stop.layer.as_ref().map_or(0, has_it))
            }
            (Some((Question::Pods | Question::UnpackStopped { .. }, _)) | None, _) => false,
        };
        self.ensure(right, Invariant::OneAnswer, || {
            format!("{asked:?} is answered with {answer:?}")
        })
    }

    /// The verifier is told no exactly if the policy enforces against whoever may be asking.
    fn admission(&self, image: &ImageName, digest: &Digest, answer: &Answer) -> Result<bool, Broken> {
        let verdict = self.verified(image, digest);
        let refused = matches!(answer, Answer::Refused { .. });
        self.ensure(
            refused == (verdict == Condemned::Enforced),
            Invariant::ObserveOnlyLooks,
            || format!("{image} ({digest}) is answered with {answer:?}, and the policy says {verdict:?}"),
        )?;
        Ok(match answer {
            Answer::Refused { why } => why.contains("exempt"),
            Answer::Admitted { known } => *known != self.images_of(digest).is_empty(),
            Answer::Pulls { .. }
            | Answer::Pods { .. }
            | Answer::TurnedAway { .. }
            | Answer::Noted { .. }
            | Answer::Ended
            | Answer::NoSuchPull
            | Answer::StillRunning { .. }
            | Answer::Closed { .. }
            | Answer::Failed { .. }
            | Answer::Busy => false,
        })
    }

    /// Refusals are recorded, but not one by one.
    pub(super) fn refusal(&mut self, entry: &Entry) -> Result<(), Broken> {
        let Entry::Refused {
            digest,
            reason,
            mode,
            evidence,
            image,
            ..
        } = entry
        else {
            return Ok(());
        };
        let refused = (digest.clone(), image.clone());
        let before = self.refused.insert(refused, self.now);
        let pause = before.map(|before| self.now.since(before));
        self.ensure(
            pause.is_none_or(|pause| pause >= REFUSAL_RECORDED_EVERY),
            Invariant::NoStorm,
            || format!("a refusal of {image} is recorded again after {pause:?}"),
        )?;
        let fits = matches!(
            reason,
            Reason::ImageTooLarge
                | Reason::LayerTooLarge
                | Reason::DeniedByRule
                | Reason::DeniedRecently
                | Reason::Orphaned
        );
        let true_words = !evidence.is_empty()
            && evidence
                .iter()
                .all(|piece| self.was_said(digest.as_ref(), image, piece));
        self.ensure(fits && true_words, Invariant::TwoSources, || {
            format!("{image} ({digest:?}) is refused ({mode}) on {evidence:?}")
        })?;
        let _: Mode = *mode;
        Ok(())
    }

    /// Whether this was said of an image that nobody has begun to fetch.
    fn was_said(&self, digest: Option<&Digest>, image: &ImageName, evidence: &Evidence) -> bool {
        let told = |manifest: &Digest| {
            let images = digest.map(|digest| self.images_of(digest)).unwrap_or_default();
            images.into_iter().any(|one| one.digest == *manifest)
        };
        match evidence {
            Evidence::DeclaredImage {
                manifest,
                declared,
                limit,
            } => told(manifest) && declared > limit,
            Evidence::DeclaredLayer {
                manifest,
                declared,
                limit,
                ..
            } => told(manifest) && declared > limit,
            Evidence::DeniedImage { .. } => true,
            Evidence::StoppedBefore { manifest, .. } => digest == Some(manifest) || told(manifest),
            Evidence::PodLost { pod, image: lost, .. } => self.lost.contains_key(&pod.uid) && lost == image,
            Evidence::IngestOverrun { .. }
            | Evidence::SocketFeeds { .. }
            | Evidence::LeaseInFlight { .. }
            | Evidence::SocketsOpen { .. }
            | Evidence::BudgetUsed { .. }
            | Evidence::DiskShort { .. }
            | Evidence::HoldsSlots { .. }
            | Evidence::AskedFor { .. }
            | Evidence::CalledThrough { .. }
            | Evidence::Asked { .. } => false,
        }
    }
}
