//! `make chaos`: everything that takes part is killed again and again while good and bad images are pulled. What fails is
//! held against what was down in that moment.

mod fault;
mod judge;
mod pool;
mod stage;
mod work;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::Line;
use fault::{Fault, Kind};
use stage::Stage;
use work::Pulled;

pub use judge::Report;
pub use pool::serve;

/// A fault comes so long after the last one's recovery, at the least and at the most.
const PAUSE_MS: std::ops::Range<u64> = 30..900;

/// So many faults on this containerd, at random instants that this seed gives; before them a fourth as many of those that
/// can happen without magi, without it. `say` is told how it goes.
pub async fn run(line: Line, faults: u64, seed: u64, say: impl Fn(&str)) -> Result<Report> {
    let mut stage = Stage::set(line).await?;
    let mut random = SmallRng::seed_from_u64(seed);
    stage.magi_goes()?;
    let workers = Workers::start(&stage, false);
    for number in 0..faults.div_ceil(4) {
        pause(&mut random).await;
        let kind = if number % 2 == 0 {
            Kind::Containerd
        } else {
            Kind::Registry
        };
        stage.fail_without_magi(kind).await?;
    }
    let without = workers.end().await?;
    stage.magi_comes_back().await?;
    let count = without.len();
    say(&format!(
        "containerd {}: {count} healthy pulls without magi",
        stage.version()
    ));

    let workers = Workers::start(&stage, true);
    let over = Arc::clone(&workers.over);
    let attacker = stage.client();
    let attacks = tokio::spawn(async move { work::attack(attacker, &over).await });
    let mut happened: Vec<Fault> = Vec::new();
    for number in 1..=faults {
        pause(&mut random).await;
        let kind = Kind::of(random.random_range(0..Kind::ALL.len()));
        let fault = stage
            .fail(kind)
            .await
            .with_context(|| format!("fault {number}, {kind:?}\n{}", stage.logs()))?;
        happened.push(fault);
        if number % 10 == 0 {
            say(&format!(
                "containerd {}: {number} of {faults} faults",
                stage.version()
            ));
        }
    }
    let pulls = workers.end().await?;
    let attacks = attacks.await.context("the attacker broke off")??;
    let report = judge::report(&stage, &happened, &without, &pulls, &attacks).await?;
    stage.end().await?;
    Ok(report)
}

/// The instants are to be any.
async fn pause(random: &mut SmallRng) {
    tokio::time::sleep(Duration::from_millis(random.random_range(PAUSE_MS))).await;
}

/// Those who pull healthy images.
struct Workers {
    over: Arc<AtomicBool>,
    done: Arc<Mutex<Vec<Pulled>>>,
    tasks: JoinSet<Result<()>>,
}

impl Workers {
    fn start(stage: &Stage, with_gateway: bool) -> Self {
        let (over, done) = (Arc::<AtomicBool>::default(), Arc::<Mutex<_>>::default());
        let mut tasks = JoinSet::new();
        for worker in 0..pool::WORKERS {
            let client = stage.client();
            let (over, done) = (Arc::clone(&over), Arc::clone(&done));
            tasks.spawn(async move { work::pull_healthy(client, worker, with_gateway, &over, &done).await });
        }
        Self { over, done, tasks }
    }

    async fn end(mut self) -> Result<Vec<Pulled>> {
        self.over.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.context("a worker broke off")??;
        }
        Ok(std::mem::take(&mut *self.done.lock().await))
    }
}
