//! `make chaos`: kills whatever takes part, again and again, while images are pulled; figures go to
//! `target/chaos/report.json`.
//!
//! Exit code 0: nothing failed because of magi, nothing escaped, no intent stayed open. 1: not so, or the stage broke. 2:
//! the command line. `registry PORT` is for itself: the registry that it kills.

use std::process::ExitCode;

use anyhow::Result;
use magi_integration::{Line, chaos, parts, stats};

const USAGE: &str = "usage: magi-chaos [FAULTS [SEED]]    (200, half of them on each containerd; seed 1)";
const FAULTS: u64 = 200;

/// What is asked for.
enum What {
    Faults { faults: u64, seed: u64 },
    Registry { port: u16 },
}

fn what() -> Option<What> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let word = |index: usize| arguments.get(index).map(String::as_str);
    match (word(0), word(1), word(2)) {
        (Some("registry"), Some(port), None) => Some(What::Registry {
            port: port.parse().ok()?,
        }),
        (faults, seed, None) => Some(What::Faults {
            faults: faults.map_or(Some(FAULTS), |text| text.parse().ok())?,
            seed: seed.map_or(Some(1), |text| text.parse().ok())?,
        }),
        (_, _, Some(_)) => None,
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let outcome = match what() {
        Some(What::Faults { faults, seed }) => run(faults, seed).await,
        Some(What::Registry { port }) => chaos::serve(port).await.map(|()| true),
        None => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("magi-chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(faults: u64, seed: u64) -> Result<bool> {
    let mut reports = Vec::new();
    for (line, share) in Line::ALL.into_iter().zip([faults.div_ceil(2), faults / 2]) {
        let report = chaos::run(line, share, seed, |word| eprintln!("{word}")).await?;
        println!("containerd {}: {:?}", report.containerd, report.faults);
        println!(
            "  {} pulls without magi, while containerd and the registry are killed: {:.0} ms at most",
            report.without_magi_ms.count, report.without_magi_ms.max
        );
        println!(
            "  {} healthy pulls: {:.0} ms (p99 {:.0}, most {:.0}); failed with containerd or the registry down: {} (after {:.0} ms at most); \
             in a killed gateway: {}; because of magi: {}",
            report.healthy,
            report.healthy_ms.median,
            report.healthy_ms.p99,
            report.healthy_ms.max,
            report.failed_without_magi,
            report.failed_ms.max,
            report.failed_in_a_killed_gateway,
            report.failed_by_magi.len()
        );
        println!(
            "  {} attacks, {} escapes; {} intents, {} without an outcome; attached again after {:.0} ms (most {:.0}, {})",
            report.attacks,
            report.escapes.len(),
            report.intents,
            report.open_intents.len(),
            report.attached_ms.median,
            report.attached_ms.max,
            if report.attached_in_time() {
                "in time"
            } else {
                "late"
            }
        );
        reports.push(report);
    }
    let path = parts::target_dir().join("chaos/report.json");
    stats::write(&path, &reports)?;
    let misses: Vec<_> = reports.iter().flat_map(chaos::Report::misses).collect();
    for miss in &misses {
        println!("NOT AS IT MUST BE: {miss}");
    }
    println!("figures in {}", path.display());
    Ok(misses.is_empty() && reports.iter().all(chaos::Report::attached_in_time))
}
