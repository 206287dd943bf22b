//! The node's pods, as magi knows them: while sandboxes come and go, and however often magi itself is killed.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use magi_integration::containerd::Options;
use magi_integration::cri::Pod;
use magi_integration::magi::{self, Magi};
use magi_integration::sandbox::{self, Sandboxes};
use magi_integration::{Containerd, Line, Registry, wait};
use serde_json::{Value, json};

const ROUNDS: usize = 20;
/// Clients that run and remove sandboxes meanwhile.
const CLIENTS: usize = 2;
/// Sandboxes that one client leaves behind at most.
const KEPT: usize = 2;
const BOUND: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(20);

/// Sandbox → what is known of it.
type Inventory = BTreeMap<String, [String; 3]>;

/// What CRI says.
async fn listed(sandboxes: &Sandboxes) -> Result<Inventory> {
    let entry = |item: magi_wire::runtime::v1::PodSandbox| {
        let metadata = item.metadata.unwrap_or_default();
        (item.id, [metadata.uid, metadata.namespace, metadata.name])
    };
    Ok(sandboxes.list().await?.into_iter().map(entry).collect())
}

/// What magi says; none while NRI is not connected.
async fn known(magi: &Magi) -> Option<Inventory> {
    let answer = magi.ask(&json!({"v": 1, "ask": "pods"})).await.ok()?;
    let pods = answer.pointer("/reply/answer/pods")?.as_array()?;
    let entry = |pod: &Value| {
        let text = |path: &str| pod.pointer(path).and_then(Value::as_str).map(ToOwned::to_owned);
        Some((
            text("/sandbox")?,
            [text("/pod/uid")?, text("/pod/namespace")?, text("/pod/name")?],
        ))
    };
    pods.iter().map(entry).collect()
}

/// Runs, stops and removes sandboxes until it is told to end; leaves some behind.
async fn churn(
    sandboxes: Sandboxes,
    client: usize,
    counted: Arc<AtomicUsize>,
    ends: Arc<AtomicBool>,
) -> Result<()> {
    let mut own = Vec::new();
    while !ends.load(Ordering::Relaxed) {
        let number = counted.fetch_add(1, Ordering::Relaxed);
        let pod = Pod::new(&format!("team-{client}"), &format!("pod-{number}"));
        own.push(sandboxes.run(&pod, &HashMap::new()).await?);
        if own.len() > KEPT {
            let oldest = own.remove(0);
            sandboxes.stop(&oldest).await?;
            sandboxes.remove(&oldest).await?;
        }
    }
    // One of those that stay is stopped, and still there.
    if let Some(last) = own.last() {
        sandboxes.stop(last).await?;
    }
    Ok(())
}

async fn killed_twenty_times(line: Line) -> Result<()> {
    let registry = Registry::start()?;
    let options = Options {
        nri: true,
        ..Options::default()
    };
    let node = Containerd::start_with(line, &options).await?;
    sandbox::prepare(&node, &registry)?;
    let sandboxes = Sandboxes::connect(&node.address());
    let socket: PathBuf = node.dir().join("nri.sock");
    let start = || async {
        // Who feeds which socket is not asked here, so the probes are left out.
        let options = magi::Options {
            nri: Some(socket.clone()),
            probes: false,
            ..magi::Options::policy(magi::enforce("1GiB"))
        };
        Magi::start(&node, &options).await
    };
    let counted = Arc::new(AtomicUsize::new(0));
    for round in 0..ROUNDS {
        let ends = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| tokio::spawn(churn(sandboxes.clone(), client, counted.clone(), ends.clone())))
            .collect();
        let first = start().await?;
        first.process().kill9()?;
        let before = counted.load(Ordering::Relaxed);
        let second = start().await?;
        // It registers while pods come and go, and hears of some after that.
        let more = wait::until("more sandboxes", BOUND, STEP, || async {
            (counted.load(Ordering::Relaxed) > before + CLIENTS).then_some(())
        });
        more.await?;
        ends.store(true, Ordering::Relaxed);
        for client in clients {
            client.await??;
        }
        let truth = listed(&sandboxes).await?;
        ensure!(truth.len() >= CLIENTS, "{truth:?}");
        let equal = wait::until("the inventory to equal CRI's list", BOUND, STEP, || async {
            (known(&second).await.as_ref() == Some(&truth)).then_some(())
        });
        if equal.await.is_err() {
            let known = known(&second).await;
            anyhow::bail!(
                "round {round}: CRI lists {truth:?}\nmagi knows {known:?}\n{}",
                second.log_tail(30)
            );
        }
        second.process().kill9()?;
        for id in truth.keys() {
            sandboxes.remove(id).await?;
        }
    }
    println!(
        "{line}: {ROUNDS} rounds, {} sandboxes",
        counted.load(Ordering::Relaxed)
    );
    node.shutdown()?.expect_none().context("what containerd left")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inventory_is_cris_list_on_1_7() -> Result<()> {
    killed_twenty_times(Line::V1_7).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inventory_is_cris_list_on_2_x() -> Result<()> {
    killed_twenty_times(Line::V2).await
}
