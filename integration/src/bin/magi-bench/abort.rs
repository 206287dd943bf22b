//! How fast a gigantic pull ends: by magi, and by hand.

use anyhow::Result;
use magi_integration::containerd::Line;
use magi_integration::magi::{self, Magi};
use magi_integration::{Containerd, Registry};
use serde_json::json;

use crate::attack::{self, By, LIMIT, Stopped, attack};
use crate::by_hand::Lever;
use crate::figure::{Figure, Goal, Run, Series};
use crate::options::Options;
use crate::stats::{Summary, summary};

/// magi may take this many times as long as a hand that knows everything beforehand.
const MOST_TIMES: f64 = 3.0;

/// Measures on both lines.
pub(crate) async fn measure(options: &Options) -> Result<Figure> {
    let what = "from the first byte of a layer to the return of PullImage";
    Figure::on_each_line("abort-latency", what, async |line| on(line, options).await).await
}

async fn on(line: Line, options: &Options) -> Result<Run> {
    let registry = Registry::start()?;
    // Two of them, so that magi can stay and yet has no hand in the pulls that are ended by hand.
    let (watched, unwatched) = tokio::try_join!(Containerd::start(line), Containerd::start(line))?;
    watched.trust(&registry)?;
    unwatched.trust(&registry)?;
    let magi = Magi::start(&watched, &magi::Options::policy(magi::enforce(LIMIT))).await?;
    let lever = Lever::open()?;
    let mut samples: Vec<Stopped> = Vec::new();
    let rounds = options.abort_rounds();
    // Round 0 warms both up and is not counted.
    for round in 0..=rounds {
        let seed = 2 * round as u64;
        let by_magi = attack(&watched, &registry, seed, By::Magi(&magi));
        let by_hand = attack(&unwatched, &registry, seed + 1, By::Hand(&lever));
        // Whoever comes first in one round is second in the next.
        let (by_magi, by_hand) = if round % 2 == 0 {
            let first = by_magi.await?;
            (first, by_hand.await?)
        } else {
            let first = by_hand.await?;
            (by_magi.await?, first)
        };
        eprintln!(
            "abort, containerd {}, round {round} of {rounds}: magi {:.1} ms (lever at {:.1}), by hand {:.1} ms (lever at {:.1})",
            watched.version(),
            by_magi.returned_ms,
            by_magi.lever_ms,
            by_hand.returned_ms,
            by_hand.lever_ms,
        );
        if round > 0 {
            samples.extend([by_magi, by_hand]);
        }
    }
    magi.stop()?;
    let of = |by: &str, what: fn(&Stopped) -> f64| {
        summary(samples.iter().filter(|stopped| stopped.by == by).map(what))
    };
    let magi_returned = of("magi", |stopped| stopped.returned_ms);
    let hand_returned = of("hand", |stopped| stopped.returned_ms);
    let ms = |what, summary: Summary| Series {
        what,
        unit: "ms",
        summary,
    };
    let run = Run {
        line: Some(line.to_string()),
        containerd: Some(watched.version().to_owned()),
        series: vec![
            ms("magi", magi_returned),
            ms("by hand", hand_returned),
            ms("magi: lever pulled", of("magi", |stopped| stopped.lever_ms)),
            ms("by hand: lever pulled", of("hand", |stopped| stopped.lever_ms)),
            Series {
                what: "magi: sent of layers",
                unit: "KiB",
                summary: of("magi", |stopped| stopped.sent as f64 / 1024.0),
            },
        ],
        goals: vec![Goal::at_most(
            "median of magi / median by hand",
            MOST_TIMES,
            magi_returned.median / hand_returned.median,
        )],
        notes: json!({ "declared_bytes": attack::DECLARED, "bytes_per_second_and_layer": attack::RATE }),
        samples: json!(samples),
    };
    watched.shutdown()?.expect_none()?;
    unwatched.shutdown()?.expect_none()?;
    Ok(run)
}
