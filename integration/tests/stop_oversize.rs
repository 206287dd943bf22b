//! The main job: a gigantic image is stopped at its first bytes, and the healthy one beside it is not disturbed.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use magi_integration::api::Counts;
use magi_integration::image::{Compression, Image, ImageBuilder, Layer};
use magi_integration::magi::{self, Magi};
use magi_integration::registry::Options;
use magi_integration::{Behaviour, Containerd, Pod, Registry, containerd};

const BOUND: Duration = Duration::from_secs(30);
const RATE: u64 = 20_000_000;

fn gigantic(seed: u64) -> Result<Image> {
    ImageBuilder::oci()
        .layers((0..3).map(|n| Layer::declared(seed * 10 + n, (4 << 30) / 3)))
        .build()
}

fn healthy(seed: u64) -> Result<Image> {
    ImageBuilder::oci()
        .layer(Layer::random(seed, 2 << 20, Compression::Gzip)?)
        .layer(Layer::random(seed + 1, 1 << 20, Compression::Gzip)?)
        .build()
}

/// One attack with a healthy pull beside it, and what was measured from outside.
struct Attack {
    error: String,
    /// From the registry's first layer byte to the return of PullImage.
    latency: Duration,
    sent: u64,
}

async fn attack(node: &Containerd, registry: &Registry, round: u64) -> Result<Attack> {
    // The registry's log is shared by all nodes: a name for each.
    let bad_name = format!("bad-{}-{round}", node.line());
    let good_name = format!("good-{}-{round}", node.line());
    let bad = registry.put(&bad_name, "1", &gigantic(1000 + round)?);
    let good_image = healthy(10_000 + 10 * round)?;
    let good = registry.put(&good_name, "1", &good_image);
    registry.behave(&bad_name, Behaviour::rate(RATE));
    registry.behave(&good_name, Behaviour::rate(RATE));
    let cri = node.cri();
    let (team_a, team_b) = (Pod::new("team-a", "web"), Pod::new("team-b", "gigantic"));
    let ((stopped, returned), completed) = tokio::join!(
        async {
            let pull = cri.pull_as(&bad, Some(&team_b), None).await;
            (pull, Instant::now())
        },
        cri.pull_as(&good, Some(&team_a), None)
    );
    ensure!(
        completed.outcome.as_deref() == Ok(good_image.id()),
        "the healthy pull: {completed:?}\n{}",
        node.log_tail(20)
    );
    ensure!(stopped.outcome.is_err(), "the gigantic pull came through");
    let first = registry.log().first_layer_byte(&bad_name);
    let latency = first.map_or(Duration::ZERO, |first| returned.duration_since(first));
    let sent = registry.log().layer_bytes(&bad_name);
    cri.remove(&good).await?;
    Ok(Attack {
        error: stopped.error().to_owned(),
        latency,
        sent,
    })
}

/// Most layer bytes of one attack, and the least number of attacks of twenty that end within 150 ms. The figures that
/// magi is held to are those of a quiet machine (`MAGI_STRICT=1`, and `make bench`); with builds beside it a slow round
/// says something about the builds.
fn bounds() -> (u64, usize) {
    if std::env::var_os("MAGI_STRICT").is_some() {
        (8 << 20, 19)
    } else {
        (64 << 20, 10)
    }
}

async fn twenty_attacks(options: Options) -> Result<()> {
    let (most, least) = bounds();
    let registry = Registry::start_with(options)?;
    for node in containerd::both().await? {
        node.trust(&registry)?;
        let magi = Magi::start(&node, &magi::Options::policy(magi::enforce("1GiB"))).await?;
        let mut in_time = 0;
        for round in 0..20 {
            let attack = attack(&node, &registry, round).await?;
            println!(
                "{} round {round}: {:?} after the first layer byte, {} bytes sent, {}",
                node.version(),
                attack.latency,
                attack.sent,
                attack.error
            );
            ensure!(
                attack.sent < most,
                "the registry sent {} layer bytes",
                attack.sent
            );
            in_time += usize::from(attack.latency <= Duration::from_millis(150));
            node.expect_nothing_left(&Counts::default(), BOUND).await?;
        }
        ensure!(
            in_time >= least,
            "{in_time} of 20 within 150 ms\n{}",
            magi.log_tail(60)
        );
        let clean = magi.wait_audit("clean", 20, BOUND).await?;
        ensure!(clean.iter().all(|record| record["removed"] == 0), "{clean:?}");
        magi.stop()?;
        node.shutdown()?.expect_none()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gigantic_image_is_stopped_at_its_first_bytes() -> Result<()> {
    twenty_attacks(Options::plain()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gigantic_image_is_stopped_at_its_first_bytes_over_tls() -> Result<()> {
    twenty_attacks(Options::tls()).await
}
