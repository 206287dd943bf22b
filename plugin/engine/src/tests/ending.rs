//! After the end: leftovers, and who takes over.

use std::time::Duration;

use super::build::{GIB, MIB, enforce, image, ingest_key, ingest_ref, observe, policy, rule, snapshot};
use super::scene::{K8S, World, destroy, done, why};
use crate::action::{Lever, LeverOutcome};
use crate::audit::Entry;
use crate::bounds::{AFTERMATH_LONGEST, CLEANUP_GRACE};
use crate::event::Event;
use crate::policy::{Policy, RuleVerdict};

/// A huge image that was stopped: its lease is gone, its ingest and its extract snapshot are still there.
fn stopped(policy: Policy) -> World {
    let mut world = World::new(policy);
    world
        .lease("huge")
        .ingest(3, 2 * MIB, 5 * GIB)
        .extract("extract-1 chain");
    world.fed(7, 3, 2 * MIB);
    world
        .lease("huge")
        .manifest(image(30, &[(3, 5 * GIB)], &["reg/huge"]));
    world.closes(destroy(7), done()).closed(7);
    world.lease("huge").ends();
    world.live(10).records();
    world
}

fn grace() -> u64 {
    u64::try_from(CLEANUP_GRACE.as_millis()).unwrap()
}

fn abort_ingest() -> Lever {
    Lever::AbortIngest {
        ingest: ingest_key(K8S, 3),
    }
}

fn remove_snapshot() -> Lever {
    Lever::RemoveSnapshot {
        snapshot: snapshot(K8S, "extract-1 chain"),
    }
}

fn drop_snapshot(world: &mut World) {
    world.view.extracts = Some(Vec::new());
}

#[test]
fn leftovers_are_removed_one_by_one_after_the_grace() {
    let mut world = stopped(enforce(GIB));
    world.live(grace() - 300).no_lever().live(600);
    world.closes(abort_ingest(), done()).drop_ingest(3).live(300);
    world.closes(remove_snapshot(), done());
    drop_snapshot(&mut world);
    world.live(300).no_lever();
    assert!(
        world
            .records()
            .iter()
            .any(|entry| matches!(entry, Entry::Clean { removed: 2 }))
    );
    world.live(6_000).look();
    assert!(world.engine.footprint().is_nothing());
}

#[test]
fn what_containerd_collects_itself_is_left_to_it() {
    let mut world = stopped(enforce(GIB));
    world.live(2_000).drop_ingest(3);
    drop_snapshot(&mut world);
    world.live(10_000).no_lever();
    assert!(
        world
            .records()
            .iter()
            .any(|entry| matches!(entry, Entry::Clean { removed: 0 }))
    );
}

#[test]
fn a_snapshot_that_another_lease_holds_is_no_leftover() {
    let mut world = stopped(enforce(GIB));
    world.drop_ingest(3);
    world.lease("other").extract("extract-1 chain");
    world.live(30_000).no_lever();
    assert!(
        world
            .records()
            .iter()
            .any(|entry| matches!(entry, Entry::Clean { removed: 0 }))
    );
}

#[test]
fn an_ingest_that_grows_has_a_writer_and_is_left_alone() {
    let mut world = stopped(enforce(GIB));
    drop_snapshot(&mut world);
    for offset in 0..60 {
        world.view.ingests[0].offset = (3 + offset) * MIB;
        world.live(1_000).no_lever();
    }
    assert!(
        world
            .records()
            .iter()
            .any(|entry| matches!(entry, Entry::NotClean { .. }))
    );
    assert!(world.engine.footprint().is_nothing());
}

#[test]
fn the_grace_begins_anew_when_a_leftover_was_owned_meanwhile() {
    let mut world = stopped(enforce(GIB));
    drop_snapshot(&mut world);
    world.live(2_000);
    world.lease("waiter").ingest(3, 2 * MIB, 5 * GIB);
    world.live(300);
    // Taken over, and therefore clean: what becomes of it is the waiter's affair.
    world.lease("waiter").ends();
    world.live(30_000).no_lever();
}

#[test]
fn a_leftover_that_cannot_be_removed_is_tried_three_times_and_reported() {
    let mut world = stopped(enforce(GIB));
    drop_snapshot(&mut world);
    world.live(grace() + 300);
    for _ in 0..3 {
        world
            .closes(abort_ingest(), LeverOutcome::Failed { why: why() })
            .live(800);
    }
    world.no_lever().live(70_000).no_lever();
    let records = world.records();
    let what = records.iter().find_map(|entry| {
        let Entry::NotClean { what } = entry else {
            return None;
        };
        Some(what.clone())
    });
    assert_eq!(what.unwrap(), [format!("ingest {}", ingest_ref(3))]);
    assert!(world.engine.footprint().is_nothing());
}

#[test]
fn an_innocent_waiter_that_takes_over_is_named_and_not_touched() {
    let mut rules = enforce(GIB);
    rules
        .rules
        .push(rule("base", &[], &["reg/base"], RuleVerdict::Exempt));
    let mut world = stopped(rules);
    drop_snapshot(&mut world);
    world
        .lease("waiter")
        .manifest(image(31, &[(3, 5 * GIB)], &["reg/base"]));
    world.lease("waiter").ingest(3, 2 * MIB, 5 * GIB);
    let by = world.id_of("waiter");
    world.fed(9, 3, MIB).live(20_000).no_lever();
    let (ingest, condemned) = (ingest_ref(3), false);
    assert!(world.records().contains(&Entry::TakenOver {
        ingest,
        by,
        condemned
    }));
    assert_eq!(world.engine.footprint().aftermaths, 0);
}

#[test]
fn a_condemned_waiter_that_takes_over_is_stopped_as_well() {
    let mut world = stopped(enforce(GIB));
    drop_snapshot(&mut world);
    world
        .lease("waiter")
        .manifest(image(30, &[(3, 5 * GIB)], &["reg/huge"]));
    world.lease("waiter").ingest(3, 2 * MIB, 5 * GIB);
    let by = world.id_of("waiter");
    world.live(300);
    let (ingest, condemned) = (ingest_ref(3), true);
    assert!(world.records().contains(&Entry::TakenOver {
        ingest,
        by,
        condemned
    }));
    world.no_lever().fed(9, 3, MIB).closes(destroy(9), done());
}

#[test]
fn a_late_socket_record_of_the_ended_pull_is_no_tie_of_the_waiter() {
    let mut world = World::new(enforce(GIB));
    world
        .lease("huge")
        .manifest(image(30, &[(3, 5 * GIB)], &[]))
        .ingest(3, 2 * MIB, 5 * GIB);
    world.fed(7, 3, 2 * MIB).closes(destroy(7), done());
    world.lease("huge").ends();
    world
        .lease("waiter")
        .manifest(image(30, &[(3, 5 * GIB)], &[]))
        .ingest(3, 2 * MIB, 5 * GIB);
    // Socket 7 is not reported as closed yet, but it was the first pull's.
    world.live(900).no_lever();
    world.fed(9, 3, MIB).closes(destroy(9), done());
}

#[test]
fn nothing_is_removed_while_containerd_is_gone_and_all_is_forgotten_in_the_end() {
    let mut world = stopped(enforce(GIB));
    world.down(crate::evidence::Source::Containerd);
    let longest = u64::try_from(AFTERMATH_LONGEST.as_millis()).unwrap();
    world.live(longest + 1_000).no_lever();
    assert!(
        world
            .records()
            .iter()
            .any(|entry| matches!(entry, Entry::NotClean { .. }))
    );
    assert_eq!(world.engine.footprint().aftermaths, 0);
}

#[test]
fn a_policy_that_only_observes_by_now_cleans_nothing_up() {
    for policy in [observe(GIB), policy(RuleVerdict::Exempt)] {
        let mut world = stopped(enforce(GIB));
        world.load(policy).live(70_000).no_lever();
        assert!(
            world
                .records()
                .iter()
                .any(|entry| matches!(entry, Entry::NotClean { .. }))
        );
    }
}

#[test]
fn a_view_that_may_be_cut_proves_nothing_unowned() {
    let mut world = stopped(enforce(GIB));
    for number in 0..crate::bounds::MAX_PULLS {
        let key = super::build::lease_key("other", &format!("l{number}"));
        world.view.leases.push(super::build::lease_view(key, &[]));
    }
    for _ in 0..8 {
        world.pass(1_000).look().no_lever();
    }
}

#[test]
fn a_lever_that_is_still_in_flight_keeps_the_next_one_waiting() {
    let mut world = World::new(enforce(GIB));
    world.lease("huge").ingest(3, 2 * MIB, 5 * GIB);
    world.fed(7, 3, 2 * MIB);
    world.lease("huge").manifest(image(30, &[(3, 5 * GIB)], &[]));
    let (attempt, _) = world.lever();
    world.lease("huge").ends();
    world.live(20_000).no_lever();
    world
        .tell(Event::LeverDone {
            attempt,
            outcome: LeverOutcome::AlreadyGone,
        })
        .live(1_000);
    assert_eq!(world.lever().1, abort_ingest());
}

#[test]
fn a_pull_whose_verdict_was_withdrawn_after_a_lever_still_has_a_recorded_end() {
    let mut world = World::new(enforce(GIB));
    world.lease("huge").ingest(3, 2 * MIB, 5 * GIB);
    world.fed(7, 3, 2 * MIB);
    world.lease("huge").manifest(image(30, &[(3, 5 * GIB)], &[]));
    world.closes(destroy(7), done()).load(policy(RuleVerdict::Exempt));
    world.lease("huge").ends();
    world.live(300);
    let records = world.records();
    assert!(
        records
            .iter()
            .any(|entry| matches!(entry, Entry::Ended { attempts: 1, .. })),
        "{records:?}"
    );
}

/// A huge image is pulled, and stopped by its socket; its ingest is left.
fn stops_huge(world: &mut World) {
    world.lease("huge").ingest(3, MIB, 5 * GIB);
    world
        .lease("huge")
        .manifest(image(30, &[(3, 5 * GIB)], &["reg/huge"]));
    world.fed(7, 3, MIB).closes(destroy(7), done()).closed(7);
    world.lease("huge").ends();
    world.look();
}

#[test]
fn what_is_left_of_a_denied_image_is_collected_at_once_and_not_too_often() {
    let mut policy = enforce(GIB);
    policy.deny_for = Duration::from_secs(600);
    let mut world = World::new(policy);
    for round in 1..=3 {
        stops_huge(&mut world);
        assert_eq!(world.collections, if round < 3 { 1 } else { 2 });
        if round == 2 {
            world.tell(Event::CollectDone).live(200);
        }
        world.drop_ingest(3).look();
    }
}

#[test]
fn nothing_is_collected_for_an_image_that_is_let_in_again() {
    let mut world = World::new(enforce(GIB));
    stops_huge(&mut world);
    assert_eq!(world.collections, 0);
}
