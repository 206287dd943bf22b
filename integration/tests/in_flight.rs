//! magi-node started while a gigantic pull is under way already.

use std::time::Duration;

use anyhow::{Result, ensure};
use magi_integration::api::Counts;
use magi_integration::image::{ImageBuilder, Layer};
use magi_integration::magi::{self, Magi};
use magi_integration::{Behaviour, Registry, containerd};

const BOUND: Duration = Duration::from_secs(30);

/// Starts the pull, then magi, and expects the pull to end well before it is complete.
async fn stops_what_it_finds(policy: magi::Options) -> Result<()> {
    let registry = Registry::start()?;
    for node in containerd::both().await? {
        node.trust(&registry)?;
        let repository = format!("gigantic-{}", node.line());
        let image = ImageBuilder::docker()
            .layers((0..3).map(|seed| Layer::declared(seed, 2 << 30)))
            .build()?;
        let reference = registry.put(&repository, "1", &image);
        registry.behave(&repository, Behaviour::rate(20_000_000));
        let cri = node.cri();
        let pull = tokio::spawn(async move { cri.pull(&reference).await });
        registry
            .log()
            .wait_layer_bytes(&repository, 8 << 20, BOUND)
            .await?;
        let magi = Magi::start(&node, &policy).await?;
        let pull = tokio::time::timeout(BOUND, pull).await??;
        ensure!(pull.outcome.is_err(), "the gigantic pull came through");
        let sent = registry.log().layer_bytes(&repository);
        println!("{}: stopped after {sent} bytes: {}", node.version(), pull.error());
        let intents = magi.audit_of("intent")?;
        ensure!(
            intents.iter().all(|intent| intent["reason"] == "image-too-large"),
            "{intents:?}"
        );
        let methods: Vec<_> = intents
            .iter()
            .flat_map(|intent| intent["evidence"].as_array().cloned())
            .flatten()
            .collect();
        println!(
            "{}: {:?}",
            node.version(),
            methods
                .iter()
                .map(|fact| fact["method"].clone())
                .collect::<Vec<_>>()
        );
        node.expect_nothing_left(&Counts::default(), BOUND).await?;
        magi.stop()?;
        node.shutdown()?.expect_none()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_older_than_magi_is_stopped() -> Result<()> {
    stops_what_it_finds(magi::Options::policy(magi::enforce("1GiB"))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_probes_byte_counts_tie_the_sockets() -> Result<()> {
    let options = magi::Options {
        probes: false,
        ..magi::Options::policy(magi::enforce("1GiB"))
    };
    stops_what_it_finds(options).await
}
