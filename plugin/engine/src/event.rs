//! Everything that can happen, as the engine hears it.

use std::time::Duration;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::action::LeverOutcome;
use crate::evidence::{Source, TieMethod};
use crate::ids::{
    AttemptId, CallId, Cookie, Digest, GatewayCallId, ImageName, IngestDir, IngestKey, IngestRef, KeepId,
    LeaseKey, PullId, RequestId, SandboxId, SnapshotName, SocketName,
};
use crate::manifest::Manifest;
use crate::owner::{LostPod, NodePod, PullRequest, RequestEnd};
use crate::policy::Policy;
use crate::switch::SwitchHolder;
use crate::time::Time;

/// Something happened outside, or a lever came back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A policy was read and found good. From `config`, at start and at each reload.
    PolicyLoaded {
        /// It.
        policy: Policy,
    },
    /// A source works from now on. What it says before this, or after [`Event::SourceDown`], does not count: looks,
    /// feeds and listings are ignored then.
    SourceUp {
        /// Which.
        source: Source,
    },
    /// A source is gone; what it said before is no longer fresh.
    SourceDown {
        /// Which.
        source: Source,
    },
    /// containerd was looked at: the whole picture at one time.
    Looked {
        /// The picture.
        view: View,
    },
    /// A manifest that a lease holds was read.
    ManifestRead {
        /// The lease.
        lease: LeaseKey,
        /// The manifest.
        manifest: Manifest,
    },
    /// A document that a lease holds could not be understood as a manifest. Never a reason to stop anything.
    ManifestUnreadable {
        /// The lease.
        lease: LeaseKey,
        /// The document.
        digest: Digest,
        /// Why not, for people.
        problem: String,
    },
    /// A socket was seen to feed an ingest's directory; repeated as bytes come.
    SocketFed {
        /// The tie.
        feed: Feed,
    },
    /// The tie of this socket no longer holds.
    SocketUnfed {
        /// The socket.
        cookie: Cookie,
    },
    /// The socket is closed.
    SocketClosed {
        /// It.
        cookie: Cookie,
    },
    /// Kernel records were lost: every tie is forgotten and learnt anew.
    TiesLost,
    /// containerd's sockets in the kernel's table, all of them.
    SocketsListed {
        /// The sockets.
        sockets: Vec<SocketStat>,
    },
    /// A request on containerd's CRI socket was read whole.
    CallBegan {
        /// Names it.
        call: CallId,
        /// When the kernel handed its last bytes to containerd, by the wall clock.
        at: Time,
        /// What it asks for.
        request: PullRequest,
    },
    /// That request is over.
    CallEnded {
        /// It.
        call: CallId,
        /// When, by the wall clock.
        at: Time,
        /// How.
        end: RequestEnd,
    },
    /// Requests may have gone unseen in this time: whoever asked then is not known.
    CallsMissed {
        /// From.
        since: Time,
        /// To.
        until: Time,
    },
    /// A pull goes through magi's gateway, or is on its way there when the gateway is connected anew.
    GatewayCallBegan {
        /// Names it.
        call: GatewayCallId,
        /// What it asks for.
        request: PullRequest,
    },
    /// That call is over, or out of reach.
    GatewayCallEnded {
        /// It.
        call: GatewayCallId,
    },
    /// Every pod of the node; those that are not listed are gone.
    PodsListed {
        /// They.
        pods: Vec<NodePod>,
    },
    /// A pod is there, or has changed.
    PodSeen {
        /// It.
        pod: NodePod,
    },
    /// A pod's sandbox was removed.
    PodGone {
        /// It.
        sandbox: SandboxId,
    },
    /// What an [`crate::Action::Keep`] came to.
    KeepDone {
        /// Which.
        keep: KeepId,
        /// Why nothing is held; none: it is.
        failed: Option<String>,
    },
    /// What an [`crate::Action::Collect`] asked for is over, whatever came of it.
    CollectDone,
    /// How full the file systems are that containerd writes to. When it is known first, and when it has changed much.
    DiskSeen {
        /// That of the blobs.
        content: Room,
        /// That of the snapshots; none: the same one.
        snapshots: Option<Room>,
    },
    /// Somebody takes hold of the kill switch, or lets go of it. Counts whatever source is up or down.
    KillSwitch {
        /// Whose hold.
        holder: SwitchHolder,
        /// Nothing may be stopped from now on, whatever the policy says.
        engaged: bool,
        /// Who set it, and why, in words.
        by: String,
    },
    /// The master says that a pod's pulls have lost their reason.
    PodLost {
        /// It.
        lost: LostPod,
    },
    /// The resolver read a manifest from its registry, for a question of the verifier.
    ManifestResolved {
        /// It.
        manifest: Manifest,
    },
    /// Somebody asks; exactly one [`crate::Action::Answer`] follows.
    Asked {
        /// Names the question.
        request: RequestId,
        /// What is asked.
        question: Question,
    },
    /// A lever came back.
    LeverDone {
        /// Which use of it.
        attempt: AttemptId,
        /// What it did.
        outcome: LeverOutcome,
    },
    /// The time asked for by [`crate::Action::WakeAt`] has come.
    Tick,
}

impl Event {
    /// Whether it may say anything of who asked for what.
    pub(crate) const fn may_tell_owners(&self) -> bool {
        match self {
            Self::SourceUp { .. }
            | Self::SourceDown { .. }
            | Self::Looked { .. }
            | Self::ManifestRead { .. }
            | Self::CallBegan { .. }
            | Self::CallEnded { .. }
            | Self::CallsMissed { .. }
            | Self::PodsListed { .. }
            | Self::PodSeen { .. }
            | Self::PodGone { .. }
            | Self::Asked {
                question: Question::Verify { .. },
                ..
            } => true,
            Self::PolicyLoaded { .. }
            | Self::ManifestUnreadable { .. }
            | Self::SocketFed { .. }
            | Self::SocketUnfed { .. }
            | Self::SocketClosed { .. }
            | Self::TiesLost
            | Self::SocketsListed { .. }
            | Self::ManifestResolved { .. }
            | Self::PodLost { .. }
            | Self::Asked { .. }
            | Self::LeverDone { .. }
            | Self::KillSwitch { .. }
            | Self::GatewayCallBegan { .. }
            | Self::GatewayCallEnded { .. }
            | Self::KeepDone { .. }
            | Self::CollectDone
            | Self::DiskSeen { .. }
            | Self::Tick => false,
        }
    }
}

/// What a file system has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// Bytes that are free for containerd.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
    /// Inodes that are free; zero of zero, where there is no such bound.
    pub free_inodes: u64,
    /// Inodes in all.
    pub inodes: u64,
}

/// A whole picture of what containerd is pulling.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// When the look began, by the wall clock: whatever it shows was there after that.
    #[serde(default)]
    pub begun: Option<Time>,
    /// Every lease of the watched namespaces.
    pub leases: Vec<LeaseView>,
    /// Every ingest of the watched namespaces.
    pub ingests: Vec<IngestView>,
    /// Extract snapshots, if they were asked for.
    pub extracts: Option<Vec<SnapshotName>>,
}

/// A lease and what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseView {
    /// Its identity.
    pub key: LeaseKey,
    /// When containerd made it, by the wall clock.
    #[serde(default)]
    pub created: Option<Time>,
    /// Committed blobs.
    pub content: Vec<Digest>,
    /// Ingests in flight.
    pub ingests: Vec<IngestRef>,
    /// Snapshots.
    pub snapshots: Vec<SnapshotName>,
}

/// An ingest in flight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngestView {
    /// Its identity.
    pub key: IngestKey,
    /// Its directory in the content store.
    pub dir: IngestDir,
    /// The digest at the end of its reference, if there is one.
    pub digest: Option<Digest>,
    /// Bytes stored.
    pub offset: u64,
    /// Bytes declared; zero if the manifest declares none.
    pub total: u64,
}

/// A socket feeds an ingest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feed {
    /// The socket.
    pub socket: SocketName,
    /// The ingest's directory.
    pub dir: IngestDir,
    /// How it is known.
    pub method: TieMethod,
    /// Bytes seen on the socket for this ingest.
    pub bytes: u64,
    /// Since when they have come, at the least: so long before it is told.
    #[serde(default)]
    pub lasts: Duration,
}

/// A socket of containerd as the kernel's table shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketStat {
    /// The socket.
    pub socket: SocketName,
    /// Whether it is in state ESTABLISHED.
    pub established: bool,
    /// Bytes received over its life (`tcpi_bytes_received`), those still unread included.
    pub received: u64,
    /// Bytes received but not yet read by the process.
    pub unread: u64,
}

/// What may be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub enum Question {
    /// The pulls in flight and, if wanted, those that ended lately.
    Pulls {
        /// Ended ones too.
        ended: bool,
    },
    /// Stop this pull. Answered when it has ended, or when the patience is over.
    Abort {
        /// The pull.
        pull: PullId,
        /// Who asks.
        actor: String,
    },
    /// Close every registry socket of containerd.
    Panic {
        /// Who asks.
        actor: String,
    },
    /// Whether an image may be pulled: containerd's image verifier wants to know before the first byte.
    Verify {
        /// The image, as it was asked for.
        image: ImageName,
        /// The manifest or index that the registry names for it.
        digest: Digest,
    },
    /// Whether a pull may go on to containerd: magi's gateway wants to know before containerd hears of it.
    Admit {
        /// What is asked for.
        request: PullRequest,
    },
    /// The pods that NRI shows.
    Pods,
    /// magi-unpack has stopped a layer, and containerd is about to end its pull: to be recorded, with whose it is.
    UnpackStopped {
        /// What it stopped.
        stop: UnpackStop,
    },
}

/// A layer that unpacks to more than magi-unpack lets through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnpackStop {
    /// The layer; none: magi-unpack could not tell which it is.
    pub layer: Option<Digest>,
    /// What it crossed.
    pub limit: UnpackLimit,
    /// Bytes that it unpacks to, at least.
    pub unpacked: u64,
    /// Of that, what was let through.
    pub passed: u64,
}

/// A bound of magi-unpack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnpackLimit {
    /// Bytes of one layer.
    Unpacked {
        /// How many.
        bytes: u64,
    },
    /// Bytes of one layer, as a multiple of its compressed ones.
    Ratio {
        /// How many times as many.
        times: u64,
        /// Compressed bytes, as far as they were read.
        compressed: u64,
    },
}

impl fmt::Display for UnpackStop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.layer {
            Some(layer) => write!(f, "layer {layer}")?,
            None => f.write_str("a layer")?,
        }
        write!(f, " unpacks to {} bytes or more", self.unpacked)?;
        match self.limit {
            UnpackLimit::Unpacked { bytes } => write!(f, ", {bytes} are allowed")?,
            UnpackLimit::Ratio { times, compressed } => {
                write!(f, " from {compressed}, {times} times as many are allowed")?;
            }
        }
        write!(f, "; {} were let through", self.passed)
    }
}
