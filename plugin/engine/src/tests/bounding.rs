//! Every bound is kept, said when it is reached, and cheap to keep.

use std::time::{Duration, Instant};

use super::build::{
    GIB, MIB, digest, enforce, feed, image, ingest_dir, ingest_ref, ingest_view, lease_key, lease_view,
};
use super::scene::{K8S, World, destroy, done};
use crate::audit::Entry;
use crate::bounds::{
    LOOK_FIRST, MAX_ENDED, MAX_FEEDS, MAX_LAYERS, MAX_LAYERS_REPORTED, MAX_MANIFESTS_PER_PULL, MAX_PULLS,
};
use crate::event::Event;

fn forgotten(world: &mut World) -> usize {
    let records = world.records();
    records
        .iter()
        .filter(|entry| matches!(entry, Entry::Forgotten { .. }))
        .count()
}

#[test]
fn leases_beyond_the_bound_are_not_watched_and_that_is_said_once() {
    let mut world = World::new(enforce(GIB));
    for number in 0..MAX_PULLS + 10 {
        world
            .view
            .leases
            .push(lease_view(lease_key(K8S, &format!("l{number:05}")), &[]));
    }
    world.look().pass(10).look();
    assert_eq!(world.engine.footprint().pulls, MAX_PULLS);
    assert_eq!(forgotten(&mut world), 1);
    // There is room again, also if old ones go and new ones come in the same look.
    world.view.leases.drain(..MAX_PULLS);
    world.pass(10).look();
    assert_eq!(world.engine.footprint().pulls, 10);
    assert_eq!(world.engine.report(true).ended.len(), MAX_ENDED);
}

#[test]
fn an_ingest_of_a_lease_that_is_not_watched_is_not_condemned() {
    let mut world = World::new(enforce(GIB));
    for number in 0..MAX_PULLS {
        world
            .view
            .leases
            .push(lease_view(lease_key("other", &format!("l{number:05}")), &[]));
    }
    world.look();
    world.view.leases.truncate(MAX_PULLS - 1);
    world.lease("huge").ingest(3, MIB, 5 * GIB);
    world
        .view
        .leases
        .push(lease_view(lease_key(K8S, "unwatched"), &[3]));
    world.fed(7, 3, MIB).look();
    world.lease("huge").manifest(image(30, &[(3, 5 * GIB)], &[]));
    world.pass(5).look().no_lever();
}

#[test]
fn manifests_beyond_the_bound_are_forgotten() {
    let mut world = World::new(enforce(GIB));
    for document in 0..MAX_MANIFESTS_PER_PULL {
        let manifest = image(1000 + u64::try_from(document).unwrap(), &[(1, MIB)], &[]);
        world.lease("l").manifest(manifest);
    }
    assert_eq!(forgotten(&mut world), 0);
    world.lease("l").manifest(image(2000, &[(3, 5 * GIB)], &[]));
    assert_eq!(forgotten(&mut world), 1);
    world.lease("l").ingest(3, MIB, 5 * GIB);
    world.fed(7, 3, MIB).no_lever();
}

#[test]
fn manifests_with_too_many_layers_in_all_are_forgotten() {
    let mut world = World::new(enforce(GIB));
    let layers: Vec<(u64, u64)> = (0..u64::try_from(MAX_LAYERS).unwrap())
        .map(|layer| (layer, 1))
        .collect();
    for document in 0..4 {
        world
            .lease("l")
            .manifest(image(2_000_000 + document, &layers, &[]));
    }
    assert_eq!(forgotten(&mut world), 0);
    world.lease("l").manifest(image(2_000_009, &layers, &[]));
    assert_eq!(forgotten(&mut world), 1);
}

#[test]
fn sockets_beyond_the_bound_are_forgotten_oldest_first_and_that_is_said_once() {
    let mut world = World::new(enforce(GIB));
    for cookie in 0..u64::try_from(MAX_FEEDS).unwrap() + 100 {
        let feed = feed(cookie, ingest_dir(K8S, cookie), MIB);
        world.engine_only(Event::SocketFed { feed });
    }
    assert_eq!(world.engine.footprint().ties, MAX_FEEDS);
    assert_eq!(forgotten(&mut world), 1);
}

#[test]
fn an_ingest_that_is_nobodys_makes_few_looks() {
    let mut world = World::new(enforce(GIB));
    let before = world.looks;
    for mib in 0..1_000 {
        world.fed(7, 99, mib * MIB).live(10);
    }
    let looks = world.looks - before;
    assert!(looks <= 20, "{looks} looks in ten seconds");
}

#[test]
fn new_ingests_at_any_rate_make_no_storm_of_looks() {
    let mut world = World::new(enforce(GIB));
    let (before, start) = (world.looks, world.now);
    for cookie in 0..1_000 {
        world.fed(cookie, cookie, MIB);
        world.now = world.now.after(Duration::from_micros(100));
        world.live(0);
    }
    let time = world.now.since(start);
    let most = usize::try_from(time.as_micros() / LOOK_FIRST.as_micros()).unwrap() + 1;
    let looks = world.looks - before;
    assert!(looks <= most, "{looks} looks in {time:?}");
}

#[test]
fn looks_that_are_not_answered_are_not_asked_again_and_again() {
    let mut world = World::new(enforce(GIB));
    world.lease("huge").manifest(image(30, &[(3, 5 * GIB)], &[]));
    let before = world.looks;
    for _ in 0..1_000 {
        world.pass(10).tell(Event::Tick);
    }
    let looks = world.looks - before;
    assert!((4..=6).contains(&looks), "{looks} looks in ten seconds");
}

#[test]
fn a_pull_that_cannot_be_stopped_is_looked_at_ever_more_rarely() {
    let mut world = World::new(enforce(GIB));
    world
        .lease("dead")
        .manifest(image(30, &[(3, 5 * GIB)], &[]))
        .ingest(3, MIB, 5 * GIB);
    world.live(60_000);
    let (looks, listings) = (world.looks, world.listings);
    world.live(600_000).no_lever();
    let (looks, listings) = (world.looks - looks, world.listings - listings);
    assert!(
        looks <= 900 && listings <= 300,
        "{looks} looks and {listings} listings in ten minutes"
    );
}

#[test]
fn nothing_in_flight_means_no_wish_to_be_woken() {
    let mut world = World::new(enforce(GIB));
    world
        .lease("small")
        .manifest(image(20, &[(1, 9 * MIB)], &[]))
        .ingest(1, MIB, 9 * MIB);
    world.fed(7, 1, MIB).live(10_000);
    let before = world.looks;
    world.live(600_000);
    assert_eq!(world.looks, before);
}

/// 10,000 layers, all in flight at once, in a pull that is condemned and tied by nothing.
#[test]
fn ten_thousand_layers_cost_little_per_event() {
    let mut world = World::new(enforce(GIB));
    let layers: Vec<(u64, u64)> = (0..10_000).map(|layer| (layer, MIB)).collect();
    let mut lease = lease_view(lease_key(K8S, "many"), &[]);
    lease.ingests = layers.iter().map(|(layer, _)| ingest_ref(*layer)).collect();
    lease.content = layers.iter().map(|(layer, _)| digest(layer + 50_000)).collect();
    world.view.leases.push(lease);
    world.view.ingests = layers
        .iter()
        .map(|(layer, size)| ingest_view(K8S, *layer, 0, *size))
        .collect();
    let view = world.view.clone();
    world.engine_only(Event::Looked { view: view.clone() });
    let manifest = image(2_000_000, &layers, &[]);
    let lease = lease_key(K8S, "many");
    world.engine_only(Event::ManifestRead { lease, manifest });
    let start = Instant::now();
    for round in 0..10 {
        world.pass(10);
        world.engine_only(Event::Looked { view: view.clone() });
        for cookie in 0..100 {
            let feed = feed(cookie, ingest_dir(K8S, 20_000 + cookie), round);
            world.engine_only(Event::SocketFed { feed });
        }
    }
    // Ten looks of 10,000 ingests and 1,000 small events: quadratic work would take minutes.
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    let feed = feed(7, ingest_dir(K8S, 5_000), MIB);
    world.engine_only(Event::SocketFed { feed });
    assert_eq!(world.lever().1, destroy(7));
    assert_eq!(
        world.engine.report(false).pulls[0]
            .layers
            .len()
            .min(MAX_LAYERS_REPORTED),
        0
    );
}

#[test]
fn an_oversize_image_of_many_layers_is_stopped_by_one_lever() {
    let mut world = World::new(enforce(GIB));
    let layers: Vec<(u64, u64)> = (0..2_000).map(|layer| (layer, MIB)).collect();
    world
        .lease("many")
        .manifest(image(2_000_000, &layers, &[]))
        .ingest(1_500, 0, MIB);
    world.fed(7, 1_500, 100).closes(destroy(7), done());
}
