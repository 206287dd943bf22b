//! What it costs to tell thousands of nodes: latency of verdicts, and the master's memory.
//!
//! The master runs as a process of its own (this program, started again), so that its memory is its own; the nodes are
//! real clients in this one, each with its certificate and its TLS connection over loopback. Both share the machine, so
//! the latencies are those of a master on a busy machine. What part of a burst is the machine's own shows beside it: as
//! many bytes to as many plain TCP connections, and the processor time of either process.
//!
//! `cargo bench -p magi-master --bench fanout` measures 500, 1,000 and 5,000 nodes; `-- 100 200` measures those numbers.
//! It prints the figures on standard error, and writes them as one JSON object to the file behind `--json`, else to standard
//! output.

mod floor;
mod master;
mod nodes;

use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;

use crate::master::Master;
use crate::nodes::Nodes;

/// Numbers of nodes that are measured.
const NODES: &[usize] = &[500, 1000, 5000];
/// Verdicts per second while the load is steady: a busy cluster's.
const RATE: u64 = 500;
/// For so long.
const STEADY: Duration = Duration::from_secs(20);
/// How often every node gets a verdict at once.
const BURSTS: usize = 10;

/// What one number of nodes costs.
#[derive(Debug, Serialize)]
struct Figures {
    nodes: usize,
    connect_seconds: f64,
    steady_rate: u64,
    steady: Spread,
    /// One verdict for every node, all at once; several times, one after the other.
    burst: Spread,
    /// The same over plain TCP, from a loop that writes to tasks that read.
    floor: Spread,
    /// Processor time per verdict of a burst, answer included.
    burst_cpu: Cost,
    /// The same of the floor, without an answer.
    floor_cpu: Cost,
    rss_idle_mib: f64,
    rss_mib: f64,
    rss_peak_mib: f64,
    cpu_idle_percent: f64,
}

/// What the goals are.
const MOST_MS: f64 = 50.0;
const MOST_MIB: f64 = 256.0;

/// Microseconds of processor time per verdict.
#[derive(Debug, Serialize)]
struct Cost {
    master_us: f64,
    nodes_us: f64,
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

impl Figures {
    fn show(&self) {
        let spread = |of: &Spread| {
            format!(
                "p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms ({})",
                of.p50_ms, of.p99_ms, of.max_ms, of.verdicts
            )
        };
        let cost = |of: &Cost| format!("master {:.1} us, nodes {:.1} us", of.master_us, of.nodes_us);
        eprintln!("{} nodes, connected in {:.1} s", self.nodes, self.connect_seconds);
        eprintln!(
            "  {} verdicts a second: {}",
            self.steady_rate,
            spread(&self.steady)
        );
        eprintln!("  a verdict for every node at once: {}", spread(&self.burst));
        eprintln!("    processor per verdict: {}", cost(&self.burst_cpu));
        eprintln!("  as many bytes over plain TCP at once: {}", spread(&self.floor));
        eprintln!("    processor per message: {}", cost(&self.floor_cpu));
        eprintln!(
            "  RSS idle {:.1} MiB, after {:.1}, peak {:.1}; idle CPU {:.1} %",
            self.rss_idle_mib, self.rss_mib, self.rss_peak_mib, self.cpu_idle_percent
        );
        for (what, value, most) in [
            ("p99 at a steady rate", self.steady.p99_ms, MOST_MS),
            ("p99 of a burst", self.burst.p99_ms, MOST_MS),
            ("peak RSS in MiB", self.rss_peak_mib, MOST_MIB),
        ] {
            let met = if value <= most { "met" } else { "MISSED" };
            eprintln!("  → {what} {value:.2}, goal ≤ {most}: {met}");
        }
    }
}

fn main() -> Result<()> {
    raise_descriptors()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Runtime::new().context("no runtime")?;
    match arguments
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        ["master", folder] => return runtime.block_on(master::run(folder.as_ref())),
        ["floor"] => return runtime.block_on(floor::run()),
        _ => {}
    }
    let json = arguments.iter().position(|word| word == "--json");
    let json = json.and_then(|at| arguments.get(at + 1));
    // cargo adds `--bench`.
    let numbers: Vec<usize> = arguments.iter().filter_map(|word| word.parse().ok()).collect();
    let numbers = if numbers.is_empty() { NODES } else { &numbers };
    let mut all = Vec::new();
    for nodes in numbers {
        let figures = runtime.block_on(measure(*nodes))?;
        figures.show();
        all.push(figures);
    }
    let text = serde_json::json!({ "fanout": all }).to_string() + "\n";
    match json {
        Some(path) => std::fs::write(path, text).with_context(|| format!("write {path}"))?,
        None => print!("{text}"),
    }
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
    let mut master = Master::start(folder.path()).await?;
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
    let (mut burst, burst_cpu) = (Vec::new(), Meter::start(&master)?);
    for _ in 0..BURSTS {
        master.send(number as u64, 0, number).await?;
        burst.extend(nodes.latencies(number).await?);
    }
    let burst_cpu = burst_cpu.cost(&master, burst.len())?;
    let (floor, floor_cpu) = floor::measure(number, BURSTS).await?;
    let figures = Figures {
        nodes: number,
        connect_seconds,
        steady_rate: RATE,
        steady: Spread::of(steady),
        burst: Spread::of(burst),
        floor: Spread::of(floor),
        burst_cpu,
        floor_cpu,
        rss_idle_mib,
        rss_mib: master.memory("VmRSS:")?,
        rss_peak_mib: master.memory("VmHWM:")?,
        cpu_idle_percent,
    };
    drop(nodes);
    master.end().await?;
    Ok(figures)
}

/// Processor time of both processes.
pub(crate) struct Meter {
    master: f64,
    nodes: f64,
}

impl Meter {
    pub(crate) fn start(master: &Master) -> Result<Self> {
        Ok(Self {
            master: master.cpu()?,
            nodes: master::cpu_of("self")?,
        })
    }

    /// What so many verdicts cost each since the start.
    pub(crate) fn cost(self, master: &Master, verdicts: usize) -> Result<Cost> {
        let each = |seconds: f64| seconds * 1e6 / verdicts as f64;
        Ok(Cost {
            master_us: each(master.cpu()? - self.master),
            nodes_us: each(master::cpu_of("self")? - self.nodes),
        })
    }
}
