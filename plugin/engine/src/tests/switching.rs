//! The kill switch.

use std::time::Duration;

use super::build::{GIB, MIB, enforce, image};
use super::scene::{World, destroy, done, would_abort};
use crate::action::Answer;
use crate::audit::Entry;
use crate::event::Event;
use crate::evidence::Reason;
use crate::policy::Breaker;
use crate::switch::SwitchHolder;

fn switch(world: &mut World, holder: SwitchHolder, engaged: bool) {
    let by = "anna: too many alarms".to_owned();
    world.tell(Event::KillSwitch { holder, engaged, by });
}

/// A huge image in flight, on socket 7; its manifest is not read yet.
fn huge(world: &mut World) {
    world.lease("huge").ingest(3, MIB, 5 * GIB);
    world.fed(7, 3, MIB);
}

fn is_read(world: &mut World) {
    world
        .lease("huge")
        .manifest(image(30, &[(3, 5 * GIB)], &["reg/huge"]));
}

#[test]
fn nothing_is_stopped_until_everybody_has_let_go() {
    let mut world = World::new(enforce(GIB));
    switch(&mut world, SwitchHolder::Master, true);
    switch(&mut world, SwitchHolder::Node, true);
    huge(&mut world);
    is_read(&mut world);
    world.live(2_000).no_lever();
    let records = world.records();
    assert_eq!(would_abort(&records), [Reason::ImageTooLarge]);
    let said = |entry: &&Entry| matches!(entry, Entry::KillSwitch { engaged: true, .. });
    assert_eq!(records.iter().filter(said).count(), 2);

    switch(&mut world, SwitchHolder::Master, false);
    world.live(2_000).no_lever();
    switch(&mut world, SwitchHolder::Node, false);
    world.live(20).closes(destroy(7), done());
}

#[test]
fn too_many_stops_open_the_breaker_for_a_while() {
    let mut policy = enforce(GIB);
    policy.breaker = Breaker {
        stops: 2,
        window: Duration::from_secs(5),
    };
    let mut world = World::new(policy);
    let large = |world: &mut World, name: &str, layer: u64| {
        world.lease(name).ingest(layer, MIB, 5 * GIB);
        world.fed(layer, layer, MIB);
        let repository = format!("reg/{name}");
        let manifest = image(layer + 100, &[(layer, 5 * GIB)], &[&repository]);
        world.lease(name).manifest(manifest);
    };
    for (name, layer) in [("one", 1), ("two", 2)] {
        large(&mut world, name, layer);
        world.live(20).closes(destroy(layer), done()).closed(layer);
        world.lease(name).ends();
        world.look();
    }
    let is_opened = |entry: &Entry| {
        let holder = SwitchHolder::Breaker;
        matches!(entry, Entry::KillSwitch { holder: by, engaged: true, .. } if *by == holder)
    };
    assert!(world.records().iter().any(is_opened));
    large(&mut world, "three", 3);
    world.live(2_000).no_lever();
    assert_eq!(would_abort(&world.records()), [Reason::ImageTooLarge]);
    // Its time is over, and what is still in flight is stopped after all.
    world.live(3_100).closes(destroy(3), done());
}

#[test]
fn the_same_said_again_is_recorded_once() {
    let mut world = World::new(enforce(GIB));
    switch(&mut world, SwitchHolder::Node, false);
    for _ in 0..3 {
        switch(&mut world, SwitchHolder::Node, true);
    }
    let records = world.records();
    let of_it: Vec<&Entry> = records
        .iter()
        .filter(|entry| matches!(entry, Entry::KillSwitch { .. }))
        .collect();
    assert_eq!(
        of_it,
        [&Entry::KillSwitch {
            holder: SwitchHolder::Node,
            engaged: true,
            by: "anna: too many alarms".to_owned()
        }]
    );
}

#[test]
fn a_persons_wish_is_refused_and_not_taken_up_again() {
    let mut world = World::new(enforce(10 * GIB));
    huge(&mut world);
    is_read(&mut world);
    let pull = world.id_of("huge");
    // No look has confirmed the socket yet, so this one waits.
    let waits = world.abort(pull);
    world.levers();
    switch(&mut world, SwitchHolder::Node, true);
    let refused = world.abort(pull);
    let panic = world.panic_button();
    world.live(2_000).no_lever();
    let answers = world.answers();
    for request in [waits, refused, panic] {
        let of_it: Vec<&Answer> = answers
            .iter()
            .filter(|(asked, _)| *asked == request)
            .map(|(_, answer)| answer)
            .collect();
        assert!(
            matches!(&of_it[..], [Answer::Failed { why }] if why.contains("anna")),
            "{request}: {of_it:?}"
        );
    }
    switch(&mut world, SwitchHolder::Node, false);
    world.live(2_000).no_lever();
}

#[test]
fn the_verifier_lets_everything_in() {
    let mut world = World::new(enforce(GIB));
    huge(&mut world);
    is_read(&mut world);
    world.closes(destroy(7), done()).closed(7);
    world.lease("huge").ends();
    world.drop_ingest(3).live(20);
    let asks = |world: &mut World| world.verify("reg/huge:1", 30);
    assert!(matches!(asks(&mut world), Answer::Refused { .. }));
    switch(&mut world, SwitchHolder::Master, true);
    assert!(matches!(asks(&mut world), Answer::Admitted { .. }));
    switch(&mut world, SwitchHolder::Master, false);
    assert!(matches!(asks(&mut world), Answer::Refused { .. }));
}
