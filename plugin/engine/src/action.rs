//! Everything that the engine can want done.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::audit::AuditRecord;
use crate::ids::{
    AttemptId, ContainerdNamespace, Digest, GatewayCallId, IngestKey, KeepId, LeaseKey, RequestId,
    SnapshotName, SocketName,
};
use crate::owner::NodePod;
use crate::report::Report;
use crate::time::Time;

/// An effect, as a value. Carried out by the node's executor, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum Action {
    /// Write the intent, then pull the lever, then answer with [`crate::Event::LeverDone`]. If the intent cannot be
    /// written, the lever stays untouched and the outcome is [`LeverOutcome::IntentNotWritten`].
    PullLever {
        /// This use of it.
        attempt: AttemptId,
        /// What to do.
        lever: Lever,
        /// What to write first.
        intent: AuditRecord,
        /// It is not written: the record of this pull's first lever stands for those that follow. Only for what repeats
        /// an earlier stop of the same image, as a client that retries for ever must not fill the trail.
        #[serde(default)]
        recorded: bool,
    },
    /// Write a record that no lever hangs on.
    Record {
        /// It.
        record: AuditRecord,
    },
    /// Look at containerd now; answered with [`crate::Event::Looked`].
    Look {
        /// List extract snapshots too.
        extracts: bool,
    },
    /// List containerd's sockets now; answered with [`crate::Event::SocketsListed`].
    ListSockets,
    /// Send [`crate::Event::Tick`] at this time. Only the latest wish counts.
    WakeAt {
        /// When.
        at: Time,
    },
    /// Have containerd collect its garbage now, as it does by itself from time to time; answered with
    /// [`crate::Event::CollectDone`].
    Collect {
        /// Where.
        namespace: ContainerdNamespace,
    },
    /// Have containerd hold this content by a lease of magi's own, until then; answered with [`crate::Event::KeepDone`].
    Keep {
        /// The lease.
        hold: Hold,
        /// What it is to hold.
        content: Vec<Digest>,
    },
    /// Let go of what an [`Action::Keep`] holds.
    Release {
        /// The lease.
        hold: Hold,
    },
    /// Answer a question.
    Answer {
        /// Which.
        request: RequestId,
        /// The answer.
        answer: Answer,
    },
}

/// A lease of magi's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Names it.
    pub keep: KeepId,
    /// Where.
    pub namespace: ContainerdNamespace,
    /// When containerd lets go of what it holds by itself.
    pub until: Time,
}

/// What the caller of a pull hears that is ended or refused through magi's gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Which kind of error it is.
    pub kind: RefusalKind,
    /// Reason, limit, what was found, and the way to an exemption, for people.
    pub text: String,
}

/// Kinds of errors, by what a caller may do about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalKind {
    /// The image is, or its namespace has, too much of something (`RESOURCE_EXHAUSTED`).
    Exhausted,
    /// It is not wanted as things are (`FAILED_PRECONDITION`).
    Denied,
}

/// What can be done to a pull. Legal stages stand in DESIGN.md §6.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "lever", rename_all = "kebab-case")]
pub enum Lever {
    /// In every stage: cancel the calls of the pull in magi's gateway. containerd ends a cancelled call's download and
    /// unpacking, and collects what it has left (containerd.md §14).
    CancelCalls {
        /// The calls: one, or several that ask for the same.
        calls: Vec<GatewayCallId>,
        /// What their callers hear.
        refusal: Refusal,
    },
    /// Before the first layer: delete the pull's lease, without which containerd lets it open no further ingest
    /// (measured on 1.7.24 and 2.1.9: it ends with `lease does not exist`, nothing left). Never once a layer has begun:
    /// its bytes would go on, into a file that nobody sees.
    DeleteLease {
        /// The lease.
        lease: LeaseKey,
    },
    /// Downloading: destroy one socket by tuple and cookie (`SOCK_DESTROY`).
    DestroySocket {
        /// The socket.
        socket: SocketName,
    },
    /// Downloading, where the kernel refuses to destroy: `connect(AF_UNSPEC)` on a duplicate of the descriptor.
    DisconnectSocket {
        /// The socket.
        socket: SocketName,
    },
    /// The operator's panic button: destroy all of these.
    DestroyAll {
        /// The sockets.
        sockets: Vec<SocketName>,
    },
    /// Afterwards only: forget an ingest that no lease holds any more.
    AbortIngest {
        /// The ingest.
        ingest: IngestKey,
    },
    /// Afterwards only: remove an extract snapshot that no lease holds any more.
    RemoveSnapshot {
        /// The snapshot.
        snapshot: SnapshotName,
    },
}

impl Lever {
    /// Its name in records and metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::CancelCalls { .. } => "cancel-calls",
            Self::DeleteLease { .. } => "delete-lease",
            Self::DestroySocket { .. } => "destroy-socket",
            Self::DisconnectSocket { .. } => "disconnect-socket",
            Self::DestroyAll { .. } => "destroy-all-sockets",
            Self::AbortIngest { .. } => "abort-ingest",
            Self::RemoveSnapshot { .. } => "remove-snapshot",
        }
    }
}

/// What became of a lever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum LeverOutcome {
    /// Done.
    Done {
        /// How many things it touched.
        count: u64,
    },
    /// The target was already gone.
    AlreadyGone,
    /// The target is not what it was when the engine chose it; nothing was touched.
    NotAsExpected {
        /// What differs.
        what: String,
    },
    /// This kernel cannot do it; nothing was touched.
    Unsupported {
        /// Its answer.
        why: String,
    },
    /// It failed.
    Failed {
        /// Why.
        why: String,
    },
    /// The audit record could not be written, so nothing was touched.
    IntentNotWritten {
        /// Why.
        why: String,
    },
}

impl fmt::Display for LeverOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done { count } => write!(f, "done: {count}"),
            Self::AlreadyGone => f.write_str("already-gone"),
            Self::NotAsExpected { what } => write!(f, "not-as-expected: {what}"),
            Self::Unsupported { why } => write!(f, "unsupported: {why}"),
            Self::Failed { why } => write!(f, "failed: {why}"),
            Self::IntentNotWritten { why } => write!(f, "intent-not-written: {why}"),
        }
    }
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// What is being pulled.
    Pulls {
        /// The report.
        report: Report,
    },
    /// The pods of the node.
    Pods {
        /// They, by sandbox; none: NRI is not connected.
        pods: Option<Vec<NodePod>>,
    },
    /// The image may be pulled, as far as is known.
    Admitted {
        /// Whether its manifest is known, so that asking again after it was resolved would tell no more.
        known: bool,
    },
    /// It stands in the trail; to magi-unpack.
    Noted {
        /// Pulls in flight that have the layer.
        pulls: u64,
    },
    /// The pull may not go on; to the gateway.
    TurnedAway {
        /// What its caller hears.
        refusal: Refusal,
    },
    /// The image may not be pulled.
    Refused {
        /// Why, and how to get an exemption, for people.
        why: String,
    },
    /// The pull has ended after the question came.
    Ended,
    /// No such pull is in flight.
    NoSuchPull,
    /// The pull has not ended in time; magi goes on trying.
    StillRunning {
        /// What stands in the way.
        why: String,
    },
    /// So many sockets were closed.
    Closed {
        /// How many.
        count: u64,
    },
    /// It could not be done.
    Failed {
        /// Why.
        why: String,
    },
    /// Too many questions wait already.
    Busy,
}

/// Where the engine puts its wishes, in order.
#[derive(Debug, Default)]
pub struct Effects {
    actions: Vec<Action>,
}

impl Effects {
    /// Adds a wish.
    pub(crate) fn push(&mut self, action: Action) {
        self.actions.push(action);
    }

    /// Takes all wishes, oldest first.
    pub fn take(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }
}
