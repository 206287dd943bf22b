//! How fast a pull ends when its pod is deleted: from the API server's word to the return of PullImage.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use magi_integration::containerd::Line;
use magi_integration::image::{ImageBuilder, Layer};
use magi_integration::master::{Loss, Way};
use magi_integration::orphans::Stage;
use magi_integration::{Behaviour, Pod, wait};
use serde::Serialize;
use serde_json::json;

use crate::figure::{Figure, Goal, Run, Series};
use crate::options::Options;
use crate::stats::summary;

const MOST_MS: f64 = 100.0;
/// Bytes per second of the one layer.
const RATE: u64 = 20_000_000;
const DECLARED: u64 = 4 << 30;
/// The pod is deleted once so much was sent: in the middle of the pull.
const UNDER_WAY: u64 = 2 << 20;
const BOUND: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(1);

/// A pull that ended because its pod was deleted. Times are milliseconds from the moment before the API server said so.
#[derive(Debug, Clone, Serialize)]
struct Ended {
    way: String,
    /// PullImage returned.
    returned_ms: f64,
    /// magi wrote down what it meant to do, by its own clock.
    intent_ms: f64,
}

/// Measures on both lines.
pub(crate) async fn measure(options: &Options) -> Result<Figure> {
    let what =
        "from the API server's word that the pod is gone to the return of PullImage, with a grace of 0 s";
    Figure::on_each_line("orphan", what, async |line| on(line, options).await).await
}

async fn on(line: Line, options: &Options) -> Result<Run> {
    let mut samples = Vec::new();
    let (mut series, mut goals) = (Vec::new(), Vec::new());
    let mut version = String::new();
    for (way, name, goal) in [
        (
            Way::AuditLog,
            "line written",
            "99th percentile by audit log in ms",
        ),
        (Way::Webhook, "POST begun", "99th percentile by webhook in ms"),
        (Way::Watch, "event written", "99th percentile by watch in ms"),
    ] {
        let stage = Stage::set(line, way).await?;
        stage.version().clone_into(&mut version);
        let mut ended = Vec::new();
        // Round 0 warms up and is not counted.
        for round in 0..=options.orphan_rounds() {
            let one = lose(&stage, way, round)
                .await
                .with_context(|| format!("{way}, round {round}"))?;
            if round > 0 {
                ended.push(one);
            }
        }
        stage.end()?;
        let found = summary(ended.iter().map(|one| one.returned_ms));
        eprintln!("orphan, containerd {version}, {way}: {found:?}");
        series.push(Series {
            what: name,
            unit: "ms",
            summary: found,
        });
        series.push(Series {
            what: "  the intent, by magi's clock",
            unit: "ms",
            summary: summary(ended.iter().map(|one| one.intent_ms)),
        });
        goals.push(Goal::at_most(goal, MOST_MS, found.p99));
        samples.extend(ended);
    }
    Ok(Run {
        line: Some(line.to_string()),
        containerd: Some(version),
        series,
        goals,
        notes: json!({ "declared_bytes": DECLARED, "bytes_per_second": RATE, "sent_before": UNDER_WAY }),
        samples: json!(samples),
    })
}

async fn lose(stage: &Stage, way: Way, round: usize) -> Result<Ended> {
    let pod = Pod::new("team", &format!("orphan-{round}"));
    let repository = pod.name.clone();
    // A seed that no image of the stage's own has.
    let layer = Layer::declared(0x1000_0000 + round as u64, DECLARED);
    let image = ImageBuilder::oci().layer(layer).build()?;
    let reference = stage.registry().put(&repository, "1", &image);
    stage.registry().behave(&repository, Behaviour::rate(RATE));
    let before = stage.intents()?.len();
    let pulling = stage.pull_created(pod, reference)?;
    stage.known(&pulling).await?;
    let log = stage.registry().log();
    // Not always at the same byte.
    let enough = UNDER_WAY + (round as u64 % 16) * (128 << 10);
    wait::until("the pull to be under way", BOUND, STEP, || async {
        (log.layer_bytes(&repository) >= enough).then_some(())
    })
    .await?;
    let lost = [Loss::Deleted.of(&pulling.pod, &pulling.reference)];
    let (said, wall) = (Instant::now(), SystemTime::now());
    stage.tell(&lost)?;
    let pull = tokio::time::timeout(BOUND, pulling.end())
        .await
        .with_context(|| format!("the pull was not stopped\n{}", stage.logs()))??;
    ensure!(pull.outcome.is_err(), "the gigantic pull came through");
    log.clear();
    let intents = stage.intents()?;
    let intent = intents.get(before).context("it ended, but not by magi")?;
    ensure!(intent["reason"] == "orphaned", "{intent}");
    let at = intent["at"].as_str().context("a record without a time")?;
    let at: jiff::Timestamp = at.parse().with_context(|| format!("the time {at}"))?;
    let meant = SystemTime::from(at).duration_since(wall).unwrap_or_default();
    Ok(Ended {
        way: way.to_string(),
        returned_ms: pull.ended.duration_since(said).as_secs_f64() * 1e3,
        intent_ms: meant.as_secs_f64() * 1e3,
    })
}
