//! People ask, and each gets one answer.

use super::build::{GIB, MIB, digest, enforce, image, observe, policy, socket, stat};
use super::scene::{World, destroy, done, why};
use crate::action::{Answer, Lever, LeverOutcome};
use crate::audit::Entry;
use crate::bounds::{ANSWER_WITHIN, MAX_QUESTIONS};
use crate::event::{Event, Question, UnpackLimit, UnpackStop};
use crate::evidence::{Reason, Source};
use crate::ids::{PullId, RequestId};
use crate::policy::RuleVerdict;
use crate::report::Stage;

fn small(world: &mut World) {
    world
        .lease("small")
        .manifest(image(20, &[(1, 9 * MIB)], &["reg/small"]))
        .ingest(1, MIB, 9 * MIB);
    world.fed(7, 1, MIB);
}

fn patience() -> u64 {
    u64::try_from(ANSWER_WITHIN.as_millis()).unwrap()
}

#[test]
fn an_operator_stops_a_pull_that_no_policy_would_and_hears_of_its_end() {
    for policy in [enforce(GIB), observe(GIB), policy(RuleVerdict::Exempt)] {
        let mut world = World::new(policy);
        small(&mut world);
        let pull = world.id_of("small");
        let request = world.abort(pull);
        world.closes(destroy(7), done());
        assert_eq!(world.answers(), []);
        world.lease("small").ends();
        world.live(20);
        assert_eq!(world.answers(), [(request, Answer::Ended)]);
    }
}

#[test]
fn an_operator_who_waits_too_long_is_told_and_the_pursuit_goes_on() {
    let mut world = World::new(enforce(GIB));
    small(&mut world);
    let pull = world.id_of("small");
    let request = world.abort(pull);
    world.closes(destroy(7), done()).live(patience() - 1);
    assert_eq!(world.answers(), []);
    world.live(1);
    let answers = world.answers();
    assert!(
        matches!(answers.as_slice(), [(one, Answer::StillRunning { .. })] if *one == request),
        "{answers:?}"
    );
    world.levers();
    world.live(15_000);
    assert_eq!(world.answers(), []);
}

#[test]
fn what_an_operator_asked_for_outlives_a_reload() {
    let mut world = World::new(enforce(MIB));
    small(&mut world);
    world.closes(destroy(7), done()).closed(7);
    let pull = world.id_of("small");
    world.abort(pull);
    world
        .load(policy(RuleVerdict::Exempt))
        .fed(8, 1, 2 * MIB)
        .live(2_000);
    assert_eq!(world.levers()[0].1, destroy(8));
}

#[test]
fn a_pull_that_is_not_in_flight_is_no_such_pull() {
    let mut world = World::new(enforce(GIB));
    let never = world.abort(PullId(12));
    assert_eq!(world.answers(), [(never, Answer::NoSuchPull)]);
    small(&mut world);
    let pull = world.id_of("small");
    world.lease("small").ends();
    world.live(10).look();
    let ended = world.abort(pull);
    assert_eq!(world.answers(), [(ended, Answer::NoSuchPull)]);
    // The same lease again would be another pull.
    small(&mut world);
    assert_ne!(world.id_of("small"), pull);
}

#[test]
fn the_report_shows_stages_bytes_sockets_and_the_ended_if_asked_for() {
    let mut world = World::new(enforce(GIB));
    small(&mut world);
    let report = world.engine.report(true);
    let pull = &report.pulls[0];
    assert_eq!(
        (pull.stage, pull.declared, pull.stored),
        (Stage::Downloading, Some(9 * MIB), MIB)
    );
    assert_eq!(pull.layers[0].socket.unwrap().0, socket(7));
    assert_eq!(pull.repositories[0].as_str(), "reg/small");
    world.lease("small").ends();
    world.look();
    assert!(world.engine.report(false).ended.is_empty());
    assert_eq!(world.engine.report(true).ended[0].stage, Stage::Ended);
}

#[test]
fn a_verdict_is_in_the_report() {
    let mut world = World::new(enforce(MIB));
    small(&mut world);
    let verdict = world.engine.report(false).pulls[0].verdict.clone().unwrap();
    assert_eq!((verdict.reason, verdict.attempts), (Reason::ImageTooLarge, 1));
    assert!(verdict.why.contains("9437184"), "{}", verdict.why);
}

#[test]
fn panic_closes_every_open_socket_once_for_all_who_ask() {
    let mut world = World::new(enforce(GIB));
    small(&mut world);
    world.sockets = vec![stat(7, MIB), stat(8, 300)];
    world.sockets.push(crate::event::SocketStat {
        established: false,
        ..stat(9, 300)
    });
    let (one, two) = (world.panic_button(), world.panic_button());
    world.live(5);
    let sockets = vec![socket(7), socket(8)];
    let outcome = LeverOutcome::Done { count: 2 };
    world.closes(Lever::DestroyAll { sockets }, outcome);
    let closed = Answer::Closed { count: 2 };
    assert_eq!(world.answers(), [(one, closed.clone()), (two, closed)]);
}

#[test]
fn panic_works_while_containerd_does_not_answer() {
    let mut world = World::dark(enforce(GIB));
    world.up(Source::SocketTable).sockets = vec![stat(7, MIB)];
    world.panic_button();
    world.live(5);
    world.closes(
        Lever::DestroyAll {
            sockets: vec![socket(7)],
        },
        done(),
    );
    assert_eq!(world.answers().len(), 1);
}

#[test]
fn panic_with_nothing_open_closes_nothing() {
    let mut world = World::new(enforce(GIB));
    let request = world.panic_button();
    world.live(5).no_lever();
    assert_eq!(world.answers(), [(request, Answer::Closed { count: 0 })]);
}

#[test]
fn panic_says_what_failed() {
    let failed = Answer::Failed { why: why() };
    let mut world = World::new(enforce(GIB));
    world.sockets = vec![stat(7, MIB)];
    let request = world.panic_button();
    world.live(5);
    let (attempt, _) = world.lever();
    world.tell(Event::LeverDone {
        attempt,
        outcome: LeverOutcome::Unsupported { why: why() },
    });
    assert_eq!(world.answers(), [(request, failed)]);
    let request = world.panic_button();
    world.down(Source::SocketTable);
    assert!(matches!(world.answers().as_slice(), [(one, Answer::Failed { .. })] if *one == request));
}

#[test]
fn a_panic_lever_that_comes_back_too_late_is_no_second_answer() {
    let mut world = World::new(enforce(GIB));
    world.sockets = vec![stat(7, MIB)];
    world.panic_button();
    world.live(patience() + 10);
    assert!(matches!(
        world.answers().as_slice(),
        [(_, Answer::StillRunning { .. })]
    ));
    let (attempt, _) = world.lever();
    world.tell(Event::LeverDone {
        attempt,
        outcome: done(),
    });
    assert_eq!(world.answers(), []);
}

#[test]
fn too_many_questions_at_once_are_refused() {
    let mut world = World::new(enforce(GIB));
    small(&mut world);
    let pull = world.id_of("small");
    for _ in 0..MAX_QUESTIONS {
        world.abort(pull);
    }
    assert_eq!(world.answers(), []);
    let request = world.abort(pull);
    assert_eq!(world.answers(), [(request, Answer::Busy)]);
    world.lease("small").ends();
    world.look();
    assert_eq!(world.answers().len(), MAX_QUESTIONS);
}

#[test]
fn a_question_about_pulls_is_answered_at_once_with_no_source_up() {
    let mut world = World::dark(enforce(GIB));
    let request = world.ask(Question::Pulls { ended: true });
    assert_eq!(request, RequestId(1));
    assert!(matches!(world.answers().as_slice(), [(_, Answer::Pulls { report })] if report.pulls.is_empty()));
}

#[test]
fn what_was_stopped_while_it_was_unpacked_is_recorded_with_whose_it_is() {
    let mut world = World::new(enforce(100 * GIB));
    world
        .lease("bomb")
        .manifest(image(30, &[(3, GIB)], &["reg/bomb"]));
    world
        .lease("other")
        .manifest(image(31, &[(4, GIB)], &["reg/other"]));
    world.look().records();
    let told = |layer| UnpackStop {
        layer,
        limit: UnpackLimit::Unpacked { bytes: GIB },
        unpacked: 2 * GIB,
        passed: MIB,
    };
    for (layer, pulls) in [(Some(digest(3)), 1), (Some(digest(9)), 0), (None, 0)] {
        let stop = told(layer);
        let request = world.ask(Question::UnpackStopped { stop: stop.clone() });
        assert_eq!(world.answers(), [(request, Answer::Noted { pulls })]);
        assert_eq!(world.records(), [Entry::UnpackStopped { stop }]);
    }
    world.lease("bomb").ends();
    world.look();
    let ended = world.engine.report(true).ended.remove(0);
    assert_eq!(ended.unpack_stop, Some(told(Some(digest(3)))));
    let other = world.engine.report(false).pulls.remove(0);
    assert_eq!(other.unpack_stop, None);
}
