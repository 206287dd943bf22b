//! The chaos's short form: what it must show at any length.

use anyhow::{Result, ensure};
use magi_integration::{Line, chaos};

/// On each containerd.
const FAULTS: u64 = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_fails_because_of_magi_whatever_is_killed() -> Result<()> {
    for line in Line::ALL {
        let report = chaos::run(line, FAULTS, 7, |word| println!("{word}")).await?;
        println!("{report:?}");
        let misses = report.misses();
        ensure!(misses.is_empty(), "{}", misses.join("\n"));
        ensure!(report.faults.values().sum::<usize>() == 12, "{:?}", report.faults);
        ensure!(
            report.healthy > 12 && report.attacks > 3 && report.intents > 0,
            "{report:?}"
        );
    }
    Ok(())
}
