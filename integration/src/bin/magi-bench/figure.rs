//! A figure: samples, what they come to, its goals; how it is written down and shown.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use magi_integration::containerd::Line;
use magi_integration::{magi, parts};
use serde::Serialize;
use serde_json::{Value, json};

use crate::machine::{self, Machine};
use crate::options::Options;
use crate::stats::Summary;

/// Version of the files' form.
const SCHEMA: &str = "magi.bench/1";
/// Above this load at the start, figures tell more about others than about magi.
const QUIET: f64 = 1.0;

/// What a value must not pass.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// A goal and whether it is met.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Goal {
    pub(crate) what: &'static str,
    pub(crate) value: f64,
    pub(crate) goal: Bound,
    pub(crate) met: bool,
}

impl Goal {
    pub(crate) fn at_most(what: &'static str, most: f64, value: f64) -> Self {
        Self {
            what,
            value,
            goal: Bound::AtMost(most),
            met: value <= most,
        }
    }

    pub(crate) fn at_least(what: &'static str, least: f64, value: f64) -> Self {
        Self {
            what,
            value,
            goal: Bound::AtLeast(least),
            met: value >= least,
        }
    }

    fn text(&self) -> String {
        let (sign, bound) = match self.goal {
            Bound::AtMost(most) => ('≤', most),
            Bound::AtLeast(least) => ('≥', least),
        };
        let met = if self.met { "met" } else { "MISSED" };
        format!("{} {:.3}, goal {sign} {bound}: {met}", self.what, self.value)
    }
}

/// One series of samples in the summary.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Series {
    pub(crate) what: &'static str,
    pub(crate) unit: &'static str,
    #[serde(flatten)]
    pub(crate) summary: Summary,
}

/// A figure on one containerd, or on none.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Run {
    /// Which line of versions.
    pub(crate) line: Option<String>,
    /// The version that its API reports.
    pub(crate) containerd: Option<String>,
    pub(crate) series: Vec<Series>,
    pub(crate) goals: Vec<Goal>,
    /// What else the samples show.
    pub(crate) notes: Value,
    /// Every sample, in the order in which they were taken.
    pub(crate) samples: Value,
}

impl Run {
    /// Where it was taken, behind `before`.
    fn place(&self, before: &str) -> String {
        match &self.containerd {
            Some(version) => format!("{before}containerd {version}"),
            None => String::new(),
        }
    }
}

/// A figure, on every containerd that it is about.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    /// Also the file's name.
    pub(crate) name: &'static str,
    /// What is measured, from where to where.
    pub(crate) what: &'static str,
    pub(crate) load_before: [f64; 3],
    pub(crate) load_after: [f64; 3],
    pub(crate) runs: Vec<Run>,
}

impl Figure {
    /// Measures on each line of containerd, one after the other.
    pub(crate) async fn on_each_line(
        name: &'static str,
        what: &'static str,
        on: impl AsyncFn(Line) -> Result<Run>,
    ) -> Result<Self> {
        let load_before = machine::load();
        let mut runs = Vec::new();
        for line in Line::ALL {
            runs.push(on(line).await.with_context(|| format!("on {line}"))?);
        }
        Ok(Self {
            name,
            what,
            load_before,
            load_after: machine::load(),
            runs,
        })
    }

    /// The goals that were missed, in words.
    pub(crate) fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        for run in &self.runs {
            for goal in run.goals.iter().filter(|goal| !goal.met) {
                missed.push(format!("{}{}: {}", self.name, run.place(", "), goal.text()));
            }
        }
        missed
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("{}: {}", self.name, self.what);
        for run in &self.runs {
            text.push_str(&run.place("\n  "));
            for series in &run.series {
                let Summary {
                    count,
                    min,
                    median,
                    p95,
                    p99,
                    max,
                } = series.summary;
                let _ = write!(
                    text,
                    "\n    {:<28} median {median:>8.2} {:<6} min {min:.2}, p95 {p95:.2}, p99 {p99:.2}, max {max:.2}  ({count})",
                    series.what, series.unit
                );
            }
            for goal in &run.goals {
                let _ = write!(text, "\n    → {}", goal.text());
            }
        }
        text
    }
}

/// Where and with what the figures were taken.
pub(crate) struct Setting {
    machine: Machine,
    magi: String,
    commit: String,
    quick: bool,
    folder: PathBuf,
}

impl Setting {
    /// Looks, and makes the folder for the results.
    pub(crate) fn look(options: &Options) -> Result<Self> {
        let mut folder = parts::target_dir().join("bench");
        if options.quick {
            folder.push("quick");
        }
        std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let node = magi::binary("magi-node")?;
        Ok(Self {
            machine: Machine::look()?,
            magi: said(Command::new(node).arg("--version")).unwrap_or_else(|| "unknown".to_owned()),
            commit: said(
                Command::new("git")
                    .args(["describe", "--always", "--dirty", "--exclude=*"])
                    .current_dir(env!("CARGO_MANIFEST_DIR")),
            )
            .unwrap_or_else(|| "unknown".to_owned()),
            quick: options.quick,
            folder,
        })
    }

    /// Says what makes the figures worth less.
    pub(crate) fn warn(&self) {
        if cfg!(debug_assertions) {
            eprintln!("warning: this is a development build; `make bench` builds for release");
        }
        let [load, ..] = machine::load();
        if load > QUIET {
            eprintln!("warning: the machine is busy already (load {load}); others will show in the figures");
        }
    }

    /// One line about all that.
    pub(crate) fn headline(&self) -> String {
        let Machine {
            cpu,
            cores,
            kernel,
            filesystem,
            ..
        } = &self.machine;
        format!(
            "{} ({}, {}) on {kernel}, {cores} × {cpu}, {filesystem}",
            self.magi,
            self.commit,
            build()
        )
    }

    /// Where results go.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes a figure down.
    pub(crate) fn write(&self, figure: &Figure) -> Result<PathBuf> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let document = json!({
            "schema": SCHEMA,
            "figure": figure.name,
            "what": figure.what,
            "taken": since.as_secs(),
            "quick": self.quick,
            "build": build(),
            "versions": { "magi-node": self.magi, "commit": self.commit },
            "machine": self.machine,
            "load": { "before": figure.load_before, "after": figure.load_after },
            "met": figure.missed().is_empty(),
            "runs": figure.runs,
        });
        let path = self.folder.join(format!("{}.json", figure.name));
        let mut text = serde_json::to_string_pretty(&document).context("encode a figure")?;
        text.push('\n');
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}

fn build() -> &'static str {
    if cfg!(debug_assertions) {
        "development"
    } else {
        "release"
    }
}

fn said(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::Goal;

    #[test]
    fn the_bound_itself_is_good_enough() {
        assert!(Goal::at_most("x", 3.0, 3.0).met && Goal::at_least("x", 0.97, 0.97).met);
        let missed = Goal::at_least("ratio", 0.97, 0.9);
        assert!(!missed.met);
        assert_eq!(missed.text(), "ratio 0.900, goal ≥ 0.97: MISSED");
    }
}
