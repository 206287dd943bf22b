//! What a soak comes to, as `target/soak/report.json` says it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Held, Kind, Tally};
use crate::stats::{Summary, median, summary};

/// What the last tenth of the run may take, compared with the second.
const FLAT: f64 = 1.1;

/// The whole file.
#[derive(Debug, Serialize)]
pub struct Report {
    /// How long it took.
    pub seconds: f64,
    /// Attacks at a time, on each containerd.
    pub at_once: usize,
    /// One for each containerd.
    pub runs: Vec<Run>,
}

/// What happened on one containerd.
#[derive(Debug, Serialize)]
pub struct Run {
    /// Its version, as its API says.
    pub containerd: String,
    /// Attacks made.
    pub attacks: usize,
    /// Those that came through or were still running at the bound, and why.
    pub escapes: Vec<String>,
    /// Attacks that lack an intent, its outcome, or the right reason in the audit trail.
    pub unaudited: Vec<String>,
    /// Healthy pulls made.
    pub healthy: usize,
    /// Those that failed, came out as something else, or had a lever pulled for them.
    pub healthy_hit: Vec<String>,
    /// Attacks by kind.
    pub kinds: BTreeMap<Kind, Stopped>,
    /// Milliseconds that the healthy pulls took.
    pub healthy_ms: Summary,
    /// Resident memory of magi-node in KiB, over the run.
    pub rss_kib: Course,
    /// Files that magi-node had open, over the run.
    pub descriptors: Course,
}

/// How attacks of one kind ended.
#[derive(Debug, Serialize)]
pub struct Stopped {
    /// Milliseconds from the request to the end of the pull.
    pub ms: Summary,
    /// Bytes of layers that the registry handed to sockets.
    pub layer_bytes: Summary,
}

/// How a figure went over the run: medians of its second and last tenth, and its largest value.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Course {
    /// Median of the second tenth.
    pub second_tenth: f64,
    /// Median of the last tenth.
    pub last_tenth: f64,
    /// The largest of all.
    pub most: f64,
}

impl Course {
    fn of(samples: impl Iterator<Item = f64>) -> Self {
        let samples: Vec<f64> = samples.collect();
        let tenth = |number: usize| {
            let (from, to) = (samples.len() * number / 10, samples.len() * (number + 1) / 10);
            median(samples.iter().take(to).skip(from).copied())
        };
        Self {
            second_tenth: tenth(1),
            last_tenth: tenth(9),
            most: summary(samples.iter().copied()).max,
        }
    }

    /// Last ÷ second tenth.
    pub fn growth(&self) -> f64 {
        self.last_tenth / self.second_tenth
    }

    /// Whether it stays within the goal.
    pub fn is_flat(&self) -> bool {
        self.growth() <= FLAT
    }
}

impl Run {
    /// What is not as it must be, besides what needs a long run to show; in words.
    pub fn misses(&self) -> Vec<String> {
        let mut misses = Vec::new();
        for (what, found) in [
            ("escaped", &self.escapes),
            ("lacks records", &self.unaudited),
            ("was hit", &self.healthy_hit),
        ] {
            misses.extend(
                found
                    .iter()
                    .map(|one| format!("{}: {what}: {one}", self.containerd)),
            );
        }
        misses
    }

    /// What grew, which a short run says nothing about.
    pub fn growths(&self) -> Vec<String> {
        [("resident KiB", self.rss_kib), ("open files", self.descriptors)]
            .into_iter()
            .filter(|(_, course)| !course.is_flat())
            .map(|(what, course)| {
                format!(
                    "{}: {what}: {} in the last tenth, {} in the second",
                    self.containerd, course.last_tenth, course.second_tenth
                )
            })
            .collect()
    }
}

pub(super) fn run(
    containerd: &str,
    tally: &Tally,
    unaudited: Vec<String>,
    mut healthy_hit: Vec<String>,
) -> Run {
    let failed = tally.beside.iter().filter_map(|pull| {
        let failed = pull.failed.as_ref()?;
        Some(format!("{}: {failed}", pull.repository))
    });
    healthy_hit.extend(failed);
    let escapes = tally.attacks.iter().filter_map(|attack| {
        let why = attack.escaped.as_ref()?;
        Some(format!("{} ({:?}): {why}", attack.repository, attack.kind))
    });
    let kinds = Kind::ALL.into_iter().map(|kind| {
        let of_it = || tally.attacks.iter().filter(move |attack| attack.kind == kind);
        let stopped = Stopped {
            ms: summary(of_it().map(|attack| attack.took.as_secs_f64() * 1e3)),
            layer_bytes: summary(of_it().map(|attack| attack.layer_bytes as f64)),
        };
        (kind, stopped)
    });
    let held = |figure: fn(&Held) -> f64| Course::of(tally.held.iter().map(figure));
    Run {
        containerd: containerd.to_owned(),
        attacks: tally.attacks.len(),
        escapes: escapes.collect(),
        unaudited,
        healthy: tally.beside.len(),
        healthy_hit,
        kinds: kinds.collect(),
        healthy_ms: summary(tally.beside.iter().map(|pull| pull.took.as_secs_f64() * 1e3)),
        rss_kib: held(|held| (held.rss >> 10) as f64),
        descriptors: held(|held| held.descriptors as f64),
    }
}
