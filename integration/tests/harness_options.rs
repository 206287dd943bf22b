//! What the options claim is so: download limits, the pull path, verifiers, behaviours of single blobs, ports.
#![expect(
    clippy::indexing_slicing,
    reason = "a column that is not there is a failed test"
)]

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use magi_integration::containerd::{self, Options};
use magi_integration::image::{Compression, ImageBuilder, Layer};
use magi_integration::registry::{self, Kind};
use magi_integration::{Behaviour, Containerd, Line, Pod, Registry};

const BOUND: Duration = Duration::from_secs(20);

/// Local ports of the TCP sockets that a process holds, IPv4 and IPv6.
fn ports_of(pid: u32) -> anyhow::Result<HashSet<u16>> {
    let inodes: HashSet<String> = fs::read_dir(format!("/proc/{pid}/fd"))?
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|link| {
            Some(
                link.to_str()?
                    .strip_prefix("socket:[")?
                    .strip_suffix(']')?
                    .to_owned(),
            )
        })
        .collect();
    let mut ports = HashSet::new();
    for table in ["tcp", "tcp6"] {
        for line in fs::read_to_string(format!("/proc/{pid}/net/{table}"))?
            .lines()
            .skip(1)
        {
            let columns: Vec<&str> = line.split_whitespace().collect();
            if inodes.contains(columns[9]) {
                ports.insert(u16::from_str_radix(
                    columns[1].rsplit(':').next().unwrap_or_default(),
                    16,
                )?);
            }
        }
    }
    Ok(ports)
}

/// Six pulls with sixteen layers, all at once: the log ties each of containerd's ports to one digest.
async fn sixteen_layers_at_once(options: registry::Options) -> anyhow::Result<()> {
    let registry = Registry::start_with(options)?;
    let mut images = HashMap::new();
    for (pull, layers) in [1, 2, 3, 3, 3, 4].into_iter().enumerate() {
        let layers = (0..layers).map(|layer| Layer::declared(100 * pull as u64 + layer, 1 << 30));
        let image = ImageBuilder::oci().layers(layers).build()?;
        let repository = format!("team-{pull}/app");
        registry.put(&repository, "1", &image);
        registry.behave(&repository, Behaviour::rate(1_000_000));
        images.insert(repository, image);
    }
    let setup = Options {
        max_concurrent_downloads: Some(16),
        ..Options::default()
    };
    for node in containerd::both_with(&setup).await? {
        node.trust(&registry)?;
        registry.log().clear();
        let mut pulls = tokio::task::JoinSet::new();
        for repository in images.keys() {
            let (cri, reference) = (node.cri(), registry.reference(repository, "1"));
            let pod = Pod::new(repository, "app");
            pulls.spawn(async move { cri.pull_as(&reference, Some(&pod), None).await });
        }
        let layers = registry
            .log()
            .wait_for("sixteen layers at once", BOUND, |requests| {
                let moving: Vec<_> = requests
                    .iter()
                    .filter(|one| one.kind == Kind::Layer && one.body_sent > 0)
                    .cloned()
                    .collect();
                (moving.len() == 16).then_some(moving)
            })
            .await?;
        let owned = ports_of(node.pid())?;
        let mut seen = HashSet::new();
        for request in &layers {
            assert!(request.ended.is_none(), "{request:?}");
            assert!(
                owned.contains(&request.peer.port()),
                "not a socket of containerd: {request:?}"
            );
            assert!(
                seen.insert(request.peer.port()),
                "two layers on one port: {request:?}"
            );
            assert!(
                images[&request.repository]
                    .layers
                    .iter()
                    .any(|layer| layer.digest == request.digest)
            );
        }
        pulls.shutdown().await;
        // Six cancelled at once: containerd may collect before the last of them has let go.
        let left = node
            .api()
            .left_behind(&Default::default(), Duration::from_secs(3))
            .await?;
        println!("{}: {left:?} left by itself after three seconds", node.line());
        node.api().collect().await?;
        node.expect_nothing_left(&Default::default(), BOUND).await?;
        node.shutdown()?.expect_none()?;
    }
    Ok(())
}

#[tokio::test]
async fn the_log_ties_ports_to_digests_plain() -> anyhow::Result<()> {
    sixteen_layers_at_once(registry::Options::plain()).await
}

#[tokio::test]
async fn the_log_ties_ports_to_digests_tls() -> anyhow::Result<()> {
    sixteen_layers_at_once(registry::Options::tls()).await
}

#[tokio::test]
async fn verifiers_run_on_the_transfer_path_only() -> anyhow::Result<()> {
    let registry = Registry::start()?;
    let image = ImageBuilder::oci()
        .layer(Layer::random(1, 1 << 20, Compression::Gzip)?)
        .build()?;
    let reference = registry.put("team/web", "1", &image);
    // With a limit of downloads too: set in the wrong section, it would turn the transfer service off.
    for (local_pull, limit) in [(false, None), (false, Some(5)), (true, None)] {
        let setup = Options {
            local_pull,
            max_concurrent_downloads: limit,
            ..Options::default()
        };
        let node = Containerd::start_with(Line::V2, &setup).await?;
        node.trust(&registry)?;
        let verifier = node.verifier_dir().join("no");
        fs::write(&verifier, "#!/bin/sh\necho never\nexit 1\n")?;
        fs::set_permissions(&verifier, fs::Permissions::from_mode(0o755))?;
        let pull = node.cri().pull(&reference).await;
        assert_eq!(pull.outcome.is_ok(), local_pull, "{pull:?}");
        assert_eq!(pull.error().contains("rejected image"), !local_pull, "{pull:?}");
    }
    Ok(())
}

#[tokio::test]
async fn one_blob_may_behave_unlike_its_repository() -> anyhow::Result<()> {
    let registry = Registry::start()?;
    let layers = [1, 2].map(|seed| Layer::random(seed, 1 << 20, Compression::None));
    let [good, silent] = layers.map(|layer| layer.expect("a layer can be built"));
    let image = ImageBuilder::oci()
        .layers([good.clone(), silent.clone()])
        .build()?;
    let reference = registry.put("team/web", "1", &image);
    registry.behave_blob("team/web", &silent.digest, Behaviour::stall_after(1000))?;
    assert!(
        registry
            .behave_blob("team/web", "sha256:none", Behaviour::default())
            .is_err()
    );
    let node = Containerd::start(Line::V1_7).await?;
    node.trust(&registry)?;
    let cri = node.cri();
    let pull = tokio::spawn(async move { cri.pull(&reference).await });
    registry
        .log()
        .wait_for("one layer whole and one silent", BOUND, |requests| {
            let sent = |digest: &str| {
                requests
                    .iter()
                    .filter(|one| one.digest == digest)
                    .map(|one| one.body_sent)
                    .sum::<u64>()
            };
            (good.declared == sent(&good.digest) && 1000 == sent(&silent.digest)).then_some(())
        })
        .await?;
    pull.abort();
    Ok(())
}
