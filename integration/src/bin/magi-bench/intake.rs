//! How fast audit logs are read: `magi-master replay` beside the line of grep and jq with which this project's predecessor
//! read them, on the same bytes, in turns.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use magi_integration::{magi, process};
use serde::Serialize;
use serde_json::{Value, json};

use crate::figure::{Figure, Goal, Run, Series};
use crate::machine;
use crate::options::Options;
use crate::recordings;
use crate::stats::summary;

const LEAST_TIMES: f64 = 15.0;
/// What the seed looks for, and what it takes from it: <https://github.com/risingfbk/magi>, `magi_system/init_master.sh`.
const SEED_WORD: &str = "/pods";
const SEED_FILTER: &str = "select(.verb == \"delete\" or .verb == \"create\") | {requestURI, verb, stage, \
    imageRequest: .responseObject.spec.containers[0].image, targetNode: .requestObject.target.name, \
    respondingNode: .responseObject.spec.nodeName}";

/// One reading of all of it.
#[derive(Debug, Clone, Copy, Serialize)]
struct Read {
    by: &'static str,
    seconds: f64,
    /// Processor time, of all processes that took part.
    cpu_seconds: f64,
    /// Megabytes (10⁶ bytes) per second of processor time.
    mb_per_cpu_second: f64,
    /// The same per second.
    mb_per_second: f64,
}

/// Measures, without any containerd.
pub(crate) fn measure(options: &Options) -> Result<Figure> {
    let load_before = machine::load();
    let folder = tempfile::tempdir().context("a folder for the audit log")?;
    let log = folder.path().join("audit.log");
    let bytes = recordings::write(&log, options.intake_bytes())?;
    let has_seed = ["grep", "jq"].into_iter().all(|program| {
        let found = process::on_path(program).is_some();
        if !found {
            eprintln!("NOT COMPARED with the seed's line: there is no {program} on PATH");
        }
        found
    });
    let mut samples = Vec::new();
    // Round 0 brings the log into the page cache and is not counted.
    for round in 0..=options.intake_rounds() {
        let mut both = vec![timed("magi-master replay", bytes, || replay(&log))?];
        if has_seed && round > 0 {
            both.push(timed("grep and jq", bytes, || seed(&log))?);
        }
        for read in &both {
            eprintln!("intake, round {round} of {}: {read:?}", options.intake_rounds());
        }
        if round > 0 {
            samples.extend(both);
        }
    }
    let replayed = summary_of(&log)?;
    ensure!(
        replayed.get("lines").and_then(Value::as_u64) > Some(0),
        "nothing was read: {replayed}"
    );
    let mut series = Vec::new();
    let mut medians = Vec::new();
    for by in ["magi-master replay", "grep and jq"] {
        let of = |what: fn(&Read) -> f64| summary(samples.iter().filter(|one| one.by == by).map(what));
        let rate = of(|one| one.mb_per_cpu_second);
        if rate.count == 0 {
            continue;
        }
        medians.push(rate.median);
        series.push(Series {
            what: by,
            unit: "MB/s per core",
            summary: rate,
        });
        series.push(Series {
            what: "  by the clock",
            unit: "MB/s",
            summary: of(|one| one.mb_per_second),
        });
    }
    let goals = match medians.as_slice() {
        [magi, seed] => vec![Goal::at_least(
            "median of magi-master / median of grep and jq, per core",
            LEAST_TIMES,
            magi / seed,
        )],
        _ => Vec::new(),
    };
    Ok(Figure {
        name: "intake",
        what: "reading audit logs of all levels: bytes per second of processor time",
        load_before,
        load_after: machine::load(),
        runs: vec![Run {
            line: None,
            containerd: None,
            series,
            goals,
            notes: json!({ "bytes": bytes, "compared": has_seed, "replay": replayed }),
            samples: json!(samples),
        }],
    })
}

/// Runs it, and reads from the kernel's books what its processes used.
fn timed(by: &'static str, bytes: u64, run: impl FnOnce() -> Result<()>) -> Result<Read> {
    let (began, before) = (Instant::now(), machine::children_seconds()?);
    run().with_context(|| by.to_owned())?;
    let seconds = began.elapsed().as_secs_f64();
    let cpu_seconds = machine::children_seconds()? - before;
    let megabytes = bytes as f64 / 1e6;
    Ok(Read {
        by,
        seconds,
        cpu_seconds,
        mb_per_cpu_second: megabytes / cpu_seconds,
        mb_per_second: megabytes / seconds,
    })
}

fn replay(log: &Path) -> Result<()> {
    let status = Command::new(magi::binary("magi-master")?)
        .args(["replay", "--audit"])
        .arg(log)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("start it")?;
    ensure!(status.success(), "it ended with {status}");
    Ok(())
}

/// What `replay` says of the log.
fn summary_of(log: &Path) -> Result<Value> {
    let output = Command::new(magi::binary("magi-master")?)
        .args(["replay", "--jsonl", "--audit"])
        .arg(log)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()
        .context("start magi-master replay")?;
    serde_json::from_slice(&output.stderr).context("the summary of magi-master replay")
}

fn seed(log: &Path) -> Result<()> {
    let mut grep = Command::new("grep")
        .arg(SEED_WORD)
        .stdin(File::open(log).context("open the audit log")?)
        .stdout(Stdio::piped())
        .spawn()
        .context("start grep")?;
    let lines = grep.stdout.take().context("what grep finds")?;
    let jq = Command::new("jq")
        .arg(SEED_FILTER)
        .stdin(lines)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("start jq")?;
    let grep = grep.wait().context("wait for grep")?;
    // jq ends with 5 if it cannot take something from some event, and goes on with the next.
    ensure!(
        grep.success() && matches!(jq.code(), Some(0 | 5)),
        "grep ended with {grep}, jq with {jq}"
    );
    Ok(())
}
