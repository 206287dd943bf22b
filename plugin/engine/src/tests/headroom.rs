//! Pulls that do not fit on the disk together: who is stopped, and who is not.

use super::build::{GIB, MIB, disk_seen, enforce, headroom, image, rule};
use super::scene::{World, destroy, done, would_abort};
use crate::event::{Event, Room};
use crate::evidence::Reason;
use crate::policy::{DiskOrder, Headroom, Mode, Pattern, Policy, RuleVerdict};

/// Nothing else would stop them.
fn with(headroom: Headroom) -> Policy {
    Policy {
        headroom: Some(headroom),
        ..enforce(1_000 * GIB)
    }
}

/// A pull of one layer that has begun: its number names lease, layer and document, and its socket.
fn pulls(world: &mut World, name: &str, layer: u64, size: u64) {
    world.lease(name).ingest(layer, MIB, size);
    let repository = format!("reg/{name}");
    world
        .lease(name)
        .manifest(image(layer + 100, &[(layer, size)], &[&repository]));
    world.look();
    world.fed(layer, layer, MIB);
}

fn condemned(world: &World) -> Vec<(String, Reason)> {
    let pulls = world.engine.report(false).pulls.into_iter();
    pulls
        .filter_map(|pull| Some((pull.lease.id.to_string(), pull.verdict?.reason)))
        .collect()
}

fn fills_disk(name: &str) -> Vec<(String, Reason)> {
    vec![(name.to_owned(), Reason::NoDiskHeadroom)]
}

#[test]
fn the_largest_is_stopped_and_the_others_go_on() {
    let mut world = World::new(with(headroom(Mode::Enforce)));
    world.tell(disk_seen(60 * GIB, 100 * GIB));
    pulls(&mut world, "small", 1, GIB);
    pulls(&mut world, "large", 2, 24 * GIB);
    // 50 GiB may be filled, and each byte counts twice: once as a blob, once unpacked.
    world.no_lever();
    assert_eq!(condemned(&world), []);
    pulls(&mut world, "other", 3, 2 * GIB);
    assert_eq!(condemned(&world), fills_disk("large"));
    world.closes(destroy(2), done());
    world.lease("large").ends();
    world.look().live(100);
    assert_eq!(condemned(&world), []);
}

#[test]
fn what_was_there_before_the_pull_needs_no_room() {
    let mut world = World::new(with(headroom(Mode::Enforce)));
    world.tell(disk_seen(20 * GIB, 100 * GIB));
    // Its first layer is unpacked already: containerd begins with the second.
    world.lease("base").ingest(2, MIB, GIB);
    world
        .lease("base")
        .manifest(image(30, &[(1, 90 * GIB), (2, GIB)], &["reg/base"]));
    world.look().fed(2, 2, MIB);
    assert_eq!(condemned(&world), []);
}

#[test]
fn a_layer_that_two_want_counts_once() {
    let mut world = World::new(with(headroom(Mode::Enforce)));
    world.tell(disk_seen(40 * GIB, 100 * GIB));
    pulls(&mut world, "one", 1, 10 * GIB);
    world.lease("two").ingest(2, MIB, GIB);
    world
        .lease("two")
        .manifest(image(30, &[(2, GIB), (1, 10 * GIB)], &["reg/two"]));
    world.look().fed(2, 2, MIB);
    assert_eq!(condemned(&world), []);
}

#[test]
fn progress_of_the_chosen_one_does_not_condemn_another() {
    let mut world = World::new(with(headroom(Mode::Observe)));
    world.tell(disk_seen(60 * GIB, 100 * GIB));
    pulls(&mut world, "one", 1, 20 * GIB);
    pulls(&mut world, "two", 2, 19 * GIB);
    assert_eq!(condemned(&world), fills_disk("one"));
    for step in 1..=9 {
        world.lease("one").ingest(1, step * 2 * GIB, 20 * GIB);
        world.look().live(100);
        assert_eq!(condemned(&world), fills_disk("one"));
    }
}

#[test]
fn an_exempt_pull_is_not_chosen_and_another_is() {
    let mut policy = with(headroom(Mode::Enforce));
    policy.rules = vec![rule("base", &[], &["reg/large"], RuleVerdict::Exempt)];
    let mut world = World::new(policy);
    world.tell(disk_seen(60 * GIB, 100 * GIB));
    pulls(&mut world, "large", 1, 22 * GIB);
    pulls(&mut world, "small", 2, 4 * GIB);
    assert_eq!(condemned(&world), fills_disk("small"));
}

#[test]
fn the_youngest_goes_first_if_the_policy_says_so() {
    let mut world = World::new(with(Headroom {
        first: DiskOrder::Youngest,
        ..headroom(Mode::Enforce)
    }));
    world.tell(disk_seen(60 * GIB, 100 * GIB));
    pulls(&mut world, "large", 1, 22 * GIB);
    pulls(&mut world, "small", 2, 4 * GIB);
    assert_eq!(condemned(&world), fills_disk("small"));
}

#[test]
fn spared_namespaces_come_last_and_so_does_who_is_not_known() {
    let mut world = World::new(with(Headroom {
        spare: vec![Pattern::new("kube-*")],
        ..headroom(Mode::Enforce)
    }));
    world.tell(disk_seen(60 * GIB, 100 * GIB));
    pulls(&mut world, "large", 1, 22 * GIB);
    pulls(&mut world, "small", 2, 4 * GIB);
    // Both may be of kube-system: then the order decides, and somebody must go.
    assert_eq!(condemned(&world), fills_disk("large"));
}

#[test]
fn small_pulls_go_on_also_on_a_full_disk() {
    let mut world = World::new(with(headroom(Mode::Enforce)));
    world.tell(disk_seen(GIB, 100 * GIB));
    pulls(&mut world, "small", 1, 4 * MIB);
    pulls(&mut world, "large", 2, 40 * MIB);
    assert_eq!(condemned(&world), fills_disk("large"));
}

#[test]
fn one_at_a_time_goes_where_inodes_are_short() {
    let mut world = World::new(with(headroom(Mode::Enforce)));
    let room = |free_inodes| Room {
        free: 90 * GIB,
        total: 100 * GIB,
        free_inodes,
        inodes: 1_000,
    };
    let content = room(500);
    let snapshots = |free| Event::DiskSeen {
        content,
        snapshots: Some(room(free)),
    };
    world.tell(snapshots(101));
    pulls(&mut world, "one", 1, GIB);
    pulls(&mut world, "two", 2, 2 * GIB);
    assert_eq!(condemned(&world), []);
    world.tell(snapshots(99));
    assert_eq!(condemned(&world), fills_disk("two"));
    world.closes(destroy(2), done());
    world.lease("two").ends();
    world.look();
    assert_eq!(condemned(&world), fills_disk("one"));
}

#[test]
fn without_a_policy_or_a_word_of_the_disk_nobody_is_stopped() {
    let mut world = World::new(enforce(1_000 * GIB));
    world.tell(disk_seen(GIB, 100 * GIB));
    pulls(&mut world, "large", 1, 90 * GIB);
    assert_eq!(condemned(&world), []);
    let mut world = World::new(with(headroom(Mode::Enforce)));
    pulls(&mut world, "large", 1, 90 * GIB);
    assert_eq!(condemned(&world), []);
}

#[test]
fn who_only_observes_records_it() {
    let mut world = World::new(with(headroom(Mode::Observe)));
    world.tell(disk_seen(11 * GIB, 100 * GIB));
    pulls(&mut world, "large", 1, 9 * GIB);
    world.no_lever();
    assert_eq!(would_abort(&world.records()), [Reason::NoDiskHeadroom]);
}
