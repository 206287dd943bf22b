//! What is broken, absent or hostile gets a clear word or a safe decision: never a panic, never an abort.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use magi_integration::api::Counts;
use magi_integration::image as bad;
use magi_integration::image::{Compression, Image, ImageBuilder, Layer};
use magi_integration::magi::{self, Magi};
use magi_integration::{Behaviour, Containerd, Line, Registry, containerd, wait};

const BOUND: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(10);

fn small(seed: u64) -> Result<Image> {
    ImageBuilder::oci()
        .layer(Layer::random(seed, 1 << 20, Compression::Gzip)?)
        .build()
}

fn gigantic(seed: u64) -> Result<Image> {
    ImageBuilder::oci().layer(Layer::declared(seed, 4 << 30)).build()
}

async fn wait_log(magi: &Magi, text: &str) -> Result<()> {
    let said = wait::until(text, BOUND, STEP, || async {
        magi.log().ok().filter(|log| log.contains(text)).map(|_| ())
    });
    said.await.with_context(|| magi.log_tail(30))
}

/// Still running, no lever pulled, nothing panicked.
fn unharmed(magi: &Magi) -> Result<()> {
    ensure!(
        magi.process().is_running(),
        "magi-node has ended:\n{}",
        magi.log_tail(40)
    );
    ensure!(
        magi.audit_of("intent")?.is_empty(),
        "a lever was pulled:\n{}",
        magi.log_tail(40)
    );
    ensure!(
        !magi.log()?.contains("panicked"),
        "a panic:\n{}",
        magi.log_tail(40)
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn manifests_that_are_broken_huge_or_endless_stop_nothing() -> Result<()> {
    let registry = Registry::start()?;
    let good = small(1)?;
    let documents = [
        ("garbage", bad::garbage(vec![0xff; 1000])),
        ("truncated", bad::truncated_manifest(&good)),
        ("padded", bad::padded_manifest(&good, 4 << 20)?),
        ("itself", bad::index_of_itself()?),
        ("loop", bad::index_loop()?),
        ("nested", bad::nested_indexes(&good, 20)?),
    ];
    for node in containerd::both().await? {
        node.trust(&registry)?;
        let magi = Magi::start(&node, &magi::Options::policy(magi::enforce("1GiB"))).await?;
        for (name, document) in &documents {
            let reference = registry.put_raw(name, "1", document);
            let pull = tokio::time::timeout(BOUND, node.cri().pull(&reference))
                .await
                .with_context(|| (*name).to_owned())?;
            println!(
                "{} {name}: {}",
                node.version(),
                pull.outcome
                    .as_ref()
                    .map_or_else(|error| error.to_string(), Clone::clone)
            );
            if pull.outcome.is_ok() {
                node.cri().remove(&reference).await?;
            }
            unharmed(&magi)?;
        }
        // Ten thousand layers of a few bytes are no reason to stop anything; the same ones over the limit are.
        let many = bad::many_layers(10_000, 100)?;
        let reference = registry.put("many", "1", &many);
        registry.behave("many", Behaviour::rate(1000));
        let cri = node.cri();
        let pull = tokio::spawn(async move { cri.pull(&reference).await });
        let declared = many.declared();
        let seen = wait::until("the ten thousand layers", BOUND, STEP, || async {
            let pulls = magi.pulls().await.unwrap_or_default();
            pulls
                .iter()
                .any(|pull| pull["declared"] == declared)
                .then_some(())
        });
        seen.await.with_context(|| magi.log_tail(30))?;
        unharmed(&magi)?;
        pull.abort();
        drop(pull.await);
        // containerd 2.x takes minutes to open ten thousand ingests before the first request: the pull is stopped at
        // its first bytes, or reported as one that offers nothing to close.
        let too_many = bad::many_layers(10_000, 1 << 20)?;
        let reference = registry.put("too-many", "1", &too_many);
        registry.behave("too-many", Behaviour::rate(200_000));
        let cri = node.cri();
        let pull = tokio::spawn(async move { cri.pull(&reference).await });
        let decided = wait::until("a decision on too many layers", BOUND, STEP, || async {
            let records = magi.audit().unwrap_or_default();
            let kinds = ["ended", "not-stopped"];
            records
                .into_iter()
                .find(|record| kinds.iter().any(|kind| record["kind"] == *kind))
        });
        let record = decided.await.with_context(|| magi.log_tail(30))?;
        ensure!(record["reason"] == "image-too-large", "{record}");
        println!("{}: ten thousand layers: {}", node.version(), record["kind"]);
        pull.abort();
        drop(pull.await);
        node.api().collect().await?;
        node.expect_nothing_left(&Counts::default(), BOUND).await?;
        magi.stop()?;
        node.shutdown()?.expect_none()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_policy_changes_nothing() -> Result<()> {
    let registry = Registry::start()?;
    let node = Containerd::start(Line::V1_7).await?;
    node.trust(&registry)?;
    let broken = "version: 1\nmode: enfroce\nlimits: { image: 1GB, layers: 2 }\n";
    // From the start: magi observes, and says what is wrong and where.
    let magi = Magi::start(&node, &magi::Options::policy(broken)).await?;
    wait_log(&magi, "enfroce").await?;
    wait_log(&magi, "layers").await?;
    let reference = registry.put("first", "1", &gigantic(1)?);
    registry.behave("first", Behaviour::rate(20_000_000));
    let cri = node.cri();
    let pull = tokio::spawn(async move { cri.pull(&reference).await });
    registry.log().wait_layer_bytes("first", 8 << 20, BOUND).await?;
    unharmed(&magi)?;
    // A good one, while the pull goes on: now it is stopped.
    magi.reload(&magi::enforce("1GiB"))?;
    ensure!(
        tokio::time::timeout(BOUND, pull).await??.outcome.is_err(),
        "not stopped after the reload"
    );
    // Broken again: the last good one stays in force.
    magi.reload(broken)?;
    wait_log(&magi, "the policy in force stays").await?;
    let reference = registry.put("second", "1", &gigantic(2)?);
    registry.behave("second", Behaviour::rate(20_000_000));
    let pull = tokio::time::timeout(BOUND, node.cri().pull(&reference)).await?;
    ensure!(pull.outcome.is_err(), "the last good policy was forgotten");
    node.expect_nothing_left(&Counts::default(), BOUND).await?;
    magi.stop()?;
    node.shutdown()?.expect_none()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kernel_without_type_information_is_said_and_survived() -> Result<()> {
    let registry = Registry::start()?;
    for node in containerd::both().await? {
        node.trust(&registry)?;
        let btf = Some("/nonexistent/btf".into());
        let options = magi::Options {
            btf,
            ..magi::Options::policy(magi::enforce("1GiB"))
        };
        let magi = Magi::start(&node, &options).await?;
        wait_log(&magi, "no kernel probes").await?;
        let log = magi.log()?;
        ensure!(log.matches("no kernel probes").count() == 1, "{log}");
        let name = format!("gigantic-{}", node.line());
        let reference = registry.put(&name, "1", &gigantic(3)?);
        registry.behave(&name, Behaviour::rate(20_000_000));
        let pull = tokio::time::timeout(BOUND, node.cri().pull(&reference)).await?;
        ensure!(pull.outcome.is_err(), "not stopped without probes");
        println!(
            "{}: {} bytes without probes",
            node.version(),
            registry.log().layer_bytes(&name)
        );
        let intent = magi.wait_audit("intent", 1, BOUND).await?.remove(0);
        ensure!(intent["evidence"].to_string().contains("byte-count"), "{intent}");
        node.expect_nothing_left(&Counts::default(), BOUND).await?;
        magi.stop()?;
        node.shutdown()?.expect_none()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containerd_may_be_absent_come_and_go() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let not_a_socket = dir.path().join("file");
    std::fs::write(&not_a_socket, "no socket")?;
    for address in [
        dir.path().join("absent.sock"),
        not_a_socket,
        dir.path().to_owned(),
    ] {
        let magi = Magi::launch(&address, &magi::Options::policy(magi::enforce("1GiB")))?;
        wait_log(&magi, "cannot attach to containerd").await?;
        ensure!(
            magi.log()?.contains("is it running"),
            "no advice:\n{}",
            magi.log_tail(20)
        );
        unharmed(&magi)?;
        magi.stop()?;
    }
    let registry = Registry::start()?;
    for mut node in containerd::both().await? {
        node.trust(&registry)?;
        let magi = Magi::start(&node, &magi::Options::policy(magi::enforce("1GiB"))).await?;
        for round in 1..=3 {
            node.kill9()?;
            let down = |record: &serde_json::Value| record["source"] == "containerd" && record["up"] == false;
            let gone = wait::until("magi to miss containerd", BOUND, STEP, || async {
                let records = magi.audit_of("source-changed").unwrap_or_default();
                (records.iter().filter(|record| down(record)).count() == round).then_some(())
            });
            gone.await.with_context(|| magi.log_tail(30))?;
            node.start_again().await?;
            let name = format!("again-{}-{round}", node.line());
            let reference = registry.put(&name, "1", &gigantic(u64::try_from(round)?)?);
            registry.behave(&name, Behaviour::rate(20_000_000));
            let pull = tokio::time::timeout(BOUND, node.cri().pull(&reference)).await?;
            ensure!(pull.outcome.is_err(), "not stopped after restart {round}");
        }
        node.expect_nothing_left(&Counts::default(), BOUND).await?;
        magi.stop()?;
        node.shutdown()?.expect_none()?;
    }
    Ok(())
}
