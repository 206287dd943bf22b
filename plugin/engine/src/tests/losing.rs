//! Sources come and go, and what they said goes with them.

use super::build::{GIB, MIB, enforce, image, ingest_dir, ingest_view, rule, stat};
use super::scene::{K8S, World, destroy, done, not_stopped};
use crate::action::LeverOutcome;
use crate::event::{Event, View};
use crate::evidence::Source;
use crate::ids::Cookie;
use crate::policy::RuleVerdict;

/// A huge image in flight on socket 7, stopped in vain once.
fn pursued() -> World {
    let mut world = World::new(enforce(GIB));
    world.lease("huge").ingest(3, 2 * MIB, 5 * GIB);
    world.fed(7, 3, 2 * MIB);
    world.lease("huge").manifest(image(30, &[(3, 5 * GIB)], &[]));
    world.closes(destroy(7), done());
    world
}

#[test]
fn without_containerd_nothing_is_done_and_afterwards_a_look_comes_first() {
    let mut world = pursued();
    world.down(Source::Containerd);
    world.pass(1_500).fed(9, 3, MIB).live(30_000).no_lever();
    world.up(Source::Containerd).fed(9, 3, 2 * MIB).no_lever();
    world.live(2);
    world.closes(destroy(9), done());
}

#[test]
fn a_retry_that_began_while_containerd_was_gone_is_not_taken_for_the_old_pull() {
    let mut rules = enforce(GIB);
    rules
        .rules
        .push(rule("base", &[], &["reg/base"], RuleVerdict::Exempt));
    let mut world = World::new(rules);
    world.lease("huge").ingest(3, 2 * MIB, 5 * GIB);
    world
        .lease("huge")
        .manifest(image(30, &[(3, 5 * GIB)], &["reg/huge"]));
    world.down(Source::Containerd);
    world.lease_is_replaced("huge", "base", 3);
    // The same blob, so the same directory: the probes see the new pull's socket before containerd shows its lease.
    world
        .fed(9, 3, 2 * MIB)
        .up(Source::Containerd)
        .fed(9, 3, 3 * MIB)
        .no_lever();
    world.live(10);
    world
        .lease("base")
        .manifest(image(31, &[(3, 5 * GIB)], &["reg/base"]));
    world.live(5_000).no_lever();
}

#[test]
fn what_a_source_says_while_it_is_down_does_not_count() {
    let mut world = World::dark(enforce(GIB));
    let ingests = vec![ingest_view(K8S, 3, MIB, 5 * GIB)];
    world.up(Source::Probes).fed(7, 3, MIB);
    let view = View {
        ingests,
        ..View::default()
    };
    world.tell(Event::Looked { view });
    assert_eq!(world.engine.footprint().pulls, 0);
    world.down(Source::Probes).fed(7, 3, MIB);
    assert_eq!(world.engine.footprint().ties, 0);
}

#[test]
fn without_probes_the_socket_table_is_asked_and_byte_counts_decide() {
    let mut world = pursued();
    world.down(Source::Probes);
    for mib in [5, 9, 13, 17] {
        world.sockets = vec![stat(9, mib * MIB + 700), stat(10, 300)];
        world.view.ingests[0].offset = mib * MIB;
        world.live(1_000);
    }
    let (_, lever) = world.lever();
    assert_eq!(lever, destroy(9));
}

#[test]
fn what_the_socket_table_said_goes_with_it() {
    let mut world = World::new(enforce(GIB));
    world.lease("huge").ingest(3, 2 * MIB, 5 * GIB);
    world.down(Source::Probes);
    world.lease("huge").manifest(image(30, &[(3, 5 * GIB)], &[]));
    world.sockets = vec![stat(9, 2 * MIB + 700)];
    world.live(400);
    world.sockets = vec![stat(9, 9 * MIB + 700)];
    world.view.ingests[0].offset = 9 * MIB;
    world
        .live(200)
        .closes(destroy(9), done())
        .down(Source::SocketTable);
    world.live(10_000).no_lever();
}

#[test]
fn a_loss_is_no_moment_to_act_even_if_a_lever_is_due() {
    for event in [
        Event::TiesLost,
        Event::SourceDown {
            source: Source::SocketTable,
        },
    ] {
        let mut world = World::new(enforce(GIB));
        world.lease("huge").ingest(3, 2 * MIB, 5 * GIB);
        world.sockets = vec![stat(7, 2 * MIB + 700)];
        world.fed(7, 3, 2 * MIB);
        world.lease("huge").manifest(image(30, &[(3, 5 * GIB)], &[]));
        let why = super::scene::why();
        world.closes(destroy(7), LeverOutcome::IntentNotWritten { why });
        world.pass(499).look().pass(2).tell(event).no_lever();
    }
}

#[test]
fn without_probes_and_socket_table_the_pull_is_reported_and_found_again_later() {
    let mut world = pursued();
    world.down(Source::Probes).down(Source::SocketTable).records();
    world.live(60_000).no_lever();
    assert_eq!(not_stopped(&world.records()).len(), 1);
    world.up(Source::Probes).fed(8, 3, 9 * MIB).live(5);
    world.closes(destroy(8), done());
}

#[test]
fn a_table_that_cannot_be_listed_is_asked_again_but_rarely() {
    let mut world = pursued();
    world.down(Source::Probes).down(Source::SocketTable);
    world.lists = false;
    let before = world.listings;
    world.live(10_000);
    let asked = world.listings - before;
    assert!((3..=6).contains(&asked), "{asked} listings in ten seconds");
}

#[test]
fn lost_ties_are_learnt_anew() {
    let mut world = pursued();
    world.tell(Event::TiesLost).live(3_000).no_lever();
    world.fed(8, 3, 9 * MIB).live(5);
    world.closes(destroy(8), done());
}

#[test]
fn a_tie_that_no_longer_holds_is_no_target() {
    let mut world = World::new(enforce(GIB));
    world.lease("huge").ingest(3, 2 * MIB, 5 * GIB);
    world
        .fed(7, 3, MIB)
        .tell(Event::SocketUnfed { cookie: Cookie(7) });
    world.fed(8, 3, MIB).closed(8);
    world.lease("huge").manifest(image(30, &[(3, 5 * GIB)], &[]));
    world.live(1_000).no_lever();
}

#[test]
fn a_socket_that_moved_on_to_an_innocent_ingest_is_no_target() {
    let mut world = World::new(enforce(GIB));
    world.lease("huge").ingest(3, 2 * MIB, 5 * GIB);
    world
        .lease("small")
        .manifest(image(20, &[(1, 9 * MIB)], &[]))
        .ingest(1, MIB, 9 * MIB);
    world.fed(7, 3, MIB).fed(7, 1, MIB);
    world.lease("huge").manifest(image(30, &[(3, 5 * GIB)], &[]));
    world.live(1_000).no_lever();
    world.fed(7, 3, 2 * MIB).closes(destroy(7), done());
}

#[test]
fn a_socket_that_the_table_no_longer_has_is_no_target() {
    let mut world = World::new(enforce(GIB));
    world.lease("huge").ingest(3, 2 * MIB, 5 * GIB);
    world.fed(7, 3, MIB).list();
    world.lease("huge").manifest(image(30, &[(3, 5 * GIB)], &[]));
    world.live(100).no_lever();
}

#[test]
fn an_ingest_that_an_innocent_pull_holds_as_well_is_no_ground_for_a_lever() {
    let mut world = World::new(enforce(GIB));
    world
        .lease("small")
        .manifest(image(20, &[(4, 9 * MIB)], &[]))
        .ingest(4, MIB, 9 * MIB);
    world.lease("huge").ingest(4, MIB, 9 * MIB).ingest(3, 0, 5 * GIB);
    world.fed(7, 4, MIB);
    world
        .lease("huge")
        .manifest(image(30, &[(3, 5 * GIB), (4, 9 * MIB)], &[]));
    world.live(3_000).no_lever();
    assert_eq!(not_stopped(&world.records()).len(), 1);
    world.lease("small").ends();
    world.live(300);
    world.fed(7, 4, 2 * MIB).live(20);
    assert_eq!(world.lever().1, destroy(7));
}

#[test]
fn where_another_pull_may_take_over_two_looks_come_before_the_lever() {
    let mut world = World::new(enforce(GIB));
    let base = image(31, &[(3, 9 * MIB)], &[]);
    world.lease("waiter").manifest(base);
    world
        .lease("huge")
        .manifest(image(30, &[(3, 9 * MIB), (4, 5 * GIB)], &[]))
        .ingest(3, MIB, 9 * MIB);
    world.fed(7, 3, MIB).no_lever();
    world.pass(1).look().no_lever().pass(5).look();
    world.closes(destroy(7), done());
}

#[test]
fn a_waiter_that_has_taken_over_unseen_is_not_hit() {
    let mut world = World::new(enforce(GIB));
    world.lease("waiter").manifest(image(31, &[(3, 9 * MIB)], &[]));
    world
        .lease("huge")
        .manifest(image(30, &[(3, 9 * MIB), (4, 5 * GIB)], &[]))
        .ingest(3, MIB, 9 * MIB);
    // The huge pull has failed, the waiter goes on with a socket of its own, and no look has shown it yet.
    world.lease_is_replaced("huge", "waiter", 3);
    world.fed(9, 3, MIB).live(5_000).no_lever();
}

#[test]
fn an_old_tie_is_none_of_an_ingest_that_begins_later() {
    let mut world = World::new(enforce(GIB));
    world.lease("huge").manifest(image(30, &[(3, 5 * GIB)], &[]));
    world.fed(7, 3, MIB);
    world.pass(10).look().pass(10).look();
    world.lease("huge").ingest(3, 0, 5 * GIB);
    world.live(100).no_lever();
    world.fed(7, 3, 2 * MIB).closes(destroy(7), done());
}

#[test]
fn the_same_layer_in_another_namespace_is_another_ingest() {
    let mut world = World::new(enforce(GIB));
    world
        .lease_in("other", "huge")
        .manifest(image(30, &[(3, 5 * GIB)], &[]))
        .ingest(3, MIB, 5 * GIB);
    world
        .lease("small")
        .manifest(image(20, &[(1, MIB)], &[]))
        .ingest(3, MIB, 0);
    world.fed(7, 3, MIB).live(100).no_lever();
    let feed = super::build::feed(8, ingest_dir("other", 3), MIB);
    world.tell(Event::SocketFed { feed }).closes(destroy(8), done());
}
