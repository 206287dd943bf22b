//! What it costs to tell thousands of nodes: latency of verdicts, and the master's memory.
//!
//! The master runs as a process of its own (this program, started again), so that its memory is its own; the nodes are
//! real clients in this one, each with its certificate and its TLS connection over loopback. Both share the machine, so
//! the latencies are those of a master on a busy machine.
//!
//! `cargo bench -p magi-master --bench fanout` measures 500, 1,000 and 5,000 nodes; `-- 100 200` measures those numbers.
//! It prints a table on standard error, and one JSON object on standard output.

mod master;
mod nodes;

use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;

use crate::nodes::Nodes;

/// Numbers of nodes that are measured.
const NODES: &[usize] = &[500, 1000, 5000];
/// Verdicts per second while the load is steady: a busy cluster's.
const RATE: u64 = 500;
/// For so long.
const STEADY: Duration = Duration::from_secs(20);

/// What one number of nodes costs.
#[derive(Debug, Serialize)]
struct Figures {
    nodes: usize,
    connect_seconds: f64,
    steady_rate: u64,
    steady: Spread,
    /// One verdict for every node, all at once.
    burst: Spread,
    rss_idle_mib: f64,
    rss_mib: f64,
    rss_peak_mib: f64,
    cpu_idle_percent: f64,
}

/// Latencies in milliseconds.
#[derive(Debug, Serialize)]
struct Spread {
    verdicts: usize,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

impl Spread {
    fn of(mut micros: Vec<i64>) -> Self {
        micros.sort_unstable();
        let at = |share: f64| {
            let last = micros.len().saturating_sub(1);
            let index = (last as f64 * share).round() as usize;
            micros.get(index).copied().unwrap_or_default() as f64 / 1000.0
        };
        Self {
            verdicts: micros.len(),
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            max_ms: at(1.0),
        }
    }
}

fn main() -> Result<()> {
    raise_descriptors()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Runtime::new().context("no runtime")?;
    if let [role, folder] = arguments.as_slice()
        && role == "master"
    {
        return runtime.block_on(master::run(folder.as_ref()));
    }
    // cargo adds `--bench`.
    let numbers: Vec<usize> = arguments.iter().filter_map(|word| word.parse().ok()).collect();
    let numbers = if numbers.is_empty() { NODES } else { &numbers };
    let mut all = Vec::new();
    eprintln!(
        "  nodes  connect    steady p50    p99    max     burst p50    p99    max    RSS idle  after   peak  idle CPU"
    );
    for nodes in numbers {
        let figures = runtime.block_on(measure(*nodes))?;
        eprintln!(
            "{:7} {:7.1}s  {:10.2} {:6.2} {:6.2}ms {:10.1} {:6.1} {:6.1}ms {:7.1} {:6.1} {:6.1} MiB {:6.1} %",
            figures.nodes,
            figures.connect_seconds,
            figures.steady.p50_ms,
            figures.steady.p99_ms,
            figures.steady.max_ms,
            figures.burst.p50_ms,
            figures.burst.p99_ms,
            figures.burst.max_ms,
            figures.rss_idle_mib,
            figures.rss_mib,
            figures.rss_peak_mib,
            figures.cpu_idle_percent,
        );
        all.push(figures);
    }
    println!("{}", serde_json::json!({ "fanout": all }));
    Ok(())
}

/// Each connection costs both processes a descriptor.
fn raise_descriptors() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )
    .context("cannot raise the number of descriptors to the hard limit")
}

async fn measure(number: usize) -> Result<Figures> {
    // Thousands of small files that are flushed one by one: in memory, where there is such a folder.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
    let mut master = master::Master::start(folder.path()).await?;
    let started = std::time::Instant::now();
    let mut nodes = Nodes::connect(number, folder.path(), master.address).await?;
    let connect_seconds = started.elapsed().as_secs_f64();
    let before = master.cpu()?;
    let idle = Duration::from_secs(10);
    tokio::time::sleep(idle).await;
    let cpu_idle_percent = (master.cpu()? - before) / idle.as_secs_f64() * 100.0;
    let rss_idle_mib = master.memory("VmRSS:")?;
    let verdicts = RATE * STEADY.as_secs();
    master.send(verdicts, RATE, number).await?;
    let steady = nodes.latencies(usize::try_from(verdicts)?).await?;
    master.send(number as u64, 0, number).await?;
    let burst = nodes.latencies(number).await?;
    let figures = Figures {
        nodes: number,
        connect_seconds,
        steady_rate: RATE,
        steady: Spread::of(steady),
        burst: Spread::of(burst),
        rss_idle_mib,
        rss_mib: master.memory("VmRSS:")?,
        rss_peak_mib: master.memory("VmHWM:")?,
        cpu_idle_percent,
    };
    drop(nodes);
    master.end().await?;
    Ok(figures)
}
