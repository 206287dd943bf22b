//! What became of an attack, told from its pull's error and magi's audit trail; and the report that holds all of it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Mode;
use super::stage::STALLED;
use crate::Line;
use crate::cri::Pull;
use crate::demo::measure::short_error;

/// What stopped an attack, or that nothing did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum Verdict {
    /// magi condemned it and pulled levers.
    Stopped {
        /// Why.
        reason: String,
        /// By what, in order.
        levers: Vec<String>,
    },
    /// magi said no before it began.
    Refused {
        /// Who was told: the verifier, or the gateway.
        by: String,
        /// Why.
        reason: String,
    },
    /// magi-unpack ended a layer at its bound.
    UnpackStopped,
    /// containerd found it bad, or gave it up.
    Containerd {
        /// Its words.
        error: String,
    },
    /// It came to its end, or went on, and that does no harm.
    Harmless {
        /// How so.
        how: String,
    },
    /// Nothing stopped it.
    Escapes {
        /// Why not.
        why: String,
    },
}

/// One attack on one containerd in one mode.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cell {
    /// Its name.
    pub case: String,
    /// Which containerd.
    pub line: String,
    /// How much of magi.
    pub mode: Mode,
    /// What became of it.
    pub verdict: Verdict,
    /// Layer bytes that the registries sent for it.
    pub layer_bytes: u64,
    /// The most that was in use of containerd's disk beyond what was before, the healthy pull's share included.
    pub written: u64,
    /// Milliseconds from its request to its end.
    pub took_ms: u64,
    /// The same of the healthy pull beside it.
    pub healthy_ms: u64,
    /// What its caller was told.
    pub error: String,
    /// What the healthy pull beside it failed of; none: it came through.
    #[serde(default)]
    pub collateral: Option<String>,
}

/// All that was measured.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// The containerds: line and version.
    pub versions: Vec<(String, String)>,
    /// What it took.
    pub seconds: u64,
    /// Every cell.
    pub cells: Vec<Cell>,
}

impl Report {
    pub(super) fn knows(&mut self, line: Line, version: &str) {
        let one = (line.to_string(), version.to_owned());
        if !self.versions.contains(&one) {
            self.versions.push(one);
        }
    }
}

/// What stopped a pull that failed, by its error and by what magi recorded of it.
pub(super) fn of_failed(pull: &Pull, records: &[Value]) -> Verdict {
    let error = pull.error();
    let of = |kind: &'static str| records.iter().filter(move |record| record["kind"] == kind);
    let word = |record: &Value, key: &str| record[key].as_str().unwrap_or("?").to_owned();
    let intents: Vec<&Value> = of("intent").collect();
    let refused = of("refused").next().map(|record| word(record, "reason"));
    if error.contains("magi-unpack: layer stopped") {
        return Verdict::UnpackStopped;
    }
    // magi's own words begin so, from the gateway; the verifier's stand in containerd's.
    let from_gateway = error.starts_with("magi: ");
    let by = if from_gateway { "gateway" } else { "verifier" };
    let is_refusal = from_gateway && intents.is_empty() || error.contains("image verifier");
    if let Some(reason) = refused.filter(|_| is_refusal) {
        return Verdict::Refused {
            by: by.to_owned(),
            reason,
        };
    }
    // What a lever leaves in the error of the pull: of its sockets, and of its lease.
    let marks = ["connection abort", "connection reset", "lease does not exist"];
    let is_marked = from_gateway || marks.iter().any(|mark| error.contains(mark));
    // HTTP/2 tells its reader of a lost connection in words of its own, or as an end.
    let is_done = of("outcome")
        .any(|record| word(record, "outcome").starts_with("done: ") && word(record, "outcome") != "done: 0");
    match intents.first().filter(|_| is_marked || is_done) {
        Some(first) => {
            let mut levers: Vec<String> = intents.iter().map(|intent| word(intent, "lever")).collect();
            levers.dedup();
            Verdict::Stopped {
                reason: word(first, "reason"),
                levers,
            }
        }
        None => Verdict::Containerd {
            error: if error.ends_with("context canceled") {
                format!("its `image_pull_progress_timeout`, {STALLED} here")
            } else {
                short_error(error).to_owned()
            },
        },
    }
}
