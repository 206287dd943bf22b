//! `make soak`: attacks of all kinds, a thousand of them, with as many healthy pulls beside them, for one magi-node on
//! each containerd. What it finds is taken from the pulls' answers, the registry, the kernel and the audit trail.

mod attack;
mod audit;
mod report;
mod stage;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::task::JoinSet;

use crate::api::Counts;
use crate::{Line, Registry};
use attack::{Attack, Beside};
use stage::Stage;

pub use attack::Kind;
pub use report::{Report, Run};

/// Attacks that run at once on each containerd.
const AT_ONCE: usize = 4;
/// For what is left of the last pulls to go.
const GONE_WITHIN: Duration = Duration::from_secs(30);
/// For records of the last attacks to be written.
const WRITTEN_WITHIN: Duration = Duration::from_secs(10);

/// What one magi-node was seen to hold, right after an attack.
#[derive(Debug, Clone, Copy)]
struct Held {
    rss: u64,
    descriptors: usize,
}

/// What has happened so far on one containerd.
#[derive(Debug, Default)]
struct Tally {
    attacks: Vec<Attack>,
    beside: Vec<Beside>,
    held: Vec<Held>,
}

/// Runs as many attacks on both containerds together, half of them on each; `say` is told how it goes.
pub async fn run(attacks: u64, say: impl Fn(&str) + Clone + Send + 'static) -> Result<Report> {
    let began = Instant::now();
    let mut lines = JoinSet::new();
    for (line, share) in Line::ALL.into_iter().zip([attacks.div_ceil(2), attacks / 2]) {
        let say = say.clone();
        lines.spawn(async move {
            let run = on(line, share, say).await;
            run.with_context(|| format!("containerd {line}"))
        });
    }
    let mut runs = Vec::new();
    while let Some(run) = lines.join_next().await {
        runs.push(run.context("a run broke off")??);
    }
    runs.sort_by(|one, other| one.containerd.cmp(&other.containerd));
    Ok(Report {
        seconds: began.elapsed().as_secs_f64(),
        at_once: AT_ONCE,
        runs,
    })
}

async fn on(line: Line, attacks: u64, say: impl Fn(&str)) -> Result<Run> {
    let stage = Arc::new(Stage::set(line).await?);
    let next = Arc::new(AtomicU64::new(0));
    let tally = Arc::new(Mutex::new(Tally::default()));
    let mut workers = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (stage, next, tally) = (Arc::clone(&stage), Arc::clone(&next), Arc::clone(&tally));
        workers.spawn(async move { work(&stage, attacks, &next, &tally).await });
    }
    let mut tenths = 0;
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    let ended = loop {
        tokio::select! {
            ended = workers.join_next() => match ended {
                None => break Ok(()),
                Some(ended) => if let Err(error) = ended.context("a worker broke off")? { break Err(error) },
            },
            _ = tick.tick() => {
                let tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                let done = tally.attacks.len() as u64;
                if done * 10 / attacks.max(1) > tenths {
                    tenths = done * 10 / attacks.max(1);
                    let escapes = tally.attacks.iter().filter(|attack| attack.escaped.is_some()).count();
                    let rss = tally.held.last().map_or(0, |held| held.rss >> 10);
                    say(&format!("containerd {}: {done} of {attacks} attacks, {escapes} escapes, magi-node has {rss} KiB", stage.version()));
                }
            }
        }
    };
    ended.with_context(|| stage.logs())?;
    stage
        .node()
        .expect_nothing_left(&Counts::default(), GONE_WITHIN)
        .await?;
    let tally = std::mem::take(&mut *tally.lock().unwrap_or_else(PoisonError::into_inner));
    let unaudited = audit::unaudited(stage.magi(), &tally.attacks, WRITTEN_WITHIN).await?;
    let hit = audit::hit(stage.magi(), &tally.beside)?;
    let run = report::run(stage.version(), &tally, unaudited, hit);
    let stage = Arc::into_inner(stage).context("the stage is still in use")?;
    stage.end()?;
    Ok(run)
}

/// Attacks one after the other, each with a healthy pull beside it, until there have been enough of all workers.
async fn work(stage: &Stage, attacks: u64, next: &AtomicU64, tally: &Mutex<Tally>) -> Result<()> {
    let registry = Registry::start()?;
    stage.node().trust(&registry)?;
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= attacks {
            return Ok(());
        }
        let (attack, beside) = attack::with_a_healthy_pull(stage, &registry, number).await?;
        registry.log().clear();
        let held = Held {
            rss: stage.magi().rss()?,
            descriptors: stage.magi().descriptors()?,
        };
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.attacks.push(attack);
        tally.beside.push(beside);
        tally.held.push(held);
    }
}
