//! What magi takes of the node while nothing happens, and what it holds on to after work.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use magi_integration::containerd::Line;
use magi_integration::magi::{self, Magi};
use magi_integration::{Containerd, Registry};
use serde_json::json;

use crate::attack::{By, LIMIT, attack};
use crate::figure::{Figure, Goal, Run, Series};
use crate::machine;
use crate::options::Options;
use crate::process_cost::{self, Memory, Meter};
use crate::stats::{Summary, summary};

const MOST_PERCENT: f64 = 0.2;
const MOST_MIB: f64 = 24.0;
/// Between the moment at which magi watches and the first look at it.
const SETTLE: Duration = Duration::from_secs(3);
const EVERY: Duration = Duration::from_secs(1);

/// Measures on both lines; gives one figure for the processor and one for memory.
pub(crate) async fn measure(options: &Options) -> Result<Vec<Figure>> {
    let load_before = machine::load();
    let (mut processor, mut memory) = (Vec::new(), Vec::new());
    for line in Line::ALL {
        let (one, other) = on(line, options).await.with_context(|| format!("on {line}"))?;
        processor.push(one);
        memory.push(other);
    }
    let load_after = machine::load();
    let figure = |name, what, runs| Figure {
        name,
        what,
        load_before,
        load_after,
        runs,
    };
    Ok(vec![
        figure(
            "idle-cpu",
            "processor time of magi-node while containerd idles, in percent of one core",
            processor,
        ),
        figure(
            "memory",
            "resident memory of magi-node, idle and after stopping pulls",
            memory,
        ),
    ])
}

async fn on(line: Line, options: &Options) -> Result<(Run, Run)> {
    let node = Containerd::start(line).await?;
    let magi = Magi::start(&node, &magi::Options::policy(magi::enforce(LIMIT))).await?;
    let pid = magi.process().pid();
    tokio::time::sleep(SETTLE).await;

    eprintln!(
        "idle, containerd {}: watching magi-node for {:?}",
        node.version(),
        options.idle()
    );
    let begin = Instant::now();
    let mut meter = Meter::start(pid)?;
    let mut ticks = vec![(begin, Duration::ZERO)];
    let mut memories = vec![process_cost::memory(pid)?];
    while begin.elapsed() < options.idle() {
        tokio::time::sleep(EVERY).await;
        ticks.push((Instant::now(), meter.used()?.cpu));
        memories.push(process_cost::memory(pid)?);
    }
    let used = meter.used()?;
    let wall = begin.elapsed().as_secs_f64();
    let woken = used.sleeps as f64 / wall;
    let used = used.cpu.as_secs_f64();
    let percent = used / wall * 100.0;
    let each: Vec<f64> = ticks
        .iter()
        .zip(ticks.iter().skip(1))
        .map(|((at, cpu), (next_at, next_cpu))| {
            next_cpu.saturating_sub(*cpu).as_secs_f64() / next_at.duration_since(*at).as_secs_f64() * 100.0
        })
        .collect();
    eprintln!(
        "idle, containerd {}: {percent:.4} % of a core, woken {woken:.1} times a second",
        node.version()
    );

    let count = options.aborts_before_memory();
    let registry = Registry::start()?;
    node.trust(&registry)?;
    let mut after = Vec::new();
    for round in 1..=count {
        attack(&node, &registry, round as u64, By::Magi(&magi)).await?;
        after.push(process_cost::memory(pid)?);
    }
    let end = process_cost::memory(pid)?;
    eprintln!(
        "memory, containerd {}: {:.1} MiB idle, {:.1} MiB after {count} stopped pulls, {:.1} MiB at most",
        node.version(),
        rss(&memories).median,
        mib(end.rss_kib),
        mib(end.peak_kib)
    );
    magi.stop()?;

    let run = |series, goals, notes, samples| Run {
        line: Some(line.to_string()),
        containerd: Some(node.version().to_owned()),
        series,
        goals,
        notes,
        samples,
    };
    let processor = run(
        vec![Series {
            what: "each second",
            unit: "%",
            summary: summary(each.iter().copied()),
        }],
        vec![Goal::at_most(
            "percent of one core over all",
            MOST_PERCENT,
            percent,
        )],
        json!({ "seconds": wall, "cpu_seconds": used, "woken_per_second": woken }),
        json!(each),
    );
    let in_mib = |what, summary| Series {
        what,
        unit: "MiB",
        summary,
    };
    let memory = run(
        vec![
            in_mib("idle", rss(&memories)),
            in_mib("after each stopped pull", rss(&after)),
        ],
        vec![
            Goal::at_most("MiB idle, at most", MOST_MIB, rss(&memories).max),
            Goal::at_most("MiB after the last stopped pull", MOST_MIB, mib(end.rss_kib)),
        ],
        json!({ "stopped_pulls": count, "end": end }),
        json!({ "idle": memories, "after_each_stopped_pull": after }),
    );
    node.shutdown()?.expect_none()?;
    Ok((processor, memory))
}

fn rss(memories: &[Memory]) -> Summary {
    summary(memories.iter().map(|memory| mib(memory.rss_kib)))
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}
