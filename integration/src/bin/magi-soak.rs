//! `make soak`: many attacks and as many healthy pulls on both containerds; figures go to `target/soak/report.json`.
//!
//! Exit code 0: nothing escaped, nothing good was hit, every attack is on record, and magi-node did not grow. 1: not so,
//! or the stage broke. 2: the command line.

use std::process::ExitCode;

use anyhow::Result;
use magi_integration::{parts, soak, stats};

const USAGE: &str = "usage: magi-soak [ATTACKS]    (1000, half of them on each containerd)";
const ATTACKS: u64 = 1000;
/// With fewer, a tenth of a run says nothing about growth.
const ENOUGH: u64 = 200;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let attacks = match (arguments.next().map(|text| text.parse()), arguments.next()) {
        (None, _) => ATTACKS,
        (Some(Ok(attacks)), None) => attacks,
        (Some(_), _) => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(attacks).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("magi-soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(attacks: u64) -> Result<bool> {
    let report = soak::run(attacks, |word| eprintln!("{word}")).await?;
    let path = parts::target_dir().join("soak/report.json");
    stats::write(&path, &report)?;
    let mut misses = Vec::new();
    for run in &report.runs {
        println!(
            "containerd {}: {} attacks, {} escapes, {} without their records; {} healthy pulls, {} hit",
            run.containerd,
            run.attacks,
            run.escapes.len(),
            run.unaudited.len(),
            run.healthy,
            run.healthy_hit.len()
        );
        for (kind, stopped) in &run.kinds {
            println!(
                "  {kind:?}: {} stopped after {:.0} ms (p95 {:.0}, most {:.0}), {:.0} layer bytes (most {:.0})",
                stopped.ms.count,
                stopped.ms.median,
                stopped.ms.p95,
                stopped.ms.max,
                stopped.layer_bytes.median,
                stopped.layer_bytes.max
            );
        }
        println!(
            "  healthy: {:.0} ms (p95 {:.0}, p99 {:.0}, most {:.0})",
            run.healthy_ms.median, run.healthy_ms.p95, run.healthy_ms.p99, run.healthy_ms.max
        );
        for (what, course) in [("resident KiB", run.rss_kib), ("open files", run.descriptors)] {
            println!(
                "  magi-node, {what}: {} in the second tenth, {} in the last ({:.3}), {} at most",
                course.second_tenth,
                course.last_tenth,
                course.growth(),
                course.most
            );
        }
        misses.extend(run.misses());
        if attacks >= ENOUGH {
            misses.extend(run.growths());
        }
    }
    for miss in &misses {
        println!("NOT AS IT MUST BE: {miss}");
    }
    println!("{:.0} s; figures in {}", report.seconds, path.display());
    Ok(misses.is_empty())
}
