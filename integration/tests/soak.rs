//! The soak's short form: what it must show at any length.

use anyhow::{Result, ensure};
use magi_integration::soak::{self, Kind};

const ATTACKS: u64 = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_attacks_beside_a_hundred_healthy_pulls() -> Result<()> {
    let report = soak::run(ATTACKS, |word| println!("{word}")).await?;
    let misses: Vec<_> = report.runs.iter().flat_map(soak::Run::misses).collect();
    ensure!(misses.is_empty(), "{}", misses.join("\n"));
    let attacks: usize = report.runs.iter().map(|run| run.attacks).sum();
    let healthy: usize = report.runs.iter().map(|run| run.healthy).sum();
    ensure!(attacks == 100 && healthy == 100, "{attacks} and {healthy}");
    for run in &report.runs {
        ensure!(run.kinds.len() == Kind::ALL.len(), "{:?}", run.kinds.keys());
        ensure!(
            run.kinds.values().all(|stopped| stopped.ms.count >= 5),
            "{:?}",
            run.kinds
        );
    }
    Ok(())
}
