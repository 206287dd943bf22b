//! What watching costs a good pull: a whole image, with magi and without, in turns.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use magi_integration::api::Counts;
use magi_integration::containerd::Line;
use magi_integration::image::{Compression, Image, ImageBuilder, Layer};
use magi_integration::magi::{self, Magi};
use magi_integration::registry;
use magi_integration::{Containerd, Registry};
use serde::Serialize;
use serde_json::json;

use crate::figure::{Figure, Goal, Run, Series};
use crate::machine;
use crate::options::Options;
use crate::process_cost::Meter;
use crate::stats::{Summary, median, summary};

const LAYERS: u64 = 4;
const LEAST_RATIO: f64 = 0.97;
/// The image is good by this policy: magi watches and has no reason to act.
const POLICY: &str = "version: 1\nmode: enforce\nlimits: { image: 8GiB }\n";
/// It is bad by this one, but nothing is done about it: the record shows that magi sees such pulls.
const PROVING: &str = "version: 1\nmode: observe\nlimits: { image: 1MiB }\n";
const PULLED_WITHIN: Duration = Duration::from_secs(300);
const CLEAN_WITHIN: Duration = Duration::from_secs(120);

/// One pull from beginning to end.
#[derive(Debug, Clone, Serialize)]
struct Sample {
    round: usize,
    magi: bool,
    /// From the call of PullImage to its return: download, verification, unpacking.
    seconds: f64,
    mib_per_second: f64,
    /// From the first byte of a layer to the last.
    download_seconds: f64,
    /// Processor time, in seconds: containerd's, magi-node's, our own (registry and client), and everybody else's,
    /// the kernel's own threads included.
    containerd_cpu: f64,
    magi_cpu: f64,
    bench_cpu: f64,
    others_cpu: f64,
    load: f64,
}

/// Measures on both lines.
pub(crate) async fn measure(options: &Options) -> Result<Figure> {
    let load_before = machine::load();
    eprintln!(
        "throughput: making an image of {} MiB",
        (LAYERS * options.layer_bytes()) >> 20
    );
    let image = image(options.layer_bytes())?;
    let mut runs = Vec::new();
    for line in Line::ALL {
        runs.push(
            on(line, &image, options)
                .await
                .with_context(|| format!("on {line}"))?,
        );
    }
    Ok(Figure {
        name: "throughput",
        what: "PullImage of a good image, from the call to its return, with magi and without",
        load_before,
        load_after: machine::load(),
        runs,
    })
}

/// Plain tars of incompressible files: nothing but magi, network, hashing and disk takes part.
fn image(layer_bytes: u64) -> Result<Image> {
    let layers = (0..LAYERS)
        .map(|layer| Layer::random(layer + 1, layer_bytes, Compression::None))
        .collect::<Result<Vec<_>>>()?;
    ImageBuilder::oci().layers(layers).build()
}

async fn on(line: Line, image: &Image, options: &Options) -> Result<Run> {
    // The kernel's own send buffer: here bytes count, not how exactly they can be counted.
    let registry = Registry::start_with(registry::Options::default())?;
    registry.put("good", "1", image);
    let node = Containerd::start(line).await?;
    node.trust(&registry)?;

    let magi = Magi::start(&node, &magi::Options::policy(PROVING)).await?;
    let warm_up = pull(&node, &registry, image, 0, Some(&magi)).await?;
    eprintln!(
        "throughput, containerd {}, warm-up: {:.2} s",
        node.version(),
        warm_up.seconds
    );
    ensure!(
        !magi.audit_of("would-abort")?.is_empty(),
        "magi did not see the pull\n{}",
        magi.log_tail(30)
    );
    magi.stop()?;

    let rounds = options.throughput_rounds();
    let mut samples = Vec::new();
    for round in 1..=rounds {
        // Whichever comes first in one round is second in the next.
        for watched in [round % 2 == 0, round % 2 != 0] {
            let sample = if watched {
                let magi = Magi::start(&node, &magi::Options::policy(POLICY)).await?;
                let sample = pull(&node, &registry, image, round, Some(&magi)).await?;
                ensure!(magi.audit_of("intent")?.is_empty(), "magi acted on a good pull");
                magi.stop()?;
                sample
            } else {
                pull(&node, &registry, image, round, None).await?
            };
            eprintln!(
                "throughput, containerd {}, round {round} of {rounds}, {}: {:.2} s, {:.0} MiB/s, CPU containerd {:.2} s, \
                 magi {:.3} s, others {:.2} s",
                node.version(),
                if watched { "with magi" } else { "without" },
                sample.seconds,
                sample.mib_per_second,
                sample.containerd_cpu,
                sample.magi_cpu,
                sample.others_cpu,
            );
            samples.push(sample);
        }
    }
    let run = run_of(&node, &samples);
    node.shutdown()?.expect_none()?;
    Ok(run)
}

fn run_of(node: &Containerd, samples: &[Sample]) -> Run {
    let of = |magi: bool, what: fn(&Sample) -> f64| -> Summary {
        summary(samples.iter().filter(|sample| sample.magi == magi).map(what))
    };
    let speed = |magi| of(magi, |sample| sample.mib_per_second);
    let ratio = |what: fn(&Sample) -> f64| of(true, what).median / of(false, what).median;
    let pairs = samples.chunks(2).filter_map(|pair| {
        let of = |magi| pair.iter().find(|sample| sample.magi == magi);
        Some(of(true)?.mib_per_second / of(false)?.mib_per_second)
    });
    let series = |what, unit, summary| Series { what, unit, summary };
    Run {
        line: Some(node.line().to_string()),
        containerd: Some(node.version().to_owned()),
        series: vec![
            series("with magi", "MiB/s", speed(true)),
            series("without", "MiB/s", speed(false)),
            series(
                "with magi: containerd's CPU",
                "s",
                of(true, |sample| sample.containerd_cpu),
            ),
            series(
                "without: containerd's CPU",
                "s",
                of(false, |sample| sample.containerd_cpu),
            ),
            series("with magi: magi's CPU", "s", of(true, |sample| sample.magi_cpu)),
        ],
        goals: vec![Goal::at_least(
            "median with magi / median without",
            LEAST_RATIO,
            ratio(|sample| sample.mib_per_second),
        )],
        notes: json!({
            "median_of_ratios_of_neighbours": median(pairs),
            "ratio_of_download_time": ratio(|sample| sample.download_seconds),
            "ratio_of_containerd_cpu": ratio(|sample| sample.containerd_cpu),
            "ratio_of_cpu_of_both": ratio(|sample| sample.containerd_cpu + sample.magi_cpu),
        }),
        samples: json!(samples),
    }
}

async fn pull(
    node: &Containerd,
    registry: &Registry,
    image: &Image,
    round: usize,
    magi: Option<&Magi>,
) -> Result<Sample> {
    // What the pull before left to be written must not be written during this one.
    let dir = std::fs::File::open(node.dir()).context("open containerd's folder")?;
    rustix::fs::syncfs(&dir).context("flush the file system")?;
    let [load, ..] = machine::load();
    let reference = registry.reference("good", "1");
    let cri = node.cri();
    let mut containerd = Meter::start(node.pid())?;
    let mut agent = magi.map(|magi| Meter::start(magi.process().pid())).transpose()?;
    let mut bench = Meter::start(std::process::id())?;
    let busy = machine::busy_seconds();
    let pulled = tokio::time::timeout(PULLED_WITHIN, cri.pull(&reference))
        .await
        .context("the pull takes for ever")?;
    let all_cpu = machine::busy_seconds() - busy;
    let containerd_cpu = containerd.used()?.cpu.as_secs_f64();
    let magi_cpu = agent.as_mut().map_or(Ok(0.0), |meter| {
        Ok::<_, anyhow::Error>(meter.used()?.cpu.as_secs_f64())
    })?;
    let bench_cpu = bench.used()?.cpu.as_secs_f64();
    ensure!(
        pulled.outcome.as_deref() == Ok(image.id()),
        "the good pull: {pulled:?}\n{}",
        node.log_tail(20)
    );
    let requests = registry.log().layers("good");
    let first = requests
        .iter()
        .filter_map(|request| request.first_body_byte)
        .min();
    let last = requests
        .iter()
        .filter_map(|request| request.ended)
        .map(|(at, _)| at)
        .max();
    let download = first.zip(last).map(|(first, last)| last.duration_since(first));
    let bytes: u64 = image.layers.iter().map(|layer| layer.declared).sum();
    ensure!(
        requests.iter().map(|request| request.body_sent).sum::<u64>() == bytes,
        "not every layer was pulled once:\n{}",
        registry.log().table()
    );
    cri.remove(&reference).await?;
    node.expect_nothing_left(&Counts::default(), CLEAN_WITHIN).await?;
    registry.log().clear();
    let seconds = pulled.elapsed().as_secs_f64();
    Ok(Sample {
        round,
        magi: magi.is_some(),
        seconds,
        mib_per_second: bytes as f64 / f64::from(1 << 20) / seconds,
        download_seconds: download.unwrap_or_default().as_secs_f64(),
        containerd_cpu,
        magi_cpu,
        bench_cpu,
        others_cpu: all_cpu - containerd_cpu - magi_cpu - bench_cpu,
        load,
    })
}
