//! A pod goes, or gives up its image, while that is pulled: the pull ends, whichever way the master heard of it. What the
//! API server refused, or only tried, ends nothing, and neither does the loss of one pod where another one wants the image.
//! A master that was dead makes up for what it missed.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use magi_integration::master::{self, Loss, Way};
use magi_integration::orphans::{Pulling, Stage};
use magi_integration::{Line, Pod};

/// Far below the six seconds that a pull takes, and far above what magi needs: the bench has the figure.
const SOON: Duration = Duration::from_secs(3);

/// The pulls that magi meant to stop; for one of them it may take two levers, if a layer begins as its lease goes.
fn acted_on(stage: &Stage) -> Result<BTreeSet<u64>> {
    let intents = stage.intents()?;
    let id = |intent: &serde_json::Value| intent.pointer("/pull/id").and_then(serde_json::Value::as_u64);
    Ok(intents.iter().filter_map(id).collect())
}

async fn lost_pods_pulls_end(line: Line, way: Way) -> Result<()> {
    let stage = Stage::set(line, way).await?;
    for loss in Loss::ALL {
        let name = format!("{loss:?}").to_lowercase();
        // A namespace of its own: it may be deleted.
        let took = stage.lose(Pod::new(&format!("ns-{name}"), &name), loss).await?;
        println!("containerd {}, {way}, {loss:?}: {took:?}", stage.version());
        ensure!(took < SOON, "{loss:?}: {took:?}\n{}", stage.logs());
    }
    let intents = stage.intents()?;
    ensure!(
        intents.len() >= Loss::ALL.len() && intents.iter().all(|intent| intent["reason"] == "orphaned"),
        "{intents:?}"
    );
    stage.end()
}

async fn nothing_else_ends_a_pull(line: Line, way: Way) -> Result<()> {
    let stage = Stage::set(line, way).await?;
    let kept = stage.pull(Pod::new("team", "kept"))?;
    // Two pods want one image, and one of them goes.
    let shared = stage.image("shared")?;
    let (one, other) = (Pod::new("team", "one"), Pod::new("team", "other"));
    stage.tell(&master::created(&one, &shared))?;
    stage.tell(&master::created(&other, &shared))?;
    let shared = stage.pull_image(one, shared);
    let lost = stage.pull(Pod::new("team", "lost"))?;
    for pulling in [&kept, &shared, &lost] {
        stage.known(pulling).await?;
    }
    stage.tell(&[
        master::refused(&kept.pod, 403),
        master::refused(&kept.pod, 404),
        master::refused(&kept.pod, 409),
        master::eviction_refused(&kept.pod),
        master::dry_run(&kept.pod, &kept.reference),
        master::status_changed(&kept.pod, &kept.reference),
        master::deleted(&shared.pod, &shared.reference),
        // It is told last: when its pull ends, all of the above was heard.
        master::deleted(&lost.pod, &lost.reference),
    ])?;
    let (lost, kept, shared) = tokio::try_join!(lost.end(), kept.end(), shared.end())?;
    ensure!(
        lost.outcome.is_err(),
        "the deleted pod's pull went on\n{}",
        stage.logs()
    );
    ensure!(
        lost.ended < kept.ended.min(shared.ended),
        "the others did not outlive it"
    );
    ensure!(kept.outcome.is_ok(), "refused, yet ended: {}", kept.error());
    ensure!(shared.outcome.is_ok(), "wanted, yet ended: {}", shared.error());
    ensure!(acted_on(&stage)?.len() == 1, "{:?}", stage.intents()?);
    stage.end()
}

async fn what_a_dead_master_missed_is_made_up_for(line: Line) -> Result<()> {
    let mut stage = Stage::set(line, Way::AuditLog).await?;
    let kept = stage.pull(Pod::new("team", "kept"))?;
    let mut lost = Vec::new();
    for name in ["before", "meanwhile", "after"] {
        lost.push(stage.pull(Pod::new("team", name))?);
    }
    for pulling in lost.iter().chain([&kept]) {
        stage.known(pulling).await?;
    }
    let gone = |pulling: &Pulling| [master::deleted(&pulling.pod, &pulling.reference)];
    let mut lost = lost.into_iter();
    let (before, meanwhile, after) = (lost.next(), lost.next(), lost.next());
    let before = before.context("a pull")?;
    stage.tell(&gone(&before))?;
    ensure!(before.end().await?.outcome.is_err(), "{}", stage.logs());
    stage.master().kill()?;
    let meanwhile = meanwhile.context("a pull")?;
    stage.tell(&gone(&meanwhile))?;
    ensure!(acted_on(&stage)?.len() == 1, "who told it? {}", stage.logs());
    stage.master_mut().start_again().await?;
    ensure!(meanwhile.end().await?.outcome.is_err(), "{}", stage.logs());
    let after = after.context("a pull")?;
    stage.tell(&gone(&after))?;
    ensure!(after.end().await?.outcome.is_err(), "{}", stage.logs());
    ensure!(kept.end().await?.outcome.is_ok(), "{}", stage.logs());
    // The new master reads again what the old one had said: to no effect.
    ensure!(acted_on(&stage)?.len() == 3, "{:?}", stage.intents()?);
    stage.end()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_master_missed_is_made_up_for_on_1_7() -> Result<()> {
    what_a_dead_master_missed_is_made_up_for(Line::V1_7).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_master_missed_is_made_up_for_on_2_x() -> Result<()> {
    what_a_dead_master_missed_is_made_up_for(Line::V2).await
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_end_by_audit_log_on_1_7() -> Result<()> {
    lost_pods_pulls_end(Line::V1_7, Way::AuditLog).await
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_end_by_audit_log_on_2_x() -> Result<()> {
    lost_pods_pulls_end(Line::V2, Way::AuditLog).await
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_end_by_webhook_on_1_7() -> Result<()> {
    lost_pods_pulls_end(Line::V1_7, Way::Webhook).await
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_end_by_webhook_on_2_x() -> Result<()> {
    lost_pods_pulls_end(Line::V2, Way::Webhook).await
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_end_by_watch_on_1_7() -> Result<()> {
    lost_pods_pulls_end(Line::V1_7, Way::Watch).await
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_end_by_watch_on_2_x() -> Result<()> {
    lost_pods_pulls_end(Line::V2, Way::Watch).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_else_ends_a_pull_on_1_7() -> Result<()> {
    nothing_else_ends_a_pull(Line::V1_7, Way::AuditLog).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_else_ends_a_pull_on_2_x() -> Result<()> {
    nothing_else_ends_a_pull(Line::V2, Way::AuditLog).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_else_ends_a_pull_by_webhook() -> Result<()> {
    nothing_else_ends_a_pull(Line::V2, Way::Webhook).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_else_ends_a_pull_by_watch() -> Result<()> {
    nothing_else_ends_a_pull(Line::V2, Way::Watch).await
}
