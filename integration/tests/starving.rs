//! One slow image with as many layers as containerd 2.x has download slots, and small ones that wait for them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use magi_integration::cri::Pull;
use magi_integration::image::{Compression, ImageBuilder, Layer};
use magi_integration::magi::{self, Magi};
use magi_integration::{Behaviour, Containerd, Line, Registry, wait};
use tokio::task::JoinHandle;

const INNOCENTS: u64 = 20;
const SMALL: u64 = 5_000_000;
/// containerd shows the first mebibyte of a layer after a hundred seconds; the kernel shows sooner that it is fetched.
const SLOW: u64 = 10_000;
const POLICY: &str = "version: 1\nmode: enforce\ndenyFor: 0s\nstarving: { rate: 2MiB, for: 10s }\n";
const WINDOW: Duration = Duration::from_secs(10);
/// Beside other work of the machine.
const LATE: Duration = Duration::from_secs(15);
const BOUND: Duration = Duration::from_secs(60);

struct Stage {
    registry: Registry,
    node: Containerd,
}

impl Stage {
    fn pull(&self, name: &str, layers: Vec<Layer>, behaviour: Behaviour) -> Result<JoinHandle<Pull>> {
        let mut image = ImageBuilder::oci();
        for layer in layers {
            image = image.layer(layer);
        }
        let reference = self.registry.put(name, "1", &image.build()?);
        self.registry.behave(name, behaviour);
        let cri = self.node.cri();
        Ok(tokio::spawn(async move { cri.pull(&reference).await }))
    }

    /// The slow one, once all of its layers are under way.
    async fn attack(&self, name: &str, seed: u64) -> Result<JoinHandle<Pull>> {
        let layers = (seed..seed + 3)
            .map(|seed| Layer::declared(seed, 1 << 30))
            .collect();
        let pull = self.pull(name, layers, Behaviour::rate(SLOW))?;
        let step = Duration::from_millis(10);
        wait::until("three slow layers", BOUND, step, || async {
            (self.registry.log().layers(name).len() >= 3).then_some(())
        })
        .await?;
        Ok(pull)
    }

    /// The small ones, all at once; the time until the last is there, none if one is not in time.
    async fn innocents(&self, prefix: &str, seed: u64, bound: Duration) -> Result<Option<Duration>> {
        let began = Instant::now();
        let mut pulls = Vec::new();
        for number in 0..INNOCENTS {
            let layer = Layer::random(seed + number, SMALL, Compression::None)?;
            let name = format!("{prefix}-{number}");
            pulls.push(self.pull(&name, vec![layer], Behaviour::default())?);
        }
        let mut all_in_time = true;
        for pull in pulls {
            let abort = pull.abort_handle();
            match tokio::time::timeout(bound.saturating_sub(began.elapsed()), pull).await {
                Ok(pull) => {
                    let pull = pull?;
                    ensure!(pull.outcome.is_ok(), "{prefix}: {}", pull.error());
                }
                Err(_) => {
                    all_in_time = false;
                    abort.abort();
                }
            }
        }
        Ok(all_in_time.then(|| began.elapsed()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_every_slot_is_stopped_and_the_others_complete_on_2_x() -> Result<()> {
    let registry = Registry::start()?;
    let node = Containerd::start(Line::V2).await?;
    node.trust(&registry)?;
    let stage = Stage { registry, node };
    let alone = stage
        .innocents("alone", 1_000, BOUND)
        .await?
        .context("without an attack they are not in time")?;

    // Without magi they wait for the slow one, and would do so for hours.
    let hostile = stage.attack("slow", 1).await?;
    let starved = stage.innocents("starved", 2_000, Duration::from_secs(8)).await?;
    ensure!(starved.is_none(), "nobody was starved: {starved:?}");
    hostile.abort();
    let _cancelled = hostile.await;

    let magi = Magi::start(&stage.node, &magi::Options::policy(POLICY)).await?;
    let hostile = stage.attack("slow-again", 10).await?;
    let protected = stage
        .innocents("protected", 3_000, BOUND)
        .await?
        .with_context(|| format!("they are still starved\n{}", magi.log_tail(30)))?;
    println!("innocents: {alone:?} alone, {protected:?} beside a slow image that holds every slot");
    let goal = alone.mul_f64(1.2) + WINDOW;
    let is_strict = std::env::var_os("MAGI_STRICT").is_some();
    let bound = if is_strict { goal } else { goal + LATE };
    ensure!(protected <= bound, "{protected:?}, and {bound:?} are allowed");
    let hostile = tokio::time::timeout(BOUND, hostile).await??;
    ensure!(hostile.outcome.is_err(), "the slow one completed");
    let intents = magi.audit_of("intent")?;
    ensure!(!intents.is_empty(), "no intent");
    for intent in &intents {
        ensure!(
            intent["reason"] == "starving-others" && intent["pull"].to_string().contains("slow-again"),
            "{intent}"
        );
    }
    magi.stop()?;
    stage.node.shutdown()?;
    Ok(())
}
