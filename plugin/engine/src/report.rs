//! What people see of the pulls: a picture that hangs on nothing inside the engine.

use serde::{Deserialize, Serialize};

use crate::event::UnpackStop;
use crate::evidence::{Reason, TieMethod};
use crate::ids::{Digest, LeaseKey, PullId, RepositoryName, SocketName};
use crate::owner::Owner;
use crate::policy::Mode;
use crate::time::Time;

/// All pulls that the engine knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// In flight, oldest first.
    pub pulls: Vec<PullReport>,
    /// Ended lately, oldest first; empty unless asked for.
    pub ended: Vec<PullReport>,
}

/// Where a pull stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Its manifest is not known yet.
    Resolving,
    /// Bytes of its layers come in.
    Downloading,
    /// A layer of it is being fetched by another pull, or it is queued.
    Waiting,
    /// All layers are here.
    Unpacking,
    /// The lease is gone.
    Ended,
}

/// One pull.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullReport {
    /// magi's id of it.
    pub id: PullId,
    /// containerd's.
    pub lease: LeaseKey,
    /// Where it comes from, as far as known.
    pub repositories: Vec<RepositoryName>,
    /// Who asked for it; none: not known for sure.
    #[serde(default)]
    pub owner: Option<Owner>,
    /// Who may have asked for it, where that is not known for sure.
    #[serde(default)]
    pub owner_candidates: Vec<Owner>,
    /// Its manifest, if known.
    pub manifest: Option<Digest>,
    /// Where it stands.
    pub stage: Stage,
    /// First seen.
    pub since: Time,
    /// When its lease was gone.
    pub ended: Option<Time>,
    /// Declared compressed bytes.
    pub declared: Option<u64>,
    /// Bytes stored so far, committed layers included.
    pub stored: u64,
    /// The layers that move or moved; for very long manifests only those.
    pub layers: Vec<LayerReport>,
    /// What was decided.
    pub verdict: Option<VerdictReport>,
    /// What magi-unpack has stopped of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unpack_stop: Option<UnpackStop>,
}

/// One layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerReport {
    /// Its digest.
    pub digest: Digest,
    /// Declared compressed bytes.
    pub declared: u64,
    /// Bytes stored so far.
    pub stored: u64,
    /// The socket that feeds it.
    pub socket: Option<(SocketName, TieMethod)>,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictReport {
    /// Why.
    pub reason: Reason,
    /// Observe or enforce.
    pub mode: Mode,
    /// The rule that applied; none: the policy's defaults.
    pub rule: Option<String>,
    /// Levers pulled so far.
    pub attempts: u32,
    /// The facts, for people.
    pub why: String,
}
