//! What an NRI plugin that listens costs a pod: RunPodSandbox with magi registered and without, in blocks that take turns.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use magi_integration::containerd::{self, Line};
use magi_integration::cri::Pod;
use magi_integration::magi::{self, Magi};
use magi_integration::sandbox::{self, Sandboxes};
use magi_integration::{Containerd, Registry};
use serde_json::json;

use crate::figure::{Figure, Goal, Run, Series};
use crate::options::Options;
use crate::stats::{Summary, summary};

const MOST_RATIO: f64 = 1.05;
/// Sandboxes of one block: magi starts and registers once for each.
const BLOCK: usize = 10;

/// Measures on both lines.
pub(crate) async fn measure(options: &Options) -> Result<Figure> {
    let what =
        "RunPodSandbox, from the call to its return, with magi registered as an NRI plugin and without";
    Figure::on_each_line("sandbox", what, async |line| on(line, options).await).await
}

async fn on(line: Line, options: &Options) -> Result<Run> {
    let registry = Registry::start()?;
    let set_up = containerd::Options {
        nri: true,
        ..containerd::Options::default()
    };
    let node = Containerd::start_with(line, &set_up).await?;
    sandbox::prepare(&node, &registry)?;
    // The first one pulls the pause image.
    block(&node, "warm-up", 2).await?;
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for turn in 0..options.sandbox_blocks() {
        // Whichever comes first in one turn is second in the next.
        for registered in [turn % 2 == 0, turn % 2 != 0] {
            let name = format!("{turn}-{registered}");
            if registered {
                let options = magi::Options {
                    nri: Some(socket(&node)),
                    ..magi::Options::policy(magi::enforce("1GiB"))
                };
                let magi = Magi::start(&node, &options).await?;
                with.extend(block(&node, &name, BLOCK).await?);
                magi.stop()?;
            } else {
                without.extend(block(&node, &name, BLOCK).await?);
            }
        }
        eprintln!(
            "sandbox, containerd {}, turn {} of {}",
            node.version(),
            turn + 1,
            options.sandbox_blocks()
        );
    }
    let run = run_of(&node, &with, &without);
    node.shutdown()?.expect_none()?;
    Ok(run)
}

fn socket(node: &Containerd) -> PathBuf {
    node.dir().join("nri.sock")
}

/// Runs sandboxes one after the other, and removes them again; tells how long each took to run, in milliseconds.
async fn block(node: &Containerd, name: &str, count: usize) -> Result<Vec<f64>> {
    let sandboxes = Sandboxes::connect(&node.address());
    let mut took = Vec::new();
    for n in 0..count {
        let pod = Pod::new("bench", &format!("{name}-{n}"));
        let began = Instant::now();
        let id = sandboxes.run(&pod, &HashMap::new()).await?;
        took.push(began.elapsed().as_secs_f64() * 1000.0);
        sandboxes.remove(&id).await?;
    }
    Ok(took)
}

fn run_of(node: &Containerd, with: &[f64], without: &[f64]) -> Run {
    let of = |samples: &[f64]| -> Summary { summary(samples.iter().copied()) };
    let series = |what, summary| Series {
        what,
        unit: "ms",
        summary,
    };
    let (registered, alone) = (of(with), of(without));
    Run {
        line: Some(node.line().to_string()),
        containerd: Some(node.version().to_owned()),
        series: vec![series("with magi", registered), series("without", alone)],
        goals: vec![Goal::at_most(
            "median with magi / median without",
            MOST_RATIO,
            registered.median / alone.median,
        )],
        notes: json!({ "ratio_of_fastest": registered.min / alone.min }),
        samples: json!({ "with": with, "without": without }),
    }
}
