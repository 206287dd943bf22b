//! What a check says, and what all of them come to.

use serde::Serialize;

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    /// It is as it should be.
    Ok,
    /// magi does its work, but not all of it, or not as well as it could.
    Warn,
    /// Something that was asked for does not work.
    Fail,
    /// It could not be checked, or there is nothing to check on this node.
    Skip,
}

/// One line of the report.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Check {
    /// Names the check for programs; never changes its meaning.
    pub(crate) id: &'static str,
    /// What an `ok` proves.
    pub(crate) proves: &'static str,
    pub(crate) outcome: Outcome,
    /// What was seen.
    pub(crate) seen: String,
    /// What to do about it; never empty where something fails.
    pub(crate) advice: Vec<String>,
}

/// A check that is still to be decided.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) id: &'static str,
    pub(crate) proves: &'static str,
}

impl Question {
    fn says(self, outcome: Outcome, seen: impl Into<String>, advice: Vec<String>) -> Check {
        Check {
            id: self.id,
            proves: self.proves,
            outcome,
            seen: seen.into(),
            advice,
        }
    }

    pub(crate) fn ok(self, seen: impl Into<String>) -> Check {
        self.says(Outcome::Ok, seen, Vec::new())
    }

    pub(crate) fn skip(self, seen: impl Into<String>) -> Check {
        self.says(Outcome::Skip, seen, Vec::new())
    }

    pub(crate) fn warn(self, seen: impl Into<String>, advice: impl Into<String>) -> Check {
        self.says(Outcome::Warn, seen, vec![advice.into()])
    }

    pub(crate) fn fail(self, seen: impl Into<String>, advice: impl Into<String>) -> Check {
        self.says(Outcome::Fail, seen, vec![advice.into()])
    }
}

impl Check {
    /// Adds something else that can be done.
    pub(crate) fn or(mut self, advice: impl Into<String>) -> Self {
        self.advice.push(advice.into());
        self
    }
}

/// Whether a stage of a pull can be stopped on this node.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Stage {
    pub(crate) stage: &'static str,
    pub(crate) covered: bool,
    /// By which lever, or why by none.
    pub(crate) by: String,
}

/// All that was found.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Whether nothing fails.
    pub(crate) ok: bool,
    /// Of magictl.
    pub(crate) version: &'static str,
    pub(crate) checks: Vec<Check>,
    pub(crate) stages: Vec<Stage>,
}

/// How the check of this name went; one that was not made counts as skipped.
pub(crate) fn outcome(checks: &[Check], id: &str) -> Outcome {
    checks
        .iter()
        .find(|check| check.id == id)
        .map_or(Outcome::Skip, |check| check.outcome)
}

/// An error with all that caused it, on one line.
pub(crate) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
