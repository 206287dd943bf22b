//! Whose pull it may be: pods, and the requests that name them.
//!
//! A lease names no pod (containerd.md §12). What names one is the CRI request, which a source reads off containerd's
//! socket, and the pod's sandbox, of which NRI tells. The engine joins them (`requests.rs`).

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::evidence::Source;
use crate::ids::{ImageName, PodName, PodNamespace, PodUid, SandboxId, VerdictId};

/// A pod, named so that no other can be meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodIdentity {
    /// Its uid; another pod of the same name has another.
    pub uid: PodUid,
    /// Its namespace.
    pub namespace: PodNamespace,
    /// Its name.
    pub name: PodName,
}

impl fmt::Display for PodIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Labels of a pod.
pub type Labels = BTreeMap<String, String>;

/// What a `PullImage` request asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullRequest {
    /// The image, as the request has it.
    pub image: ImageName,
    /// The pod that it is for; crictl names none.
    pub pod: Option<PodIdentity>,
    /// That pod's labels; none: not known.
    #[serde(default)]
    pub labels: Option<Labels>,
    /// Whether it is surely a request to pull: without a pod, the same bytes may ask for an image's status.
    pub certain: bool,
}

/// A pod that is gone, or that wants some images no longer, by the master's word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostPod {
    /// The verdict.
    pub id: VerdictId,
    /// The pod.
    pub pod: PodIdentity,
    /// The images that it wants no longer, as its specification names them.
    pub images: Vec<ImageName>,
    /// What made it so, in the master's words.
    pub cause: String,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RequestEnd {
    /// containerd answered, well or badly.
    Answered,
    /// The client took it back.
    Cancelled,
    /// The connection was closed.
    Closed,
    /// Its end was not seen.
    Lost,
}

/// A pod on this node, as NRI shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePod {
    /// Its sandbox in containerd.
    pub sandbox: SandboxId,
    /// Who it is.
    pub pod: PodIdentity,
    /// Its labels.
    #[serde(default)]
    pub labels: Labels,
    /// Images of its containers so far.
    #[serde(default)]
    pub images: Vec<ImageName>,
    /// Its sandbox was stopped and is not removed yet.
    pub stopped: bool,
}

/// Who asked for a pull, as people and records see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The image, as it was asked for.
    pub image: ImageName,
    /// The pod; none: nobody named one.
    pub pod: Option<PodIdentity>,
    /// Which sources prove it.
    pub proof: Vec<Source>,
}
