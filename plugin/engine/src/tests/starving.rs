//! A pull that holds the download slots and hardly uses them, and those that it may not be confused with.

use std::time::Duration;

use super::build::{GIB, KIB, MIB, enforce, image, rule};
use super::scene::{World, destroy};
use crate::evidence::Reason;
use crate::policy::{Mode, Policy, RuleVerdict, Starving};

const RATE: u64 = 100 * KIB;

fn policy() -> Policy {
    Policy {
        starving: Some(Starving {
            rate: RATE,
            time: Duration::from_secs(30),
            slots: 3,
            mode: Mode::Enforce,
        }),
        ..enforce(1_000 * GIB)
    }
}

/// A pull with its manifest: these layers, each of 1 GiB; none has begun.
fn resolved(world: &mut World, name: &str, layers: &[u64]) {
    let declared: Vec<(u64, u64)> = layers.iter().map(|layer| (*layer, GIB)).collect();
    let repository = format!("reg/{name}");
    world
        .lease(name)
        .manifest(image(layers[0] + 100, &declared, &[&repository]));
    world.look();
}

/// All of its layers have ingests.
fn begins(world: &mut World, name: &str, layers: &[u64]) {
    for layer in layers {
        world.lease(name).ingest(*layer, 0, GIB);
    }
    resolved(world, name, layers);
}

/// All of its layers are being fetched, each by a socket of the same number.
fn downloads(world: &mut World, name: &str, layers: &[u64]) {
    begins(world, name, layers);
    for layer in layers {
        world.fed(*layer, *layer, KIB);
    }
}

/// So many seconds pass, in which this pull's layers get so many bytes a second, as containerd shows them.
fn brings(world: &mut World, name: &str, layers: &[u64], rate: u64, seconds: u64) {
    for second in 1..=seconds {
        for layer in layers {
            world.lease(name).ingest(*layer, second * rate / MIB * MIB, GIB);
        }
        world.pass(1_000).look();
    }
}

fn condemned(world: &World) -> Vec<(String, Reason)> {
    let pulls = world.engine.report(false).pulls.into_iter();
    pulls
        .filter_map(|pull| Some((pull.lease.id.to_string(), pull.verdict?.reason)))
        .collect()
}

#[test]
fn who_holds_all_slots_is_stopped_and_the_waiting_one_is_not() {
    let mut world = World::new(policy());
    downloads(&mut world, "slow", &[1, 2, 3]);
    resolved(&mut world, "waits", &[4]);
    // 6 MiB, two for each download, are more than the 3 MB that the policy allows.
    brings(&mut world, "slow", &[1, 2, 3], 10 * KIB, 55);
    assert_eq!(condemned(&world), []);
    world.no_lever();
    brings(&mut world, "slow", &[1, 2, 3], 10 * KIB, 10);
    assert_eq!(condemned(&world), [("slow".to_owned(), Reason::StarvingOthers)]);
    let (_, lever) = world.lever();
    assert_eq!(lever, destroy(1));
}

#[test]
fn what_nobody_is_seen_to_fetch_may_wait_itself_until_its_first_mebibyte() {
    let mut world = World::new(policy());
    begins(&mut world, "slow", &[1, 2, 3]);
    resolved(&mut world, "waits", &[4]);
    brings(&mut world, "slow", &[1, 2, 3], 10 * KIB, 100);
    assert_eq!(condemned(&world), []);
    // That is there after 103 s.
    brings(&mut world, "slow", &[1, 2, 3], 10 * KIB, 180);
    assert_eq!(condemned(&world), [("slow".to_owned(), Reason::StarvingOthers)]);
}

#[test]
fn it_is_behind_since_its_first_byte_and_not_since_that_is_known() {
    let mut world = World::new(policy());
    begins(&mut world, "slow", &[1, 2, 3]);
    resolved(&mut world, "waits", &[4]);
    brings(&mut world, "slow", &[1, 2, 3], KIB, 65);
    assert_eq!(condemned(&world), []);
    world
        .fed_for(1, 1, 64 * KIB, Duration::from_secs(64))
        .pass(1_000)
        .look();
    assert_eq!(condemned(&world), [("slow".to_owned(), Reason::StarvingOthers)]);
}

#[test]
fn nobody_is_slow_while_nobody_waits() {
    let mut world = World::new(policy());
    downloads(&mut world, "slow", &[1, 2, 3]);
    brings(&mut world, "slow", &[1, 2, 3], KIB, 100);
    assert_eq!(condemned(&world), []);
}

#[test]
fn nobody_is_slow_while_slots_are_free() {
    let mut world = World::new(policy());
    downloads(&mut world, "slow", &[1, 2]);
    resolved(&mut world, "waits", &[4]);
    brings(&mut world, "slow", &[1, 2], KIB, 100);
    assert_eq!(condemned(&world), []);
}

#[test]
fn what_comes_in_large_steps_is_not_slow() {
    let mut world = World::new(policy());
    downloads(&mut world, "honest", &[1, 2, 3]);
    resolved(&mut world, "waits", &[4]);
    // Each layer shows progress every thirty seconds only.
    brings(&mut world, "honest", &[1, 2, 3], 35 * KIB, 300);
    assert_eq!(condemned(&world), []);
}

#[test]
fn who_waits_for_what_another_one_fetches_waits_for_no_slot() {
    let mut world = World::new(policy());
    downloads(&mut world, "slow", &[1, 2, 3]);
    resolved(&mut world, "same", &[1]);
    brings(&mut world, "slow", &[1, 2, 3], KIB, 100);
    assert_eq!(condemned(&world), []);
}

#[test]
fn an_exempt_pull_may_be_slow() {
    let mut policy = policy();
    policy.rules = vec![rule("base", &[], &["reg/slow"], RuleVerdict::Exempt)];
    let mut world = World::new(policy);
    downloads(&mut world, "slow", &[1, 2, 3]);
    resolved(&mut world, "waits", &[4]);
    brings(&mut world, "slow", &[1, 2, 3], KIB, 100);
    assert_eq!(condemned(&world), []);
}
