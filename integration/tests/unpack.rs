//! magi-unpack where containerd executes it: honest layers come out as from containerd itself, what unpacks to more than
//! it may is stopped with its reason, and what containerd refuses is refused.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use magi_integration::api::Counts;
use magi_integration::containerd::{Line, Options};
use magi_integration::disk::{Watch, used};
use magi_integration::image::shapes::{self, Archive, Form};
use magi_integration::image::{Compression, Image, ImageBuilder, Layer, bombs};
use magi_integration::magi::{self, Magi};
use magi_integration::registry::Content;
use magi_integration::unpack::Unpack;
use magi_integration::{Containerd, Registry, tree, wait};

const GONE_WITHIN: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const BOMB: u64 = 10 * GIB;
const BOUND: u64 = 2 * GIB;
/// A disk of its own, so that what is written to it is what containerd writes.
const DISK: u64 = 6 * GIB;
/// What a stopped layer may have written beyond the bound: the compressed blob, and containerd's own books.
const BESIDE: u64 = 64 * MIB;

async fn start(line: Line, unpack: Option<&Unpack>, disk: Option<u64>) -> Result<Containerd> {
    Containerd::start_with(
        line,
        &Options {
            extra_toml: unpack.map(Unpack::toml).unwrap_or_default(),
            disk,
            ..Options::default()
        },
    )
    .await
}

/// That nothing is held any more. containerd collects what a failed pull leaves when it next collects: a pull that fails
/// within milliseconds of another may leave its blobs until then.
async fn nothing_left(node: &Containerd) -> Result<()> {
    node.api().collect().await?;
    node.expect_nothing_left(&Counts::default(), GONE_WITHIN).await
}

/// What each snapshot holds, in the order in which they were made.
fn snapshots(node: &Containerd) -> Result<Vec<Vec<String>>> {
    let folder = node
        .root()
        .join("io.containerd.snapshotter.v1.overlayfs/snapshots");
    let mut numbers = fs::read_dir(&folder)
        .with_context(|| format!("list {}", folder.display()))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().parse::<u64>()?))
        .collect::<Result<Vec<_>>>()?;
    numbers.sort_unstable();
    let list = |number: u64| tree::list(&folder.join(number.to_string()).join("fs"));
    numbers.into_iter().map(list).collect()
}

#[tokio::test]
async fn honest_images_are_unpacked_to_the_same_trees_with_it_and_without() -> Result<()> {
    let registry = Registry::start()?;
    let images = shapes::six()?;
    let layers: usize = images.iter().map(|(_, image)| image.layers.len()).sum();
    for line in Line::ALL {
        let folder = tempfile::tempdir()?;
        let unpack = Unpack::prepare(folder.path(), "unpacked = 256MiB\nratio = 10000\n")?;
        let mut trees = Vec::new();
        for with in [None, Some(&unpack)] {
            let node = start(line, with, None).await?;
            node.trust(&registry)?;
            for (name, image) in &images {
                let pull = node.cri().pull(&registry.put(name, "1", image)).await;
                ensure!(
                    pull.outcome.as_deref() == Ok(image.id()),
                    "{line}: {name}: {pull:?}"
                );
            }
            trees.push(snapshots(&node)?);
            node.shutdown()?.expect_none()?;
        }
        let called = unpack.called_for()?;
        ensure!(called.len() == layers, "{line}: called for {called:?}");
        let [without, with] = trees.as_slice() else {
            unreachable!("two ways")
        };
        assert_eq!(without.len(), layers, "{line}");
        let lines: usize = without.iter().map(Vec::len).sum();
        println!("{line}: {layers} layers, {lines} entries");
        for (one, other) in without.iter().zip(with) {
            assert_eq!(one, other, "{line}");
        }
        // The comparison sees what it is there to see.
        for word in [
            "same file as",
            "device",
            "link to",
            "security.capability",
            "user.colour",
            "4755",
            "3000000000:",
        ] {
            let is_seen = without.iter().flatten().any(|line| line.contains(word));
            assert!(is_seen, "{line}: nothing holds {word}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_bomb_is_stopped_at_the_bound_with_its_reason_in_the_pulls_error() -> Result<()> {
    let registry = Registry::start()?;
    let good = ImageBuilder::oci()
        .layer(Layer::random(1, 3 * MIB, Compression::Gzip)?)
        .build()?;
    let good_reference = registry.put("good", "1", &good);
    let bombs = [
        ("one-file", bombs::gzip(1, 1, BOMB)?, MIB),
        ("many-files", bombs::gzip(1, 1280, BOMB)?, BOUND),
        ("holes", bombs::holes(BOMB)?, MIB),
    ];
    for line in Line::ALL {
        let folder = tempfile::tempdir()?;
        let unpack = Unpack::prepare(folder.path(), "unpacked = 2GiB\n")?;
        let node = start(line, Some(&unpack), Some(DISK)).await?;
        node.trust(&registry)?;
        for (name, layer, unpacked) in &bombs {
            let base = Layer::random(7, MIB, Compression::Gzip)?;
            let image = ImageBuilder::oci().layer(base).layer(layer.clone()).build()?;
            let reference = registry.put(name, "1", &image);
            let before = used(&node.root())?;
            let watch = Watch::start(node.root());
            let pull = node.cri().pull(&reference).await;
            let most = watch.stop()?.saturating_sub(before);
            println!(
                "{line}, {name}, {} bytes compressed: {:?} after {:?}, at most {} MiB written",
                layer.declared,
                pull.outcome,
                pull.elapsed(),
                most / MIB
            );
            for part in [
                "magi-unpack: layer stopped: it unpacks to",
                "the limit is 2147483648;",
                &format!("raise `unpacked` in {} on this node", unpack.bounds().display()),
                &format!("; the layer is {}", layer.digest),
            ] {
                ensure!(
                    pull.error().contains(part),
                    "{line}, {name}: no {part:?}: {pull:?}"
                );
            }
            ensure!(
                most <= unpacked + BESIDE,
                "{line}, {name}: {most} bytes were written"
            );
            nothing_left(&node).await?;
            let after = wait::until(
                "the space to be free again",
                GONE_WITHIN,
                Duration::from_millis(20),
                async || {
                    let after = used(&node.root()).ok()?;
                    (after <= before + MIB).then_some(after)
                },
            )
            .await?;
            println!("{line}, {name}: {before} bytes in use before, {after} after");
        }
        let pull = node.cri().pull(&good_reference).await;
        ensure!(pull.outcome.as_deref() == Ok(good.id()), "{line}: {pull:?}");
        node.shutdown()?.expect_none()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn magi_node_knows_which_layer_of_which_pull_was_stopped() -> Result<()> {
    let registry = Registry::start()?;
    let layer = bombs::gzip(1, 1, BOMB)?;
    let base = Layer::random(7, MIB, Compression::Gzip)?;
    let image = ImageBuilder::oci().layer(base).layer(layer.clone()).build()?;
    let reference = registry.put("bomb", "1", &image);
    for line in Line::ALL {
        let folder = tempfile::tempdir()?;
        let unpack = Unpack::prepare(folder.path(), "unpacked = 2GiB\n")?;
        let node = start(line, Some(&unpack), Some(DISK)).await?;
        node.trust(&registry)?;
        let magi = Magi::start(&node, &magi::Options::policy("version: 1\n")).await?;
        unpack.tells(&magi.socket())?;
        let pull = node.cri().pull(&reference).await;
        ensure!(
            pull.error().contains("magi-unpack: layer stopped"),
            "{line}: {pull:?}"
        );
        magi.wait_audit("unpack-stopped", 1, GONE_WITHIN).await?;
        let records = magi.audit_of("unpack-stopped")?;
        let [record] = records.as_slice() else {
            bail!("{line}: {records:?}")
        };
        ensure!(
            record["stop"]["layer"] == layer.digest.as_str(),
            "{line}: {record}"
        );
        ensure!(
            record["stop"]["limit"]["unpacked"]["bytes"] == BOUND,
            "{line}: {record}"
        );
        ensure!(record["pull"].to_string().contains("/bomb"), "{line}: {record}");
        let shown = wait::until(
            "the pull to end",
            GONE_WITHIN,
            Duration::from_millis(20),
            async || {
                let shown = magi.ctl(&["pulls", "--ended", "--layers"]).ok()?;
                let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
                shown.contains("unpack").then_some(shown)
            },
        )
        .await?;
        ensure!(shown.contains("2147483648"), "{line}: {shown}");
        magi.stop()?;
        node.shutdown()?.expect_none()?;
    }
    Ok(())
}

#[tokio::test]
async fn a_layer_that_containerd_refuses_is_refused_every_time() -> Result<()> {
    let registry = Registry::start()?;
    let mut archive = Archive::default();
    archive.file("a", b"whole, but for what follows the member")?;
    let whole = archive.layer(Form::Gzip)?;
    let rest = |bytes: &[u8]| -> Result<Image> {
        let content = Content::Joined(Arc::new(vec![whole.content.clone(), bytes.to_vec().into()]));
        // The archive is whole, and its diffID right: only the decoder's word stands against it.
        let layer = shapes::encoded(Compression::Gzip, content, whole.diff_id.clone());
        ImageBuilder::oci().layer(layer).build()
    };
    let zeros = registry.put("zeros", "1", &rest(&[0; 512])?);
    let short = registry.put("short", "1", &rest(&[0x1f])?);
    for line in Line::ALL {
        let folder = tempfile::tempdir()?;
        let unpack = Unpack::prepare(folder.path(), "")?;
        for with in [None, Some(&unpack)] {
            let node = start(line, with, None).await?;
            node.trust(&registry)?;
            for round in 0..if with.is_some() { 10 } else { 1 } {
                for (reference, said) in [(&zeros, "gzip: invalid header"), (&short, "unexpected")] {
                    let pull = node.cri().pull(reference).await;
                    ensure!(
                        pull.error().contains(said),
                        "{line}, {}, round {round}: {pull:?}",
                        if with.is_some() { "with" } else { "without" }
                    );
                    if round == 0 {
                        println!("{line}: {}", pull.error());
                    }
                }
            }
            nothing_left(&node).await?;
            node.shutdown()?.expect_none()?;
        }
    }
    Ok(())
}
