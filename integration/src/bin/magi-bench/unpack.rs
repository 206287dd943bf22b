//! What a compressed layer takes from the call to its unpacked snapshot: decompressed by magi-unpack, by containerd's own
//! decoder, and by pigz, in turns; and with everything of magi around it.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use magi_integration::api::Counts;
use magi_integration::containerd::{self, Line};
use magi_integration::gateway::{Gateway, Place};
use magi_integration::image::{Image, ImageBuilder, shapes};
use magi_integration::magi::{self, Magi};
use magi_integration::{Containerd, Cri, Registry, parts, registry, unpack, verifier};
use serde::Serialize;
use serde_json::json;

use crate::figure::{Figure, Goal, Run, Series};
use crate::machine;
use crate::options::Options;
use crate::stats::{median, summary};

const PULLED_WITHIN: Duration = Duration::from_secs(300);
const CLEAN_WITHIN: Duration = Duration::from_secs(120);
/// Bounds that the layer keeps: what follows the archive is part of the work.
const BOUNDS: &str = "unpacked = 20GiB\nratio = 1000\n";
const MAGI: &str = "magi-unpack";
const OWN: &str = "containerd's own";
const PIGZ: &str = "unpigz";
const ALL: &str = "everything of magi";
/// The image is good by this policy.
const POLICY: &str =
    "version: 1\nmode: enforce\nlimits: { image: 8GiB }\nheadroom: { free: 5 }\nstarving: { rate: 1MiB }\n";
const VERIFY_WITHIN: Duration = Duration::from_secs(1);
/// Of the speed without magi.
const LEAST_RATIO: f64 = 0.99;

/// One pull from beginning to end.
#[derive(Debug, Clone, Serialize)]
struct Sample {
    round: usize,
    by: &'static str,
    /// From the call of PullImage to its return.
    seconds: f64,
    /// Processor time of containerd and of the children that it waited for, in seconds.
    cpu: f64,
    load: f64,
}

/// A containerd, and what of magi is around it.
struct Way {
    by: &'static str,
    node: Containerd,
    all: Option<(Magi, Place, Gateway)>,
}

impl Way {
    fn cri(&self) -> Cri {
        match &self.all {
            Some((_, place, _)) => place.cri(),
            None => self.node.cri(),
        }
    }
}

/// magi-node, the gateway, and the image verifier where containerd has one.
async fn everything(node: &Containerd, line: Line) -> Result<(Magi, Place, Gateway)> {
    let magi = Magi::start(node, &magi::Options::policy(POLICY)).await?;
    if line == Line::V2 {
        verifier::install(node, &magi.socket(), VERIFY_WITHIN)?;
    }
    let place = Place::new()?;
    let gateway = place.start(node, &magi.socket()).await?;
    Ok((magi, place, gateway))
}

/// Measures on both lines.
pub(crate) async fn measure(options: &Options) -> Result<Figure> {
    let wanted = options.unpacked_bytes();
    eprintln!(
        "unpack: making a layer of {} MiB of this machine's files",
        wanted >> 20
    );
    let (layer, unpacked) = shapes::of_this_machine(wanted)?;
    let compressed = layer.declared;
    eprintln!("unpack: {unpacked} bytes, {compressed} compressed");
    let image = ImageBuilder::oci().layer(layer).build()?;
    Figure::on_each_line(
        "unpack",
        "PullImage of a gzip layer, from the call to its return, by what decompresses it",
        async |line| {
            let mut run = on(line, &image, options).await?;
            run.notes = json!({ "unpacked_bytes": unpacked, "compressed_bytes": compressed });
            Ok(run)
        },
    )
    .await
}

async fn on(line: Line, image: &Image, options: &Options) -> Result<Run> {
    let registry = Registry::start_with(registry::Options::default())?;
    let reference = registry.put("mixed", "1", image);
    let folder = tempfile::tempdir().context("a folder for the bounds")?;
    let bounds = folder.path().join("unpack.conf");
    fs::write(&bounds, BOUNDS).context("write the bounds")?;
    let with_unpack = containerd::Options {
        extra_toml: unpack::toml(&magi::binary("magi-unpack")?, Some(&bounds)),
        ..containerd::Options::default()
    };
    let mut ways = vec![
        (MAGI, with_unpack.clone()),
        (ALL, with_unpack),
        (OWN, containerd::Options::default()),
    ];
    match parts::obtain()?.pigz {
        Some(pigz) => ways.push((
            PIGZ,
            containerd::Options {
                tools: vec![("unpigz".to_owned(), pigz)],
                ..containerd::Options::default()
            },
        )),
        None => eprintln!("NOT COMPARED with unpigz: there is no pigz"),
    }
    let mut nodes = Vec::new();
    for (by, options) in ways {
        let node = Containerd::start_with(line, &options).await?;
        node.trust(&registry)?;
        let all = match by {
            ALL => Some(everything(&node, line).await?),
            _ => None,
        };
        nodes.push(Way { by, node, all });
    }
    let rounds = options.unpack_rounds();
    let mut samples = Vec::new();
    // Round 0 warms up.
    for round in 0..=rounds {
        let first = round % nodes.len();
        let (later, sooner) = nodes.split_at(first);
        for way in sooner.iter().chain(later) {
            let sample = pull(way, &reference, image, round).await?;
            eprintln!(
                "unpack, containerd {}, round {round} of {rounds}, {}: {:.2} s, CPU {:.2} s",
                way.node.version(),
                way.by,
                sample.seconds,
                sample.cpu
            );
            if round > 0 {
                samples.push(sample);
            }
        }
    }
    let version = nodes.first().map(|way| way.node.version().to_owned());
    let run = run_of(line, version, &samples);
    for way in nodes {
        if let Some((magi, _place, gateway)) = way.all {
            ensure!(magi.audit_of("intent")?.is_empty(), "magi acted on a good pull");
            drop(gateway);
            magi.stop()?;
        }
        way.node.shutdown()?.expect_none()?;
    }
    Ok(run)
}

fn run_of(line: Line, version: Option<String>, samples: &[Sample]) -> Run {
    let of = |by: &str, what: fn(&Sample) -> f64| -> Vec<f64> {
        samples
            .iter()
            .filter(|sample| sample.by == by)
            .map(what)
            .collect()
    };
    let seconds: fn(&Sample) -> f64 = |sample| sample.seconds;
    let cpu: fn(&Sample) -> f64 = |sample| sample.cpu;
    let ratio = |by: &str, what: fn(&Sample) -> f64| median(of(MAGI, what)) / median(of(by, what));
    let most = match line {
        Line::V1_7 => 0.95,
        Line::V2 => 0.75,
    };
    let mut goals = vec![
        Goal::at_most(
            "time with magi-unpack / with containerd's own",
            most,
            ratio(OWN, seconds),
        ),
        Goal::at_most(
            "CPU with magi-unpack / with containerd's own",
            1.0,
            ratio(OWN, cpu),
        ),
        Goal::at_least(
            "speed with everything of magi / without magi",
            LEAST_RATIO,
            median(of(OWN, seconds)) / median(of(ALL, seconds)),
        ),
    ];
    let mut series = vec![
        ("with magi-unpack", of(MAGI, seconds)),
        ("with containerd's own", of(OWN, seconds)),
        ("with everything of magi", of(ALL, seconds)),
        ("with magi-unpack: CPU", of(MAGI, cpu)),
        ("with containerd's own: CPU", of(OWN, cpu)),
    ];
    if !of(PIGZ, seconds).is_empty() {
        goals.push(Goal::at_most(
            "time with magi-unpack / with unpigz",
            1.0,
            ratio(PIGZ, seconds),
        ));
        goals.push(Goal::at_most(
            "CPU with magi-unpack / with unpigz",
            1.0,
            ratio(PIGZ, cpu),
        ));
        series.push(("with unpigz", of(PIGZ, seconds)));
        series.push(("with unpigz: CPU", of(PIGZ, cpu)));
    }
    let series = series.into_iter().map(|(what, values)| Series {
        what,
        unit: "s",
        summary: summary(values),
    });
    Run {
        line: Some(line.to_string()),
        containerd: version,
        series: series.collect(),
        goals,
        notes: json!({}),
        samples: json!(samples),
    }
}

async fn pull(way: &Way, reference: &str, image: &Image, round: usize) -> Result<Sample> {
    let (node, by) = (&way.node, way.by);
    // What the pull before left to be written must not be written during this one.
    let dir = fs::File::open(node.dir()).context("open containerd's folder")?;
    rustix::fs::syncfs(&dir).context("flush the file system")?;
    let [load, ..] = machine::load();
    let cri = way.cri();
    let before = cpu(node.pid())?;
    let pulled = tokio::time::timeout(PULLED_WITHIN, cri.pull(reference))
        .await
        .context("the pull takes for ever")?;
    let cpu = cpu(node.pid())? - before;
    ensure!(
        pulled.outcome.as_deref() == Ok(image.id()),
        "{by}: {pulled:?}\n{}",
        node.log_tail(20)
    );
    cri.remove(reference).await?;
    node.expect_nothing_left(&Counts::default(), CLEAN_WITHIN).await?;
    Ok(Sample {
        round,
        by,
        seconds: pulled.elapsed().as_secs_f64(),
        cpu,
        load,
    })
}

/// Processor time of a process and of the children that it waited for, in seconds (proc_pid_stat(5), fields 14 to 17).
fn cpu(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).context("read containerd's times")?;
    let (_, fields) = text.rsplit_once(')').context("a process without a name")?;
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(4)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Ok(ticks as f64 / machine::TICKS_PER_SECOND)
}
