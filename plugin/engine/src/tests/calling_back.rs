//! Pulls in magi's gateway: which calls are cancelled for which pull, and which are turned away.

use super::build::{GIB, MIB, enforce, image, limit, policy, request, rule};
use super::scene::{World, destroy, done, why};
use crate::action::{Answer, Lever, LeverOutcome, RefusalKind};
use crate::event::{Event, Question};
use crate::evidence::Source;
use crate::ids::GatewayCallId;
use crate::policy::{Mode, Policy, RuleVerdict};

const APP: &str = "reg.example/team/app:1";
const LABEL: &str = "reg.example/team/app";

fn world() -> World {
    let mut world = World::new(enforce(GIB));
    world.up(Source::Requests).up(Source::Gateway).pass(5_000);
    world
}

/// A pull through the gateway: it hears of it first.
fn called(world: &mut World, call: u64, pod: &str) {
    through_gateway(world, call, pod);
    world.asked(call, APP, Some(pod)).pass(2);
}

fn through_gateway(world: &mut World, call: u64, pod: &str) {
    world.tell(Event::GatewayCallBegan {
        call: GatewayCallId(call),
        at: world.now,
        request: request(APP, Some(pod)),
    });
}

/// A pull of five gibibytes that fetches its layer, by socket 7.
fn huge(world: &mut World, lease: &str) {
    world
        .lease(lease)
        .manifest(image(30, &[(3, 5 * GIB)], &[LABEL]))
        .ingest(3, MIB, 5 * GIB);
    world.fed(7, 3, MIB);
}

fn cancelled(lever: &Lever) -> Vec<u64> {
    let Lever::CancelCalls { calls, refusal } = lever else {
        panic!("{lever:?}");
    };
    assert_eq!(refusal.kind, RefusalKind::Exhausted);
    assert!(refusal.text.starts_with("magi: image-too-large: "), "{refusal:?}");
    calls.iter().map(|call| call.0).collect()
}

#[test]
fn a_call_is_cancelled_once_it_is_known_whose_the_pull_is() {
    let mut world = world();
    called(&mut world, 1, "a/one");
    huge(&mut world, "l");
    world.no_lever().live(60);
    let (attempt, lever) = world.lever();
    assert_eq!(cancelled(&lever), [1]);
    // The gateway does not answer: the socket is closed at once.
    let outcome = LeverOutcome::Failed { why: why() };
    world.tell(Event::LeverDone { attempt, outcome }).live(60);
    world.closes(destroy(7), done());
}

#[test]
fn who_came_past_the_gateway_is_stopped_otherwise() {
    let mut world = world();
    called(&mut world, 1, "a/other");
    world.asked(2, APP, Some("a/one")).pass(2);
    huge(&mut world, "l");
    world.live(200);
    world.closes(destroy(7), done());
}

#[test]
fn a_request_like_a_call_s_that_came_past_the_gateway_saves_both() {
    let mut world = world();
    called(&mut world, 1, "a/one");
    world.asked(2, APP, Some("a/one")).pass(2);
    huge(&mut world, "l");
    world.live(200);
    world.closes(destroy(7), done());
}

/// Its pull may be another one, of which nothing is known to be bad.
#[test]
fn a_call_whose_own_request_was_not_seen_is_not_cancelled_for_one_like_it() {
    for up_at in [0, 5_000] {
        let mut world = World::new(enforce(GIB));
        world.up(Source::Gateway).pass(up_at);
        through_gateway(&mut world, 1, "a/one");
        world.up(Source::Requests).pass(5_000 - up_at);
        world.asked(2, APP, Some("a/one")).pass(2);
        huge(&mut world, "l");
        world.live(200);
        world.closes(destroy(7), done());
    }
}

#[test]
fn equal_calls_of_condemned_pulls_are_cancelled_together() {
    let mut world = world();
    called(&mut world, 1, "a/one");
    called(&mut world, 2, "a/one");
    huge(&mut world, "l");
    world.live(20);
    world.lease("m").manifest(image(30, &[(3, 5 * GIB)], &[LABEL]));
    world.live(80);
    let levers = world.levers();
    assert!(!levers.is_empty());
    for (_, lever) in levers {
        assert_eq!(cancelled(&lever), [1, 2]);
    }
}

#[test]
fn a_call_is_not_cancelled_for_a_pull_that_may_be_an_innocent_one_s() {
    let mut world = World::new(Policy {
        rules: vec![rule("free", &["free"], &[], RuleVerdict::Exempt)],
        ..enforce(GIB)
    });
    world.up(Source::Requests).up(Source::Gateway).pass(5_000);
    called(&mut world, 1, "a/one");
    called(&mut world, 2, "free/two");
    huge(&mut world, "l");
    world.lease("m").manifest(image(30, &[(3, 5 * GIB)], &[LABEL]));
    world.live(3_000).no_lever();
}

#[test]
fn without_its_gateway_a_pull_is_stopped_otherwise() {
    let mut world = world();
    called(&mut world, 1, "a/one");
    world.down(Source::Gateway);
    huge(&mut world, "l");
    assert_eq!(
        world.lever().1.code(),
        "delete-lease",
        "as soon as its manifest shows"
    );
}

fn admitted(policy: Policy, image: &str) -> Answer {
    let mut world = World::new(policy);
    let request = request(image, Some("a/one"));
    let asked = world.ask(Question::Admit { request });
    let mut answers = world.answers().into_iter();
    answers.find(|(answered, _)| *answered == asked).unwrap().1
}

#[test]
fn what_a_rule_denies_is_turned_away_by_its_name() {
    let denied = |mode| {
        let banned = rule("banned", &[], &[LABEL], RuleVerdict::Deny { mode });
        Policy {
            rules: vec![banned],
            ..policy(limit(Mode::Enforce, GIB))
        }
    };
    let answer = admitted(denied(Mode::Enforce), APP);
    let Answer::TurnedAway { refusal } = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(refusal.kind, RefusalKind::Denied);
    assert!(refusal.text.contains("denied-by-rule") && refusal.text.contains("rule banned"));
    let known = Answer::Admitted { known: false };
    assert_eq!(admitted(denied(Mode::Observe), APP), known);
    assert_eq!(admitted(denied(Mode::Enforce), "reg.example/team/other:1"), known);
}
