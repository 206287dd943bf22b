//! Sixteen layers of six pulls at once: each socket belongs to the layer that magi says, by the registry's own log.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use magi_integration::api::Counts;
use magi_integration::image::{ImageBuilder, Layer};
use magi_integration::magi::{self, Magi};
use magi_integration::registry::Options;
use magi_integration::{Behaviour, Containerd, Line, Registry, wait};
use serde_json::Value;

const BOUND: Duration = Duration::from_secs(30);
/// Layers of the six images: sixteen in all.
const LAYERS: [u64; 6] = [3, 3, 3, 3, 2, 2];

/// Layer digest → local port of the socket that magi ties to it.
fn ties(pulls: &[Value]) -> Result<BTreeMap<String, u16>> {
    let mut ties = BTreeMap::new();
    for layer in pulls
        .iter()
        .filter_map(|pull| pull["layers"].as_array())
        .flatten()
    {
        let Some(local) = layer.pointer("/socket/0/local").and_then(Value::as_str) else {
            continue;
        };
        let port = local.rsplit_once(':').context("a port")?.1.parse()?;
        ties.insert(layer["digest"].as_str().context("a digest")?.to_owned(), port);
    }
    Ok(ties)
}

async fn sixteen_layers(options: Options) -> Result<()> {
    let registry = Registry::start_with(options)?;
    for line in Line::ALL {
        // Sixteen at once is more than containerd's default lets through.
        let set_up = magi_integration::containerd::Options {
            max_concurrent_downloads: Some(16),
            ..Default::default()
        };
        let node = Containerd::start_with(line, &set_up).await?;
        node.trust(&registry)?;
        let magi = Magi::start(&node, &magi::Options::policy("version: 1\nmode: observe\n")).await?;
        let mut pulls = tokio::task::JoinSet::new();
        let mut digests = BTreeSet::new();
        for (n, count) in LAYERS.into_iter().enumerate() {
            let repository = format!("image-{line}-{n}");
            let seed = 100 * u64::try_from(n)? + if line == Line::V2 { 10_000 } else { 0 };
            let layers: Vec<Layer> = (0..count)
                .map(|layer| Layer::declared(seed + layer, 1 << 30))
                .collect();
            digests.extend(layers.iter().map(|layer| layer.digest.clone()));
            let reference = registry.put(&repository, "1", &ImageBuilder::oci().layers(layers).build()?);
            registry.behave(&repository, Behaviour::rate(2_000_000));
            let cri = node.cri();
            pulls.spawn(async move { cri.pull(&reference).await });
        }
        ensure!(digests.len() == 16, "{} layers", digests.len());
        let all = wait::until("sixteen ties", BOUND, Duration::from_millis(20), || async {
            match magi.pulls().await.and_then(|pulls| ties(&pulls)) {
                Ok(ties) => (ties.len() == 16).then_some(Ok(ties)),
                Err(error) => Some(Err(error)),
            }
        });
        let found = all
            .await
            .and_then(|ties| ties)
            .with_context(|| magi.log_tail(30))?;
        let served: BTreeMap<String, u16> = registry
            .log()
            .requests()
            .into_iter()
            .filter(|request| {
                digests.contains(&request.digest) && request.ended.is_none() && request.body_sent > 0
            })
            .map(|request| (request.digest, request.peer.port()))
            .collect();
        ensure!(
            found == served,
            "magi ties {found:#?}\nthe registry serves {served:#?}"
        );
        println!("{}: 16 layers, 16 sockets, none wrong", node.version());
        // They stay right while bytes go on.
        let first = format!("image-{line}-0");
        for _ in 0..10 {
            let more = registry.log().layer_bytes(&first) + 500_000;
            registry.log().wait_layer_bytes(&first, more, BOUND).await?;
            for (digest, port) in ties(&magi.pulls().await?)? {
                ensure!(
                    served.get(&digest) == Some(&port),
                    "{digest} is served on {:?}, not on {port}",
                    served.get(&digest)
                );
            }
        }
        pulls.shutdown().await;
        // What a cancelled pull of 2.1.9 leaves may wait for containerd's next collection: ask for it.
        node.api().collect().await?;
        node.expect_nothing_left(&Counts::default(), BOUND).await?;
        ensure!(magi.audit_of("intent")?.is_empty(), "observe mode pulled a lever");
        magi.stop()?;
        node.shutdown()?.expect_none()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_socket_is_tied_to_its_pull() -> Result<()> {
    sixteen_layers(Options::plain()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_socket_is_tied_to_its_pull_over_tls() -> Result<()> {
    sixteen_layers(Options::tls()).await
}
