//! Random clients in a small model of containerd. Whoever the engine names as an owner must be it, and be among those
//! whom it holds possible: at every step where events are prompt and looks come when the engine asks for them; and in
//! the end, where events come late and in any order across sources.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::action::{Action, Effects};
use crate::engine::Engine;
use crate::event::{Event, LeaseView, Question, View};
use crate::evidence::Source;
use crate::ids::{CallId, ImageName, LeaseKey, RequestId};
use crate::owner::{Owner, RequestEnd};
use crate::tests::build::{self, digest, image, index, lease_key, lease_view, request};
use crate::time::Time;

const CASES: u32 = 1_500;
/// When the first client comes, in microseconds after the start.
const FROM: u64 = 3_000_000;
/// Shortest life of a pull where looks come when they are asked for.
const SHORTEST_PULL: u64 = 15_000;
/// Longest pause between two looks.
const LOOKS_AT_LEAST: u64 = 40_000;
/// In so long a time all of them come.
const WITHIN: u64 = 400_000;

/// References, the manifest that each leads to, and that one's repository. Two tags of one repository, one of them of
/// the same image as a third; the first by digest; another repository.
const IMAGES: [(&str, u64, &str); 6] = [
    ("reg.example:5000/team/app:1", 20, "reg.example/team/app"),
    ("reg.example:5000/team/app:2", 21, "reg.example/team/app"),
    ("reg.example:5000/team/app:3", 20, "reg.example/team/app"),
    ("", 20, "reg.example/team/app"),
    ("reg.example/other:1", 22, "reg.example/other"),
    ("other.example/team/app:1", 20, "other.example/team/app"),
];

fn reference(which: usize) -> String {
    match IMAGES[which % IMAGES.len()].0 {
        "" => format!("reg.example:5000/team/app@{}", digest(20)),
        text => text.to_owned(),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// By CRI, for a pod of its own.
    Pod,
    /// By CRI, for nobody.
    Nobody,
    /// Not by CRI.
    Unseen,
    /// By CRI, and containerd makes no lease for it: it asks for an image's status.
    Status,
}

#[derive(Clone, Debug)]
struct Client {
    at: u64,
    kind: Kind,
    image: usize,
    lease_after: u64,
    /// How far into its life its manifest is there.
    manifest_after: u64,
    life: u64,
    answer_after: u64,
    /// Its tag leads to another image than before.
    moved: bool,
}

/// A time in which requests go unseen.
#[derive(Clone, Copy, Debug)]
struct Loss {
    from: u64,
    until: u64,
    /// Connections are found broken so long after it.
    found_after: u64,
    breaks_others: bool,
}

#[derive(Clone, Debug)]
struct Story {
    clients: Vec<Client>,
    /// containerd asks the verifier, whoever pulls.
    verifies: bool,
    looks: Vec<u64>,
    losses: Vec<Loss>,
    /// How late events come.
    late_requests: Vec<u64>,
    late_looks: Vec<u64>,
    late_questions: Vec<u64>,
}

/// `shortest` is the shortest life of a pull: one that no look shows explains nothing. `slowest` is how long a request
/// may be without its lease.
fn client(shortest: u64, slowest: u64) -> impl Strategy<Value = Client> {
    let kind = prop_oneof![
        6 => Just(Kind::Pod),
        1 => Just(Kind::Nobody),
        2 => Just(Kind::Unseen),
        1 => Just(Kind::Status),
    ];
    let life = prop_oneof![shortest..3 * shortest, shortest..600_000_u64];
    (
        (0..WITHIN, kind, 0..IMAGES.len(), 200..slowest),
        (500..60_000_u64, life, 50..15_000_u64, prop::bool::weighted(0.1)),
    )
        .prop_map(
            |((at, kind, image, lease_after), (manifest_after, life, answer_after, moved))| Client {
                at: FROM + at,
                kind,
                image,
                lease_after,
                manifest_after,
                life,
                answer_after,
                moved,
            },
        )
}

fn loss() -> impl Strategy<Value = Loss> {
    (0..WITHIN, 100..60_000_u64, 0..50_000_u64, any::<bool>()).prop_map(
        |(from, long, found_after, breaks_others)| Loss {
            from: FROM + from,
            until: FROM + from + long,
            found_after,
            breaks_others,
        },
    )
}

/// Events come at once or late.
fn late(most: u64) -> impl Strategy<Value = Vec<u64>> {
    prop_oneof![
        Just(vec![0]),
        prop::collection::vec(prop_oneof![Just(0), 0..most], 1..40),
    ]
}

fn story(shortest: u64, slowest: u64, late_by: [u64; 3]) -> impl Strategy<Value = Story> {
    (
        (
            prop::collection::vec(client(shortest, slowest), 1..9),
            any::<bool>(),
        ),
        prop::collection::vec(3_000..LOOKS_AT_LEAST, 1..30),
        prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(loss(), 1..3)],
        late(late_by[0]),
        late(late_by[1]),
        late(late_by[2]),
    )
        .prop_map(
            |((clients, verifies), looks, losses, late_requests, late_looks, late_questions)| Story {
                clients,
                verifies,
                looks,
                losses,
                late_requests,
                late_looks,
                late_questions,
            },
        )
}

/// What is really so of one client.
#[derive(Clone, Debug)]
struct Truth {
    lease: Option<LeaseKey>,
    created: u64,
    manifest_at: u64,
    gone: u64,
    ended: u64,
    image: usize,
    document: u64,
    by_index: bool,
    owner: Option<(ImageName, Option<String>)>,
}

fn truths(story: &Story) -> Vec<Truth> {
    let truth = |(number, client): (usize, &Client)| {
        let created = client.at + client.lease_after;
        let gone = created + client.life;
        let has_lease = client.kind != Kind::Status;
        let seen = client.kind != Kind::Unseen;
        let pod = (client.kind == Kind::Pod).then(|| pod(number));
        Truth {
            lease: has_lease.then(|| lease_key("k8s.io", &format!("l{number}"))),
            created,
            manifest_at: created + client.manifest_after,
            gone,
            ended: if has_lease {
                gone + client.answer_after
            } else {
                created
            },
            image: client.image,
            // What is asked for by digest never moves.
            document: IMAGES[client.image].1
                + if client.moved && !IMAGES[client.image].0.is_empty() {
                    10
                } else {
                    0
                },
            by_index: client.image % 2 == 1 && !IMAGES[client.image].0.is_empty(),
            owner: seen.then(|| (ImageName::new(reference(client.image)).unwrap(), pod)),
        }
    };
    story.clients.iter().enumerate().map(truth).collect()
}

fn pod(number: usize) -> String {
    format!("ns{}/pod{number}", number % 3)
}

fn time(micros: u64) -> Time {
    Time::from_micros(1_700_000_000_000_000 + micros)
}

/// Events of one source with the times at which they happened.
type Happened = Vec<(u64, Event)>;

/// Requests as the kernel side tells them: what passes in a loss is not seen, and the loss is told after it.
fn requests(story: &Story, truths: &[Truth]) -> Happened {
    let lost = |at: u64| {
        story
            .losses
            .iter()
            .find(|loss| (loss.from..loss.until).contains(&at))
    };
    let mut events = Vec::new();
    for (number, (client, truth)) in story.clients.iter().zip(truths).enumerate() {
        if client.kind == Kind::Unseen || lost(client.at).is_some() {
            continue;
        }
        let call = CallId(u64::try_from(number).unwrap());
        let pod = (client.kind == Kind::Pod).then(|| pod(number));
        let mut asked = request(&reference(client.image), pod.as_deref());
        asked.certain = client.kind == Kind::Pod;
        let at = time(client.at);
        let request = asked;
        events.push((client.at, Event::CallBegan { call, at, request }));
        let broken = story
            .losses
            .iter()
            .filter(|loss| loss.breaks_others && (client.at..truth.ended).contains(&loss.from))
            .chain(lost(truth.ended))
            .map(|loss| loss.until + loss.found_after)
            .min();
        let (at, end) = broken.map_or((truth.ended, RequestEnd::Answered), |at| (at, RequestEnd::Lost));
        events.push((
            at,
            Event::CallEnded {
                call,
                at: time(at),
                end,
            },
        ));
    }
    for loss in &story.losses {
        let (since, until) = (time(loss.from), time(loss.until));
        events.push((loss.until, Event::CallsMissed { since, until }));
    }
    events.sort_by_key(|(at, _)| *at);
    events
}

/// A look, and the manifests that are read after it. The leases are listed a little after it began.
fn look(truths: &[Truth], told: &mut BTreeSet<LeaseKey>, begun: u64, listed: u64) -> Happened {
    let there = |truth: &&Truth| truth.created <= listed && listed < truth.gone && truth.lease.is_some();
    let content = |truth: &Truth| match (truth.manifest_at <= listed, truth.by_index) {
        (false, _) => Vec::new(),
        (true, false) => vec![digest(truth.document)],
        (true, true) => vec![digest(truth.document + 100), digest(truth.document)],
    };
    let leases = truths.iter().filter(there).map(|truth| LeaseView {
        created: Some(time(truth.created)),
        content: content(truth),
        ..lease_view(truth.lease.clone().unwrap(), &[])
    });
    let view = View {
        begun: Some(time(begun)),
        leases: leases.collect(),
        ..View::default()
    };
    let mut events = vec![(listed + 500, Event::Looked { view })];
    for truth in truths
        .iter()
        .filter(there)
        .filter(|truth| truth.manifest_at <= listed)
    {
        let lease = truth.lease.clone().unwrap();
        if !told.insert(lease.clone()) {
            continue;
        }
        let (document, repository) = (truth.document, IMAGES[truth.image].2);
        let mut manifests = vec![image(document, &[(1, 1)], &[repository])];
        if truth.by_index {
            manifests.push(index(document + 100, &[document]));
        }
        events.extend(manifests.into_iter().map(|manifest| {
            let lease = lease.clone();
            (listed + 700, Event::ManifestRead { lease, manifest })
        }));
    }
    events
}

/// Looks at any times.
fn looks(story: &Story, truths: &[Truth], until: u64) -> Happened {
    let mut events = Vec::new();
    let mut told = BTreeSet::new();
    let mut begun = FROM - 100_000;
    for gap in story.looks.iter().cycle() {
        begun += gap;
        events.extend(look(truths, &mut told, begun, begun + gap % 3_000));
        if begun > until {
            break;
        }
    }
    events
}

/// The verifier asks before the manifest is there.
fn questions(story: &Story, truths: &[Truth]) -> Happened {
    let mut events: Happened = story
        .clients
        .iter()
        .zip(truths)
        .enumerate()
        .filter(|(_, (_, truth))| story.verifies && truth.lease.is_some())
        .map(|(number, (client, truth))| {
            let document = truth.document + if truth.by_index { 100 } else { 0 };
            let question = Question::Verify {
                image: ImageName::new(reference(client.image)).unwrap(),
                digest: digest(document),
            };
            let request = RequestId(u64::try_from(number).unwrap());
            let at = truth.created + client.manifest_after / 2;
            (at, Event::Asked { request, question })
        })
        .collect();
    events.sort_by_key(|(at, _)| *at);
    events
}

/// When the events of a source arrive: late, but in their order.
fn delivered(events: Happened, late: &[u64]) -> Happened {
    let mut latest = 0;
    let lateness = late.iter().cycle();
    events
        .into_iter()
        .zip(lateness)
        .map(|((at, event), late)| {
            latest = latest.max(at + late);
            (latest, event)
        })
        .collect()
}

/// How often what was known, over all stories.
#[derive(Debug, Default)]
struct Known {
    steps: u64,
    pulls: u64,
    asked_for: u64,
    known: u64,
    narrowed: u64,
    /// Steps at which a pull's owner was wrong because something had not arrived yet.
    hasty: u64,
}

fn started() -> Engine {
    let mut engine = Engine::new();
    for source in [Source::Containerd, Source::Requests] {
        engine.handle(time(0), Event::SourceUp { source }, &mut Effects::default());
    }
    engine
}

fn over(truths: &[Truth]) -> u64 {
    truths.iter().map(|truth| truth.ended).max().unwrap_or(FROM) + 100_000
}

/// Looks come whenever they like, and everything arrives late; right in the end.
fn late_in_any_order(story: &Story, known: &mut Known) -> Result<(), TestCaseError> {
    let truths = truths(story);
    let until = over(&truths);
    let mut events = delivered(requests(story, &truths), &story.late_requests);
    events.extend(delivered(looks(story, &truths, until), &story.late_looks));
    events.extend(delivered(questions(story, &truths), &story.late_questions));
    events.sort_by_key(|(at, _)| *at);
    let mut engine = started();
    for (at, event) in events {
        engine.handle(time(at), event, &mut Effects::default());
        known.steps += 1;
        known.hasty += u64::from(is_right(&engine, &truths).is_err());
    }
    engine.handle(time(until + 400_000), Event::Tick, &mut Effects::default());
    is_right(&engine, &truths).map_err(TestCaseError::fail)?;
    count(&engine, &truths, known);
    Ok(())
}

/// Looks come when the engine asks for them, and everything arrives in a moment; right at every step.
fn prompt(story: &Story, known: &mut Known) -> Result<(), TestCaseError> {
    // What is lost is wrong until the loss is told: not asked of this one.
    let story = &Story {
        losses: Vec::new(),
        ..story.clone()
    };
    let truths = truths(story);
    let until = over(&truths);
    let mut engine = started();
    let mut told = BTreeSet::new();
    // Events by the time at which they arrive, and in their order.
    let mut queue: BTreeMap<(u64, u64), Event> = BTreeMap::new();
    let mut counted = 0;
    let mut add = |queue: &mut BTreeMap<(u64, u64), Event>, at: u64, event: Event| {
        counted += 1;
        queue.insert((at, counted), event);
    };
    let sources = [
        delivered(requests(story, &truths), &story.late_requests),
        delivered(questions(story, &truths), &story.late_questions),
    ];
    for (at, event) in sources.into_iter().flatten() {
        add(&mut queue, at, event);
    }
    for poll in (FROM..until).step_by(250_000) {
        add(&mut queue, poll, Event::Tick);
    }
    let mut lateness = story.late_looks.iter().cycle();
    while let Some(((at, _), event)) = queue.pop_first() {
        let what = format!("{event:?}");
        let mut fx = Effects::default();
        engine.handle(time(at), event, &mut fx);
        known.steps += 1;
        if let Err(wrong) = is_right(&engine, &truths) {
            return Err(TestCaseError::fail(format!("at {at}: {wrong} after {what}")));
        }
        for action in fx.take().into_iter().filter(|_| at < until) {
            match action {
                Action::Look { .. } => {
                    let late = lateness.next().copied().unwrap_or_default();
                    let begun = at + 100;
                    for (at, event) in look(&truths, &mut told, begun, begun + late) {
                        add(&mut queue, at, event);
                    }
                }
                Action::WakeAt { at: wake } => {
                    let wake = wake.since(time(0)).as_micros();
                    add(&mut queue, u64::try_from(wake).unwrap().max(at), Event::Tick);
                }
                Action::PullLever { .. }
                | Action::Record { .. }
                | Action::ListSockets
                | Action::Keep { .. }
                | Action::Release { .. }
                | Action::Collect { .. }
                | Action::Answer { .. } => {}
            }
        }
    }
    count(&engine, &truths, known);
    Ok(())
}

/// Everything that the engine says of owners is true, of pulls in flight and of ended ones.
fn is_right(engine: &Engine, truths: &[Truth]) -> Result<(), String> {
    let report = engine.report(true);
    for pull in report.pulls.iter().chain(&report.ended) {
        let truth = truths
            .iter()
            .find(|truth| truth.lease.as_ref() == Some(&pull.lease))
            .unwrap();
        let is_it = |owner: &Owner| {
            truth.owner.as_ref().is_some_and(|(image, pod)| {
                *image == owner.image && *pod == owner.pod.as_ref().map(ToString::to_string)
            })
        };
        if pull.owner.iter().any(|owner| !is_it(owner))
            || !(pull.owner_candidates.is_empty() || pull.owner_candidates.iter().any(is_it))
        {
            return Err(format!(
                "{} is {:?}'s, and is said to be {:?}'s of {:?}",
                pull.lease, truth.owner, pull.owner, pull.owner_candidates
            ));
        }
    }
    Ok(())
}

fn count(engine: &Engine, truths: &[Truth], known: &mut Known) {
    let report = engine.report(true);
    for pull in report.pulls.iter().chain(&report.ended) {
        let truth = truths
            .iter()
            .find(|truth| truth.lease.as_ref() == Some(&pull.lease));
        known.pulls += 1;
        known.asked_for += u64::from(truth.is_some_and(|truth| truth.owner.is_some()));
        known.known += u64::from(pull.owner.is_some());
        known.narrowed += u64::from(!pull.owner_candidates.is_empty());
    }
}

fn run(
    story: impl Strategy<Value = Story>,
    tell: impl Fn(&Story, &mut Known) -> Result<(), TestCaseError>,
) -> Known {
    let config = build::stories(build::asked_for("MAGI_OWNER_CASES"), CASES);
    let known = RefCell::new(Known::default());
    let result = TestRunner::new(config).run(&story, |story| tell(&story, &mut known.borrow_mut()));
    let known = known.into_inner();
    // Not `println`, which is shown only if the test fails.
    writeln!(std::io::stdout(), "{known:?}").unwrap();
    if let Err(error) = result {
        panic!("{error}");
    }
    known
}

#[test]
fn whoever_is_named_is_the_owner_at_every_step() {
    let known = run(story(SHORTEST_PULL, 4_000, [1_000, 4_000, 500]), prompt);
    // A join that knows nothing would be never wrong.
    assert!(known.known * 2 > known.asked_for, "{known:?}");
    assert!(known.narrowed > 0 && known.pulls > known.asked_for, "{known:?}");
}

#[test]
fn whoever_is_named_in_the_end_is_the_owner_however_late_events_come() {
    let known = run(
        story(LOOKS_AT_LEAST + 5_000, 30_000, [30_000, 200_000, 30_000]),
        late_in_any_order,
    );
    assert!(known.known * 2 > known.asked_for, "{known:?}");
    assert!(known.narrowed > 0 && known.pulls > known.asked_for, "{known:?}");
}
