//! From the first lever to the proven end, whatever the levers say.

use super::build::{GIB, MIB, enforce, feed, image, ingest_dir, stat};
use super::scene::{K8S, World, destroy, disconnect, done, not_stopped, why};
use crate::action::{Lever, LeverOutcome};
use crate::audit::Entry;
use crate::bounds::{MAX_ATTEMPTS, STUBBORN_PAUSE};
use crate::event::{Event, Feed};
use crate::evidence::TieMethod;
use crate::manifest::Manifest;

/// A huge image with two layers in flight, on sockets 7 and 8; 8 is the busier one.
fn huge() -> World {
    let mut world = World::new(enforce(GIB));
    world
        .lease("huge")
        .ingest(3, 2 * MIB, 5 * GIB)
        .ingest(4, 9 * MIB, 5 * GIB);
    world.fed(7, 3, 2 * MIB).fed(8, 4, 9 * MIB);
    world
        .lease("huge")
        .manifest(image(30, &[(3, 5 * GIB), (4, 5 * GIB)], &[]));
    world
}

#[test]
fn a_lever_that_works_ends_the_pull_and_the_end_is_recorded() {
    let mut world = huge();
    world.closes(destroy(8), done()).closed(7).closed(8);
    world.lease("huge").ends();
    world.drop_ingest(3).drop_ingest(4).live(20);
    let records = world.records();
    let ended = records.iter().find_map(|entry| {
        let Entry::Ended {
            attempts,
            took_micros,
            ..
        } = entry
        else {
            return None;
        };
        Some((*attempts, took_micros.unwrap()))
    });
    let (attempts, took) = ended.unwrap();
    assert_eq!(attempts, 1);
    assert!(took < 20_000, "{took} µs");
    assert!(
        records
            .iter()
            .any(|entry| matches!(entry, Entry::Clean { removed: 0 }))
    );
    world.no_lever();
}

#[test]
fn the_end_is_looked_for_at_growing_intervals() {
    let mut world = huge();
    world.closes(destroy(8), done());
    let before = world.looks;
    world.live(100);
    let soon = world.looks - before;
    world.live(800);
    let later = world.looks - before - soon;
    assert!((4..=8).contains(&soon), "{soon} looks in the first 100 ms");
    assert!(later <= 6, "{later} looks in the next 800 ms");
}

#[test]
fn a_lever_in_vain_is_followed_by_the_next_socket_then_by_the_other_lever_then_by_a_report() {
    let mut world = huge();
    for expected in [destroy(8), destroy(7), disconnect(8), disconnect(7)] {
        world.closes(expected, done()).live(900).no_lever();
        assert_eq!(not_stopped(&world.records()).len(), 0);
        world.live(200);
    }
    world.no_lever().live(2_500);
    let records = world.records();
    assert_eq!(
        not_stopped(&records),
        ["its sockets were closed, and its lease is still there"]
    );
    // A report is no reason to stop trying.
    assert_eq!(world.levers()[0].1, destroy(8));
}

#[test]
fn a_stubborn_pull_is_reported_again_and_levers_become_rare() {
    let mut world = huge();
    let mut attempts = 0;
    let mut reports = 0;
    while attempts < MAX_ATTEMPTS * 2 {
        world.live(11_000);
        for (attempt, _) in world.levers() {
            attempts += 1;
            world.tell(Event::LeverDone {
                attempt,
                outcome: done(),
            });
        }
        reports += not_stopped(&world.records()).len();
    }
    assert!(reports >= 3, "{reports} reports");
    let pause = u64::try_from(STUBBORN_PAUSE.as_millis()).unwrap();
    world.live(pause - 100).no_lever().live(300);
    assert_eq!(world.levers().len(), 1);
}

#[test]
fn what_the_kernel_cannot_destroy_is_disconnected_from_then_on() {
    let mut world = huge();
    world.closes(destroy(8), LeverOutcome::Unsupported { why: why() });
    world.closes(disconnect(8), done());
    world.lease("other").ingest(13, 2 * MIB, 5 * GIB);
    world.lease("other").manifest(image(31, &[(13, 5 * GIB)], &[]));
    world.fed(9, 13, 2 * MIB).closes(disconnect(9), done());
}

#[test]
fn a_disconnect_that_is_unsupported_says_nothing_of_destroying() {
    let mut world = huge();
    for expected in [destroy(8), destroy(7)] {
        world.closes(expected, done()).live(1_100);
    }
    world.closes(disconnect(8), LeverOutcome::Unsupported { why: why() });
    world.lease("other").ingest(13, 2 * MIB, 5 * GIB);
    world.lease("other").manifest(image(31, &[(13, 5 * GIB)], &[]));
    world.levers();
    world.fed(9, 13, 2 * MIB).closes(destroy(9), done());
}

#[test]
fn an_intent_that_cannot_be_written_leaves_the_lever_and_is_tried_again() {
    let mut world = huge();
    for _ in 0..3 {
        world.closes(destroy(8), LeverOutcome::IntentNotWritten { why: why() });
        world.live(400).no_lever().live(200);
    }
    world.closes(destroy(8), done());
}

#[test]
fn a_failed_lever_rests_and_the_next_one_is_another() {
    let mut world = huge();
    world
        .closes(destroy(8), LeverOutcome::Failed { why: why() })
        .live(400)
        .no_lever()
        .live(200);
    world
        .closes(destroy(7), LeverOutcome::Failed { why: why() })
        .live(600);
    world.closes(disconnect(8), done());
}

#[test]
fn a_socket_that_was_gone_already_is_verified_for_less_long_and_not_tried_again() {
    let mut world = huge();
    world
        .closes(destroy(8), LeverOutcome::AlreadyGone)
        .live(200)
        .no_lever()
        .live(100);
    world
        .closes(destroy(7), LeverOutcome::AlreadyGone)
        .live(1_500)
        .no_lever();
}

#[test]
fn a_socket_that_is_another_by_now_is_left_alone_and_the_next_one_is_tried_at_once() {
    let mut world = huge();
    world.closes(destroy(8), LeverOutcome::NotAsExpected { what: why() });
    world.closes(destroy(7), done());
}

#[test]
fn a_lever_that_does_not_come_back_is_reported_once_and_no_second_one_is_pulled() {
    let mut world = huge();
    let (attempt, _) = world.lever();
    world.live(4_500);
    assert_eq!(not_stopped(&world.records()).len(), 0);
    world.live(30_000).no_lever();
    assert_eq!(
        not_stopped(&world.records()),
        ["a lever was pulled and has not come back"]
    );
    world.tell(Event::LeverDone {
        attempt,
        outcome: done(),
    });
    world.live(1_100);
    assert_eq!(world.lever().1, destroy(7));
}

#[test]
fn a_lever_that_comes_back_after_the_end_is_recorded_and_changes_nothing() {
    let mut world = huge();
    let (attempt, _) = world.lever();
    world.lease("huge").ends();
    world.drop_ingest(3).drop_ingest(4).pass(10).look();
    let (outcome, event) = (LeverOutcome::AlreadyGone, "already-gone".to_owned());
    world.records();
    world.tell(Event::LeverDone { attempt, outcome });
    assert_eq!(
        world.records(),
        [Entry::Outcome {
            attempt,
            outcome: event,
            of_run: None,
        }]
    );
    world.live(70_000).no_lever();
    assert!(
        world.engine.footprint().is_nothing(),
        "{:?}",
        world.engine.footprint()
    );
}

#[test]
fn a_lever_that_is_not_known_is_ignored() {
    let mut world = huge();
    let attempt = crate::ids::AttemptId(77);
    world.tell(Event::LeverDone {
        attempt,
        outcome: done(),
    });
    assert_eq!(world.records(), []);
    world.closes(destroy(8), done());
}

#[test]
fn a_pull_that_offers_nothing_to_close_is_reported_once_and_caught_when_it_does() {
    let mut world = World::new(enforce(GIB));
    world.lease("queued").manifest(image(30, &[(3, 5 * GIB)], &[]));
    world.live(1_900);
    assert_eq!(world.records(), []);
    world.live(20_000).no_lever();
    assert_eq!(not_stopped(&world.records()).len(), 1);
    world.lease("queued").ingest(3, 0, 5 * GIB);
    world.fed(7, 3, MIB).closes(destroy(7), done());
}

#[test]
fn no_lever_is_pulled_on_an_old_look() {
    let mut world = World::new(enforce(GIB));
    world.lease("huge").ingest(3, MIB, 5 * GIB);
    world.fed(7, 3, MIB).pass(30_000);
    world.lease("huge").manifest(image(30, &[(3, 5 * GIB)], &[]));
    world.no_lever().live(10);
    world.closes(destroy(7), done());
}

#[test]
fn each_pull_has_one_lever_in_flight_and_two_pulls_have_two() {
    let mut world = huge();
    world.lease("other").ingest(13, 2 * MIB, 5 * GIB);
    world.lease("other").manifest(image(31, &[(13, 5 * GIB)], &[]));
    world.fed(9, 13, 2 * MIB).live(3_000);
    let levers: Vec<Lever> = world.levers().into_iter().map(|(_, lever)| lever).collect();
    assert_eq!(levers, [destroy(8), destroy(9)]);
}

/// A huge image on socket 7 beside a small one; both may have layers from places of their own.
fn beside(names_places: [bool; 2], method: TieMethod) -> World {
    let mut world = World::new(enforce(GIB));
    world.sockets.push(stat(7, 2 * MIB));
    let of = |document, layers: &[(u64, u64)], names_places| Manifest {
        names_places,
        ..image(document, layers, &[])
    };
    world
        .lease("small")
        .ingest(4, MIB, 2 * MIB)
        .manifest(of(40, &[(4, 2 * MIB)], names_places[1]));
    world.lease("huge").ingest(3, 2 * MIB, 5 * GIB);
    world.tell(Event::SocketFed {
        feed: Feed {
            method,
            ..feed(7, ingest_dir(K8S, 3), 2 * MIB)
        },
    });
    world
        .lease("huge")
        .manifest(of(30, &[(3, 5 * GIB)], names_places[0]));
    world.live(100);
    world
}

#[test]
fn a_connection_that_may_be_an_innocents_as_well_is_closed_when_that_one_has_ended() {
    let mut world = beside([true, true], TieMethod::Thread);
    world.live(1_000).no_lever();
    world.lease("small").ends();
    world.drop_ingest(4).live(300).closes(destroy(7), done());
}

#[test]
fn a_connection_that_is_one_pulls_alone_is_closed_at_once() {
    for (names_places, method) in [
        ([true, true], TieMethod::Goroutine),
        ([true, false], TieMethod::Thread),
        ([false, true], TieMethod::Thread),
    ] {
        beside(names_places, method).closes(destroy(7), done());
    }
}
