//! A real server and real clients over loopback, with real certificates.

mod admission;
mod delivery;
mod pushing;
mod trail;
mod wire;
mod world;

use jiff::Timestamp;
use magi_engine::ids::{ImageName, PodName, PodNamespace, PodUid};

use crate::names::NodeName;
use crate::verdict::{Cause, Verdict, VerdictKind};

/// That the pod `uid` of `node` is gone.
pub(super) fn verdict(node: &str, uid: &str) -> Verdict {
    Verdict {
        at: Timestamp::from_millisecond(1_700_000_000_000).unwrap(),
        kind: VerdictKind::PodGone,
        cause: Cause::Deleted,
        uid: PodUid::new(uid).unwrap(),
        namespace: PodNamespace::new("team").unwrap(),
        name: PodName::new("pod").unwrap(),
        node: NodeName::new(node).unwrap(),
        images: vec![ImageName::new("registry.example/team/app:1").unwrap()],
    }
}
