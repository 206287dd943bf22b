//! The kill switch: while anybody holds it, nothing is stopped.
//!
//! Changed by: [`Event::KillSwitch`](crate::event::Event::KillSwitch), and by the circuit breaker. What the master said of it stays while the master
//! is gone.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Who may hold the kill switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SwitchHolder {
    /// The master, for all nodes.
    Master,
    /// Somebody on this node.
    Node,
    /// The engine itself, as it has stopped too many pulls in a short while.
    Breaker,
}

impl fmt::Display for SwitchHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Master => "master",
            Self::Node => "node",
            Self::Breaker => "breaker",
        })
    }
}

/// Who holds it, and what they said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KillSwitch {
    held: BTreeMap<SwitchHolder, String>,
}

impl KillSwitch {
    /// `by` is who set it, and why, in words. Tells whether that is news.
    pub(crate) fn set(&mut self, holder: SwitchHolder, engaged: bool, by: &str) -> bool {
        if engaged {
            self.held.insert(holder, by.to_owned()).as_deref() != Some(by)
        } else {
            self.held.remove(&holder).is_some()
        }
    }

    /// Whether nothing may be stopped.
    #[must_use]
    pub fn is_engaged(&self) -> bool {
        !self.held.is_empty()
    }

    /// Who holds it, and what they said.
    pub fn holders(&self) -> impl Iterator<Item = (SwitchHolder, &str)> {
        self.held.iter().map(|(holder, by)| (*holder, by.as_str()))
    }

    /// Why nobody's wish to stop something is carried out; none: the switch is off.
    pub(crate) fn objection(&self) -> Option<String> {
        let (holder, by) = self.holders().next()?;
        Some(format!(
            "the kill switch is on ({holder}: {by}), and magi stops nothing until it is off"
        ))
    }
}
