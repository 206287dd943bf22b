//! What the master says to a node: that a pod's pulls have lost their reason. And who says it: the [`Judge`].

mod judge;

use crate::names::NodeName;
use jiff::Timestamp;
use magi_engine::ids::{ImageName, PodName, PodNamespace, PodUid};
use serde::{Deserialize, Serialize};

pub use judge::{Judge, Withheld};

/// One pod's pulls have lost their reason on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// When the API server made the change. For images that another pod wanted at that time: when that ended.
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
    /// The images that this pod wants no longer, as its specification names them. No other live pod of this node wants
    /// one of them, as far as the master knows.
    pub images: Vec<ImageName>,
}

/// What is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerdictKind {
    /// The pod, with every image of it.
    PodGone,
    /// Images that its containers had, and that others have replaced.
    ImagesReplaced,
}

/// What made the pod, or its images, go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The pod was deleted, and has its grace period to end in.
    Deleted,
    /// The pod was deleted without any grace.
    ForceDeleted,
    /// The pod was evicted through the API: a drain, mostly.
    Evicted,
    /// The pod was deleted with others, by one request.
    CollectionDeleted,
    /// The pod's namespace was deleted.
    NamespaceDeleted,
    /// Another pod has its name now, so it must be gone; its deletion was not heard.
    NameReused,
    /// The kubelet gave it up (evicted it for lack of disk, say): the object stays, its containers never run again.
    Failed,
    /// The API server does not list it any more; its deletion was not heard.
    Vanished,
    /// Its containers have other images now.
    ImageChanged,
}
