//! A pod goes in the middle of its pull and comes back: what was finished by then is not fetched again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use magi_integration::image::{Compression, ImageBuilder, Layer};
use magi_integration::master::{self, Way};
use magi_integration::orphans::Stage;
use magi_integration::{Behaviour, Line, Pod, wait};

const BOUND: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(10);
const REPOSITORY: &str = "comes-back";
const RATE: u64 = 1_000_000;
/// Done after half a second, and after six.
const SMALL: u64 = 500_000;
const LARGE: u64 = 6_000_000;
const OWN_LEASES: &str = "magi-kept-";

/// Requests for the layer, and its bytes that were sent.
fn fetched(stage: &Stage, digest: &str) -> (usize, u64) {
    let mut layers = stage.registry().log().layers(REPOSITORY);
    layers.retain(|request| request.digest == digest);
    (layers.len(), layers.iter().map(|one| one.body_sent).sum())
}

async fn finished_layers_are_fetched_once(line: Line) -> Result<()> {
    let stage = Stage::set(line, Way::AuditLog).await?;
    let image = ImageBuilder::oci()
        .layer(Layer::random(900, SMALL, Compression::None)?)
        .layer(Layer::random(901, LARGE, Compression::None)?)
        .build()?;
    let [small_layer, large_layer] = &image.layers[..] else {
        anyhow::bail!("it has {} layers", image.layers.len());
    };
    let (small, large) = (small_layer.digest.clone(), large_layer.digest.clone());
    let reference = stage.registry().put(REPOSITORY, "1", &image);
    stage.registry().behave(REPOSITORY, Behaviour::rate(RATE));
    let pulling = stage.pull_created(Pod::new("team", "first"), reference.clone())?;
    stage.known(&pulling).await?;
    let api = stage.node().api();
    let is_there = || async {
        let blobs = api.blobs().await.unwrap_or_default();
        blobs.iter().any(|(digest, _)| *digest == small).then_some(())
    };
    wait::until("the small layer", BOUND, STEP, is_there).await?;
    stage.tell(&[master::deleted(&pulling.pod, &reference)])?;
    let pull = pulling.end().await?;
    ensure!(pull.outcome.is_err(), "the pull went on\n{}", stage.logs());
    stage.magi().wait_audit("kept", 1, BOUND).await?;
    let kept = stage.magi().audit_of("kept")?.pop().context("nothing kept")?;
    let number = |key: &str| kept.get(key).and_then(serde_json::Value::as_u64);
    ensure!(
        kept.get("failed").is_some_and(serde_json::Value::is_null)
            && number("layers") == Some(1)
            && number("until") > Some(0),
        "{kept}"
    );
    let own = |leases: Vec<String>| leases.into_iter().any(|lease| lease.starts_with(OWN_LEASES));
    ensure!(own(api.leases().await?), "no lease of magi's own");
    // Whatever nobody holds goes now.
    api.collect().await?;
    is_there().await.context("the small layer is gone")?;

    stage.registry().behave(REPOSITORY, Behaviour::rate(100 * RATE));
    let again = stage.pull_created(Pod::new("team", "second"), reference)?;
    let pull = again.end().await?;
    ensure!(pull.outcome.is_ok(), "the second pull failed: {}", pull.error());
    println!(
        "containerd {}: the finished layer {:?}, the other one {:?} (requests, bytes)",
        stage.version(),
        fetched(&stage, &small),
        fetched(&stage, &large)
    );
    ensure!(
        fetched(&stage, &small) == (1, small_layer.declared),
        "it was fetched again: {:?}",
        fetched(&stage, &small)
    );
    ensure!(fetched(&stage, &large).0 >= 2, "the large one was not stopped");

    // A policy that keeps nothing lets go at once.
    stage
        .master()
        .change_policy("version: 1\nmode: enforce\norphanKeep: { for: 0s }\n")?;
    wait::until("its release", BOUND, STEP, || async {
        let leases = api.leases().await.unwrap_or_else(|_| vec![OWN_LEASES.to_owned()]);
        (!own(leases)).then_some(())
    })
    .await?;
    stage.end()
}

#[tokio::test(flavor = "multi_thread")]
async fn finished_layers_are_fetched_once_on_1_7() -> Result<()> {
    finished_layers_are_fetched_once(Line::V1_7).await
}

#[tokio::test(flavor = "multi_thread")]
async fn finished_layers_are_fetched_once_on_2_x() -> Result<()> {
    finished_layers_are_fetched_once(Line::V2).await
}
