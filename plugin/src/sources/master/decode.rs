//! From a verdict, as the contract has it, to the engine's vocabulary.

use magi_engine::ids::{ImageName, NameError, PodName, PodNamespace, PodUid, VerdictId};
use magi_engine::owner::{LostPod, PodIdentity};
use magi_master_api::message::{KillSwitch, Verdict};

/// Why a verdict makes no sense. Its lengths were checked with the contract's bounds already.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotUnderstood {
    /// A name that is none.
    #[error("a name in it is none")]
    Name(#[from] NameError),
    /// It names no image.
    #[error("it names no image")]
    NoImages,
}

/// Who lost what.
pub(super) fn lost_pod(verdict: Verdict) -> Result<LostPod, NotUnderstood> {
    if verdict.images.is_empty() {
        return Err(NotUnderstood::NoImages);
    }
    let images = verdict.images.into_iter().map(ImageName::new);
    Ok(LostPod {
        id: VerdictId::new(verdict.id.to_string())?,
        pod: PodIdentity {
            uid: PodUid::new(verdict.uid)?,
            namespace: PodNamespace::new(verdict.namespace)?,
            name: PodName::new(verdict.name)?,
        },
        images: images.collect::<Result<_, _>>()?,
        cause: verdict.cause,
    })
}

/// Who set the kill switch and why, as it can be shown. Its lengths were checked with the contract's bounds already.
pub(super) fn who(switch: &KillSwitch) -> String {
    let whole = if switch.reason.is_empty() {
        switch.by.clone()
    } else {
        format!("{}: {}", switch.by, switch.reason)
    };
    whole.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use magi_master_api::message::{self, VerdictKind};

    use super::*;

    fn verdict(kind: VerdictKind, images: &[&str]) -> Verdict {
        Verdict {
            number: 1,
            id: message::VerdictId([0xab; 16]),
            at_micros: 0,
            kind,
            cause: "deleted".to_owned(),
            uid: "u".to_owned(),
            namespace: "team".to_owned(),
            name: "web-1".to_owned(),
            images: images.iter().map(|&image| image.to_owned()).collect(),
        }
    }

    #[test]
    fn a_verdict_becomes_a_lost_pod() {
        let lost = lost_pod(verdict(VerdictKind::PodGone, &["a:1"])).unwrap();
        assert_eq!(lost.id.as_str(), "ab".repeat(16));
        assert_eq!(lost.pod.to_string(), "team/web-1");
        let lost = lost_pod(verdict(VerdictKind::ImagesReplaced, &["a:1", "b"])).unwrap();
        assert_eq!(lost.images.len(), 2);
    }

    #[test]
    fn what_names_nothing_is_refused() {
        assert_eq!(
            lost_pod(verdict(VerdictKind::ImagesReplaced, &[])),
            Err(NotUnderstood::NoImages)
        );
        for spoil in [
            |verdict: &mut Verdict| verdict.uid.clear(),
            |verdict: &mut Verdict| verdict.name = "x".repeat(5000),
            |verdict: &mut Verdict| verdict.images.push(String::new()),
        ] {
            let mut spoilt = verdict(VerdictKind::PodGone, &["a"]);
            spoil(&mut spoilt);
            assert!(matches!(lost_pod(spoilt), Err(NotUnderstood::Name(_))));
        }
    }
}
