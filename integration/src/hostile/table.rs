//! The table in README.md: written from a report, between two markers, with the day of the run.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use super::verdict::{Cell, Report, Verdict};
use super::{Mode, cases};

/// Where the table begins in README.md.
pub const BEGIN: &str = "<!-- make hostile: begin -->";
/// And where it ends.
pub const END: &str = "<!-- make hostile: end -->";

const MIB: f64 = 1_048_576.0;
/// The slowest healthy image takes a second and a half by itself.
const WAITED: u64 = 3_000;

/// The report as a table in Markdown.
pub fn markdown(report: &Report, date: &str) -> String {
    let versions: Vec<String> = report
        .versions
        .iter()
        .map(|(line, version)| format!("{version} ({line})"))
        .collect();
    let mut text = format!(
        "Measured on {date} with containerd {}, in {} minutes.\n\n\
         | attack | containerd | passive | + verifier, unpack | gateway |\n|---|---|---|---|---|\n",
        versions.join(" and "),
        report.seconds.div_ceil(60),
    );
    for case in cases::all() {
        for (line, _) in &report.versions {
            let cells: Vec<String> = Mode::ALL
                .iter()
                .map(|mode| {
                    let mut all = report.cells.iter();
                    let found =
                        all.find(|cell| cell.case == case.name && cell.line == *line && cell.mode == *mode);
                    found.map_or_else(|| "–".to_owned(), |cell| shown(cell, case.unpacks))
                })
                .collect();
            let _ = writeln!(text, "| {} | {line} | {} |", case.what, cells.join(" | "));
        }
    }
    text
}

/// One cell, as it is shown.
pub fn shown(cell: &Cell, unpacks: bool) -> String {
    let by = match &cell.verdict {
        Verdict::Stopped { reason, levers } => format!("`{reason}`, {}", levers.join(" then ")),
        Verdict::Refused { by, reason } => format!("`{reason}`, {by} says no"),
        Verdict::UnpackStopped => "magi-unpack at its bound".to_owned(),
        Verdict::Containerd { error } => format!("containerd: {}", short(error)),
        Verdict::Harmless { how } => format!("harmless: {how}"),
        Verdict::Escapes { why } => format!("**escapes**: {why}"),
    };
    let mut text = format!("{by}; {}", mebibytes(cell.layer_bytes));
    if unpacks {
        let _ = write!(text, ", {} written", mebibytes(cell.written));
    }
    if cell.healthy_ms > WAITED {
        let _ = write!(text, "; the healthy pull waits {} s", cell.healthy_ms / 1000);
    }
    if cell.collateral.is_some() {
        text.push_str("; **the healthy pull beside it fails**");
    }
    // One line, in one cell.
    text.replace(['\n', '|'], " ")
}

fn mebibytes(bytes: u64) -> String {
    if bytes == 0 {
        return "0".to_owned();
    }
    if bytes < 1 << 16 {
        return "< 0.1 MiB".to_owned();
    }
    format!("{:.1} MiB", bytes as f64 / MIB)
}

/// The end of an error's text, without what differs from run to run: that is where the cause stands.
fn short(error: &str) -> String {
    const LONGEST: usize = 90;
    let words: Vec<String> = error
        .split(' ')
        .map(|word| match word.split_once("sha256:") {
            Some((before, rest)) => {
                let after = rest.trim_start_matches(|letter: char| letter.is_ascii_hexdigit());
                format!("{before}sha256:…{after}")
            }
            None => word.to_owned(),
        })
        .collect();
    let text = words.join(" ");
    let mut from = 0;
    while text.len() - from > LONGEST {
        match text[from..].find(": ") {
            Some(at) => from += at + 2,
            None => break,
        }
    }
    text[from..].to_owned()
}

/// Puts the table into README.md in place of what stands between the markers.
pub fn write(readme: &Path, report: &Report, date: &str) -> Result<()> {
    let text = std::fs::read_to_string(readme).with_context(|| format!("read {}", readme.display()))?;
    let (before, rest) = text
        .split_once(BEGIN)
        .context("README has no place for the table")?;
    let (_, after) = rest.split_once(END).context("the table's place has no end")?;
    let table = markdown(report, date);
    std::fs::write(readme, format!("{before}{BEGIN}\n{table}{END}{after}"))
        .with_context(|| format!("write {}", readme.display()))
}
