//! What the master says to a node: that a pod's pulls have lost their reason.

use crate::names::NodeName;
use jiff::Timestamp;
use magi_engine::ids::{ImageName, PodName, PodNamespace, PodUid};
use serde::{Deserialize, Serialize};

/// One pod's pulls have lost their reason on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// When the API server made the change.
    pub at: Timestamp,
    /// What is gone: the pod, or images of it.
    pub kind: VerdictKind,
    /// What made it so.
    pub cause: Cause,
    /// The pod's uid; another pod of the same name has another.
    pub uid: PodUid,
    /// The pod's namespace.
    pub namespace: PodNamespace,
    /// The pod's name.
    pub name: PodName,
    /// The node that the pod was bound to.
    pub node: NodeName,
    /// The images that this pod wants no longer, as its specification names them.
    pub images: Vec<ImageName>,
}

/// What is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerdictKind {
    /// The pod, with every image of it.
    PodGone,
    /// Images that its containers had, and that others have replaced.
    ImagesReplaced,
}

/// What made the pod, or its images, go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The pod was deleted.
    Deleted,
}
