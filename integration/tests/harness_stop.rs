//! A pull that is cancelled by its client leaves nothing, and the log says what the client had got by then.

use std::time::Duration;

use magi_integration::api::Counts;
use magi_integration::image::{ImageBuilder, Layer};
use magi_integration::registry::{End, Options};
use magi_integration::{Behaviour, Registry, containerd};

const BOUND: Duration = Duration::from_secs(15);
const MIB: u64 = 1 << 20;

#[tokio::test]
async fn a_throttled_gigantic_pull_that_is_dropped_leaves_nothing_plain() -> anyhow::Result<()> {
    dropped_pull(Options::plain()).await
}

#[tokio::test]
async fn a_throttled_gigantic_pull_that_is_dropped_leaves_nothing_tls() -> anyhow::Result<()> {
    dropped_pull(Options::tls()).await
}

async fn dropped_pull(options: Options) -> anyhow::Result<()> {
    for node in containerd::both().await? {
        let registry = Registry::start_with(options.clone())?;
        node.trust(&registry)?;
        let image = ImageBuilder::oci()
            .layers((0..3).map(|seed| Layer::declared(seed, 4 << 30)))
            .build()?;
        let reference = registry.put("gigantic", "1", &image);
        registry.behave("gigantic", Behaviour::rate(20_000_000));

        let cri = node.cri();
        let pull = tokio::spawn(async move { cri.pull(&reference).await });
        registry
            .log()
            .wait_for("three layers beyond 2 MiB", BOUND, |requests| {
                let moving = requests
                    .iter()
                    .filter(|request| request.body_sent > 2 * MIB)
                    .count();
                (moving == 3).then_some(())
            })
            .await?;
        let api = node.api();
        let during = api.counts().await?;
        assert_eq!(
            (during.leases, during.ingests, during.extract_snapshots),
            (1, 3, 1),
            "{during:?}"
        );
        for ingest in api.ingests().await? {
            assert_eq!(ingest.total, 4 << 30, "{ingest:?}");
            let digest = ingest.reference.split_once('-').map_or("", |(_, digest)| digest);
            let sent = registry
                .log()
                .layers("gigantic")
                .iter()
                .find(|request| request.digest == digest)
                .map(|r| r.body_sent);
            assert!(
                sent.is_some_and(|sent| ingest.offset <= sent),
                "{ingest:?} but sent {sent:?}"
            );
        }
        pull.abort();
        assert!(pull.await.is_err_and(|error| error.is_cancelled()));
        node.expect_nothing_left(&Counts::default(), BOUND).await?;
        let layers = registry.log().layers("gigantic");
        let peers: std::collections::HashSet<_> = layers.iter().map(|request| request.peer).collect();
        assert_eq!(
            peers.len(),
            3,
            "one connection for each layer: {}",
            registry.log().table()
        );
        for request in &layers {
            assert_eq!(
                request.ended.map(|(_, how)| how),
                Some(End::ClientGone),
                "{request:?}"
            );
            let life = request
                .ended
                .map_or(Duration::ZERO, |(at, _)| at.duration_since(request.at));
            let allowed = 20_000_000.0 * life.as_secs_f64() * 1.1 + 400_000.0;
            assert!(
                (request.body_sent as f64) < allowed,
                "faster than its rate: {request:?}"
            );
        }
        node.shutdown()?.expect_none()?;
    }
    Ok(())
}
