//! What goes into the audit trail; the node adds sequence number, time and host when it writes.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::event::UnpackStop;
use crate::evidence::{Evidence, Reason, Source};
use crate::ids::{AttemptId, Digest, ImageName, IngestRef, LeaseKey, PullId, RepositoryName, SocketName};
use crate::owner::Owner;
use crate::policy::Mode;
use crate::switch::SwitchHolder;
use crate::time::Time;

/// Version of the records' form; raised when a field changes its meaning or goes away.
pub const SCHEMA: &str = "magi.audit/1";

/// One line of the audit trail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// The pull that it is about; none for what concerns the whole node.
    pub pull: Option<PullFacts>,
    /// Revision of the policy that was in force.
    pub policy: String,
    /// What it says.
    #[serde(flatten)]
    pub entry: Entry,
}

/// Which pull a record is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullFacts {
    /// magi's id of it.
    pub id: PullId,
    /// containerd's.
    pub lease: LeaseKey,
    /// Where it comes from, as far as known.
    pub repositories: Vec<RepositoryName>,
    /// Who asked for it; none: not known for sure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// Who may have asked for it, where that is not known for sure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owner_candidates: Vec<Owner>,
    /// Declared compressed bytes, if a manifest is known.
    pub declared: Option<u64>,
    /// Bytes in its ingests when the record was made.
    pub stored: u64,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Entry {
    /// A lever is about to be pulled.
    Intent {
        /// Pairs it with its outcome.
        attempt: AttemptId,
        /// Why.
        reason: Reason,
        /// The rule that applied; none: the policy's defaults.
        rule: Option<String>,
        /// The lever's name.
        lever: String,
        /// The socket that it will close.
        socket: Option<SocketName>,
        /// What speaks for it, from two sources.
        evidence: Vec<Evidence>,
    },
    /// A lever came back.
    Outcome {
        /// Pairs it with its intent.
        attempt: AttemptId,
        /// What it did, in words for people; the code comes first.
        outcome: String,
        /// The run of the agent that intended it; none: the one that writes this.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        of_run: Option<Time>,
    },
    /// A condemned pull has ended.
    Ended {
        /// Why it was condemned.
        reason: Reason,
        /// Levers pulled.
        attempts: u32,
        /// From the first lever to the look that no longer showed the lease, in microseconds; none if no lever was
        /// needed.
        took_micros: Option<u64>,
    },
    /// Nothing of the ended pull is left in containerd.
    Clean {
        /// Leftovers that magi had to remove itself.
        removed: u32,
    },
    /// Another pull goes on with an ingest of the ended one.
    TakenOver {
        /// The ingest.
        ingest: IngestRef,
        /// The other pull.
        by: PullId,
        /// Whether that one is condemned as well.
        condemned: bool,
    },
    /// In observe mode: this is what enforce would have done.
    WouldAbort {
        /// Why.
        reason: Reason,
        /// The rule that applied; none: the policy's defaults.
        rule: Option<String>,
        /// What speaks for it.
        evidence: Vec<Evidence>,
    },
    /// A condemned pull runs on, and nothing can be closed.
    NotStopped {
        /// Why it was condemned.
        reason: Reason,
        /// What stands in the way.
        why: String,
    },
    /// Leftovers stayed although magi tried to remove them.
    NotClean {
        /// What is left, in words.
        what: Vec<String>,
    },
    /// The image verifier or the gateway was told no, or would have been told no if the policy enforced.
    Refused {
        /// The image, as it was asked for.
        image: ImageName,
        /// Its manifest or index; none: the gateway was told no, which knows only the name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<Digest>,
        /// Why.
        reason: Reason,
        /// The rule that applied; none: the policy's defaults.
        rule: Option<String>,
        /// Observe or enforce.
        mode: Mode,
        /// What speaks for it.
        evidence: Vec<Evidence>,
        /// Refusals of the same kind since the last record that are not recorded one by one.
        unrecorded: u64,
    },
    /// A manifest could not be understood; the pull goes on unjudged by size.
    ManifestUnreadable {
        /// The document and why.
        problem: String,
    },
    /// A bound was reached and something was forgotten.
    Forgotten {
        /// What.
        what: String,
    },
    /// A source came or went.
    SourceChanged {
        /// Which.
        source: Source,
        /// Whether it works now.
        up: bool,
    },
    /// Finished layers of an orphaned pull are kept, or could not be.
    Kept {
        /// How many.
        layers: u64,
        /// Their bytes.
        bytes: u64,
        /// Until then.
        until: Time,
        /// Why they could not be; none: they are.
        failed: Option<String>,
    },
    /// What was kept of an orphaned pull is let go of before its time.
    Released {
        /// Why.
        why: String,
    },
    /// magi-unpack has stopped a layer of it, by the bounds of its own file.
    UnpackStopped {
        /// What it stopped.
        stop: UnpackStop,
    },
    /// The kill switch was set.
    KillSwitch {
        /// Whose hold of it.
        holder: SwitchHolder,
        /// Nothing is stopped from now on.
        engaged: bool,
        /// Who set it, and why.
        by: String,
    },
    /// A policy took effect.
    PolicyInForce {
        /// Its mode where no rule matches; none: exempt.
        mode: Option<Mode>,
        /// How many rules it has.
        rules: u64,
    },
}

impl Entry {
    /// What speaks for what it says; empty where a record carries none.
    #[must_use]
    pub fn evidence(&self) -> &[Evidence] {
        match self {
            Self::Intent { evidence, .. }
            | Self::WouldAbort { evidence, .. }
            | Self::Refused { evidence, .. } => evidence,
            Self::Outcome { .. }
            | Self::Ended { .. }
            | Self::Clean { .. }
            | Self::TakenOver { .. }
            | Self::NotStopped { .. }
            | Self::NotClean { .. }
            | Self::ManifestUnreadable { .. }
            | Self::Forgotten { .. }
            | Self::SourceChanged { .. }
            | Self::KillSwitch { .. }
            | Self::UnpackStopped { .. }
            | Self::Kept { .. }
            | Self::Released { .. }
            | Self::PolicyInForce { .. } => &[],
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Intent {
                attempt,
                reason,
                lever,
                socket,
                evidence,
                ..
            } => {
                write!(f, "{reason}: pulls lever {lever} ({attempt})")?;
                if let Some(socket) = socket {
                    write!(f, " on socket {socket}")?;
                }
                let mut facts = evidence.iter();
                if let Some(first) = facts.next() {
                    write!(f, " because {first}")?;
                }
                facts.try_for_each(|fact| write!(f, ", and {fact}"))
            }
            Self::Outcome {
                attempt,
                outcome,
                of_run: None,
            } => write!(f, "lever {attempt} came back: {outcome}"),
            Self::Outcome {
                attempt,
                outcome,
                of_run: Some(_),
            } => write!(f, "lever {attempt} of an earlier run: {outcome}"),
            Self::Ended { reason, attempts, .. } => {
                write!(f, "{reason}: the pull has ended after {attempts} levers")
            }
            Self::Clean { removed } => {
                write!(f, "nothing of the ended pull is left, {removed} removed by magi")
            }
            Self::TakenOver {
                ingest,
                by,
                condemned,
            } => {
                let fate = if *condemned {
                    "condemned as well"
                } else {
                    "innocent"
                };
                write!(f, "{by} goes on with {ingest} and is {fate}")
            }
            Self::WouldAbort { reason, .. } => write!(f, "{reason}: would be stopped if the policy enforced"),
            Self::NotStopped { reason, why } => write!(f, "{reason}: not stopped yet: {why}"),
            Self::Refused {
                image,
                reason,
                mode: Mode::Enforce,
                ..
            } => write!(f, "{reason}: {image} was refused before its first byte"),
            Self::Refused { image, reason, .. } => {
                write!(f, "{reason}: {image} would be refused if the policy enforced")
            }
            Self::NotClean { what } => write!(f, "left behind: {}", what.join(", ")),
            Self::ManifestUnreadable { problem } => write!(f, "judged without its manifest: {problem}"),
            Self::Forgotten { what } => write!(f, "forgotten: {what}"),
            Self::SourceChanged { source, up } => {
                write!(f, "source {source} {}", if *up { "works" } else { "is gone" })
            }
            Self::Kept {
                layers,
                bytes,
                failed: None,
                ..
            } => write!(f, "kept for whoever asks again: {layers} layers, {bytes} bytes"),
            Self::Kept {
                failed: Some(why), ..
            } => write!(f, "its finished layers could not be kept: {why}"),
            Self::Released { why } => write!(f, "its finished layers are no longer kept: {why}"),
            Self::UnpackStopped { stop } => write!(f, "stopped while it was unpacked: {stop}"),
            Self::KillSwitch { holder, engaged, by } => {
                write!(
                    f,
                    "kill switch of the {holder} {}: {by}",
                    if *engaged { "on" } else { "off" }
                )
            }
            Self::PolicyInForce {
                mode: Some(mode),
                rules,
            } => write!(f, "policy in force: {mode}, {rules} rules"),
            Self::PolicyInForce { mode: None, rules } => {
                write!(f, "policy in force: {rules} rules, everything else exempt")
            }
        }
    }
}
