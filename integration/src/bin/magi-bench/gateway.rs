//! What a call costs more that goes through magi-gateway: alternately through it and past it, with magi-node watching.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use magi_integration::containerd::Line;
use magi_integration::gateway::Place;
use magi_integration::magi::{self, Magi};
use magi_integration::{Containerd, Cri, Pod};
use serde_json::json;

use crate::figure::{Figure, Goal, Run, Series};
use crate::options::Options;
use crate::stats::summary;

const MOST_MS: f64 = 1.0;
/// No image is called so, so that containerd answers from its memory.
const ABSENT: &str = "registry.example/absent:1";
/// containerd refuses it before it asks anybody.
const NO_REFERENCE: &str = "not a reference";
/// Calls before the first that counts.
const WARM_UP: usize = 20;

/// Measures on both lines.
pub(crate) async fn measure(options: &Options) -> Result<Figure> {
    Figure::on_each_line(
        "gateway",
        "a call through magi-gateway and the same past it, from its start to its answer",
        async |line| on(line, options).await,
    )
    .await
}

async fn on(line: Line, options: &Options) -> Result<Run> {
    let node = Containerd::start(line).await?;
    let magi = Magi::start(&node, &magi::Options::policy(magi::enforce("1GiB"))).await?;
    let place = Place::new()?;
    let gateway = place.start(&node, &magi.socket()).await?;
    let (direct, through) = (node.cri(), place.cri());
    let mut samples: [Vec<f64>; 4] = Default::default();
    for round in 0..options.gateway_rounds() + WARM_UP {
        let took = [
            status(&direct).await?,
            status(&through).await?,
            pull(&direct, round).await?,
            pull(&through, round).await?,
        ];
        if round >= WARM_UP {
            for (series, sample) in samples.iter_mut().zip(took) {
                series.push(sample);
            }
        }
    }
    drop(gateway);
    magi.stop()?;
    let version = node.version().to_owned();
    node.shutdown()?.expect_none()?;
    let [status_direct, status_through, pull_direct, pull_through] =
        samples.each_ref().map(|series| summary(series.iter().copied()));
    let more = |what, through: f64, direct: f64| Goal::at_most(what, MOST_MS, through - direct);
    let series = |what, summary| Series {
        what,
        unit: "ms",
        summary,
    };
    Ok(Run {
        line: Some(line.to_string()),
        containerd: Some(version),
        series: vec![
            series("ImageStatus", status_direct),
            series("ImageStatus, gateway", status_through),
            series("PullImage, refused", pull_direct),
            series("PullImage, refused, gateway", pull_through),
        ],
        goals: vec![
            more(
                "ImageStatus: median more, in ms",
                status_through.median,
                status_direct.median,
            ),
            more(
                "ImageStatus: 99th percentile more, in ms",
                status_through.p99,
                status_direct.p99,
            ),
            more(
                "PullImage: median more, in ms",
                pull_through.median,
                pull_direct.median,
            ),
        ],
        notes: json!({ "PullImage": "of what is no reference: containerd answers at once, the gateway asks magi-node first" }),
        samples: json!(samples),
    })
}

async fn status(cri: &Cri) -> Result<f64> {
    let began = Instant::now();
    let found = cri.image(ABSENT).await?;
    let took = began.elapsed();
    ensure!(found.is_none(), "{ABSENT} is there");
    Ok(took.as_secs_f64() * 1000.0)
}

async fn pull(cri: &Cri, round: usize) -> Result<f64> {
    let pod = Pod::new("team", &format!("pod-{round}"));
    let pull = cri.pull_as(NO_REFERENCE, Some(&pod), None).await;
    let error = pull.outcome.as_ref().err().context("it was pulled")?;
    ensure!(error.message.contains("reference"), "{error}");
    Ok(pull.elapsed().as_secs_f64() * 1000.0)
}
