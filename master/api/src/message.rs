//! What is said on a stream, as values within the contract's bounds.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::policy::PolicyVersion;

/// From a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Up {
    /// The first one.
    Hello(Hello),
    /// What becomes of a policy.
    Policy(PolicyAnswer),
    /// What becomes of a verdict.
    Verdict(VerdictAnswer),
    /// What is being pulled.
    Pulls(Pulls),
    /// Audit records.
    Audit(AuditBatch),
    /// To a ping.
    Pong(u64),
    /// The kill switch of this revision is in force.
    KillSwitch(u64),
}

/// From a master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Down {
    /// The first one.
    Welcome(Welcome),
    /// A piece of a policy.
    Policy(PolicyPart),
    /// A pod, or images of it, lost their reason.
    Verdict(Verdict),
    /// Whether anything may be stopped.
    KillSwitch(KillSwitch),
    /// To be answered.
    Ping(u64),
    /// Records up to here need not be kept.
    AuditStored(AuditMark),
}

/// Who a node is, and where it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// Its name, which must be the one in its certificate.
    pub node: String,
    /// What it runs and sees.
    pub facts: NodeFacts,
    /// The policy in force; none: one that came from no master.
    pub policy: Option<PolicyVersion>,
    /// Where the last stream was cut.
    pub resume: Option<Resume>,
    /// Audit records dropped since the agent started.
    pub audit_lost: u64,
}

/// What a node runs and sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// magi's version.
    pub version: String,
    /// containerd's version.
    pub containerd: String,
    /// The kernel's version.
    pub kernel: String,
    /// Abilities, as the doctor found them.
    pub coverage: Vec<Coverage>,
}

/// One ability of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Its name, in lower case with dashes.
    pub name: String,
    /// Whether it is there.
    pub works: bool,
    /// Why not, in words.
    pub detail: String,
}

/// Where a stream was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume {
    /// The run of the master.
    pub token: u64,
    /// The highest number of a verdict that arrived.
    pub verdict: u64,
}

/// How a master greets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// This run of the master.
    pub token: u64,
    /// Whether it goes on where the last stream was cut.
    pub resumed: bool,
    /// Verdicts for this node that were forgotten since it was last told.
    pub verdicts_lost: u64,
    /// The node hears something at least so often.
    pub ping_every: Duration,
    /// What of the node's audit trail is stored.
    pub audit: Vec<AuditMark>,
}

/// A piece of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyPart {
    /// Which policy.
    pub version: PolicyVersion,
    /// Bytes of the whole.
    pub total: usize,
    /// Where these begin.
    pub offset: usize,
    /// These.
    pub bytes: Bytes,
}

/// What a node makes of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyAnswer {
    /// Which policy.
    pub version: PolicyVersion,
    /// None: it is in force. Else why it is not.
    pub refused: Option<String>,
}

/// A pod, or images of it, lost their reason to be pulled on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Rises within a run of the master.
    pub number: u64,
    /// The same for the same verdict, from whichever master.
    pub id: VerdictId,
    /// When the API server made the change, in microseconds since the epoch, by its clock.
    pub at_micros: i64,
    /// What is gone.
    pub kind: VerdictKind,
    /// What made it go, in lower case with dashes.
    pub cause: String,
    /// The pod's uid.
    pub uid: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The images that it wants no longer, as its specification names them.
    pub images: Vec<String>,
}

/// What is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerdictKind {
    /// The pod.
    PodGone,
    /// Images of it, replaced by others.
    ImagesReplaced,
}

/// Names a verdict.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VerdictId(pub [u8; 16]);

impl fmt::Display for VerdictId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for VerdictId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerdictId({self})")
    }
}

/// What became of a verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerdictAnswer {
    /// Which one.
    pub id: VerdictId,
    /// What became of it.
    pub fate: Fate,
    /// In words.
    pub detail: String,
}

/// What became of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// A pull was condemned for it.
    Condemned,
    /// Nothing is pulled for it; it is remembered.
    Remembered,
    /// The policy only observes.
    Observed,
    /// Something else on the node wants the image.
    Wanted,
    /// It was heard before.
    Repeated,
    /// It makes no sense to the node.
    NotUnderstood,
    /// What it asks for is over.
    Ended,
}

/// Whether anything may be stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KillSwitch {
    /// The highest one holds; 0: never touched.
    pub revision: u64,
    /// Nothing is stopped, whatever the policy says.
    pub engaged: bool,
    /// Who set it.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// What is being pulled on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pulls {
    /// Pulls in flight.
    pub in_flight: u32,
    /// Of these, condemned ones.
    pub condemned: u32,
    /// Bytes that they have stored.
    pub bytes_stored: u64,
    /// Stopped since the agent started.
    pub stopped: u64,
    /// Would have been stopped since then, if the policy enforced.
    pub would_have_stopped: u64,
}

/// Records of a node's audit trail, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditBatch {
    /// These.
    pub records: Vec<AuditRecord>,
    /// Records dropped since the agent started.
    pub lost: u64,
}

/// One record of a node's audit trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    /// Its place.
    pub mark: AuditMark,
    /// One JSON object, without a line break.
    pub json: Bytes,
}

/// A place in a node's audit trail; later ones of a run are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuditMark {
    /// The agent's run: its start, in microseconds since the epoch.
    pub run: u64,
    /// The number within it.
    pub sequence: u64,
}
