//! Random stories against the invariants of DESIGN.md §9, checked after every event.
//!
//! The stories are the same in each run, so that one that breaks is the change's doing; `MAGI_ENGINE_CASES` says how many
//! are to be told, and those are drawn anew. A broken invariant is shrunk, and its trace is written as the
//! JSON lines that `magi-node replay` reads.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRunner};

use super::build;
use super::check::Broken;
use super::world::{Asker, Outcome, Step, World};
use crate::action::Action;
use crate::evidence::TieMethod;
use crate::trace::{Line, replay};

const CASES: u32 = 450;
const STEPS: std::ops::Range<usize> = 400..1_800;
/// Shorter stories that are tried when one breaks an invariant.
const SHRINKS: u32 = 4_000;
/// So many random events must be told in all.
const EVENTS: u64 = 200_000;

#[derive(Clone, Debug)]
struct Story {
    policy: u8,
    cannot_destroy: bool,
    all_up: bool,
    steps: Vec<Step>,
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        4 => Just(Outcome::Works),
        4 => Just(Outcome::DoneInVain),
        2 => Just(Outcome::AlreadyGone),
        1 => Just(Outcome::NotAsExpected),
        1 => Just(Outcome::Unsupported),
        1 => Just(Outcome::Failed),
        1 => Just(Outcome::IntentNotWritten),
    ]
}

fn heard() -> impl Strategy<Value = Option<TieMethod>> {
    prop_oneof![
        3 => Just(None),
        5 => Just(Some(TieMethod::Goroutine)),
        1 => Just(Some(TieMethod::Thread)),
    ]
}

fn asker() -> impl Strategy<Value = Asker> {
    prop_oneof![
        10 => (0..4_u8).prop_map(Asker::Pod),
        1 => Just(Asker::Nobody),
        2 => Just(Asker::Unseen),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let small = 0..8_u8;
    prop_oneof![
        12 => (0..10_u8).prop_map(Step::Pass),
        10 => prop_oneof![Just(0), any::<u16>()].prop_map(Step::TickAtWake),
        2 => Just(Step::TickNow),
        6 => (any::<u8>(), prop::bool::weighted(0.2), asker())
            .prop_map(|(image, namespace, asker)| Step::Begin { image, namespace, asker }),
        8 => (1..4_u8).prop_map(Step::Requests),
        8 => (1..6_u8).prop_map(Step::Gateway),
        1 => (any::<u8>(), asker()).prop_map(|(image, asker)| Step::Admit { image, asker }),
        1 => Just(Step::LoseRequests),
        1 => (0..4_u8).prop_map(Step::Pod),
        1 => (0..4_u8, any::<u8>()).prop_map(|(pod, image)| Step::PodLost { pod, image }),
        4 => any::<u8>().prop_map(Step::Verify),
        1 => any::<u8>().prop_map(Step::Resolve),
        1 => Just(Step::AskPods),
        24 => (small.clone(), 0..2_u8, any::<u16>(), heard())
            .prop_map(|(pull, layer, kib, heard)| Step::Advance { pull, layer, kib, heard }),
        2 => (small.clone(), 0..2_u8).prop_map(|(pull, layer)| Step::Share { pull, layer }),
        3 => (small.clone(), 0..2_u8).prop_map(|(pull, layer)| Step::Commit { pull, layer }),
        3 => (small.clone(), any::<bool>()).prop_map(|(pull, leave)| Step::EndPull { pull, leave }),
        2 => small.clone().prop_map(Step::CloseSocket),
        2 => Just(Step::Drip),
        1 => Just(Step::Collect),
        3 => Just(Step::StartLook),
        22 => Just(Step::EndLook),
        2 => Just(Step::StartListing),
        7 => Just(Step::EndListing),
        12 => small.clone().prop_map(Step::Document),
        24 => (1..6_u8).prop_map(Step::Records),
        14 => (small.clone(), outcome()).prop_map(|(which, outcome)| Step::LeverBack { which, outcome }),
        3 => (0..7_u8, prop::bool::weighted(0.7)).prop_map(|(which, up)| Step::Source { which, up }),
        1 => Just(Step::RestartContainerd),
        1 => Just(Step::Flap),
        1 => Just(Step::TiesLost),
        1 => any::<u8>().prop_map(Step::Policy),
        1 => (0..=100_u8).prop_map(Step::Disk),
        1 => (any::<bool>(), prop::bool::weighted(0.12))
            .prop_map(|(by_master, engaged)| Step::Switch { by_master, engaged }),
        2 => small.prop_map(Step::AskAbort),
        1 => Just(Step::AskPanic),
        2 => Just(Step::AskPulls),
    ]
}

/// A few fair stretches, long enough to be held against the liveness rules, between many steps.
fn story() -> impl Strategy<Value = Story> {
    let stretch = (1..160_u8, outcome()).prop_map(|(tenths, levers)| Step::Behave { tenths, levers });
    let part = (prop::collection::vec(step(), STEPS), stretch);
    let steps = prop::collection::vec(part, 1..3).prop_map(|parts| {
        parts
            .into_iter()
            .flat_map(|(steps, stretch)| steps.into_iter().chain([stretch]))
            .collect()
    });
    (
        any::<u8>(),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.8),
        steps,
    )
        .prop_map(|(policy, cannot_destroy, all_up, steps)| Story {
            policy,
            cannot_destroy,
            all_up,
            steps,
        })
}

/// Tells a story; the number of random events, or what broke.
fn tell(story: &Story, world: &mut World) -> Result<u64, Broken> {
    world.cannot_destroy = story.cannot_destroy;
    world.load(usize::from(story.policy))?;
    if story.all_up {
        world.all_up()?;
    }
    let mut random = 0;
    for step in &story.steps {
        let before = world.trace.len();
        world.step(step)?;
        if !matches!(step, Step::Behave { .. }) {
            random += u64::try_from(world.trace.len() - before).unwrap();
        }
    }
    world.wind_down()?;
    Ok(random)
}

/// What the stories were about: without it, a rule might hold because nothing ever came near it.
#[derive(Default)]
struct Seen {
    stories: u64,
    random: u64,
    events: u64,
    effects: BTreeMap<String, u64>,
}

/// Effects that the stories must have led to.
const EFFECTS: [&str; 39] = [
    "admitted",
    "turned-away",
    "cancel-calls",
    "refused",
    "pods",
    "record refused",
    "denied-by-rule",
    "denied-recently",
    "namespace-budget",
    "by rule team",
    "by rule small",
    "by rule bytes",
    "by rule pulls",
    "delete-lease",
    "ended",
    "closed",
    "failed",
    "no-such-pull",
    "pulls",
    "still-running",
    "abort-ingest",
    "destroy-all-sockets",
    "destroy-socket",
    "destroy-socket by byte-count",
    "destroy-socket by goroutine",
    "destroy-socket by thread",
    "disconnect-socket",
    "remove-snapshot",
    "image-too-large",
    "layer-too-large",
    "layer-overruns-manifest",
    "operator",
    "record clean",
    "record ended",
    "record not-clean",
    "record not-stopped",
    "record outcome",
    "record taken-over",
    "record would-abort",
];

impl Seen {
    fn add(&mut self, random: u64, trace: &[Line]) {
        self.stories += 1;
        self.random += random;
        self.events += u64::try_from(trace.len()).unwrap();
        for effect in trace.iter().flat_map(|line| line.effects.iter().flatten()) {
            for label in labels(effect) {
                *self.effects.entry(label).or_default() += 1;
            }
        }
    }

    fn ensure_enough(&self) {
        assert!(self.random >= EVENTS, "only {} random events", self.random);
        let missing: Vec<&str> = EFFECTS
            .into_iter()
            .filter(|label| !self.effects.contains_key(*label))
            .collect();
        assert!(missing.is_empty(), "the stories never led to {missing:?}");
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            stories,
            random,
            events,
            effects,
        } = self;
        write!(
            f,
            "{stories} stories, {random} random events, {events} events in all; {effects:?}"
        )
    }
}

fn labels(effect: &Action) -> Vec<String> {
    let word = |value: &serde_json::Value, key: &str| value[key].as_str().map(ToOwned::to_owned);
    let json = serde_json::to_value(effect).unwrap();
    match effect {
        Action::Answer { .. } => word(&json["answer"], "answer").into_iter().collect(),
        Action::Record { .. } => word(&json["record"], "kind")
            .map(|kind| format!("record {kind}"))
            .into_iter()
            .collect(),
        Action::PullLever { lever, .. } => {
            let evidence = json["intent"]["evidence"].as_array().into_iter().flatten();
            let methods = evidence.filter_map(|piece| word(piece, "method"));
            let by = methods.map(|method| format!("{} by {method}", lever.code()));
            let rule = word(&json["intent"], "rule").map(|rule| format!("by rule {rule}"));
            by.chain([lever.code().to_owned()])
                .chain(word(&json["intent"], "reason"))
                .chain(rule)
                .collect()
        }
        Action::Keep { .. } => vec!["keep".to_owned()],
        Action::Release { .. } => vec!["release".to_owned()],
        Action::Collect { .. } => vec!["collect".to_owned()],
        Action::Look { .. } | Action::ListSockets | Action::WakeAt { .. } => Vec::new(),
    }
}

/// The trace as JSON lines; and the same trace has the same effects, through JSON and back.
fn written(trace: &[Line]) -> Vec<u8> {
    let mut json = Vec::new();
    for line in trace {
        line.write_to(&mut json).unwrap();
    }
    json
}

fn replays(trace: &[Line]) -> Result<(), String> {
    let json = written(trace);
    let mut lines = 0;
    for replayed in replay(&json[..]) {
        let replayed = replayed.map_err(|error| format!("{error:?}"))?;
        let original = &trace[lines];
        if replayed.event != original.event || replayed.at != original.at {
            return Err(format!(
                "line {}: {:?} became {:?}",
                replayed.line, original.event, replayed.event
            ));
        }
        if let Some(difference) = replayed.difference {
            return Err(format!(
                "line {} has other effects: {difference:?}",
                replayed.line
            ));
        }
        lines += 1;
    }
    if lines == trace.len() {
        Ok(())
    } else {
        Err("lines are missing".to_owned())
    }
}

#[test]
fn no_story_breaks_an_invariant() {
    let cases = build::asked_for("MAGI_ENGINE_CASES");
    let config = Config {
        max_shrink_iters: 0,
        ..build::stories(cases, CASES)
    };
    let seen = RefCell::new(Seen::default());
    let mut runner = TestRunner::new(config);
    let result = runner.run(&story(), |story| {
        let mut world = World::new();
        let random = tell(&story, &mut world).map_err(|broken| TestCaseError::fail(broken.to_string()))?;
        replays(&world.trace).map_err(TestCaseError::fail)?;
        seen.borrow_mut().add(random, &world.trace);
        Ok(())
    });
    let seen = seen.into_inner();
    // Not `println`, which is shown only if the test fails.
    writeln!(std::io::stdout(), "{seen}").unwrap();
    match result {
        Ok(()) if cases.is_some() => {}
        Ok(()) => seen.ensure_enough(),
        Err(TestError::Fail(why, story)) => {
            let story = shrink(story);
            let mut world = World::new();
            let broken = tell(&story, &mut world);
            let json = written(&world.trace);
            let path = keep(&json);
            println!("{story:?}");
            println!("{}", String::from_utf8_lossy(&json));
            panic!("{why}\nagain: {broken:?}\ntrace: {}", path.display());
        }
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
}

/// Leaves out steps, first many and then few at once, as long as something still breaks.
fn shrink(mut story: Story) -> Story {
    let breaks = |story: &Story| {
        let mut world = World::new();
        tell(story, &mut world).is_err() || replays(&world.trace).is_err()
    };
    let mut tries = 0;
    let mut size = story.steps.len().div_ceil(2);
    while size > 0 && tries < SHRINKS {
        let (mut at, before) = (0, story.steps.len());
        while at < story.steps.len() && tries < SHRINKS {
            let mut shorter = story.clone();
            shorter.steps.drain(at..(at + size).min(story.steps.len()));
            tries += 1;
            if breaks(&shorter) {
                story = shorter;
            } else {
                at += size;
            }
        }
        if story.steps.len() == before || size > 1 {
            size /= 2;
        }
    }
    story
}

/// Writes the trace where the next person finds it.
fn keep(json: &[u8]) -> PathBuf {
    let folder = option_env!("CARGO_TARGET_TMPDIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let path = folder.join(format!("magi-engine-{}.jsonl", std::process::id()));
    std::fs::File::create(&path)
        .and_then(|mut file| file.write_all(json))
        .unwrap();
    path
}
