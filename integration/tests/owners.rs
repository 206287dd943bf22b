//! Whose pull it is: two hundred pulls by eight clients at once, and every owner that magi names is the right one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use magi_integration::cri::Pod;
use magi_integration::image::{Compression, ImageBuilder, Layer};
use magi_integration::magi::{self, Magi};
use magi_integration::{Behaviour, Containerd, Cri, Line, Registry, wait};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const CLIENTS: usize = 8;
/// Pulls of one client, two of them at a time: two tags of one repository.
const PAIRS: usize = 12;
const ALONE: usize = 1;
const PULLS: usize = CLIENTS * (2 * PAIRS + ALONE);
const NAMESPACES: [&str; 5] = ["team-a", "team-b", "team-c", "kube-system", "default"];
const LAYER: u64 = 60_000;
/// Bytes per second: a pull takes some 200 ms, so that the clients meet.
const RATE: u64 = 300_000;
/// The image of the shared repository is large enough for its socket to be seen.
const LARGE: u64 = 4_000_000;
const LARGE_RATE: u64 = 6_000_000;
const BOUND: Duration = Duration::from_secs(10);
const PASSWORD: &str = "correct-horse-battery-staple";

/// One pull as it was asked for.
#[derive(Clone, Debug)]
struct Asked {
    reference: String,
    pod: Pod,
    manifest: String,
}

/// How the image is named: each client goes through all of these.
fn name(registry: &Registry, repository: &str, tag: &str, digest: &str, form: usize) -> String {
    let repository = format!("{}/{repository}", registry.host());
    match form % 3 {
        0 => format!("{repository}:{tag}"),
        1 => format!("{repository}@{digest}"),
        _ => format!("{repository}:{tag}@{digest}"),
    }
}

/// Every pull of one client. Pairs are two tags of one repository at once; a third of them is named by the tags alone.
fn plan(registry: &Registry, client: usize) -> Result<Vec<Vec<Asked>>> {
    let mut seed = 1_000_000 * u64::try_from(client + 1)?;
    let mut asked = |repository: &str, tag: &str, form: usize, number: usize, size: u64| -> Result<Asked> {
        seed += 10;
        let layer = Layer::random(seed, size, Compression::Gzip)?;
        let image = ImageBuilder::oci().layer(layer).build()?;
        registry.put(repository, tag, &image);
        let digest = image.digest().to_owned();
        let namespace = NAMESPACES.get(number % NAMESPACES.len()).context("a namespace")?;
        Ok(Asked {
            reference: name(registry, repository, tag, &digest, form),
            pod: Pod::new(namespace, &format!("pod-{client}-{number}")),
            manifest: digest,
        })
    };
    let mut groups = Vec::new();
    for pair in 0..PAIRS {
        let repository = format!("client-{client}/pair-{pair}");
        groups.push(vec![
            asked(&repository, "1", pair, 2 * pair, LAYER)?,
            asked(&repository, "2", pair, 2 * pair + 1, LAYER)?,
        ]);
        registry.behave(&repository, Behaviour::rate(RATE));
    }
    // A repository that all clients share.
    groups.push(vec![asked(
        "shared/app",
        &format!("v{client}"),
        0,
        2 * PAIRS,
        LARGE,
    )?]);
    registry.behave("shared/app", Behaviour::rate(LARGE_RATE));
    Ok(groups)
}

async fn pull_all(cri: Cri, groups: Vec<Vec<Asked>>) -> Result<()> {
    for group in groups {
        let mut at_once = JoinSet::new();
        for asked in group {
            let cri = cri.clone();
            at_once.spawn(async move {
                let credentials = Some(("robot", PASSWORD));
                cri.pull_as(&asked.reference, Some(&asked.pod), credentials).await
            });
        }
        while let Some(pull) = at_once.join_next().await {
            let pull = pull?;
            ensure!(pull.outcome.is_ok(), "{}: {}", pull.reference, pull.error());
        }
    }
    Ok(())
}

/// What magi says of the owners, held against what was asked: how many it named.
fn check(reports: &[Value], asked: &[Asked]) -> Result<usize> {
    let by_manifest: BTreeMap<&str, &Asked> = asked
        .iter()
        .map(|asked| (asked.manifest.as_str(), asked))
        .collect();
    let mut uids = BTreeSet::new();
    let mut known = 0;
    for report in reports {
        let text = |path: &str| report.pointer(path).and_then(Value::as_str);
        let Some(uid) = text("/owner/pod/uid") else {
            ensure!(text("/owner/image").is_none(), "an owner without a pod: {report}");
            continue;
        };
        known += 1;
        ensure!(uids.insert(uid.to_owned()), "two pulls of one request: {report}");
        let Some(truth) = text("/manifest").map(|manifest| by_manifest.get(manifest)) else {
            continue;
        };
        let truth = truth.with_context(|| format!("nobody asked for this: {report}"))?;
        let named = [
            text("/owner/image"),
            text("/owner/pod/uid"),
            text("/owner/pod/namespace"),
            text("/owner/pod/name"),
        ];
        let expected = [
            &truth.reference,
            &truth.pod.uid,
            &truth.pod.namespace,
            &truth.pod.name,
        ]
        .map(|text| Some(text.as_str()));
        ensure!(
            named == expected,
            "wrong: {named:?}, asked was {expected:?}: {report}"
        );
    }
    Ok(known)
}

async fn two_hundred(line: Line) -> Result<()> {
    let registry = Registry::start()?;
    let node = Containerd::start(line).await?;
    node.trust(&registry)?;
    let mut plans = Vec::new();
    for client in 0..CLIENTS {
        plans.push(plan(&registry, client)?);
    }
    let asked: Vec<Asked> = plans.iter().flatten().flatten().cloned().collect();
    assert_eq!(asked.len(), PULLS);
    // Half of the clients have a connection when magi starts, which it joins in mid-conversation.
    let clients: Vec<Cri> = (0..CLIENTS).map(|_| Cri::connect(&node.address())).collect();
    for early in clients.iter().take(CLIENTS / 2) {
        early.version().await?;
        early.images().await?;
    }
    let options = magi::Options::policy("version: 1\nmode: observe\nlimits: { layer: 1MiB }\n");
    let magi = Magi::start(&node, &options).await?;
    let mut running = JoinSet::new();
    for (cri, groups) in clients.into_iter().zip(plans) {
        running.spawn(pull_all(cri, groups));
    }
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    let idle = wait::until("no pull in flight", BOUND, Duration::from_millis(50), || async {
        magi.pulls()
            .await
            .is_ok_and(|pulls| pulls.is_empty())
            .then_some(())
    });
    idle.await?;
    let answer = magi.ask(&json!({"v": 1, "ask": "pulls", "ended": true})).await?;
    let reports = answer
        .pointer("/reply/answer/report/ended")
        .and_then(Value::as_array)
        .with_context(|| format!("ended pulls in {answer:.300}"))?;
    let known = check(reports, &asked)?;
    println!(
        "{line}: {} of {PULLS} pulls seen, {known} owners known, none wrong",
        reports.len()
    );
    ensure!(reports.len() * 10 >= PULLS * 9, "{} seen", reports.len());
    ensure!(known * 2 >= PULLS, "only {known} known");
    // What went through the decoder held a password; nothing that magi wrote does.
    let audit = magi.audit()?;
    let owned = |record: &&Value| record.pointer("/pull/owner/pod/uid").is_some();
    ensure!(
        audit
            .iter()
            .filter(|record| record["kind"] == "would-abort")
            .any(|record| owned(&record)),
        "no record names an owner"
    );
    for written in [format!("{audit:?}"), magi.log()?, answer.to_string()] {
        ensure!(!written.contains(PASSWORD), "a password was written");
    }
    magi.stop()?;
    node.shutdown()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_are_right_or_unknown_on_1_7() -> Result<()> {
    two_hundred(Line::V1_7).await
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_are_right_or_unknown_on_2_x() -> Result<()> {
    two_hundred(Line::V2).await
}
