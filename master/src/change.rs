//! What the master hears of the cluster, whichever way it came: the one vocabulary between intake and ledger.
//!
//! A fact may be missing, as an audit policy records what it likes. What is here is true: refused, unfinished and dry
//! requests never become a [`Change`].

use std::collections::BTreeSet;

use jiff::Timestamp;
use magi_engine::ids::{ImageName, PodName, PodNamespace, PodUid};

use crate::names::NodeName;
use crate::verdict::Cause;

/// Something that the API server did, or showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When the API server received the request. Equal to `at` where that is not known.
    pub began: Timestamp,
    /// When it had answered: the change lies between the two.
    pub at: Timestamp,
    /// What it is about.
    pub what: What,
}

/// What a change is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// One pod.
    Pod(Act, Box<PodFacts>),
    /// Every pod that the namespace had when the request began.
    NamespaceCleared(PodNamespace, Cause),
    /// All pods that there are: what the ledger holds beyond them, at that version or before, is gone.
    AllListed {
        /// The version of the list.
        version: u64,
        /// The uids in it. The pods themselves were told before.
        uids: BTreeSet<PodUid>,
    },
}

/// What happened to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// It was created: whoever had its name before is gone.
    Created,
    /// It exists, and this is how.
    Seen,
    /// It was bound to a node.
    Bound,
    /// It is deleted, or marked for it: it will never pull again.
    Gone {
        /// By what.
        cause: Cause,
        /// The kubelet removed a mirror pod whose static pod it runs no more.
        static_too: bool,
    },
}

/// What is told of one pod. `None` and `Unknown` mean: not told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    /// Its uid.
    pub uid: Option<PodUid>,
    /// Its namespace.
    pub namespace: PodNamespace,
    /// Its name.
    pub name: PodName,
    /// `resourceVersion`. Numbers of one cluster can be compared (Kubernetes 1.35, KEP-5504; etcd's revisions before).
    pub version: Option<u64>,
    /// `creationTimestamp`: in full seconds, rounded down.
    pub created: Option<Timestamp>,
    /// Its node.
    pub node: Node,
    /// Its images.
    pub images: Images,
    /// How far it is.
    pub phase: Option<Phase>,
    /// It is marked for deletion.
    pub marked: Option<Marked>,
    /// Whether it only mirrors a static pod.
    pub mirror: Option<bool>,
}

/// The node of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// Not told.
    Unknown,
    /// It had none.
    None,
    /// This one.
    On(NodeName),
}

/// The images of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Images {
    /// Not told.
    Unknown,
    /// All of them.
    Whole(Vec<Slot>),
    /// Some have changed.
    Patched(Vec<SlotPatch>),
}

/// One place of a pod where an image stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Among which.
    pub list: SlotList,
    /// The container's or volume's name.
    pub name: Box<str>,
    /// The image, as written.
    pub image: ImageName,
}

/// The lists of a pod's specification that name images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SlotList {
    /// `initContainers`, sidecars among them.
    Init,
    /// `containers`.
    Main,
    /// `ephemeralContainers`.
    Ephemeral,
    /// `volumes` of type `image`.
    Volume,
}

/// A changed image, by the name of its container or by its place in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotPatch {
    /// The container of this name has this image.
    Named(Slot),
    /// The container at this place of the list has this image.
    At {
        /// Which list.
        list: SlotList,
        /// Counted from zero.
        index: usize,
        /// The image.
        image: ImageName,
    },
}

/// How far a pod is, as its status says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Pending, running or unknown: it may pull.
    Active,
    /// Its containers have ended, and will not be started again.
    Ended,
    /// The kubelet gave it up for a reason of its own, perhaps while it was pulling.
    GivenUp,
}

/// A deletion that a pod's metadata shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marked {
    /// Without any grace.
    pub at_once: bool,
}

impl Phase {
    /// Whether no container of it is ever started again.
    #[must_use]
    pub const fn is_over(self) -> bool {
        match self {
            Self::Active => false,
            Self::Ended | Self::GivenUp => true,
        }
    }
}

impl PodFacts {
    /// A pod of which nothing but the name is known.
    #[must_use]
    pub const fn named(namespace: PodNamespace, name: PodName) -> Self {
        Self {
            uid: None,
            namespace,
            name,
            version: None,
            created: None,
            node: Node::Unknown,
            images: Images::Unknown,
            phase: None,
            marked: None,
            mirror: None,
        }
    }
}
