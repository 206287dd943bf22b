//! A client that asks again and again for an image that was stopped: it costs next to nothing, and fills no log.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use magi_integration::cri::Pod;
use magi_integration::image::{ImageBuilder, Layer};
use magi_integration::magi::{self, Magi};
use magi_integration::registry::Kind;
use magi_integration::{Behaviour, Containerd, Line, Registry, verifier, wait};
use serde_json::Value;

/// How long the client goes on, and its pause between two attempts.
const FOR: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(200);
/// Layer bytes that all attempts together may cost, and records of one attempt. The figures that magi is held to are
/// those of a quiet machine (`MAGI_STRICT=1`); with builds beside it, a lever at the lease may come too late now and
/// then, and the socket of a layer must be closed as well.
fn bounds() -> (u64, u64) {
    if std::env::var_os("MAGI_STRICT").is_some() {
        (2 << 20, 1)
    } else {
        (16 << 20, 2)
    }
}
const RATE: u64 = 5_000_000;
const POLICY: &str = "version: 1\nmode: enforce\nlimits: { image: 1MiB }\n";
const REPOSITORY: &str = "huge";

struct Stage {
    registry: Registry,
    node: Containerd,
    magi: Magi,
    reference: String,
}

impl Stage {
    async fn set(line: Line) -> Result<Self> {
        let registry = Registry::start()?;
        let node = Containerd::start(line).await?;
        node.trust(&registry)?;
        let magi = Magi::start(&node, &magi::Options::policy(POLICY)).await?;
        let image = ImageBuilder::oci().layer(Layer::declared(1, 1 << 30)).build()?;
        let reference = registry.put(REPOSITORY, "1", &image);
        registry.behave(REPOSITORY, Behaviour::rate(RATE));
        Ok(Self {
            registry,
            node,
            magi,
            reference,
        })
    }

    /// One attempt; gives the error.
    async fn attempt(&self) -> Result<String> {
        let pod = Pod::new("tenant", "retries");
        let pull = self.node.cri().pull_as(&self.reference, Some(&pod), None).await;
        ensure!(pull.outcome.is_err(), "it was let in");
        Ok(pull.error().to_owned())
    }

    /// Attempts for [`FOR`]; gives how many, and the last error.
    async fn retries(&self) -> Result<(u64, String)> {
        let began = Instant::now();
        let (mut attempts, mut error) = (0, String::new());
        while began.elapsed() < FOR {
            error = self.attempt().await?;
            attempts += 1;
            // The client's own pace, not a wait for anything.
            tokio::time::sleep(PAUSE).await;
        }
        Ok((attempts, error))
    }

    fn layer_bytes(&self) -> u64 {
        self.registry.log().layer_bytes(REPOSITORY)
    }

    fn end(self) -> Result<()> {
        self.magi.stop()?;
        self.node.shutdown()?;
        Ok(())
    }
}

/// Records about pulls, by kind; those of sources and policies left out.
fn about_pulls(audit: &[Value]) -> BTreeMap<String, u64> {
    let mut kinds = BTreeMap::new();
    for record in audit {
        let kind = record["kind"].as_str().unwrap_or_default();
        if kind != "source-changed" && kind != "policy-in-force" {
            let reason = record["reason"].as_str().unwrap_or_default();
            *kinds.entry(format!("{kind} {reason}")).or_default() += 1;
        }
    }
    kinds
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_cost_little_on_1_7() -> Result<()> {
    let stage = Stage::set(Line::V1_7).await?;
    // The first attempt is stopped for its size, with all its records.
    stage.attempt().await?;
    stage.magi.wait_audit("clean", 1, Duration::from_secs(20)).await?;
    let before = about_pulls(&stage.magi.audit()?).values().sum::<u64>();
    let (attempts, _) = stage.retries().await?;
    let kinds = about_pulls(&stage.magi.audit()?);
    let records = kinds.values().sum::<u64>() - before;
    let sent: Vec<u64> = stage
        .registry
        .log()
        .layers(REPOSITORY)
        .iter()
        .map(|one| one.body_sent)
        .collect();
    println!("1.7: layer bytes of each request for one: {sent:?}");
    println!(
        "1.7: {attempts} attempts more, {} layer bytes in all, {records} records for them: {kinds:?}",
        stage.layer_bytes()
    );
    let (most, records_each) = bounds();
    if stage.layer_bytes() >= most {
        let ended = stage
            .magi
            .ask(&serde_json::json!({"v": 1, "ask": "pulls", "ended": true}))
            .await?;
        let last = ended
            .pointer("/reply/answer/report/ended")
            .and_then(Value::as_array)
            .and_then(|all| all.last());
        let log = stage.magi.log()?;
        let warnings: Vec<&str> = log
            .lines()
            .filter(|line| line.contains("WARN") || line.contains("ERROR"))
            .take(5)
            .collect();
        anyhow::bail!(
            "{} layer bytes; the last pull: {last:?}; {warnings:?}",
            stage.layer_bytes()
        );
    }
    ensure!(
        records <= attempts * records_each,
        "{records} records for {attempts} attempts: {kinds:?}"
    );
    ensure!(
        kinds
            .get("intent denied-recently")
            .is_some_and(|count| *count > 0),
        "{kinds:?}"
    );
    stage.end()
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_are_refused_before_any_content_on_2_x() -> Result<()> {
    let stage = Stage::set(Line::V2).await?;
    verifier::install(&stage.node, &stage.magi.socket(), Duration::from_secs(5))?;
    // The first attempt is let in, as nothing is known of the image, and stopped for its size.
    stage.attempt().await?;
    let ended = wait::until(
        "the first pull to end",
        Duration::from_secs(20),
        Duration::from_millis(20),
        || async {
            stage
                .magi
                .audit_of("ended")
                .is_ok_and(|ended| !ended.is_empty())
                .then_some(())
        },
    );
    ended.await?;
    let first = stage.layer_bytes();
    stage.registry.log().clear();
    let (attempts, error) = stage.retries().await?;
    let kinds = about_pulls(&stage.magi.audit()?);
    let refused: u64 = stage.magi.audit_of("refused")?.len().try_into()?;
    println!(
        "2.x: {attempts} attempts more, {first} layer bytes in the first one, {refused} refusals recorded: {kinds:?}"
    );
    let content: Vec<_> = stage
        .registry
        .log()
        .requests()
        .into_iter()
        .filter(|request| {
            request.method == "GET" && matches!(request.kind, Kind::Manifest | Kind::Layer | Kind::Config)
        })
        .collect();
    ensure!(content.is_empty(), "content was asked for: {content:?}");
    ensure!(first < bounds().0, "{first} layer bytes in the first attempt");
    ensure!(
        (1..=FOR.as_secs() / 10 + 1).contains(&refused),
        "{refused} refusals recorded"
    );
    let last = stage.magi.audit_of("refused")?;
    let last = last.last().context("a refusal")?;
    ensure!(last["unrecorded"].as_u64() > Some(0), "{last}");
    for part in ["denied-recently", "exempt", "policy"] {
        ensure!(
            error.contains(part),
            "the client does not read of {part:?}: {error}"
        );
    }
    stage.end()
}
