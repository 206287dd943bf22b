//! Experiment m of the original, scaled to one machine: how long legit images take without an attack, with it, and with it
//! and magi, over a link that they share.

mod page;
mod phase;
mod plan;
mod plot;

use anyhow::{Context, Result};
use magi_integration::containerd::Line;
use magi_integration::master::Way;
use magi_integration::orphans::Stage;
use magi_integration::{Containerd, Link, Registry};
use serde_json::{Value, json};

use crate::figure::{Figure, Goal, Run, Series, Setting};
use crate::machine;
use crate::options::Options;
use crate::stats::{median, summary};
use phase::{Place, Unwanted, Wanted};
use plan::{MEGABITS, Phase, Plan, Queue};

/// With magi, a legit image may take so many times as long as without an attack, and as with one whose every pull is
/// cancelled at once.
const MOST_TIMES: f64 = 1.05;

/// What was found on one line of containerd.
#[derive(Debug)]
struct Found {
    line: Line,
    version: String,
    wanted: Vec<Wanted>,
    unwanted: Vec<Unwanted>,
}

/// What an image took, in seconds: nothing, if it was not pulled within the phase.
#[derive(Debug, Clone, Copy)]
struct Row<'f> {
    image: &'f Wanted,
    taken: [Option<f64>; Phase::ALL.len()],
}

impl Row<'_> {
    fn of(&self, phase: Phase) -> Option<f64> {
        let place = Phase::ALL.iter().position(|one| *one == phase)?;
        self.taken.get(place).copied().flatten()
    }

    /// How many times as long as in another phase.
    fn times(&self, phase: Phase, other: Phase) -> Option<f64> {
        Some(self.of(phase)? / self.of(other)?)
    }
}

impl Found {
    fn rows(&self, queue: Queue) -> Vec<Row<'_>> {
        let of = |phase| {
            self.wanted
                .iter()
                .filter(move |one| one.queue == queue && one.phase == phase)
        };
        of(Phase::Baseline)
            .map(|image| Row {
                image,
                taken: Phase::ALL.map(|phase| of(phase).find(|one| one.image == image.image)?.pulled),
            })
            .collect()
    }
}

/// Measures on both lines, and draws what it found.
pub(crate) fn measure(options: &Options, setting: &Setting) -> Result<Figure> {
    eprintln!("experiment-m: making the images");
    let plan = Plan::make(options)?;
    let load_before = machine::load();
    let mut found = Vec::new();
    for line in Line::ALL {
        let link = Link::limited(MEGABITS)?;
        let registry = Registry::start_on(link.listener()?)?;
        // containerd, magi-node and magi-master live in one network, as on a node that is its own control plane.
        let on_line = link.on_node(|| {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .context("start a runtime")?
                .block_on(on(line, registry, &plan))
        });
        let on_line = on_line.with_context(|| format!("on {line}"))?;
        eprintln!("{}", link.state()?.trim_end());
        found.push(on_line);
    }
    let figure = Figure {
        name: "experiment-m",
        what: "from a legit pod's creation to the return of its PullImage, over a link that an attack shares",
        load_before,
        load_after: machine::load(),
        runs: found.iter().map(|found| run_of(found, &plan)).collect(),
    };
    page::write(&found, &plan, &figure, options, setting)?;
    Ok(figure)
}

async fn on(line: Line, registry: Registry, plan: &Plan) -> Result<Found> {
    let node = Containerd::start(line).await?;
    node.trust(&registry)?;
    let nothing_yet = || Found {
        line,
        version: node.version().to_owned(),
        wanted: Vec::new(),
        unwanted: Vec::new(),
    };
    let (mut found, mut warming_up) = (nothing_yet(), nothing_yet());
    eprintln!("experiment-m, containerd {}: warming up", found.version);
    // It is not counted: the first to pull pays for cold caches.
    let mut place = (registry, node);
    place = one_phase(place, plan, Queue::Serial, Phase::Baseline, &mut warming_up).await?;
    for queue in Queue::ALL {
        for phase in Phase::ALL {
            place = one_phase(place, plan, queue, phase, &mut found)
                .await
                .with_context(|| format!("{}, {}", queue.title(), phase.title()))?;
        }
    }
    let (_registry, node) = place;
    node.shutdown()?.expect_none()?;
    Ok(found)
}

async fn one_phase(
    (registry, node): (Registry, Containerd),
    plan: &Plan,
    queue: Queue,
    phase: Phase,
    found: &mut Found,
) -> Result<(Registry, Containerd)> {
    let (mut wanted, mut unwanted, place);
    if phase == Phase::Magi {
        let stage = Stage::set_over(registry, node, Way::AuditLog).await?;
        let here = Place {
            registry: stage.registry(),
            node: stage.node(),
            stage: Some(&stage),
        };
        (wanted, unwanted) = phase::run(here, plan, queue, phase).await?;
        place = stage.leave()?;
    } else {
        let here = Place {
            registry: &registry,
            node: &node,
            stage: None,
        };
        (wanted, unwanted) = phase::run(here, plan, queue, phase).await?;
        place = (registry, node);
    }
    eprintln!(
        "experiment-m, containerd {}, {}, {}: {} of {} legit images, median {:.2} s; {} attacks, {} MB for the living, {} MB for the dead",
        found.version,
        queue.title(),
        phase.title(),
        wanted.iter().filter(|one| one.pulled.is_some()).count(),
        wanted.len(),
        median(wanted.iter().filter_map(|one| one.pulled)),
        unwanted.len(),
        unwanted.iter().map(|one| one.sent_alive).sum::<u64>() / 1_000_000,
        unwanted.iter().map(|one| one.sent_dead).sum::<u64>() / 1_000_000,
    );
    found.wanted.append(&mut wanted);
    found.unwanted.append(&mut unwanted);
    Ok(place)
}

/// The words for a queue's series and goals.
struct Words {
    goal: &'static str,
    share: &'static str,
    failed: &'static str,
    series: [&'static str; Phase::ALL.len()],
}

fn words(queue: Queue) -> Words {
    match queue {
        Queue::Serial => Words {
            goal: "one at a time: median of (attack + magi) / baseline",
            share: "one at a time: median of (attack + magi) / (attack, cancelled by hand)",
            failed: "one at a time: legit images not pulled with magi",
            series: [
                "one at a time: baseline",
                "  attack",
                "  attack + magi",
                "  attack, cancelled by hand",
            ],
        },
        Queue::Parallel => Words {
            goal: "all at once: median of (attack + magi) / baseline",
            share: "all at once: median of (attack + magi) / (attack, cancelled by hand)",
            failed: "all at once: legit images not pulled with magi",
            series: [
                "all at once: baseline",
                "  attack",
                "  attack + magi",
                "  attack, cancelled by hand",
            ],
        },
    }
}

fn run_of(found: &Found, plan: &Plan) -> Run {
    let (mut series, mut goals) = (Vec::new(), Vec::new());
    let mut notes = serde_json::Map::new();
    for queue in Queue::ALL {
        let rows = found.rows(queue);
        let words = words(queue);
        for (phase, what) in Phase::ALL.into_iter().zip(words.series) {
            let taken = rows.iter().filter_map(|row| row.of(phase));
            series.push(Series {
                what,
                unit: "s",
                summary: summary(taken),
            });
        }
        let times = |other| median(rows.iter().filter_map(|row| row.times(Phase::Magi, other)));
        let failed = rows.iter().filter(|row| row.of(Phase::Magi).is_none()).count();
        goals.push(Goal::at_most(words.goal, MOST_TIMES, times(Phase::Baseline)));
        goals.push(Goal::at_most(words.share, MOST_TIMES, times(Phase::Hand)));
        goals.push(Goal::at_most(words.failed, 0.0, failed as f64));
        notes.insert(format!("{queue:?}").to_lowercase(), noted(&rows, found, queue));
    }
    notes.insert("link_megabits_per_second".to_owned(), json!(MEGABITS));
    notes.insert("phase_limit_seconds".to_owned(), json!(plan.limit.as_secs_f64()));
    notes.insert(
        "attack_pod_lives_seconds".to_owned(),
        json!(plan.alive.as_secs_f64()),
    );
    notes.insert(
        "attack_every_seconds".to_owned(),
        json!(plan.attack_every.as_secs_f64()),
    );
    Run {
        line: Some(found.line.to_string()),
        containerd: Some(found.version.clone()),
        series,
        goals,
        notes: Value::Object(notes),
        samples: json!({ "legit": found.wanted, "attack": found.unwanted }),
    }
}

/// The other ways of comparing, which show what the median hides.
fn noted(rows: &[Row<'_>], found: &Found, queue: Queue) -> Value {
    let noted = Phase::ALL.into_iter().map(|phase| {
        let attacks = || attacks(found, queue, phase);
        // From the deletion, or from the call if that comes later: nobody can stop what has not begun.
        let outlived = attacks().filter_map(|one| Some(one.ended? - one.deleted.max(one.called?)));
        let (alive, dead) = attack_bytes(found, queue, phase);
        let value = json!({
            "not_pulled": rows.iter().filter(|row| row.of(phase).is_none()).count(),
            "sum_over_baseline": sum_times(rows, phase),
            "median_over_baseline": median_times(rows, phase),
            "worst_over_baseline": worst_times(rows, phase),
            "attacks": attacks().count(),
            "attack_bytes_alive": alive,
            "attack_bytes_dead": dead,
            "attacks_outlived_their_pods_by_seconds": summary(outlived),
        });
        (phase.title().to_owned(), value)
    });
    Value::Object(noted.collect())
}

fn attacks(found: &Found, queue: Queue, phase: Phase) -> impl Iterator<Item = &Unwanted> {
    found
        .unwanted
        .iter()
        .filter(move |one| one.queue == queue && one.phase == phase)
}

/// Bytes of layers that attacks were sent while their pods lived, and after.
fn attack_bytes(found: &Found, queue: Queue, phase: Phase) -> (u64, u64) {
    attacks(found, queue, phase).fold((0, 0), |(alive, dead), one| {
        (alive + one.sent_alive, dead + one.sent_dead)
    })
}

fn median_times(rows: &[Row<'_>], phase: Phase) -> f64 {
    median(rows.iter().filter_map(|row| row.times(phase, Phase::Baseline)))
}

fn worst_times(rows: &[Row<'_>], phase: Phase) -> f64 {
    summary(rows.iter().filter_map(|row| row.times(phase, Phase::Baseline))).max
}

/// The sum over all images, in baselines; nothing if one of them was not pulled.
fn sum_times(rows: &[Row<'_>], phase: Phase) -> Option<f64> {
    let sum = |phase| rows.iter().map(|row| row.of(phase)).sum::<Option<f64>>();
    Some(sum(phase)? / sum(Phase::Baseline)?)
}
