//! One image, two namespaces: it is stopped for the one whose limit it exceeds, and completes for the other, whoever of
//! them downloads it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use magi_integration::cri::{Pod, Pull};
use magi_integration::image::{Compression, ImageBuilder, Layer};
use magi_integration::magi::{self, Magi};
use magi_integration::{Behaviour, Containerd, Line, Registry, owners};
use serde_json::Value;

const POLICY: &str = "version: 1
mode: enforce
denyFor: 0s
rules:
  - { name: large, match: { namespaces: [a] }, limits: { image: 1GiB } }
  - { name: small, match: { namespaces: [b] }, limits: { image: 100MiB } }
";
/// More than the one namespace may have, less than the other.
const SIZE: u64 = 110 << 20;
const BOUND: Duration = Duration::from_secs(20);

struct Stage {
    registry: Registry,
    node: Containerd,
    magi: Magi,
}

impl Stage {
    async fn set(line: Line) -> Result<Self> {
        let registry = Registry::start()?;
        let node = Containerd::start(line).await?;
        node.trust(&registry)?;
        let magi = Magi::start(&node, &magi::Options::policy(POLICY)).await?;
        owners::until_known(&magi, &node.cri(), &registry).await?;
        Ok(Self { registry, node, magi })
    }

    /// An image of its own for each scenario, so that none finds layers of another.
    fn image(&self, name: &str, seed: u64, behaviour: Behaviour) -> Result<String> {
        let layer = Layer::random(seed, SIZE, Compression::None)?;
        let reference = self
            .registry
            .put(name, "1", &ImageBuilder::oci().layer(layer).build()?);
        self.registry.behave(name, behaviour);
        Ok(reference)
    }

    fn pull(&self, reference: &str, namespace: &str) -> tokio::task::JoinHandle<Pull> {
        let pod = Pod::new(namespace, &format!("pod-of-{namespace}"));
        let (cri, reference) = (self.node.cri(), reference.to_owned());
        tokio::spawn(async move { cri.pull_as(&reference, Some(&pod), None).await })
    }

    /// A pull of this namespace, as magi shows it, once `is_there` holds.
    async fn shown(&self, namespace: &str, is_there: impl Fn(&Value) -> bool) -> Result<Value> {
        let step = Duration::from_millis(5);
        let found = magi_integration::wait::until("a pull to be shown", BOUND, step, || async {
            let pulls = self.magi.pulls().await.unwrap_or_default();
            pulls
                .into_iter()
                .find(|pull| owner(pull) == Some(namespace) && is_there(pull))
        });
        found.await.with_context(|| self.magi.log_tail(20))
    }

    fn intents(&self) -> Result<Vec<Value>> {
        self.magi.audit_of("intent")
    }
}

fn owner(pull: &Value) -> Option<&str> {
    pull.pointer("/owner/pod/namespace").and_then(Value::as_str)
}

fn is_about(record: &Value, namespace: &str) -> bool {
    record
        .pointer("/pull/owner/pod/namespace")
        .and_then(Value::as_str)
        == Some(namespace)
}

/// Each alone: the same image is stopped for `b` and completes for `a`.
async fn alone(stage: &Stage) -> Result<()> {
    let reference = stage.image("alone", 1, Behaviour::rate(40_000_000))?;
    let pull = stage.pull(&reference, "b").await?;
    ensure!(pull.outcome.is_err(), "it completed for b");
    let intents = stage.intents()?;
    let intent = intents.last().context("no intent")?;
    ensure!(is_about(intent, "b"), "{intent}");
    ensure!(
        intent["rule"] == "small" && intent["reason"] == "image-too-large",
        "{intent}"
    );
    ensure!(
        intent["evidence"]
            .as_array()
            .is_some_and(|all| all.iter().any(|one| one["kind"] == "asked-for")),
        "the request is no evidence: {intent}"
    );
    let pull = stage.pull(&reference, "a").await?;
    ensure!(pull.outcome.is_ok(), "for a: {}", pull.error());
    ensure!(
        stage.intents()?.len() == intents.len(),
        "a lever was pulled for a"
    );
    Ok(())
}

/// `b` downloads and `a` waits for it: `b` is stopped, `a` takes over and completes.
async fn taken_over(stage: &Stage) -> Result<()> {
    let slow_to_answer = Behaviour {
        delay: Duration::from_millis(1500),
        ..Behaviour::rate(60_000_000)
    };
    let reference = stage.image("taken-over", 2, slow_to_answer)?;
    let before = stage.intents()?.len();
    // Otherwise it would be stopped before its first layer, and there would be nothing to take over.
    let policies = stage.magi.audit_of("policy-in-force")?.len();
    stage.magi.reload(&POLICY.replace("100MiB", "1GiB"))?;
    stage
        .magi
        .wait_audit("policy-in-force", policies + 1, BOUND)
        .await?;
    let for_b = stage.pull(&reference, "b");
    stage.shown("b", |pull| pull["stage"] == "downloading").await?;
    let for_a = stage.pull(&reference, "a");
    stage.shown("a", |pull| pull["declared"].is_u64()).await?;
    stage.magi.reload(POLICY)?;
    let for_b = for_b.await?;
    ensure!(for_b.outcome.is_err(), "it completed for b");
    let for_a = for_a.await?;
    ensure!(for_a.outcome.is_ok(), "for a: {}", for_a.error());
    let intents = stage.intents()?;
    let of_this = intents.get(before..).unwrap_or_default();
    ensure!(
        !of_this.is_empty() && of_this.iter().all(|one| is_about(one, "b")),
        "{of_this:?}"
    );
    let taken = stage.magi.wait_audit("taken-over", 1, BOUND).await?;
    ensure!(taken.iter().all(|one| one["condemned"] == false), "{taken:?}");
    Ok(())
}

/// `a` downloads and `b` waits for it: nobody is stopped, and the audit says why `b` goes on.
async fn only_waits(stage: &Stage) -> Result<()> {
    let reference = stage.image("only-waits", 3, Behaviour::rate(28_000_000))?;
    let before = stage.intents()?.len();
    let for_a = stage.pull(&reference, "a");
    stage.shown("a", |pull| pull["stored"].as_u64() > Some(0)).await?;
    let for_b = stage.pull(&reference, "b");
    let for_a = for_a.await?;
    ensure!(for_a.outcome.is_ok(), "for a: {}", for_a.error());
    let for_b = for_b.await?;
    ensure!(for_b.outcome.is_ok(), "b had nothing to stop: {}", for_b.error());
    ensure!(
        stage.intents()?.len() == before,
        "a lever was pulled: {:?}",
        stage.intents()?.get(before..)
    );
    let sent = stage.registry.log().layers("only-waits").len();
    ensure!(sent == 1, "the layer was sent {sent} times");
    let why = stage.magi.audit_of("not-stopped")?;
    let why = why.iter().find(|one| is_about(one, "b"));
    let why = why.context("the audit does not say why b went on")?;
    ensure!(
        why["why"]
            .as_str()
            .is_some_and(|why| why.contains("another pull")),
        "{why}"
    );
    Ok(())
}

async fn two_namespaces(line: Line) -> Result<()> {
    let stage = Stage::set(line).await?;
    for outcome in [
        alone(&stage).await.context("alone"),
        taken_over(&stage).await.context("taken over"),
        only_waits(&stage).await.context("only waits"),
    ] {
        outcome.with_context(|| stage.magi.log_tail(40))?;
    }
    stage.magi.stop()?;
    stage.node.shutdown()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_holds_for_its_namespace_only_on_1_7() -> Result<()> {
    two_namespaces(Line::V1_7).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_holds_for_its_namespace_only_on_2_x() -> Result<()> {
    two_namespaces(Line::V2).await
}
