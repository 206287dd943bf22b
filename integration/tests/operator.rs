//! magictl as an operator uses it, against real containerds.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use magi_integration::api::Counts;
use magi_integration::image::{Compression, Image, ImageBuilder, Layer};
use magi_integration::magi::{self, Magi};
use magi_integration::{Behaviour, Containerd, Registry, containerd, crictl, wait};
use serde_json::Value;

const BOUND: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(10);

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn slow_image(seed: u64) -> Result<Image> {
    ImageBuilder::oci().layer(Layer::declared(seed, 1 << 30)).build()
}

/// A pull under way, and magi's id of it.
async fn under_way(
    node: &Containerd,
    registry: &Registry,
    magi: &Magi,
    repository: &str,
    seed: u64,
) -> Result<(tokio::task::JoinHandle<magi_integration::cri::Pull>, u64)> {
    let reference = registry.put(repository, "1", &slow_image(seed)?);
    registry.behave(repository, Behaviour::rate(2_000_000));
    let cri = node.cri();
    let pull = tokio::spawn(async move { cri.pull(&reference).await });
    let wanted = format!("127.0.0.1/{repository}");
    let seen = wait::until("the pull and its socket", BOUND, STEP, || async {
        let pulls = magi.pulls().await.unwrap_or_default();
        let ours = |pull: &&Value| {
            pull["repositories"]
                .as_array()
                .is_some_and(|all| all.contains(&wanted.clone().into()))
        };
        let pull = pulls.iter().find(ours)?;
        let tied = pull["layers"]
            .as_array()?
            .iter()
            .any(|layer| !layer["socket"].is_null());
        tied.then(|| pull["id"].as_u64()).flatten()
    });
    let id = seen.await.with_context(|| magi.log_tail(30))?;
    Ok((pull, id))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_sees_and_stops_pulls() -> Result<()> {
    let registry = Registry::start()?;
    println!(
        "crictl is {}",
        crictl::found().map_or("not on PATH: magictl pull stands in".into(), |path| path
            .display()
            .to_string())
    );
    for node in containerd::both().await? {
        node.trust(&registry)?;
        // Observe mode: what a person asks for by name is done all the same.
        let magi = Magi::start(&node, &magi::Options::policy("version: 1\nmode: observe\n")).await?;
        let (one, two) = (format!("one-{}", node.line()), format!("two-{}", node.line()));
        let (first, id) = under_way(&node, &registry, &magi, &one, 1).await?;
        let (second, _) = under_way(&node, &registry, &magi, &two, 2).await?;

        let table = magi.ctl(&["pulls", "--layers"])?;
        ensure!(
            table.status.success() && text(&table).contains(&one),
            "{}",
            text(&table)
        );
        let listed = magi.ctl(&["pulls", "--json"])?;
        let json: Value = serde_json::from_slice(&listed.stdout).with_context(|| text(&listed))?;
        ensure!(json.to_string().contains(&one), "{json}");

        let abort = magi.ctl(&["abort", &format!("p{id}")])?;
        ensure!(abort.status.success(), "{}\n{}", text(&abort), magi.log_tail(20));
        let stopped = tokio::time::timeout(BOUND, first).await??;
        ensure!(stopped.outcome.is_err(), "the aborted pull came through");
        ensure!(!second.is_finished(), "its neighbour was stopped as well");
        ensure!(
            magi.ctl(&["abort", &format!("p{id}")])?.status.code() == Some(4),
            "an ended pull was found"
        );
        let intent = magi.audit_of("intent")?.pop().context("no intent")?;
        ensure!(
            intent["reason"] == "operator" && intent["evidence"].to_string().contains("uid 0"),
            "{intent}"
        );

        ensure!(
            magi.ctl(&["panic"])?.status.code() == Some(2),
            "panic without a confirmation"
        );
        ensure!(!second.is_finished(), "the unconfirmed panic did something");
        let panic = magi.ctl(&["panic", "--yes"])?;
        ensure!(panic.status.success(), "{}", text(&panic));
        ensure!(
            tokio::time::timeout(BOUND, second).await??.outcome.is_err(),
            "panic left a pull"
        );
        node.expect_nothing_left(&Counts::default(), BOUND).await?;

        // And a pull by magictl itself, which nobody minds.
        let image = ImageBuilder::docker()
            .layer(Layer::random(7, 1 << 20, Compression::Gzip)?)
            .build()?;
        let reference = registry.put(&format!("good-{}", node.line()), "1", &image);
        let address = node.address().display().to_string();
        let pull = magi.ctl(&[
            "pull",
            &reference,
            "--pod",
            "team-a/web",
            "--containerd",
            &address,
        ])?;
        ensure!(
            pull.status.success() && text(&pull).contains(image.id()),
            "{}",
            text(&pull)
        );
        let missing = magi.ctl(&[
            "pull",
            &registry.reference("nowhere", "1"),
            "--containerd",
            &address,
        ])?;
        ensure!(missing.status.code() == Some(1), "{}", text(&missing));

        magi.stop()?;
        node.shutdown()?.expect_none()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn observe_mode_says_what_it_would_do_and_does_nothing() -> Result<()> {
    let registry = Registry::start()?;
    for node in containerd::both().await? {
        node.trust(&registry)?;
        let policy = "version: 1\nmode: observe\nlimits: { layer: 100MiB }\n";
        let magi = Magi::start(
            &node,
            &magi::Options {
                trace: true,
                ..magi::Options::policy(policy)
            },
        )
        .await?;
        let (pull, _) = under_way(&node, &registry, &magi, &format!("big-{}", node.line()), 3).await?;
        let would = magi.wait_audit("would-abort", 1, BOUND).await?.remove(0);
        ensure!(would["reason"] == "layer-too-large", "{would}");
        ensure!(
            !pull.is_finished() && magi.audit_of("intent")?.is_empty(),
            "observe mode acted"
        );
        // An exemption for what was observed, then enforce: the exempt pull goes on.
        magi.reload("version: 1\nmode: enforce\nlimits: { layer: 100MiB }\nrules: [{ name: keep, match: { images: [\"127.0.0.1/big-*\"] }, exempt: true }]\n")?;
        magi.wait_audit("policy-in-force", 2, BOUND).await?;
        let name = format!("other-{}", node.line());
        let reference = registry.put(&name, "1", &slow_image(4)?);
        registry.behave(&name, Behaviour::rate(2_000_000));
        let other = tokio::time::timeout(BOUND, node.cri().pull(&reference)).await?;
        ensure!(other.outcome.is_err(), "the limit was not enforced");
        ensure!(!pull.is_finished(), "the exempt pull was stopped");
        pull.abort();
        drop(pull.await);
        node.api().collect().await?;
        node.expect_nothing_left(&Counts::default(), BOUND).await?;
        // What was recorded replays to the same effects.
        let trace = magi.dir().join("trace.jsonl");
        let replay = std::process::Command::new(magi::binary("magi-node")?)
            .arg("replay")
            .arg("--quiet")
            .arg(&trace)
            .output()?;
        ensure!(replay.status.success(), "{}", text(&replay));
        println!("{}: {}", node.version(), text(&replay).trim());
        magi.stop()?;
        node.shutdown()?.expect_none()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_kill_switch_is_on_nothing_is_stopped() -> Result<()> {
    let registry = Registry::start()?;
    for node in containerd::both().await? {
        node.trust(&registry)?;
        let magi = Magi::start(&node, &magi::Options::policy(magi::enforce("1MiB"))).await?;
        std::fs::write(magi.kill_switch(), "anna: too many alarms\n")?;
        wait::until("the switch to be seen", BOUND, STEP, || async {
            let seen = magi.audit_of("kill-switch").unwrap_or_default();
            (!seen.is_empty()).then_some(())
        })
        .await?;
        let repository = format!("huge-{}", node.line());
        let (pull, id) = under_way(&node, &registry, &magi, &repository, 3).await?;
        magi.wait_audit("would-abort", 1, BOUND).await?;
        let abort = magi.ctl(&["abort", &format!("p{id}")])?;
        ensure!(
            !abort.status.success() && text(&abort).contains("anna: too many alarms"),
            "{}",
            text(&abort)
        );
        let status = magi.ctl(&["status"])?;
        ensure!(text(&status).contains("nothing is stopped"), "{}", text(&status));
        ensure!(!pull.is_finished(), "it was stopped all the same");
        ensure!(magi.audit_of("intent")?.is_empty(), "a lever was pulled");

        std::fs::remove_file(magi.kill_switch())?;
        let stopped = tokio::time::timeout(BOUND, pull).await??;
        ensure!(stopped.outcome.is_err(), "it came through");
        node.expect_nothing_left(&Counts::default(), BOUND).await?;
        magi.stop()?;
        node.shutdown()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_too_many_stops_magi_only_observes() -> Result<()> {
    const STOPPING: &str =
        "version: 1\nmode: enforce\nlimits: { image: 1MiB }\nbreaker: { stops: 2, window: 10m }\n";
    for line in magi_integration::Line::ALL {
        let registry = Registry::start()?;
        let node = Containerd::start(line).await?;
        node.trust(&registry)?;
        let magi = Magi::start(&node, &magi::Options::policy(STOPPING)).await?;
        for seed in 0..3 {
            let repository = format!("large-{seed}");
            let layer = Layer::random(seed, 10 << 20, Compression::None)?;
            let reference = registry.put(&repository, "1", &ImageBuilder::oci().layer(layer).build()?);
            registry.behave(&repository, Behaviour::rate(10 << 20));
            let pull = node.cri().pull(&reference).await;
            ensure!(
                pull.outcome.is_err() == (seed < 2),
                "{line}: {repository}: {:?}",
                pull.outcome
            );
        }
        let opened = magi.audit_of("kill-switch")?;
        ensure!(
            opened.len() == 1 && opened[0]["holder"] == "breaker" && opened[0]["engaged"] == true,
            "{line}: {opened:?}"
        );
        let observed = magi.audit_of("would-abort")?;
        let third = |record: &Value| record["pull"].to_string().contains("large-2");
        ensure!(observed.iter().any(third), "{line}: {observed:?}");
        let status = magi.ctl(&["status"])?;
        ensure!(text(&status).contains("breaker"), "{line}: {}", text(&status));
        magi.stop()?;
        node.shutdown()?.expect_none()?;
    }
    Ok(())
}
