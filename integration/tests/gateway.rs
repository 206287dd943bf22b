//! magi-gateway in front of real containerds: what passes through it is what would have passed without it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use magi_integration::api::Counts;
use magi_integration::cri::Pull;
use magi_integration::gateway::Place;
use magi_integration::image::{Compression, Image, ImageBuilder, Layer};
use magi_integration::{Behaviour, Containerd, Cri, Line, Pod, Registry, containerd, wait};

const BOUND: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(10);
const ABSENT: &str = "/nowhere/node.sock";

fn small(seed: u64) -> Result<Image> {
    ImageBuilder::oci()
        .layer(Layer::random(seed, 300_000, Compression::Gzip)?)
        .build()
}

/// An image that takes for ever.
fn endless(registry: &Registry, name: &str) -> Result<String> {
    let image = ImageBuilder::oci().layer(Layer::declared(7, 1 << 30)).build()?;
    let reference = registry.put(name, "1", &image);
    registry.behave(name, Behaviour::rate(200_000));
    Ok(reference)
}

async fn first_bytes(registry: &Registry, name: &str) -> Result<()> {
    wait::until("layer bytes", BOUND, STEP, async || {
        (registry.log().layer_bytes(name) > 0).then_some(())
    })
    .await
}

/// All calls, through the gateway and past it, and the same comes back.
async fn same_answers(registry: &Registry, direct: &Cri, through: &Cri, name: &str) -> Result<()> {
    let image = small(1)?;
    let good = registry.put(name, "1", &image);
    let missing = registry.reference(name, "missing");
    let mut pod = Pod::new("team", "web");
    pod.annotations.insert("big".to_owned(), "x".repeat(256 << 10));
    let pulled = through
        .pull_as(&good, Some(&pod), Some(("robot", "secret")))
        .await;
    ensure!(pulled.outcome.as_deref() == Ok(image.id()), "{pulled:?}");
    ensure!(through.image(&good).await? == direct.image(&good).await?);
    ensure!(through.images().await? == direct.images().await?);
    let place =
        |all: Vec<magi_wire::runtime::v1::FilesystemUsage>| all.into_iter().next().and_then(|one| one.fs_id);
    ensure!(place(through.image_fs().await?) == place(direct.image_fs().await?));
    ensure!(through.image(&missing).await?.is_none());
    let (one, other) = (
        through.pull_as(&missing, Some(&pod), None).await.outcome,
        direct.pull_as(&missing, Some(&pod), None).await.outcome,
    );
    ensure!(one.is_err() && one == other, "{one:?}\n{other:?}");
    let (one, other) = (
        through.pull("not a reference").await,
        direct.pull("not a reference").await,
    );
    ensure!(
        one.outcome.is_err() && one.outcome == other.outcome,
        "{one:?}\n{other:?}"
    );
    through.remove(&good).await?;
    ensure!(direct.image(&good).await?.is_none());
    // The runtime's service is not the gateway's affair, and passes all the same.
    ensure!(through.version().await? == direct.version().await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_passes_as_it_is_without_magi_node() -> Result<()> {
    let registry = Registry::start()?;
    for node in containerd::both().await? {
        node.trust(&registry)?;
        let place = Place::new()?;
        let gateway = place.start(&node, Path::new(ABSENT)).await?;
        let name = format!("same-{}", node.line());
        same_answers(&registry, &node.cri(), &place.cri(), &name).await?;
        let log = place.log()?;
        ensure!(!log.contains("secret"), "credentials in the log: {log}");
        gateway.begin_to_stop()?;
        ensure!(gateway.ended(BOUND).await?.success());
        node.shutdown()?.expect_none()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_gives_up_ends_the_pull_in_containerd() -> Result<()> {
    let registry = Registry::start()?;
    for node in containerd::both().await? {
        node.trust(&registry)?;
        let place = Place::new()?;
        let gateway = place.start(&node, Path::new(ABSENT)).await?;
        let pod = Pod::new("team", "impatient");
        for how in ["deadline", "cancel", "disconnect"] {
            let name = format!("endless-{how}-{}", node.line());
            let reference = endless(&registry, &name)?;
            if how == "deadline" {
                let ended = place
                    .cri()
                    .pull_within(&reference, &pod, Duration::from_millis(700))
                    .await;
                ensure!(ended.is_err(), "an endless pull came through");
            } else {
                // A clone keeps the connection, so that the call alone is dropped.
                let cri = place.cri();
                let kept = (how == "cancel").then(|| cri.clone());
                let pull = tokio::spawn({
                    let (reference, pod) = (reference.clone(), pod.clone());
                    async move { cri.pull_as(&reference, Some(&pod), None).await }
                });
                first_bytes(&registry, &name).await?;
                pull.abort();
                node.expect_nothing_left(&Counts::default(), BOUND).await?;
                drop(kept);
            }
            node.expect_nothing_left(&Counts::default(), BOUND)
                .await
                .with_context(|| format!("after {how}"))?;
        }
        drop(gateway);
        node.shutdown()?.expect_none()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_waits_for_containerd_to_come_back() -> Result<()> {
    let registry = Registry::start()?;
    let mut node = Containerd::start(Line::V2).await?;
    node.trust(&registry)?;
    let place = Place::new()?;
    let _gateway = place.start(&node, Path::new(ABSENT)).await?;
    let cri = place.cri();
    cri.version().await?;
    node.kill9()?;
    let down = cri.pull("x").await;
    let error = down.outcome.err().context("nobody answers, and it is pulled")?;
    ensure!(error.code == tonic::Code::Unavailable, "{error}");
    ensure!(
        error
            .message
            .contains("magi-gateway: cannot connect to containerd at"),
        "{error}"
    );
    node.start_again().await?;
    cri.version().await?;
    node.shutdown()?;
    Ok(())
}

/// A pull by a client that behaves as the kubelet's, grpc-go: a call that was never sent, because its connection was being
/// closed in that moment, is sent again on the next one (gRPC proposal A6, transparent retries). hyper tells its caller.
async fn as_kubelet(cri: &Cri, reference: &str, pod: &Pod) -> Pull {
    const NEVER_SENT: &str = "operation was canceled";
    let mut pull = cri.pull_as(reference, Some(pod), None).await;
    for _ in 0..3 {
        if pull.error() != NEVER_SENT {
            break;
        }
        pull = cri.pull_as(reference, Some(pod), None).await;
    }
    pull
}

/// Pulls go on while one process takes over from another, again and again.
async fn restarts(line: Line, place: Place) -> Result<()> {
    const PULLS: u64 = 24;
    const RESTARTS: usize = 4;
    let registry = Registry::start()?;
    let node = Containerd::start(line).await?;
    node.trust(&registry)?;
    let mut gateway = place.start(&node, Path::new(ABSENT)).await?;
    let shared = place.cri();
    let mut pulls = tokio::task::JoinSet::new();
    let mut drained = Vec::new();
    for number in 0..PULLS {
        let name = format!("image-{number}");
        let reference = registry.put(&name, "1", &small(100 + number)?);
        registry.behave(&name, Behaviour::rate(600_000));
        // Half of them on one connection that outlives each process, half on a new one.
        let cri = if number % 2 == 0 {
            shared.clone()
        } else {
            place.cri()
        };
        pulls.spawn(async move { as_kubelet(&cri, &reference, &Pod::new("team", &name)).await });
        if number % (PULLS / RESTARTS as u64) == 2 {
            first_bytes(&registry, &format!("image-{number}")).await?;
            if place.is_activated() {
                // Nobody is there for a while; whoever connects waits in the socket.
                gateway.begin_to_stop()?;
                drained.push(gateway);
                gateway = place.start(&node, Path::new(ABSENT)).await?;
            } else {
                let next = place.start(&node, Path::new(ABSENT)).await?;
                gateway.begin_to_stop()?;
                drained.push(std::mem::replace(&mut gateway, next));
            }
        }
    }
    while let Some(pull) = pulls.join_next().await {
        let pull = pull?;
        ensure!(
            pull.outcome.is_ok(),
            "{}: {}\n{}",
            pull.reference,
            pull.error(),
            place.log()?
        );
    }
    ensure!(drained.len() == RESTARTS);
    drop(shared);
    for old in &drained {
        ensure!(old.ended(BOUND).await?.success());
    }
    let log = place.log()?;
    ensure!(!log.contains("cut off"), "{log}");
    ensure!(
        log.matches("as soon as the calls in flight are over").count() == RESTARTS,
        "{log}"
    );
    drop((gateway, drained));
    node.shutdown()?.expect_none()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_pull_fails_while_one_gateway_takes_over_from_another() -> Result<()> {
    restarts(Line::V1_7, Place::new()?).await?;
    restarts(Line::V2, Place::new()?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_pull_fails_while_systemd_restarts_the_gateway() -> Result<()> {
    restarts(Line::V1_7, Place::activated()?).await?;
    restarts(Line::V2, Place::activated()?).await
}
