//! How the node does, for people and for checks.

use std::collections::BTreeMap;

use magi_engine::ids::{Digest, ImageName};
use magi_engine::policy::{Mode, Policy, RuleVerdict};
use magi_engine::switch::SwitchHolder;
use magi_engine::{Source, Time};
use serde::{Deserialize, Serialize};

/// The node at one time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Of magi-node.
    pub version: String,
    /// When it started.
    pub started: Time,
    /// The node's time now.
    pub now: Time,
    /// The containerd that it watches.
    pub containerd: ContainerdStatus,
    /// What the kernel probes can do here, in words.
    pub probes: String,
    /// Every source and whether it works.
    pub sources: Vec<SourceStatus>,
    /// What the image verifier asked.
    #[serde(default)]
    pub verifier: VerifierStatus,
    /// The gateways that are connected.
    #[serde(default)]
    pub gateway: GatewayStatus,
    /// The policy in force.
    pub policy: PolicyStatus,
    /// Who holds the kill switch, and what they said; while anybody does, nothing is stopped.
    #[serde(default)]
    pub kill_switch: BTreeMap<SwitchHolder, String>,
    /// Where the audit records go.
    pub audit: String,
    /// Kernel records lost since the start.
    pub lost_records: u64,
    /// Whether events are recorded for `magi-node replay`.
    pub trace: bool,
}

/// The watched containerd, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerdStatus {
    /// Its socket.
    pub address: String,
    /// Whether it answers.
    pub up: bool,
    /// Its version.
    pub version: Option<String>,
    /// Its process.
    pub pid: Option<u32>,
    /// Its root folder.
    pub root: Option<String>,
}

/// A source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// Which.
    pub source: Source,
    /// Whether it works.
    pub up: bool,
}

/// What the image verifier asked: that it is called at all can only be seen by its questions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifierStatus {
    /// Questions since the start.
    pub asked: u64,
    /// The latest of them, oldest first; at most [`MAX_VERIFIED`].
    pub lately: Vec<Verified>,
}

/// Questions of the image verifier that the status tells.
pub const MAX_VERIFIED: usize = 16;

/// A question of the image verifier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// When it was heard.
    pub at: Time,
    /// The image, as it was asked for.
    pub image: ImageName,
    /// What the registry names for it.
    pub digest: Digest,
}

impl VerifierStatus {
    /// Adds a question.
    pub fn heard(&mut self, question: Verified) {
        self.asked = self.asked.saturating_add(1);
        if self.lately.len() >= MAX_VERIFIED {
            self.lately.remove(0);
        }
        self.lately.push(question);
    }
}

/// The gateways that are connected: mostly none or one, two while one takes over from another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayStatus {
    /// How many.
    pub connected: u64,
    /// Pulls in flight through them.
    pub pulls: u64,
}

/// The policy in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// The digest over its text.
    pub revision: String,
    /// Enforce, if any part of it can stop a pull.
    pub mode: Mode,
}

impl PolicyStatus {
    /// Sums a policy up.
    #[must_use]
    pub fn of(policy: &Policy) -> Self {
        let verdicts = policy.rules.iter().map(|rule| rule.verdict);
        let by_verdict = verdicts.chain([policy.fallback]).any(|verdict| {
            matches!(
                verdict,
                RuleVerdict::Limit {
                    mode: Mode::Enforce,
                    ..
                } | RuleVerdict::Deny { mode: Mode::Enforce }
            )
        });
        let by_budget = policy.budgets.iter().any(|budget| budget.mode == Mode::Enforce);
        let enforces = by_verdict || by_budget;
        Self {
            revision: policy.revision.clone(),
            mode: if enforces { Mode::Enforce } else { Mode::Observe },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_counts_as_enforced_if_any_part_is() {
        let rule = |verdict| magi_engine::policy::Rule {
            name: "x".to_owned(),
            selector: magi_engine::policy::Selector::default(),
            verdict,
        };
        for (verdict, mode) in [
            (RuleVerdict::Exempt, Mode::Observe),
            (RuleVerdict::Deny { mode: Mode::Observe }, Mode::Observe),
            (RuleVerdict::Deny { mode: Mode::Enforce }, Mode::Enforce),
            (
                RuleVerdict::Limit {
                    mode: Mode::Enforce,
                    limits: magi_engine::policy::Limits::default(),
                },
                Mode::Enforce,
            ),
        ] {
            let mut policy = Policy::default();
            policy.rules.push(rule(verdict));
            assert_eq!(PolicyStatus::of(&policy).mode, mode, "{verdict:?}");
        }
    }

    #[test]
    fn only_the_latest_questions_of_the_verifier_are_kept() {
        let mut status = VerifierStatus::default();
        for number in 0..MAX_VERIFIED + 3 {
            status.heard(Verified {
                at: Time::from_micros(1),
                image: ImageName::new(format!("image:{number}")).unwrap(),
                digest: Digest::parse(&format!("sha256:{}", "a".repeat(64))).unwrap(),
            });
        }
        assert_eq!(
            (status.asked, status.lately.len()),
            (MAX_VERIFIED as u64 + 3, MAX_VERIFIED)
        );
        assert_eq!(status.lately[0].image.as_str(), "image:3");
    }
}
