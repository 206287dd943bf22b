//! A layer that declares 1 MiB and never ends.
#![expect(
    clippy::indexing_slicing,
    reason = "a missing field of a JSON value reads as null and fails the check"
)]

use std::time::Duration;

use anyhow::{Result, ensure};
use magi_integration::api::Counts;
use magi_integration::image::{ImageBuilder, Layer};
use magi_integration::magi::{self, Magi};
use magi_integration::registry::Options;
use magi_integration::{Behaviour, Registry, containerd};

const BOUND: Duration = Duration::from_secs(30);
const MIB: u64 = 1 << 20;

async fn stopped(options: Options, name: &str, behaviour: &Behaviour) -> Result<()> {
    let registry = Registry::start_with(options)?;
    for node in containerd::both().await? {
        node.trust(&registry)?;
        let magi = Magi::start(&node, &magi::Options::policy(magi::enforce("1GiB"))).await?;
        for round in 0..5u64 {
            let repository = format!("{name}-{}-{round}", node.line());
            let image = ImageBuilder::oci()
                .layer(Layer::lying(round, MIB, u64::MAX))
                .build()?;
            let reference = registry.put(&repository, "1", &image);
            registry.behave(&repository, behaviour.clone());
            let pull = node.cri().pull(&reference).await;
            ensure!(pull.outcome.is_err(), "the lying pull came through");
            let sent = registry.log().layer_bytes(&repository);
            println!(
                "{} {name} {round}: {sent} bytes sent in {:?}: {}",
                node.version(),
                pull.elapsed(),
                pull.error()
            );
            ensure!(
                sent <= 5 * MIB,
                "{sent} bytes sent, {MIB} declared\n{}",
                magi.log_tail(30)
            );
            node.expect_nothing_left(&Counts::default(), BOUND).await?;
        }
        // The certain evidence is in the record of each stop.
        let intents = magi.audit_of("intent")?;
        ensure!(intents.len() >= 5, "{intents:?}");
        for intent in intents {
            ensure!(intent["reason"] == "layer-overruns-manifest", "{intent}");
            let evidence = intent["evidence"].as_array().cloned().unwrap_or_default();
            let overrun = evidence.iter().find(|fact| fact["kind"] == "ingest-overrun");
            let certain = overrun.is_some_and(|fact| fact["offset"].as_u64() > fact["total"].as_u64());
            ensure!(
                certain && evidence.iter().any(|fact| fact["kind"] == "socket-feeds"),
                "{intent}"
            );
        }
        magi.stop()?;
        node.shutdown()?.expect_none()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_chunked_layer_is_stopped_early() -> Result<()> {
    stopped(Options::plain(), "chunked", &Behaviour::endless().at(20_000_000)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_layer_with_a_false_length_is_stopped_early_over_tls() -> Result<()> {
    stopped(
        Options::tls(),
        "claiming",
        &Behaviour::endless_with_length().at(20_000_000),
    )
    .await
}
