//! `make hostile`: every trick that a registry or an image can play, on each containerd, with ever more of magi around it.
//!
//! What stops an attack, and after how many bytes, is measured by the run: the registries count what they sent, statfs what
//! was written, and the pull's error is its caller's. A healthy pull goes on beside each attack, and afterwards nothing of
//! either may be left. The README's table is written from that, and from nothing else.

pub mod cases;
mod play;
mod stage;
pub mod table;
pub mod verdict;
mod world;

use std::fmt;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::Line;
use cases::Case;
use stage::Stage;
use verdict::{Cell, Report};
use world::World;

/// How much of magi there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// magi-node beside containerd, whose configuration knows nothing of it but NRI.
    Passive,
    /// The image verifier (2.x) and magi-unpack besides.
    Hooks,
    /// Pulls through magi-gateway besides.
    Gateway,
}

impl Mode {
    /// All, from the least to the most.
    pub const ALL: [Self; 3] = [Self::Passive, Self::Hooks, Self::Gateway];

    /// Its word on the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Passive => "passive",
            Self::Hooks => "hooks",
            Self::Gateway => "gateway",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.word())
    }
}

/// What of the suite is run.
#[derive(Debug, Clone)]
pub struct Selection {
    /// Cases by name; empty: all.
    pub cases: Vec<String>,
    /// On these.
    pub lines: Vec<Line>,
    /// With this much of magi.
    pub modes: Vec<Mode>,
}

impl Default for Selection {
    fn default() -> Self {
        Self {
            cases: Vec::new(),
            lines: Line::ALL.to_vec(),
            modes: Mode::ALL.to_vec(),
        }
    }
}

impl Selection {
    fn cases(&self) -> Result<Vec<&'static Case>> {
        for name in &self.cases {
            let is_known = cases::all().any(|case| case.name == name);
            ensure!(is_known, "there is no case {name}");
        }
        let wanted = |case: &&Case| self.cases.is_empty() || self.cases.iter().any(|name| name == case.name);
        Ok(cases::all().filter(wanted).collect())
    }
}

/// Runs the selection, one stage after the other, and tells each cell as it is measured. An error is a broken stage, or an
/// innocent that was hit, or something that was left; an escape is a result.
pub async fn run(selection: &Selection, mut tell: impl FnMut(&Cell)) -> Result<Report> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "the suite runs containerds of its own and reads the kernel: run it as root"
    );
    let cases = selection.cases()?;
    let began = Instant::now();
    let world = World::start().await?;
    let mut report = Report::default();
    for line in &selection.lines {
        for mode in &selection.modes {
            let stage = Stage::set(&world, *line, *mode)
                .await
                .with_context(|| format!("containerd {line}, {mode}"))?;
            report.knows(*line, stage.version());
            for (number, case) in cases.iter().enumerate() {
                let cell = play::play(&stage, case, number as u64)
                    .await
                    .with_context(|| format!("{} on containerd {line}, {mode}", case.name))
                    .with_context(|| stage.logs())?;
                tell(&cell);
                report.cells.push(cell);
            }
            stage.end()?;
        }
    }
    report.seconds = began.elapsed().as_secs();
    Ok(report)
}
