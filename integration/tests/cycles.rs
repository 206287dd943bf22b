//! Fifty attacks in one run of magi-node: the original worked once per restart.

use std::time::Duration;

use anyhow::{Result, ensure};
use magi_integration::api::Counts;
use magi_integration::image::{Compression, ImageBuilder, Layer};
use magi_integration::magi::{self, Magi};
use magi_integration::{Behaviour, Registry, containerd};

const BOUND: Duration = Duration::from_secs(30);
const CYCLES: u64 = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_attacks_in_a_row() -> Result<()> {
    let registry = Registry::start()?;
    for node in containerd::both().await? {
        node.trust(&registry)?;
        let magi = Magi::start(&node, &magi::Options::policy(magi::enforce("1GiB"))).await?;
        let mut rss = Vec::new();
        for cycle in 0..CYCLES {
            let (bad_name, good_name) = (
                format!("bad-{}-{cycle}", node.line()),
                format!("good-{}-{cycle}", node.line()),
            );
            let gigantic = ImageBuilder::oci()
                .layers((0..3).map(|n| Layer::declared(100 * cycle + n, 1 << 30)))
                .build()?;
            let image = ImageBuilder::oci()
                .layer(Layer::random(cycle, 1 << 20, Compression::Gzip)?)
                .build()?;
            let (bad, good) = (
                registry.put(&bad_name, "1", &gigantic),
                registry.put(&good_name, "1", &image),
            );
            registry.behave(&bad_name, Behaviour::rate(20_000_000));
            registry.behave(&good_name, Behaviour::rate(20_000_000));
            let cri = node.cri();
            let (stopped, completed) = tokio::join!(cri.pull(&bad), cri.pull(&good));
            ensure!(
                stopped.outcome.is_err(),
                "cycle {cycle}: the gigantic pull came through"
            );
            ensure!(
                completed.outcome.as_deref() == Ok(image.id()),
                "cycle {cycle}: {completed:?}\n{}",
                magi.log_tail(30)
            );
            cri.remove(&good).await?;
            rss.push(magi.rss()?);
        }
        let stops = magi.wait_audit("ended", usize::try_from(CYCLES)?, BOUND).await?;
        ensure!(
            stops.len() == usize::try_from(CYCLES)?,
            "{} stops recorded",
            stops.len()
        );
        node.expect_nothing_left(&Counts::default(), BOUND).await?;
        let (tenth, last) = (rss[9], *rss.last().unwrap_or(&0));
        println!(
            "{}: RSS {} KiB at cycle 10, {} KiB at cycle {CYCLES}",
            node.version(),
            tenth >> 10,
            last >> 10
        );
        ensure!(last * 10 <= tenth * 11, "RSS grew from {tenth} to {last} bytes");
        magi.stop()?;
        node.shutdown()?.expect_none()?;
    }
    Ok(())
}
