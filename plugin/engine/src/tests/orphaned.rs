//! Pulls whose pods are gone, by the master's word.

use super::build::{self, GIB, MIB, enforce, image};
use super::scene::{World, destroy};
use crate::bounds::{MAX_LOST_PODS, ORPHANS_REMEMBERED};
use crate::event::Event;
use crate::evidence::{Reason, Source};
use crate::ids::{ImageName, VerdictId};
use crate::orphans::Orphans;
use crate::owner::LostPod;
use crate::policy::Mode;
use crate::time::Time;

const APP: &str = "reg.example/team/app:1";
const OTHER: &str = "reg.example/team/app:2";
const LABEL: &str = "reg.example/team/app";

fn lost(pod: &str, name: &str) -> LostPod {
    LostPod {
        id: VerdictId::new(format!("{pod} {name}")).unwrap(),
        pod: build::pod(pod),
        images: vec![ImageName::new(name).unwrap()],
        cause: "deleted".to_owned(),
    }
}

fn says(world: &mut World, pod: &str, name: &str) {
    let lost = lost(pod, name);
    world.tell(Event::PodLost { lost });
}

/// Sources have been up for long; the grace is one second.
fn world() -> World {
    let mut world = World::new(enforce(GIB));
    world.up(Source::Requests).up(Source::Master).pass(5_000);
    world
}

/// Pod `a/one` pulls a small image, on socket 7.
fn pulls(world: &mut World) {
    world.asked(1, APP, Some("a/one")).pass(2);
    world.lease("l").ingest(3, MIB, 5 * MIB);
    world.look();
    world.fed(7, 3, MIB).live(60);
    world.holds("l", 30);
    world.lease("l").manifest(image(30, &[(3, 5 * MIB)], &[LABEL]));
    world.live(60);
}

#[test]
fn a_pull_whose_pod_is_gone_is_stopped_after_the_grace() {
    let mut world = world();
    pulls(&mut world);
    world.no_lever();
    says(&mut world, "a/one", APP);
    world.live(900).no_lever().live(200);
    let (_, lever) = world.lever();
    assert_eq!(lever, destroy(7));
    let verdict = world.engine.report(false).pulls.remove(0).verdict.unwrap();
    assert_eq!(verdict.reason, Reason::Orphaned);
}

#[test]
fn the_kubelet_pulls_later_what_it_has_queued() {
    let mut world = world();
    says(&mut world, "a/one", APP);
    world.live(2_000);
    pulls(&mut world);
    let (_, lever) = world.lever();
    assert_eq!(lever, destroy(7));
}

#[test]
fn another_pod_another_image_or_nobody_is_no_orphan() {
    for (pod, name) in [("b/two", APP), ("a/one", OTHER)] {
        let mut world = world();
        pulls(&mut world);
        says(&mut world, pod, name);
        world.live(5_000).no_lever();
    }
    let mut world = world();
    world.lease("l").ingest(3, MIB, 5 * MIB);
    world.look();
    says(&mut world, "a/one", APP);
    world.fed(7, 3, MIB).live(5_000).no_lever();
}

#[test]
fn while_it_may_be_another_ones_it_is_left_alone() {
    let mut world = world();
    world
        .asked(1, APP, Some("a/one"))
        .asked(2, OTHER, Some("b/two"))
        .pass(2);
    world.lease("l").ingest(3, MIB, 5 * MIB);
    world.lease("m").ingest(4, MIB, 5 * MIB);
    world.look();
    world.fed(7, 3, MIB).fed(8, 4, MIB).live(60);
    says(&mut world, "a/one", APP);
    world.live(5_000).no_lever();
    says(&mut world, "b/two", OTHER);
    world.live(1_500);
    assert_eq!(
        world.levers().len(),
        2,
        "now both are nobody's, whichever is whose"
    );
}

#[test]
fn what_is_said_stays_true_without_the_master_and_counts_only_from_it() {
    let mut world = world();
    pulls(&mut world);
    says(&mut world, "a/one", APP);
    world.down(Source::Master).live(1_500);
    let (_, lever) = world.lever();
    assert_eq!(lever, destroy(7));

    let mut world = World::new(enforce(GIB));
    world.up(Source::Requests).pass(5_000);
    pulls(&mut world);
    says(&mut world, "a/one", APP);
    world.live(5_000).no_lever();
}

#[test]
fn where_the_policy_only_observes_nothing_is_done() {
    let mut world = world();
    let mut policy = enforce(GIB);
    policy.fallback = build::limit(Mode::Observe, GIB);
    world.load(policy);
    pulls(&mut world);
    says(&mut world, "a/one", APP);
    world.live(5_000).no_lever();
    let would = |entry: &crate::audit::Entry| {
        matches!(
            entry,
            crate::audit::Entry::WouldAbort {
                reason: Reason::Orphaned,
                ..
            }
        )
    };
    assert_eq!(world.records().iter().filter(|entry| would(entry)).count(), 1);
}

#[test]
fn what_is_remembered_is_bounded_and_forgotten() {
    let mut orphans = Orphans::default();
    let start = Time::from_micros(1);
    for pod in 0..MAX_LOST_PODS {
        assert!(orphans.lost(start, lost(&format!("a/{pod}"), APP)));
    }
    assert!(orphans.lost(start, lost("a/0", OTHER)), "it is known already");
    assert!(!orphans.lost(start, lost("a/one-more", APP)));
    assert_eq!(orphans.len(), MAX_LOST_PODS);
    let later = start.after(ORPHANS_REMEMBERED);
    assert!(orphans.lost(later, lost("a/late", APP)));
    assert_eq!(orphans.len(), 1);
}
