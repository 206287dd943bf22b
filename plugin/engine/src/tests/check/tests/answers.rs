//! The checkers of questions, wake-ups and liveness must be able to fail as well.

use super::*;

#[test]
fn each_question_has_one_answer_and_the_right_one() {
    let mut stage = Stage::new(enforce(GIB));
    let nobody = answer(1, Answer::NoSuchPull);
    assert_eq!(
        stage.broken_by(Event::Tick, vec![nobody.clone()]),
        Some(Invariant::OneAnswer)
    );
    let twice = vec![answer(2, Answer::NoSuchPull), answer(2, Answer::NoSuchPull)];
    assert_eq!(stage.broken_by(abort(2), twice), Some(Invariant::OneAnswer));
    let early = vec![answer(3, Answer::Ended)];
    assert_eq!(stage.broken_by(abort(3), early), Some(Invariant::OneAnswer));
    let other = vec![answer(4, Answer::Closed { count: 1 })];
    assert_eq!(stage.broken_by(abort(4), other), Some(Invariant::OneAnswer));
}

#[test]
fn a_question_is_answered_in_time() {
    let mut stage = Stage::new(enforce(GIB));
    stage.tell(abort(1));
    stage.pass(ANSWER_WITHIN);
    assert_eq!(stage.broken_by(Event::Tick, vec![]), Some(Invariant::OneAnswer));
}

#[test]
fn who_waits_for_an_answer_wants_to_be_woken_for_it() {
    let mut stage = Stage::new(enforce(10 * GIB));
    let late = stage.wake(11);
    let broken = stage.checker.observe(stage.now, &abort(1), &[late]);
    assert_eq!(broken.unwrap_err().invariant, Invariant::Wakes);
}

#[test]
fn who_pursues_wants_to_be_woken() {
    let mut stage = Stage::new(enforce(GIB));
    let broken = stage.checker.observe(stage.now, &Event::Tick, &[]);
    assert_eq!(broken.unwrap_err().invariant, Invariant::Wakes);
}

#[test]
fn looks_and_listings_are_paced() {
    for action in [Action::Look { extracts: false }, Action::ListSockets] {
        let mut stage = Stage::new(enforce(GIB));
        assert_eq!(stage.broken_by(Event::Tick, vec![action.clone()]), None);
        stage.pass(Duration::from_micros(4_999));
        assert_eq!(
            stage.broken_by(Event::Tick, vec![action.clone()]),
            Some(Invariant::NoStorm)
        );
        stage.pass(Duration::from_micros(5_000));
        assert_eq!(stage.broken_by(Event::Tick, vec![action]), None);
    }
    let mut stage = Stage::new(enforce(GIB));
    let now = Action::WakeAt { at: stage.now };
    assert_eq!(stage.broken_by(Event::Tick, vec![now]), Some(Invariant::NoStorm));
}

#[test]
fn silence_about_a_condemned_pull_is_noticed() {
    let mut stage = Stage::new(enforce(GIB));
    let start = stage.now;
    stage.pass(Duration::from_secs(13));
    stage.tell(Event::Tick);
    let broken = stage.checker.nothing_was_given_up(start);
    assert_eq!(broken.unwrap_err().invariant, Invariant::NoGivingUp);
}

#[test]
fn a_condemned_pull_that_is_let_run_after_a_lever_is_noticed() {
    let mut stage = Stage::new(enforce(GIB));
    assert_eq!(stage.broken_by_lever(right()), None);
    let (attempt, outcome) = (AttemptId(1), LeverOutcome::Done { count: 1 });
    stage.tell(Event::LeverDone { attempt, outcome });
    let start = stage.now;
    stage.pass(Duration::from_secs(13));
    stage.tell(Event::Tick);
    let broken = stage.checker.nothing_was_given_up(start);
    assert_eq!(broken.unwrap_err().invariant, Invariant::NoGivingUp);
    assert_eq!(
        stage.broken_by_lever(Pulled {
            attempt: 2,
            ..right()
        }),
        None
    );
    stage.checker.nothing_was_given_up(start).unwrap();
}
