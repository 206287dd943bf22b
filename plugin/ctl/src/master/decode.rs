//! What a master answers, from the generated types into values of our own: they are printed as JSON as they stand here.

use std::collections::BTreeMap;

use magi_master_api::wire;
use serde::Serialize;
use serde_json::Value;

use crate::output::{Exit, Failure};

/// A policy's number and digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Version {
    /// When the master first saw it, in milliseconds since the epoch, or one more than the last.
    pub(crate) revision: u64,
    /// In hexadecimal digits.
    pub(crate) sha256: String,
}

/// The kill switch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Switch {
    /// When it was set, in milliseconds since the epoch, or one more than the last; 0: never.
    pub(crate) revision: u64,
    /// Nothing is stopped.
    pub(crate) engaged: bool,
    pub(crate) by: String,
    pub(crate) reason: String,
}

/// What the master knows pods from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Intake {
    pub(crate) kind: String,
    pub(crate) whence: String,
    pub(crate) up: bool,
    /// Milliseconds since the epoch; none: it never told anything.
    pub(crate) last_heard_ms: Option<u64>,
    pub(crate) events: u64,
    /// What could not be used, by why.
    pub(crate) unusable: BTreeMap<String, u64>,
    /// Why it does not work; empty: it does.
    pub(crate) trouble: String,
}

/// The master itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct MasterState {
    pub(crate) version: String,
    /// Milliseconds since the epoch.
    pub(crate) started_ms: u64,
    pub(crate) policy: Option<Version>,
    /// The file or folder that it comes from; none: operators push it.
    pub(crate) policy_source: Option<String>,
    /// Who pushed it; none: it comes from a file.
    pub(crate) policy_by: Option<String>,
    /// Why the file that is there is not in force; empty: it is.
    pub(crate) policy_problem: String,
    pub(crate) kill_switch: Switch,
    pub(crate) intakes: Vec<Intake>,
    pub(crate) counters: BTreeMap<String, u64>,
}

/// A node, as the master knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct NodeState {
    pub(crate) node: String,
    pub(crate) connected: bool,
    /// Since when that is so, in milliseconds since the epoch; none: since before this run of the master.
    pub(crate) since_ms: Option<u64>,
    /// When it was last heard; none: never in this run of the master.
    pub(crate) last_seen_ms: Option<u64>,
    pub(crate) version: String,
    /// The policy in force there, if it came from a master.
    pub(crate) policy: Option<Version>,
    /// When it first said so to this run of the master.
    pub(crate) policy_since_ms: Option<u64>,
    /// Why it refused the last policy; empty: it did not.
    pub(crate) policy_refused: String,
    /// The revision of the kill switch that it has heard of.
    pub(crate) kill_switch: u64,
    pub(crate) verdicts_waiting: u32,
    pub(crate) verdicts_lost: u64,
    pub(crate) audit_lost: u64,
}

/// A record of the audit store; in JSON as in the store's own file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Record {
    pub(crate) node: String,
    pub(crate) run: u64,
    pub(crate) seq: u64,
    /// When the master stored it, in milliseconds since the epoch.
    pub(crate) stored: u64,
    /// As the node wrote it.
    pub(crate) record: Value,
}

fn given(number: u64) -> Option<u64> {
    (number > 0).then_some(number)
}

fn said(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

impl From<wire::PolicyVersion> for Version {
    fn from(version: wire::PolicyVersion) -> Self {
        Self {
            revision: version.revision,
            sha256: hex::encode(version.sha256),
        }
    }
}

impl From<wire::KillSwitch> for Switch {
    fn from(switch: wire::KillSwitch) -> Self {
        Self {
            revision: switch.revision,
            engaged: switch.engaged,
            by: switch.by,
            reason: switch.reason,
        }
    }
}

impl From<wire::Intake> for Intake {
    fn from(intake: wire::Intake) -> Self {
        Self {
            kind: intake.kind,
            whence: intake.whence,
            up: intake.up,
            last_heard_ms: given(intake.last_heard_ms),
            events: intake.events,
            unusable: intake.unusable.into_iter().collect(),
            trouble: intake.trouble,
        }
    }
}

impl From<wire::MasterStatus> for MasterState {
    fn from(status: wire::MasterStatus) -> Self {
        Self {
            version: status.version,
            started_ms: status.started_ms,
            policy: status.policy.map(Into::into),
            policy_source: said(status.policy_source),
            policy_by: said(status.policy_by),
            policy_problem: status.policy_problem,
            kill_switch: status.kill_switch.map(Into::into).unwrap_or_default(),
            intakes: status.intakes.into_iter().map(Into::into).collect(),
            counters: status.counters.into_iter().collect(),
        }
    }
}

impl From<wire::NodeStatus> for NodeState {
    fn from(node: wire::NodeStatus) -> Self {
        Self {
            node: node.node,
            connected: node.connected,
            since_ms: given(node.since_ms),
            last_seen_ms: given(node.last_seen_ms),
            version: node.version,
            policy: node.policy.map(Into::into),
            policy_since_ms: given(node.policy_since_ms),
            policy_refused: node.policy_refused,
            kill_switch: node.kill_switch,
            verdicts_waiting: node.verdicts_waiting,
            verdicts_lost: node.verdicts_lost,
            audit_lost: node.audit_lost,
        }
    }
}

impl TryFrom<wire::StoredRecord> for Record {
    type Error = Failure;

    fn try_from(stored: wire::StoredRecord) -> Result<Self, Failure> {
        let record = serde_json::from_slice(&stored.json).map_err(|error| {
            let why = format!("the master sent a record that is no JSON: {error}");
            Failure::new(Exit::Failed, why)
        })?;
        let mark = stored.mark.unwrap_or_default();
        Ok(Self {
            node: stored.node,
            run: mark.run,
            seq: mark.sequence,
            stored: stored.stored_ms,
            record,
        })
    }
}
