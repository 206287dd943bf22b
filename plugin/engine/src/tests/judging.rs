//! When a pull is condemned, and when it is not.

use super::build::{GIB, MIB, enforce, image, index, limit, limits, observe, policy, rule};
use super::scene::{World, destroy, done, sources, would_abort};
use crate::action::{Action, Effects};
use crate::audit::Entry;
use crate::event::Event;
use crate::evidence::{Reason, Source};
use crate::policy::{Mode, Policy, RuleVerdict};
use crate::trace::Line;

/// A huge image as one layer, its lease and its ingest in place; the manifest is not read yet.
fn huge_without_manifest(world: &mut World) {
    world.lease("huge").ingest(3, MIB, 5 * GIB);
}

fn read_huge(world: &mut World) {
    world
        .lease("huge")
        .manifest(image(30, &[(3, 5 * GIB)], &["reg/huge"]));
}

#[test]
fn an_oversize_image_is_stopped_once_the_manifest_and_then_the_kernel_agree() {
    let mut world = World::new(enforce(GIB));
    huge_without_manifest(&mut world);
    read_huge(&mut world);
    world.no_lever();
    world.fed(7, 3, MIB);
    world.closes(destroy(7), done());
}

#[test]
fn an_oversize_image_is_stopped_once_the_kernel_and_then_the_manifest_agree() {
    let mut world = World::new(enforce(GIB));
    huge_without_manifest(&mut world);
    world.fed(7, 3, MIB).no_lever();
    read_huge(&mut world);
    world.closes(destroy(7), done());
}

#[test]
fn a_socket_that_is_seen_before_its_ingest_waits_for_the_look() {
    let mut world = World::new(enforce(GIB));
    world.lease("huge");
    read_huge(&mut world);
    let looks = world.looks;
    world.pass(10).fed(7, 3, MIB).no_lever();
    assert_eq!(world.looks, looks + 1, "an unknown ingest is looked for at once");
    huge_without_manifest(&mut world);
    world.closes(destroy(7), done());
}

#[test]
fn one_socket_of_several_is_closed_and_it_is_the_busiest() {
    let mut world = World::new(enforce(GIB));
    world
        .lease("huge")
        .ingest(3, MIB, 5 * GIB)
        .ingest(4, 9 * MIB, 5 * GIB);
    world.fed(7, 3, MIB).fed(8, 4, 9 * MIB);
    world
        .lease("huge")
        .manifest(image(30, &[(3, 5 * GIB), (4, 5 * GIB)], &[]));
    world.closes(destroy(8), done());
    world.no_lever();
}

#[test]
fn the_intent_names_the_pull_the_rule_and_both_sources() {
    let mut rules = enforce(GIB);
    rules
        .rules
        .push(rule("all", &[], &["reg/*"], limit(Mode::Enforce, GIB)));
    let mut world = World::new(rules);
    huge_without_manifest(&mut world);
    read_huge(&mut world);
    let feed = super::build::feed(7, super::build::ingest_dir(super::scene::K8S, 3), MIB);
    let mut fx = Effects::default();
    world.engine.handle(world.now, Event::SocketFed { feed }, &mut fx);
    let intent = fx.take().into_iter().find_map(|action| {
        let Action::PullLever { intent, .. } = action else {
            return None;
        };
        Some(intent)
    });
    let intent = intent.unwrap();
    assert_eq!(intent.pull.unwrap().lease.id.as_str(), "huge");
    let Entry::Intent {
        reason,
        rule,
        evidence,
        socket,
        ..
    } = intent.entry
    else {
        panic!("no intent");
    };
    assert_eq!((reason, rule.as_deref()), (Reason::ImageTooLarge, Some("all")));
    assert_eq!(socket, Some(super::build::socket(7)));
    assert_eq!(sources(&evidence), [Source::Containerd, Source::Probes]);
}

#[test]
fn a_large_layer_is_enough_where_layers_are_limited() {
    let mut world = World::new(policy(RuleVerdict::Limit {
        mode: Mode::Enforce,
        limits: limits(None, Some(100 * MIB), None),
    }));
    world
        .lease("l")
        .ingest(2, MIB, 200 * MIB)
        .manifest(image(20, &[(2, 200 * MIB)], &[]));
    world
        .lease("small")
        .ingest(1, MIB, 99 * MIB)
        .manifest(image(21, &[(1, 99 * MIB)], &[]));
    world.fed(8, 1, MIB).no_lever();
    world.fed(7, 2, MIB).closes(destroy(7), done());
}

#[test]
fn a_layer_that_is_listed_twice_counts_once() {
    let mut world = World::new(enforce(GIB));
    let manifest = image(20, &[(2, 700 * MIB), (2, 700 * MIB)], &[]);
    world.lease("l").ingest(2, MIB, 700 * MIB).manifest(manifest);
    world.fed(7, 2, MIB).no_lever();
}

#[test]
fn observe_says_once_what_it_would_do_and_does_nothing() {
    let mut world = World::new(observe(GIB));
    huge_without_manifest(&mut world);
    read_huge(&mut world);
    assert_eq!(would_abort(&world.records()), [], "one source only");
    world.fed(7, 3, MIB);
    assert_eq!(would_abort(&world.records()), [Reason::ImageTooLarge]);
    for _ in 0..20 {
        world.pass(300).fed(7, 3, 2 * MIB).look().live(1_000);
    }
    assert_eq!(would_abort(&world.records()), []);
    world.no_lever();
}

#[test]
fn exempt_is_exempt_whatever_it_does() {
    let mut rules = enforce(GIB);
    rules
        .rules
        .push(rule("base", &[], &["reg/base/*"], RuleVerdict::Exempt));
    let mut world = World::new(rules);
    world.lease("l").ingest(3, 9 * GIB, 5 * GIB);
    world
        .lease("l")
        .manifest(image(30, &[(3, 5 * GIB)], &["reg/base/os"]));
    world.fed(7, 3, 9 * GIB).live(10_000).no_lever();
    assert_eq!(world.records(), []);
}

#[test]
fn an_unknown_pod_namespace_keeps_the_lenient_rule_possible() {
    for verdict in [
        RuleVerdict::Exempt,
        limit(Mode::Enforce, 10 * GIB),
        limit(Mode::Observe, GIB),
    ] {
        let mut rules = enforce(GIB);
        rules.rules.push(rule("team", &["team-*"], &[], verdict));
        let mut world = World::new(rules);
        huge_without_manifest(&mut world);
        read_huge(&mut world);
        world.fed(7, 3, MIB).live(5_000).no_lever();
        let observed = verdict == limit(Mode::Observe, GIB);
        assert_eq!(
            would_abort(&world.records()).len(),
            usize::from(observed),
            "{verdict:?}"
        );
    }
}

#[test]
fn an_unknown_origin_keeps_the_lenient_rule_possible_until_it_is_known() {
    let mut rules = enforce(GIB);
    rules
        .rules
        .push(rule("base", &[], &["reg/base/*"], RuleVerdict::Exempt));
    let mut world = World::new(rules);
    huge_without_manifest(&mut world);
    world.lease("huge").manifest(image(30, &[(3, 5 * GIB)], &[]));
    world.fed(7, 3, MIB).no_lever();
    read_huge(&mut world);
    world.closes(destroy(7), done());
}

#[test]
fn an_overrun_needs_no_manifest_only_what_containerd_declares() {
    let mut world = World::new(enforce(GIB));
    world.lease("liar").ingest(5, MIB, MIB);
    world.fed(7, 5, MIB).no_lever();
    world.lease("liar").ingest(5, 2 * MIB, MIB);
    world.closes(destroy(7), done());
}

#[test]
fn an_overrun_is_measured_by_the_manifest_where_containerd_knows_no_total() {
    let mut world = World::new(enforce(GIB));
    world.lease("liar").manifest(image(50, &[(5, MIB)], &[]));
    world.lease("liar").ingest(5, MIB, 0);
    world.fed(7, 5, MIB).no_lever();
    world.lease("liar").ingest(5, 2 * MIB, 0);
    world.closes(destroy(7), done());
}

#[test]
fn more_bytes_on_the_socket_than_declared_make_the_engine_look_and_look_again() {
    let mut world = World::new(enforce(GIB));
    world.lease("liar").ingest(5, MIB, MIB);
    world.fed(7, 5, MIB).live(100);
    let looks = world.looks;
    world.pass(300).fed(7, 5, MIB + 900_000).live(100);
    assert!(world.looks >= looks + 3, "{} looks", world.looks - looks);
    world.no_lever();
    world.lease("liar").ingest(5, 2 * MIB, MIB);
    world.closes(destroy(7), done());
}

#[test]
fn an_overrun_stays_one_when_its_ingest_is_gone() {
    let mut world = World::new(enforce(GIB));
    world
        .lease("liar")
        .ingest(5, 9 * MIB, MIB)
        .ingest(6, MIB, 10 * MIB);
    world.drop_ingest(5).look();
    world.fed(8, 6, MIB).closes(destroy(8), done());
}

#[test]
fn a_layer_that_looks_like_a_manifest_declares_nothing() {
    let mut world = World::new(enforce(GIB));
    world
        .lease("mimic")
        .manifest(image(109, &[(110, MIB), (9, 30 * MIB)], &[]));
    world.lease("mimic").manifest(image(110, &[(11, 700 * GIB)], &[]));
    world.lease("mimic").ingest(9, MIB, 30 * MIB);
    world.fed(7, 9, MIB).live(3_000).no_lever();
    assert_eq!(world.records(), []);
}

#[test]
fn a_verdict_on_a_layer_that_looked_like_a_manifest_is_withdrawn() {
    let mut world = World::new(enforce(GIB));
    world.lease("mimic").manifest(image(110, &[(11, 700 * GIB)], &[]));
    world
        .lease("mimic")
        .manifest(image(109, &[(110, MIB), (9, 30 * MIB)], &[]));
    world.lease("mimic").ingest(9, MIB, 30 * MIB);
    world.fed(7, 9, MIB).live(3_000).no_lever();
}

#[test]
fn an_index_declares_what_its_manifest_declares() {
    let mut world = World::new(enforce(GIB));
    world
        .lease("many")
        .manifest(index(107, &[108]))
        .ingest(7, MIB, 5 * GIB);
    world.fed(7, 7, MIB).no_lever();
    world.lease("many").manifest(image(108, &[(7, 5 * GIB)], &[]));
    world.closes(destroy(7), done());
}

#[test]
fn where_two_manifests_differ_on_a_layer_the_larger_size_holds() {
    let mut world = World::new(enforce(GIB));
    world
        .lease("two")
        .manifest(image(40, &[(5, MIB)], &[]))
        .manifest(image(41, &[(5, 9 * MIB)], &[]));
    world.lease("two").ingest(5, 5 * MIB, 0);
    world.fed(7, 5, 5 * MIB).live(1_000).no_lever();
    world.lease("two").ingest(5, 10 * MIB, 0);
    world.closes(destroy(7), done());
}

#[test]
fn an_unreadable_manifest_is_recorded_and_condemns_nothing() {
    let mut world = World::new(enforce(GIB));
    huge_without_manifest(&mut world);
    world.fed(7, 3, MIB);
    world.tell(Event::ManifestUnreadable {
        lease: super::build::lease_key(super::scene::K8S, "huge"),
        digest: super::build::digest(30),
        problem: "not JSON".to_owned(),
    });
    assert!(matches!(
        world.records().as_slice(),
        [Entry::ManifestUnreadable { .. }]
    ));
    world.live(3_000).no_lever();
}

#[test]
fn a_reload_that_withdraws_a_verdict_ends_the_pursuit() {
    let mut world = World::new(enforce(GIB));
    huge_without_manifest(&mut world);
    read_huge(&mut world);
    world.fed(7, 3, MIB).closes(destroy(7), done());
    world.load(policy(RuleVerdict::Exempt));
    world.fed(8, 3, 2 * MIB).live(20_000).no_lever();
    world.load(enforce(GIB)).live(100);
    world.closes(destroy(8), done());
}

#[test]
fn a_reload_to_observe_reports_and_a_reload_to_enforce_acts() {
    let mut world = World::new(policy(RuleVerdict::Exempt));
    huge_without_manifest(&mut world);
    read_huge(&mut world);
    world.fed(7, 3, MIB).load(observe(GIB)).no_lever();
    assert_eq!(would_abort(&world.records()), [Reason::ImageTooLarge]);
    world.load(enforce(GIB)).closes(destroy(7), done());
}

#[test]
fn the_built_in_policy_only_observes() {
    let mut world = World::new(Policy::default());
    world.lease("liar").ingest(5, 9 * MIB, MIB);
    world.fed(7, 5, 9 * MIB).live(1_000).no_lever();
    assert_eq!(would_abort(&world.records()), [Reason::LayerOverrunsManifest]);
}

#[test]
fn every_event_and_effect_survives_json() {
    let mut world = World::new(enforce(GIB));
    huge_without_manifest(&mut world);
    read_huge(&mut world);
    let feed = super::build::feed(7, super::build::ingest_dir(super::scene::K8S, 3), MIB);
    let (event, mut fx) = (Event::SocketFed { feed }, Effects::default());
    world.engine.handle(world.now, event.clone(), &mut fx);
    let line = Line {
        at: world.now,
        event,
        effects: Some(fx.take()),
    };
    let mut json = Vec::new();
    line.write_to(&mut json).unwrap();
    let (_, read) = crate::trace::read(&json[..]).next().unwrap().unwrap();
    assert_eq!(read, line);
}
