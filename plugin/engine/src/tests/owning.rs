//! Whose pull it is: requests, leases, manifests and the verifier's questions, joined.

mod story;

use super::build::{GIB, MIB, digest, enforce, image, lease_key};
use super::scene::{K8S, World};
use crate::event::{Event, Question};
use crate::evidence::Source;
use crate::ids::{CallId, ImageName};
use crate::owner::Owner;
use crate::report::PullReport;

const APP: &str = "reg.example:5000/team/app:1";
const OTHER_TAG: &str = "reg.example:5000/team/app:2";
/// The same repository as containerd's label has it.
const LABEL: &str = "reg.example/team/app";

/// Requests are seen, and have been for long.
fn world() -> World {
    let mut world = World::new(enforce(GIB));
    world.up(Source::Requests).up(Source::Nri).pass(5_000);
    world
}

fn report(world: &World, lease: &str) -> PullReport {
    let report = world.engine.report(true);
    let key = lease_key(K8S, lease);
    let mut pulls = report.pulls.into_iter().chain(report.ended);
    pulls.find(|pull| pull.lease == key).unwrap()
}

fn named(owner: &Owner) -> String {
    let pod = owner
        .pod
        .as_ref()
        .map_or("nobody".to_owned(), ToString::to_string);
    format!("{} for {pod}", owner.image)
}

/// The owner in words; those who may be it, if several may; or nothing.
fn owner(world: &World, lease: &str) -> String {
    let report = report(world, lease);
    let candidates: Vec<String> = report.owner_candidates.iter().map(named).collect();
    report.owner.as_ref().map_or(candidates.join(" or "), named)
}

fn for_pod(image: &str, pod: &str) -> String {
    format!("{image} for {pod}")
}

/// Time for leases to show.
fn settle(world: &mut World) {
    world.pass(50).look();
}

#[test]
fn one_request_and_one_lease_belong_together_once_no_other_lease_can_come() {
    let mut world = world();
    world.asked(1, APP, Some("a/one")).pass(2).leases("l");
    assert_eq!(owner(&world, "l"), "", "another lease may still come");
    settle(&mut world);
    assert_eq!(owner(&world, "l"), for_pod(APP, "a/one"));
    assert_eq!(report(&world, "l").owner.unwrap().proof, [Source::Requests]);
}

#[test]
fn nri_proves_it_as_well() {
    let mut world = world();
    world.asked(1, APP, Some("a/one")).pass(2).leases("l");
    settle(&mut world);
    world.pod("s1", "a/one");
    let proof = |world: &World| report(world, "l").owner.unwrap().proof;
    assert_eq!(proof(&world), [Source::Requests, Source::Nri]);
    world.down(Source::Nri);
    assert_eq!(proof(&world), [Source::Requests]);
}

#[test]
fn a_lease_that_is_older_than_the_request_is_another_ones() {
    let mut world = world();
    world.leases("l").pass(2).asked(1, APP, Some("a/one"));
    settle(&mut world);
    assert_eq!(owner(&world, "l"), "");
}

#[test]
fn two_tags_at_once_stay_two_explanations() {
    let mut world = world();
    world
        .asked(1, APP, Some("a/one"))
        .asked(2, OTHER_TAG, Some("b/two"));
    world.pass(2).leases("l").leases("m");
    settle(&mut world);
    let either = format!("{} or {}", for_pod(APP, "a/one"), for_pod(OTHER_TAG, "b/two"));
    assert_eq!([owner(&world, "l"), owner(&world, "m")], [either.clone(), either]);
}

/// Two requests at once, and what tells them apart.
fn two_at_once(one: &str, other: &str) -> World {
    let mut world = world();
    world.asked(1, one, Some("a/one")).asked(2, other, Some("b/two"));
    world.pass(2).leases("l").leases("m");
    settle(&mut world);
    world
}

fn manifests(world: &mut World) {
    world.holds("l", 20).holds("m", 21);
    world.lease("l").manifest(image(20, &[(1, MIB)], &[LABEL]));
    world.lease("m").manifest(image(21, &[(1, MIB)], &[LABEL]));
}

fn assert_told_apart(world: &World, one: &str, other: &str) {
    let found = [owner(world, "l"), owner(world, "m")];
    assert_eq!(found, [for_pod(one, "a/one"), for_pod(other, "b/two")]);
}

#[test]
fn the_order_of_requests_and_leases_tells_apart() {
    let mut world = world();
    world.asked(1, APP, Some("a/one")).pass(2).leases("l");
    world
        .pass(5)
        .asked(2, OTHER_TAG, Some("b/two"))
        .pass(2)
        .leases("m");
    settle(&mut world);
    assert_told_apart(&world, APP, OTHER_TAG);
}

#[test]
fn the_repository_tells_apart() {
    let other = "reg.example/other/app";
    let mut world = two_at_once(APP, other);
    world.lease("l").manifest(image(20, &[(1, MIB)], &[LABEL]));
    assert_told_apart(&world, APP, other);
}

#[test]
fn a_digest_in_the_reference_tells_apart() {
    let by_digest = format!("reg.example:5000/team/app:2@{}", digest(21));
    let mut world = two_at_once(APP, &by_digest);
    manifests(&mut world);
    assert_told_apart(&world, APP, &by_digest);
}

#[test]
fn the_verifiers_word_tells_apart() {
    let mut world = two_at_once(APP, OTHER_TAG);
    world.verify(OTHER_TAG, 21);
    manifests(&mut world);
    assert_told_apart(&world, APP, OTHER_TAG);
}

#[test]
fn the_end_of_one_request_tells_apart() {
    let mut world = two_at_once(APP, OTHER_TAG);
    manifests(&mut world);
    world.lease("l").ends();
    world.pass(5).call_ended(1).pass(5).look();
    assert_told_apart(&world, APP, OTHER_TAG);
}

#[test]
fn the_same_image_for_two_pods_is_one_image_and_two_explanations() {
    let mut world = two_at_once(APP, APP);
    manifests(&mut world);
    let report = report(&world, "l");
    assert_eq!(report.owner_candidates.len(), 2);
    assert!(
        report
            .owner_candidates
            .iter()
            .all(|one| one.image.as_str() == APP)
    );
}

#[test]
fn a_client_that_nobody_sees_makes_the_request_of_another_doubtful() {
    let mut world = world();
    world.asked(1, APP, Some("a/one")).pass(2).leases("l");
    world.pass(1).leases("ctr");
    settle(&mut world);
    assert_eq!([owner(&world, "l"), owner(&world, "ctr")], ["", ""]);
    world
        .lease("ctr")
        .manifest(image(21, &[(1, MIB)], &["reg.example/elsewhere"]));
    assert_eq!(
        [owner(&world, "l"), owner(&world, "ctr")],
        [for_pod(APP, "a/one"), String::new()]
    );
}

#[test]
fn a_client_that_nobody_sees_is_not_taken_for_a_request_whose_pull_has_ended() {
    let mut world = world();
    world.asked(1, APP, Some("a/one")).pass(2).leases("l").pass(2);
    world.leases("ctr");
    settle(&mut world);
    world.lease("l").ends();
    settle(&mut world);
    assert_eq!(owner(&world, "ctr"), "", "the request may still be its");
    world
        .pass(1)
        .call_ended(1)
        .pass(10_000)
        .look()
        .pass(10_000)
        .look();
    assert_eq!(owner(&world, "ctr"), "");
}

#[test]
fn an_ended_pull_explains_its_request_as_long_as_that_is_open() {
    let mut world = world();
    world.asked(1, APP, Some("a/one")).pass(2).leases("l");
    settle(&mut world);
    world.lease("l").ends();
    settle(&mut world);
    // The answer is not written for long, and somebody whom nobody sees wants the same.
    world.pass(20_000).look().leases("ctr");
    settle(&mut world);
    assert_eq!(owner(&world, "ctr"), "");
}

#[test]
fn requests_that_may_have_gone_unseen_make_leases_doubtful_for_a_while() {
    let mut world = world();
    let since = world.now;
    world.pass(100).asked(1, APP, Some("a/one")).pass(2).leases("l");
    let until = world.now;
    world.tell(Event::CallsMissed { since, until });
    world
        .pass(500)
        .asked(2, OTHER_TAG, Some("b/two"))
        .pass(2)
        .leases("m");
    settle(&mut world);
    assert_eq!([owner(&world, "l"), owner(&world, "m")], ["", ""]);
    world.lease("l").ends();
    world.lease("m").ends();
    world.pass(1).call_ended(1).call_ended(2).look().pass(1_500);
    world.asked(3, OTHER_TAG, Some("c/three")).pass(2).leases("n");
    settle(&mut world);
    assert_eq!(owner(&world, "n"), for_pod(OTHER_TAG, "c/three"));
}

#[test]
fn without_its_source_nobody_is_known_to_have_asked() {
    let mut world = world();
    world.asked(1, APP, Some("a/one")).pass(2).leases("l");
    settle(&mut world);
    world.down(Source::Requests);
    assert_eq!(owner(&world, "l"), "");
    world.asked(2, APP, Some("b/two")).pass(2).leases("m");
    settle(&mut world);
    world.up(Source::Requests);
    assert_eq!([owner(&world, "l"), owner(&world, "m")], ["", ""]);
    // Who asked just before it was back may have its lease now.
    world.asked(3, APP, Some("c/three")).pass(2).leases("n");
    settle(&mut world);
    assert_eq!(owner(&world, "n"), "");
}

#[test]
fn a_request_that_ended_before_its_lease_was_shown_is_nobody_elses() {
    let mut world = world();
    world.asked(1, APP, Some("a/one")).pass(3).call_ended(1);
    world.leases("ctr");
    settle(&mut world);
    assert_eq!(owner(&world, "ctr"), "");
}

#[test]
fn a_request_without_a_pod_names_the_image_and_nobody() {
    let mut world = world();
    world.asked(1, APP, None).pass(2).leases("l");
    settle(&mut world);
    assert_eq!(owner(&world, "l"), format!("{APP} for nobody"));
}

#[test]
fn what_is_no_reference_asks_for_nothing() {
    let mut world = world();
    world
        .asked(1, "reg.example/UPPER", Some("a/one"))
        .pass(2)
        .leases("l");
    settle(&mut world);
    assert_eq!(owner(&world, "l"), "");
}

#[test]
fn a_request_that_is_told_late_still_finds_its_pull_also_if_that_has_ended() {
    let mut world = world();
    let at = world.now;
    world.pass(2).leases("l").pass(50).look();
    world.lease("l").ends();
    world.look().pass(100);
    world.asked_at(1, at, APP, Some("a/one")).pass(60).look();
    assert_eq!(owner(&world, "l"), for_pod(APP, "a/one"));
}

#[test]
fn the_verifier_hears_of_the_requests_in_flight() {
    let mut world = world();
    world.asked(1, APP, Some("a/one"));
    let image = ImageName::new("reg.example:5000/team/app:1").unwrap();
    let digest = digest(20);
    world.ask(Question::Verify { image, digest });
    assert_eq!(world.answers().len(), 1);
    world.call_ended(1);
    assert_eq!(CallId(1).to_string(), "call1");
}
