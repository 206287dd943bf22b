//! The limited link: a pull over it takes as long as the limit says, magi stops one over it, and nothing of it outlives it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use magi_integration::image::{Compression, ImageBuilder, Layer};
use magi_integration::master::{Loss, Way};
use magi_integration::orphans::Stage;
use magi_integration::{Containerd, Line, Link, Pod, Registry};

const MEGABITS: u64 = 80;
const SIZE: u64 = 12_000_000;
/// What the bucket and the socket buffers let through ahead of the limit.
const AHEAD: u64 = 2_000_000;
const SOON: Duration = Duration::from_secs(3);

/// Runs it on the node's side of a new link; it gets a registry on the other side.
fn on_a_link(act: impl AsyncFnOnce(Registry) -> Result<()> + Send) -> Result<()> {
    let link = Link::limited(MEGABITS)?;
    let registry = Registry::start_on(link.listener()?)?;
    link.on_node(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .context("start a runtime")?;
        runtime.block_on(act(registry))
    })
}

fn network_of(pid: &str) -> Result<std::path::PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/ns/net")).with_context(|| format!("the network of {pid}"))
}

#[test]
fn a_pull_takes_as_long_as_the_limit_says() -> Result<()> {
    let ours = network_of("self")?;
    on_a_link(async |registry| {
        let node = Containerd::start(Line::V2).await?;
        node.trust(&registry)?;
        ensure!(
            network_of(&node.pid().to_string())? != ours,
            "it is in the host's network"
        );
        let layer = Layer::random(1, SIZE, Compression::None)?;
        let reference = registry.put("app", "1", &ImageBuilder::oci().layer(layer).build()?);
        let pull = node.cri().pull(&reference).await;
        ensure!(pull.outcome.is_ok(), "{pull:?}\n{}", node.log_tail(20));
        let least = (SIZE - AHEAD) as f64 * 8.0 / (MEGABITS * 1_000_000) as f64;
        let took = pull.elapsed().as_secs_f64();
        ensure!(
            took > least && took < 3.0 * least,
            "{took} s, and {least} at the least"
        );
        node.shutdown()?.expect_none()
    })
}

#[test]
fn magi_stops_a_pull_over_it() -> Result<()> {
    for line in Line::ALL {
        on_a_link(async |registry| {
            let node = Containerd::start(line).await?;
            node.trust(&registry)?;
            let stage = Stage::set_over(registry, node, Way::AuditLog).await?;
            let took = stage.lose(Pod::new("team", "lost"), Loss::ForceDeleted).await?;
            ensure!(took < SOON, "{took:?}\n{}", stage.logs());
            stage.end()
        })?;
    }
    Ok(())
}

#[test]
fn nothing_of_it_outlives_it() -> Result<()> {
    let link = Link::limited(MEGABITS)?;
    ensure!(link.state()?.contains("tbf"), "{}", link.state()?);
    let listener = link.listener()?;
    let own = network_of("self")?;
    let there = link.on_node(|| network_of("thread-self"))?;
    ensure!(there != own, "the node's side is the host's network");
    ensure!(network_of("thread-self")? == own, "the caller was moved");
    drop((link, listener));
    let lives = std::fs::read_dir("/proc")
        .context("list processes")?
        .filter_map(Result::ok)
        .filter_map(|entry| std::fs::read_link(Path::new(&entry.path()).join("ns/net")).ok())
        .any(|network| network == there);
    ensure!(!lives, "a process is in {} still", there.display());
    Ok(())
}
