//! magi-verify where containerd 2.x executes it: what is denied is refused before any content is asked for, and a
//! magi-node that is absent, stopped or killed keeps no pull from going on.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use magi_integration::cri::Pull;
use magi_integration::image::{Compression, ImageBuilder, Layer};
use magi_integration::magi::{self, Magi};
use magi_integration::registry::Kind;
use magi_integration::{Containerd, Line, Registry, verifier, wait};
use rustix::process::Signal;

/// The verifier's deadline where it is to be waited for, and what a busy machine may add.
const DEADLINE: Duration = Duration::from_millis(600);
const SLACK: Duration = Duration::from_secs(2);
/// The verifier's deadline where it must not be needed.
const PATIENT: Duration = Duration::from_secs(9);
const BOUND: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(2);

const ALLOW: &str = "version: 1\nmode: enforce\ndenyFor: 0s\n";

struct Stage {
    registry: Registry,
    node: Containerd,
}

impl Stage {
    async fn set() -> Result<Self> {
        let registry = Registry::start()?;
        let node = Containerd::start(Line::V2).await?;
        node.trust(&registry)?;
        Ok(Self { registry, node })
    }

    /// A small image under a name of its own.
    fn small(&self, repository: &str, seed: u64) -> Result<String> {
        let layer = Layer::random(seed, 20_000, Compression::Gzip)?;
        let image = ImageBuilder::oci().layer(layer).build()?;
        Ok(self.registry.put(repository, "1", &image))
    }

    async fn magi(&self, policy: &str, settings: &str) -> Result<Magi> {
        let options = magi::Options {
            settings: settings.to_owned(),
            ..magi::Options::policy(policy)
        };
        Magi::start(&self.node, &options).await
    }

    /// How long the pull of this repository stood still between the registry's word on what it is and the first
    /// request for content: that is where containerd executes the verifier.
    fn stood_still(&self, repository: &str) -> Result<Duration> {
        let requests = self.registry.log().requests();
        let of = |method: &str| {
            let mut ours = requests.iter();
            ours.find(|request| request.method == method && request.repository == repository)
        };
        let (head, get) = of("HEAD").zip(of("GET")).context("a request is missing")?;
        Ok(get.at.duration_since(head.at))
    }

    /// That nothing of the repository was asked for but what its name means.
    fn no_content_was_asked_for(&self, repository: &str) -> Result<()> {
        let requests = self.registry.log().requests();
        let ours: Vec<_> = requests
            .iter()
            .filter(|request| request.repository == repository)
            .collect();
        ensure!(
            !ours.is_empty()
                && ours
                    .iter()
                    .all(|request| request.method == "HEAD" && request.kind == Kind::Manifest),
            "{}",
            self.registry.log().table()
        );
        Ok(())
    }

    fn shutdown(self) -> Result<()> {
        self.node.shutdown().map(drop)
    }
}

fn went_on(pull: &Pull) -> Result<()> {
    ensure!(pull.outcome.is_ok(), "{}", pull.error());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_magi_node_pulls_go_on_at_once() -> Result<()> {
    let stage = Stage::set().await?;
    verifier::install(&stage.node, &stage.node.dir().join("no.sock"), PATIENT)?;
    let reference = stage.small("absent", 1)?;
    went_on(&stage.node.cri().pull(&reference).await)?;
    let still = stage.stood_still("absent")?;
    println!("absent: {still:?}");
    ensure!(still < SLACK, "{still:?}");
    stage.shutdown()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_magi_node_costs_the_verifiers_deadline() -> Result<()> {
    let stage = Stage::set().await?;
    let magi = stage.magi(ALLOW, "").await?;
    verifier::install(&stage.node, &magi.socket(), DEADLINE)?;
    let reference = stage.small("answered", 1)?;
    went_on(&stage.node.cri().pull(&reference).await)?;
    println!("answered: {:?}", stage.stood_still("answered")?);

    magi.process().signal(Signal::STOP)?;
    let reference = stage.small("stopped", 2)?;
    let pull = stage.node.cri().pull(&reference).await;
    magi.process().signal(Signal::CONT)?;
    went_on(&pull)?;
    let still = stage.stood_still("stopped")?;
    println!("stopped: {still:?}");
    ensure!(
        still >= DEADLINE && still < DEADLINE + SLACK,
        "{still:?}, with a deadline of {DEADLINE:?}"
    );
    magi.stop()?;
    stage.shutdown()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_magi_node_that_is_killed_in_mid_question_costs_nothing() -> Result<()> {
    let stage = Stage::set().await?;
    let magi = stage.magi(ALLOW, "").await?;
    verifier::install(&stage.node, &magi.socket(), PATIENT)?;
    // Stopped, so that the question is surely asked and surely not answered when the end comes.
    magi.process().signal(Signal::STOP)?;
    let reference = stage.small("killed", 1)?;
    let cri = stage.node.cri();
    let pull = tokio::spawn(async move { cri.pull(&reference).await });
    let containerd = stage.node.pid();
    wait::until("the verifier to ask", BOUND, STEP, async || asks(containerd)).await?;
    magi.process().signal(Signal::KILL)?;
    went_on(&pull.await?)?;
    let still = stage.stood_still("killed")?;
    println!("killed: {still:?}");
    ensure!(still < PATIENT / 2, "{still:?}");
    stage.shutdown()
}

/// Once a child of containerd is magi-verify and a thread of it waits for an answer: then the question is on its way.
fn asks(containerd: u32) -> Option<()> {
    let children = fs::read_dir(format!("/proc/{containerd}/task")).ok()?.flatten();
    let children = children.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let children: Vec<String> = children
        .flat_map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let is_asking = |child: &String| {
        let threads = fs::read_dir(format!("/proc/{child}/task")).into_iter().flatten();
        threads.flatten().any(|thread| {
            let waits_in = fs::read_to_string(thread.path().join("wchan")).unwrap_or_default();
            waits_in.starts_with("unix_stream")
        })
    };
    children.iter().any(is_asking).then_some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_policy_denies_is_refused_before_any_content() -> Result<()> {
    let stage = Stage::set().await?;
    let policy = format!(
        "{ALLOW}rules:\n  - {{ name: miners, match: {{ images: [\"{}/denied/*\"] }}, deny: true }}\n",
        stage.registry.host()
    );
    let magi = stage.magi(&policy, "").await?;
    verifier::install(&stage.node, &magi.socket(), PATIENT)?;
    let denied = stage.small("denied/app", 1)?;
    for _ in 0..3 {
        let pull = stage.node.cri().pull(&denied).await;
        println!("{}", pull.error());
        for part in ["magi: ", "rule miners", "exempt"] {
            ensure!(
                pull.error().contains(part),
                "{part:?} is not in {:?}",
                pull.error()
            );
        }
    }
    stage.no_content_was_asked_for("denied/app")?;
    ensure!(stage.node.api().counts().await?.leases == 0, "a lease is left");
    // Its neighbour is none of the rule's business.
    let other = stage.small("allowed/app", 2)?;
    went_on(&stage.node.cri().pull(&other).await)?;
    ensure!(
        !magi.audit_of("refused")?.is_empty(),
        "the refusal is not on record"
    );
    magi.stop()?;
    stage.shutdown()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_resolver_finds_too_large_is_refused_before_any_layer() -> Result<()> {
    let stage = Stage::set().await?;
    let magi = stage
        .magi(&magi::enforce("1MiB"), "resolver: { mode: on, deadline: 5s }\n")
        .await?;
    verifier::install(&stage.node, &magi.socket(), PATIENT)?;
    let image = ImageBuilder::oci().layer(Layer::declared(1, 1 << 30)).build()?;
    let large = stage.registry.put("large", "1", &image);
    let pull = stage.node.cri().pull(&large).await;
    println!("{}", pull.error());
    ensure!(
        pull.error().contains("image-too-large") && pull.error().contains("exempt"),
        "{}",
        pull.error()
    );
    ensure!(
        stage.registry.log().layers("large").is_empty(),
        "{}",
        stage.registry.log().table()
    );
    let small = stage.small("small", 2)?;
    went_on(&stage.node.cri().pull(&small).await)?;
    magi.stop()?;
    stage.shutdown()
}
