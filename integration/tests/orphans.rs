//! A pod is deleted while its image is pulled: the pull ends. What the API server refused, or only tried, ends nothing,
//! and neither does the deletion of one pod where another one wants the image.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use magi_integration::cri::{Pod, Pull};
use magi_integration::image::{Compression, ImageBuilder, Layer};
use magi_integration::magi::{self, Magi};
use magi_integration::master::{self, Master};
use magi_integration::{Behaviour, Containerd, Line, Registry, wait};

const POLICY: &str = "version: 1\nmode: enforce\norphanGrace: 0s\ndenyFor: 0s\n";
const BOUND: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(5);
/// Six seconds at the registry's pace.
const SIZE: u64 = 6_000_000;
const RATE: u64 = 1_000_000;

struct Stage {
    registry: Registry,
    node: Containerd,
    magi: Magi,
    master: Master,
    /// The pushed policy is kept here.
    _state: tempfile::TempDir,
}

impl Stage {
    async fn set(line: Line) -> Result<Self> {
        let registry = Registry::start()?;
        let node = Containerd::start(line).await?;
        node.trust(&registry)?;
        let master = Master::start(POLICY).await?;
        let state = tempfile::tempdir().context("a folder")?;
        let mut options = magi::Options::policy(POLICY);
        options.settings = master.node_settings(state.path());
        let magi = Magi::start(&node, &options).await?;
        let stage = Self {
            registry,
            node,
            magi,
            master,
            _state: state,
        };
        stage.until_the_master_is_heard().await?;
        Ok(stage)
    }

    async fn until_the_master_is_heard(&self) -> Result<()> {
        let up = wait::until("the master to be connected", BOUND, STEP, || async {
            let records = self.magi.audit_of("source-changed").unwrap_or_default();
            records
                .iter()
                .any(|record| record["source"] == "master" && record["up"] == true)
                .then_some(())
        });
        up.await.with_context(|| {
            format!(
                "{}\n{}",
                self.magi.log_tail(20),
                self.master.process().log_tail(20)
            )
        })
    }

    fn image(&self, name: &str, seed: u64) -> Result<String> {
        let layer = Layer::random(seed, SIZE, Compression::None)?;
        let reference = self
            .registry
            .put(name, "1", &ImageBuilder::oci().layer(layer).build()?);
        self.registry.behave(name, Behaviour::rate(RATE));
        Ok(reference)
    }

    fn pull(&self, reference: &str, pod: &Pod) -> tokio::task::JoinHandle<Pull> {
        let (cri, reference, pod) = (self.node.cri(), reference.to_owned(), pod.clone());
        tokio::spawn(async move { cri.pull_as(&reference, Some(&pod), None).await })
    }

    /// Until magi knows whose pull it is; who asked in the first second of its life stays unknown.
    async fn until_known(&self, pod: &Pod) -> Result<()> {
        let known = wait::until("the owner to be known", BOUND, STEP, || async {
            let pulls = self.magi.pulls().await.unwrap_or_default();
            pulls
                .iter()
                .any(|pull| pull.pointer("/owner/pod/uid") == Some(&pod.uid.as_str().into()))
                .then_some(())
        });
        known.await.with_context(|| self.magi.log_tail(20))
    }

    fn end(self) -> Result<()> {
        self.magi.stop()?;
        self.node.shutdown()?;
        Ok(())
    }
}

async fn a_deleted_pods_pull_ends(line: Line) -> Result<()> {
    let stage = Stage::set(line).await?;
    let mut took = Vec::new();
    for round in 0..5_u64 {
        let reference = stage.image(&format!("orphan-{round}"), 100 + round)?;
        let pod = Pod::new("team", &format!("orphan-{round}"));
        stage
            .master
            .api_server_writes(&master::created(&pod, &reference))?;
        let pull = stage.pull(&reference, &pod);
        if round == 0 && stage.until_known(&pod).await.is_err() {
            // It was asked for before magi could be sure to see every request.
            pull.await.context("the first pull")?;
            continue;
        }
        stage.until_known(&pod).await?;
        let written = Instant::now();
        stage
            .master
            .api_server_writes(&[master::deleted(&pod, &reference)])?;
        let pull = pull.await.context("the pull")?;
        ensure!(
            pull.outcome.is_err(),
            "round {round}: the pull went on\n{}\n{}",
            stage.magi.log_tail(20),
            stage.master.process().log_tail(20)
        );
        took.push(written.elapsed());
    }
    took.sort();
    println!("{line:?}: from the line to the end of PullImage: {took:?}");
    ensure!(took.len() >= 4, "{took:?}");
    let intents = stage.magi.audit_of("intent")?;
    ensure!(
        intents.iter().all(|intent| intent["reason"] == "orphaned"),
        "{intents:?}"
    );
    stage.end()
}

async fn nothing_else_ends_a_pull(line: Line) -> Result<()> {
    let stage = Stage::set(line).await?;
    let reference = stage.image("wanted", 200)?;
    let (one, other) = (Pod::new("team", "one"), Pod::new("team", "other"));
    stage
        .master
        .api_server_writes(&master::created(&one, &reference))?;
    stage
        .master
        .api_server_writes(&master::created(&other, &reference))?;
    let pull = stage.pull(&reference, &one);
    stage.master.api_server_writes(&[
        master::refused(&one, 403),
        master::refused(&one, 404),
        master::refused(&one, 409),
        master::refused(&one, 429),
        master::dry_run(&one, &reference),
        // It is gone, but the other one wants the image.
        master::deleted(&one, &reference),
    ])?;
    let pull = pull.await.context("the pull")?;
    ensure!(pull.outcome.is_ok(), "{}", pull.error());
    let intents = stage.magi.audit_of("intent")?;
    ensure!(intents.is_empty(), "{intents:?}");
    stage.end()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_pods_pull_ends_on_1_7() -> Result<()> {
    a_deleted_pods_pull_ends(Line::V1_7).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_pods_pull_ends_on_2_x() -> Result<()> {
    a_deleted_pods_pull_ends(Line::V2).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_else_ends_a_pull_on_1_7() -> Result<()> {
    nothing_else_ends_a_pull(Line::V1_7).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_else_ends_a_pull_on_2_x() -> Result<()> {
    nothing_else_ends_a_pull(Line::V2).await
}
