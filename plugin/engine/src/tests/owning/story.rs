//! Random clients in a small model of containerd, whose events come late and in any order across sources: whoever the
//! engine names as an owner must be it, at every step, and be among those whom it holds possible.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::action::Effects;
use crate::engine::Engine;
use crate::event::{Event, LeaseView, Question, View};
use crate::evidence::Source;
use crate::ids::{CallId, ImageName, LeaseKey, RequestId};
use crate::owner::{Owner, RequestEnd};
use crate::tests::build::{digest, image, index, lease_key, lease_view, request};
use crate::time::Time;

const CASES: u32 = 1_500;
/// When the first client comes, in microseconds after the start.
const FROM: u64 = 3_000_000;
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
    verifies: bool,
    by_index: bool,
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
    looks: Vec<u64>,
    losses: Vec<Loss>,
    /// How late events come.
    late_requests: Vec<u64>,
    late_looks: Vec<u64>,
    late_questions: Vec<u64>,
}

fn client() -> impl Strategy<Value = Client> {
    let kind = prop_oneof![
        6 => Just(Kind::Pod),
        1 => Just(Kind::Nobody),
        2 => Just(Kind::Unseen),
        1 => Just(Kind::Status),
    ];
    let life = prop_oneof![1_000..20_000_u64, 20_000..600_000_u64];
    (
        (0..WITHIN, kind, 0..IMAGES.len(), 200..9_000_u64),
        (500..60_000_u64, life, 50..15_000_u64, prop::bool::weighted(0.3), prop::bool::weighted(0.3)),
    )
        .prop_map(
            |((at, kind, image, lease_after), (manifest_after, life, answer_after, verifies, by_index))| Client {
                at: FROM + at,
                kind,
                image,
                lease_after,
                manifest_after,
                life,
                answer_after,
                verifies,
                by_index,
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

fn story() -> impl Strategy<Value = Story> {
    (
        prop::collection::vec(client(), 1..9),
        prop::collection::vec(3_000..40_000_u64, 1..30),
        prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(loss(), 1..3)],
        late(30_000),
        late(200_000),
        late(30_000),
    )
        .prop_map(|(clients, looks, losses, late_requests, late_looks, late_questions)| Story {
            clients,
            looks,
            losses,
            late_requests,
            late_looks,
            late_questions,
        })
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
            ended: if has_lease { gone + client.answer_after } else { created },
            image: client.image,
            by_index: client.by_index,
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
    let lost = |at: u64| story.losses.iter().find(|loss| (loss.from..loss.until).contains(&at));
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

/// Looks, and the manifests that are read after them.
fn looks(story: &Story, truths: &[Truth], until: u64) -> Happened {
    let mut events = Vec::new();
    let mut told = BTreeMap::new();
    let mut begun = FROM - 100_000;
    for gap in story.looks.iter().cycle() {
        begun += gap;
        // The leases are listed a little after the look began.
        let listed = begun + gap % 3_000;
        let there = |truth: &&Truth| truth.created <= listed && listed < truth.gone && truth.lease.is_some();
        let content = |truth: &Truth| match (truth.manifest_at <= listed, truth.by_index) {
            (false, _) => Vec::new(),
            (true, false) => vec![digest(IMAGES[truth.image].1)],
            (true, true) => vec![digest(IMAGES[truth.image].1 + 100), digest(IMAGES[truth.image].1)],
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
        events.push((listed + 500, Event::Looked { view }));
        for truth in truths.iter().filter(there).filter(|truth| truth.manifest_at <= listed) {
            let lease = truth.lease.clone().unwrap();
            if told.insert(lease.clone(), ()).is_some() {
                continue;
            }
            let (_, document, repository) = IMAGES[truth.image];
            let mut manifests = vec![image(document, &[(1, 1)], &[repository])];
            if truth.by_index {
                manifests.push(index(document + 100, &[document]));
            }
            events.extend(manifests.into_iter().map(|manifest| {
                let lease = lease.clone();
                (listed + 700, Event::ManifestRead { lease, manifest })
            }));
        }
        if begun > until {
            return events;
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
        .filter(|(_, (client, truth))| client.verifies && truth.lease.is_some())
        .map(|(number, (client, truth))| {
            let document = IMAGES[truth.image].1 + if truth.by_index { 100 } else { 0 };
            let question = Question::Verify {
                image: ImageName::new(reference(client.image)).unwrap(),
                digest: digest(document),
            };
            let request = RequestId(u64::try_from(number).unwrap());
            let at = truth.created + client.manifest_after / 2;
            (at, Event::Asked { request, question })
        })
        .filter(|(at, _)| *at > 0)
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

fn tell(story: &Story, known: &mut Known) -> Result<(), TestCaseError> {
    let truths = truths(story);
    let until = truths.iter().map(|truth| truth.ended).max().unwrap_or(FROM) + 100_000;
    let mut events = delivered(requests(story, &truths), &story.late_requests);
    events.extend(delivered(looks(story, &truths, until), &story.late_looks));
    events.extend(delivered(questions(story, &truths), &story.late_questions));
    events.sort_by_key(|(at, _)| *at);

    let mut engine = Engine::new();
    let mut fx = Effects::default();
    for source in [Source::Containerd, Source::Requests] {
        engine.handle(time(0), Event::SourceUp { source }, &mut fx);
    }
    for (at, event) in events {
        let what = format!("{event:?}");
        engine.handle(time(at), event, &mut fx);
        known.steps += 1;
        if let Err(wrong) = is_right(&engine, &truths) {
            known.hasty += 1;
            if std::env::var("MAGI_STRICT").is_ok() {
                return Err(TestCaseError::fail(format!("at {at}: {wrong} after {what}")));
            }
        }
    }
    engine.handle(time(until + 400_000), Event::Tick, &mut fx);
    is_right(&engine, &truths).map_err(TestCaseError::fail)?;
    count(&engine, &truths, known);
    Ok(())
}

/// Everything that the engine says of owners is true, of pulls in flight and of ended ones.
fn is_right(engine: &Engine, truths: &[Truth]) -> Result<(), String> {
    let report = engine.report(true);
    for pull in report.pulls.iter().chain(&report.ended) {
        let truth = truths.iter().find(|truth| truth.lease.as_ref() == Some(&pull.lease)).unwrap();
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
        let truth = truths.iter().find(|truth| truth.lease.as_ref() == Some(&pull.lease));
        known.pulls += 1;
        known.asked_for += u64::from(truth.is_some_and(|truth| truth.owner.is_some()));
        known.known += u64::from(pull.owner.is_some());
        known.narrowed += u64::from(!pull.owner_candidates.is_empty());
    }
}

#[test]
fn nobody_is_taken_for_the_owner_who_is_not() {
    let cases = std::env::var("MAGI_OWNER_CASES").ok().and_then(|cases| cases.parse().ok());
    let config = Config {
        cases: cases.unwrap_or(CASES),
        failure_persistence: None,
        ..Config::default()
    };
    let known = std::cell::RefCell::new(Known::default());
    let result = TestRunner::new(config).run(&story(), |story| tell(&story, &mut known.borrow_mut()));
    let known = known.into_inner();
    println!("{known:?}");
    if let Err(error) = result {
        panic!("{error}");
    }
    // A join that knows nothing would be never wrong.
    assert!(known.known * 3 > known.asked_for, "{known:?}");
    assert!(known.narrowed > 0 && known.pulls > known.asked_for, "{known:?}");
    let _ = Duration::ZERO;
}
