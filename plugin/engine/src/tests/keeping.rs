//! Finished layers of pulls whose pods are gone.

use super::build::{self, GIB, MIB, disk_seen, enforce, image};
use super::scene::{World, done};
use crate::audit::Entry;
use crate::event::Event;
use crate::evidence::{Reason, Source};
use crate::ids::{Digest, ImageName, VerdictId};
use crate::owner::LostPod;

const APP: &str = "reg.example/team/app:1";
const LABEL: &str = "reg.example/team/app";

fn gone(world: &mut World) {
    let lost = LostPod {
        id: VerdictId::new("v").unwrap(),
        pod: build::pod("a/one"),
        images: vec![ImageName::new(APP).unwrap()],
        cause: "deleted".to_owned(),
    };
    world.tell(Event::PodLost { lost });
}

/// Pod `a/one` pulls: the layers 3 and 4 are there, 5 is on its way on socket 7. Their sizes in MiB.
fn pulls(sizes: [u64; 3]) -> World {
    let mut world = World::new(enforce(GIB));
    world.up(Source::Requests).up(Source::Master).pass(5_000);
    world.asked(1, APP, Some("a/one")).pass(2);
    world.lease("l").ingest(5, MIB, sizes[2] * MIB);
    world.look();
    world.fed(7, 5, MIB).live(60);
    for document in [30, 3, 4] {
        world.holds("l", document);
    }
    let layers = [(3, sizes[0] * MIB), (4, sizes[1] * MIB), (5, sizes[2] * MIB)];
    world.lease("l").manifest(image(30, &layers, &[LABEL]));
    world.live(60);
    world
}

fn digests(numbers: &[u64]) -> Vec<Digest> {
    numbers.iter().map(|number| build::digest(*number)).collect()
}

/// What is kept, in order.
fn kept(world: &World) -> Vec<Vec<Digest>> {
    let mut kept: Vec<Vec<Digest>> = world.kept.iter().map(|(_, content)| content.clone()).collect();
    kept.iter_mut().for_each(|one| one.sort());
    kept
}

#[test]
fn what_is_finished_is_kept_with_its_documents() {
    let mut world = pulls([10, 20, 30]);
    gone(&mut world);
    world.live(1_200);
    let (attempt, _) = world.lever();
    assert_eq!(kept(&world), [digests(&[3, 4, 30])]);
    let keep = world.kept[0].0;
    world.tell(Event::KeepDone { keep, failed: None });
    world.tell(Event::LeverDone {
        attempt,
        outcome: done(),
    });
    let said = |entry: &Entry| matches!(entry, Entry::Kept { layers: 2, bytes, failed: None, .. } if *bytes == 30 * MIB);
    assert!(world.records().iter().any(said));
}

#[test]
fn what_does_not_fit_is_left_out_and_with_it_the_manifest_that_would_hold_it() {
    let mut world = pulls([10, 60, 30]);
    gone(&mut world);
    world.live(1_200).lever();
    assert_eq!(kept(&world), [digests(&[3])]);
}

#[test]
fn nothing_is_kept_of_what_was_stopped_for_another_reason() {
    let mut world = pulls([10, 20, 2_000]);
    let (_, _) = world.lever();
    let verdict = world.engine.report(false).pulls.remove(0).verdict.unwrap();
    assert_eq!(verdict.reason, Reason::ImageTooLarge);
    assert_eq!(kept(&world), [] as [Vec<Digest>; 0]);
}

#[test]
fn a_short_disk_releases_and_keeps_no_more() {
    let disk = |world: &mut World, free: u64| {
        world.tell(disk_seen(free * GIB, 100 * GIB));
    };
    let mut world = pulls([10, 20, 30]);
    disk(&mut world, 21);
    gone(&mut world);
    world.live(1_200).lever();
    assert_eq!(world.kept.len(), 1);
    disk(&mut world, 19);
    assert!(world.kept.is_empty());
    let released = |entry: &Entry| matches!(entry, Entry::Released { .. });
    assert!(world.records().iter().any(released));

    let mut world = pulls([10, 20, 30]);
    disk(&mut world, 19);
    gone(&mut world);
    world.live(1_200).lever();
    assert!(world.kept.is_empty());
}

#[test]
fn a_policy_that_keeps_nothing_releases() {
    let mut world = pulls([10, 20, 30]);
    gone(&mut world);
    world.live(1_200).lever();
    let mut policy = enforce(GIB);
    policy.orphan_keep.time = std::time::Duration::ZERO;
    world.load(policy);
    assert!(world.kept.is_empty());
}
