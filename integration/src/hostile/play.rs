//! One attack with a healthy pull beside it: both are run, measured, and cleared away.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::cases::{Attack, Case, Scene};
use super::stage::Stage;
use super::verdict::{Cell, Verdict, of_failed};
use crate::api::Counts;
use crate::cri::Pull;
use crate::demo::trail::is_about;
use crate::disk::{Watch, used};
use crate::image::{Compression, Image, ImageBuilder, Layer};
use crate::registry::Kind;
use crate::wait;

/// An attack that has written so much is called off: nothing will stop it, and the disk is not its.
const TOO_MUCH: u64 = 1 << 30;
/// How long what was stopped may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(40);
/// The healthy pull begins when the attack has, or after that long.
const BEGUN_WITHIN: Duration = Duration::from_secs(2);
/// What the disk may hold more than before: containerd's own books grow.
const BOOKS: u64 = 16 << 20;
const STEP: Duration = Duration::from_millis(5);
const SMALL: u64 = 200_000;

/// How it ended.
enum Ended {
    /// All of its pulls came back; the first that failed, or the last.
    Back(Pull),
    /// It was called off.
    CalledOff(&'static str),
}

/// Plays it.
pub(super) async fn play(stage: &Stage<'_>, case: &Case, number: u64) -> Result<Cell> {
    let line = stage.node.line();
    let scene = Scene {
        world: stage.world,
        node: &stage.node,
        repository: format!("{line}/{}/{}", stage.mode, case.name),
        seed: 1000 * (number + 1),
    };
    let attack = (case.set)(&scene).context("set it up")?;
    let good = match attack.healthy {
        Some(ref good) => good.clone(),
        None => healthy(&scene)?,
    };
    let (api, root) = (stage.node.api(), stage.node.root());
    api.collect().await?;
    let baseline = api.counts().await?;
    let before = used(&root)?;
    let heard = stage.magi.audit()?.len();
    let watch = Watch::start(root.clone());

    let began = Instant::now();
    let pulls: Vec<JoinHandle<Pull>> = attack
        .pulls
        .iter()
        .map(|reference| start(stage, reference, "tenant"))
        .collect();
    until_begun(&scene, case, &pulls).await;
    let beside = start(stage, &good.0, "innocent");
    let ended = until_ended(case, pulls, began, || watch.most().saturating_sub(before), stage).await?;
    let took = began.elapsed();
    let innocent = tokio::time::timeout(case.patience, beside)
        .await
        .context("the healthy pull is not there")?
        .context("the healthy pull's task")?;
    let most = watch.stop()?;

    let records = stage.magi.audit()?.split_off(heard);
    let verdict = match &ended {
        Ended::Back(pull) if pull.outcome.is_err() => of_failed(pull, &records),
        Ended::Back(_) => match case.if_pulled {
            Some(how) => Verdict::Harmless { how: how.to_owned() },
            None => escapes(case, "the image is there"),
        },
        Ended::CalledOff(why) => match case.if_it_goes_on {
            Some(how) if *why == GOES_ON => Verdict::Harmless { how: how.to_owned() },
            _ => escapes(case, why),
        },
    };
    let hit = records.iter().find(|record| {
        let about = good.0.rsplit_once(':').map_or(good.0.as_str(), |(name, _)| name);
        matches!(record["kind"].as_str(), Some("intent" | "refused")) && is_about(record, about)
    });
    ensure!(hit.is_none(), "an innocent was condemned: {hit:?}");
    let is_there = innocent.outcome.as_deref() == Ok(good.1.id());
    let collateral = (!is_there).then(|| innocent.error().to_owned());
    let layer_bytes = sent(&scene, &good.0).await?;
    let after = clear(stage, &attack, &good.0, &baseline, before)
        .await
        .with_context(|| format!("after {verdict:?}"))?;
    // What went only meanwhile was the case's before.
    let written = most.saturating_sub(before.min(after));
    Ok(Cell {
        case: case.name.to_owned(),
        line: line.to_string(),
        mode: stage.mode,
        verdict,
        layer_bytes,
        written,
        took_ms: milliseconds(took),
        healthy_ms: milliseconds(innocent.elapsed()),
        error: match &ended {
            Ended::Back(pull) => pull.error().to_owned(),
            Ended::CalledOff(why) => (*why).to_owned(),
        },
        collateral,
    })
}

const GOES_ON: &str = "it goes on";

fn escapes(case: &Case, how: &str) -> Verdict {
    Verdict::Escapes {
        why: format!("{how}: {}", case.if_it_escapes),
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A small image, whose repository looks like the attack's.
fn healthy(scene: &Scene<'_>) -> Result<(String, Image)> {
    let image = ImageBuilder::oci()
        .layer(Layer::random(scene.seed + 900, SMALL, Compression::Gzip)?)
        .build()?;
    let repository = format!("{}-good", scene.repository);
    Ok((scene.world.plain.put(&repository, "1", &image), image))
}

fn start(stage: &Stage<'_>, reference: &str, namespace: &str) -> JoinHandle<Pull> {
    let (cri, reference, pod) = (stage.cri(), reference.to_owned(), stage.pod(namespace));
    tokio::spawn(async move { cri.pull_as(&reference, Some(&pod), None).await })
}

/// Waits until as many layers were asked for as the case wants, or all of it is over already.
async fn until_begun(scene: &Scene<'_>, case: &Case, pulls: &[JoinHandle<Pull>]) {
    let asked = || -> usize {
        let logs = scene.world.all().map(|registry| registry.log().requests());
        let ours = logs.iter().flatten().filter(|request| {
            request.kind == Kind::Layer && request.repository == scene.repository && request.body_sent > 0
        });
        ours.count()
    };
    let begun = wait::until("the attack to begin", BEGUN_WITHIN, STEP, async || {
        let is_over = pulls.iter().all(JoinHandle::is_finished);
        (is_over || asked() >= case.layers_first).then_some(())
    });
    // An attack that never asks for a layer is one, too.
    drop(begun.await);
}

async fn until_ended(
    case: &Case,
    pulls: Vec<JoinHandle<Pull>>,
    began: Instant,
    written: impl Fn() -> u64,
    stage: &Stage<'_>,
) -> Result<Ended> {
    let over = wait::until("its end", case.patience, STEP, async || {
        if pulls.iter().all(JoinHandle::is_finished) {
            return Some(None);
        }
        (written() > TOO_MUCH).then_some(Some("over 1 GiB written"))
    });
    let called_off = match over.await {
        Ok(None) => {
            let mut last = None;
            for pull in pulls {
                let pull = pull.await.context("the attack's task")?;
                if pull.outcome.is_err() {
                    return Ok(Ended::Back(pull));
                }
                last = Some(pull);
            }
            return Ok(Ended::Back(last.context("an attack without a pull")?));
        }
        Ok(Some(why)) => why,
        Err(_) => GOES_ON,
    };
    if called_off == GOES_ON {
        let ended = by_hand(stage)
            .await
            .with_context(|| format!("after {:?}", began.elapsed()))?;
        ensure!(
            ended > 0 || case.if_it_goes_on.is_none(),
            "there was nothing to end by hand"
        );
    }
    for pull in pulls {
        pull.abort();
        // Cancelled, or over in the same moment.
        drop(pull.await);
    }
    Ok(Ended::CalledOff(called_off))
}

/// What an operator would do: look who is there, and end it.
async fn by_hand(stage: &Stage<'_>) -> Result<usize> {
    let mut count = 0;
    for pull in stage.magi.pulls().await? {
        if pull.get("stage").and_then(Value::as_str) == Some("downloading") {
            let stop = json!({"v": 1, "ask": "abort", "pull": pull.get("id")});
            let answer = stage.magi.ask(&stop).await?;
            let ended = answer.pointer("/reply/answer/answer").and_then(Value::as_str);
            ensure!(ended == Some("ended"), "magictl abort: {answer}");
            count += 1;
        }
    }
    Ok(count)
}

/// Layer bytes of the attack, once no response of it is under way any more.
async fn sent(scene: &Scene<'_>, good: &str) -> Result<u64> {
    let count = || -> Option<u64> {
        let mut bytes = 0;
        for registry in scene.world.all() {
            if good.starts_with(&format!("{}/{}:", registry.host(), scene.repository)) {
                continue;
            }
            for request in registry.log().layers(&scene.repository) {
                request.ended?;
                bytes += request.body_sent;
            }
        }
        Some(bytes)
    };
    wait::until("the end of all layer responses", GONE_WITHIN, STEP, async || {
        count()
    })
    .await
}

/// Takes the images away that are there, and waits until nothing else is; gives the bytes then in use.
async fn clear(
    stage: &Stage<'_>,
    attack: &Attack,
    good: &str,
    baseline: &Counts,
    before: u64,
) -> Result<u64> {
    let (cri, api) = (stage.node.cri(), stage.node.api());
    for reference in attack.pulls.iter().map(String::as_str).chain([good]) {
        if cri.image(reference).await?.is_some() {
            cri.remove(reference).await?;
        }
    }
    // What a pull that failed within milliseconds of another leaves goes with the next collection.
    api.collect().await?;
    stage.node.expect_nothing_left(baseline, GONE_WITHIN).await?;
    let root = stage.node.root();
    let free = wait::until("the space to be free again", GONE_WITHIN, STEP, async || {
        used(&root).ok().filter(|now| *now <= before + BOOKS)
    });
    match free.await {
        Ok(after) => Ok(after),
        Err(error) => bail!("{error:#}: {before} bytes before, {} now", used(&root)?),
    }
}
