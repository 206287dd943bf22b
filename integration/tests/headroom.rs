//! A disk that is too small for what is pulled: the pull that would fill it is stopped, and those beside it go on.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use magi_integration::containerd::Options;
use magi_integration::cri::Pull;
use magi_integration::image::{Compression, ImageBuilder, Layer};
use magi_integration::magi::{self, Magi};
use magi_integration::{Behaviour, Containerd, Line, Registry};
use tokio::task::JoinHandle;

const MIB: u64 = 1 << 20;
/// The disk of blobs and snapshots; four fifths of it may be used.
const DISK: u64 = 1000 * MIB;
const POLICY: &str = "version: 1
mode: enforce
denyFor: 0s
headroom: { free: 20, unpacksTo: 100, least: 30MiB }
";
/// Half of it fits, as it needs that twice: as a blob, and unpacked.
const HOSTILE: u64 = 600 * MIB;
const RATE: u64 = 20_000_000;
const BOUND: Duration = Duration::from_secs(20);

struct Stage {
    registry: Registry,
    node: Containerd,
    magi: Magi,
}

impl Stage {
    async fn set(line: Line) -> Result<Self> {
        let registry = Registry::start()?;
        let options = Options {
            disk: Some(DISK),
            ..Options::default()
        };
        let node = Containerd::start_with(line, &options).await?;
        node.trust(&registry)?;
        let magi = Magi::start(&node, &magi::Options::policy(POLICY)).await?;
        Ok(Self { registry, node, magi })
    }

    fn pull(&self, name: &str, layer: Layer, behaviour: Behaviour) -> Result<JoinHandle<Pull>> {
        let image = ImageBuilder::oci().layer(layer).build()?;
        let reference = self.registry.put(name, "1", &image);
        self.registry.behave(name, behaviour);
        let cri = self.node.cri();
        Ok(tokio::spawn(async move { cri.pull(&reference).await }))
    }

    fn end(self) -> Result<()> {
        self.magi.stop()?;
        self.node.shutdown()?.expect_none()
    }
}

async fn the_one_that_fills_it_is_stopped(line: Line) -> Result<()> {
    let stage = Stage::set(line).await?;
    let good = |seed, mib| Layer::random(seed, mib * MIB, Compression::None);
    // These fit, and take as long as the hostile one is there.
    let beside = stage.pull("beside", good(1, 60)?, Behaviour::rate(RATE))?;
    let hostile = Layer::declared(2, HOSTILE);
    let hostile = stage.pull("hostile", hostile, Behaviour::rate(RATE))?;
    let small = stage.pull("small", good(3, 10)?, Behaviour::rate(RATE / 4))?;

    let hostile = tokio::time::timeout(BOUND, hostile)
        .await
        .context("the hostile pull goes on")??;
    ensure!(hostile.outcome.is_err(), "it was let in");
    for (name, pull) in [("beside", beside), ("small", small)] {
        let pull = pull.await?;
        ensure!(pull.outcome.is_ok(), "{name}: {}", pull.error());
    }
    let intents = stage.magi.audit_of("intent")?;
    ensure!(!intents.is_empty(), "no intent");
    for intent in &intents {
        ensure!(intent["reason"] == "no-disk-headroom", "{intent}");
        let is_the_hostile_one = intent["pull"].to_string().contains("/hostile");
        ensure!(is_the_hostile_one, "another pull was stopped: {intent}");
        let evidence = intent["evidence"].as_array().context("no evidence")?;
        let disk = evidence
            .iter()
            .find(|one| one["kind"] == "disk-short")
            .with_context(|| format!("nothing of the disk: {intent}"))?;
        let number = |key: &str| disk[key].as_u64().unwrap_or_default();
        ensure!(number("keep") == DISK / 5, "{disk}");
        ensure!(
            number("free").saturating_sub(number("keep")) < number("wanted"),
            "{disk}"
        );
        ensure!(number("needed") > HOSTILE, "{disk}");
    }
    // What fits afterwards is not stopped: half of the disk is free, and half of that is needed.
    let later = stage
        .pull("later", good(4, 120)?, Behaviour::rate(10 * RATE))?
        .await?;
    ensure!(later.outcome.is_ok(), "later: {}", later.error());
    ensure!(
        stage.magi.audit_of("intent")?.len() == intents.len(),
        "another lever was pulled"
    );
    stage.end()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pull_that_would_fill_the_disk_is_stopped_on_1_7() -> Result<()> {
    the_one_that_fills_it_is_stopped(Line::V1_7).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pull_that_would_fill_the_disk_is_stopped_on_2_x() -> Result<()> {
    the_one_that_fills_it_is_stopped(Line::V2).await
}
