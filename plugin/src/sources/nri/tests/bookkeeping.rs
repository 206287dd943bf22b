//! The inventory, against a containerd that tells of a sandbox before it lists it and forgets to tell at registration.

use proptest::prelude::*;

use super::super::inventory::{Container, MAX_IMAGES, MAX_PODS, PodEvent};
use super::*;

fn event(happening: Happening, id: &str) -> PodEvent {
    PodEvent {
        happening,
        pod: pod(id),
        container: None,
    }
}

fn created(id: &str, name: &str, image: &str) -> PodEvent {
    let container = Container {
        sandbox: id.to_owned(),
        name: name.to_owned(),
        image: Some(image.to_owned()),
    };
    PodEvent {
        container: Some(container),
        ..event(Happening::ContainerCreated, id)
    }
}

fn listing(ids: &[&str]) -> Listing {
    Listing {
        pods: ids.iter().map(|id| pod(id)).collect(),
        ..Listing::default()
    }
}

fn hear(inventory: &mut Inventory, event: PodEvent) -> Vec<PodChange> {
    let mut changes = Vec::new();
    inventory.hear(event, &mut changes);
    changes
}

fn compare(inventory: &mut Inventory, listing: Listing) -> Vec<PodChange> {
    let mut changes = Vec::new();
    inventory.compare(listing, &mut changes);
    changes
}

fn stopped(id: &str) -> PodChange {
    PodChange::Stopped {
        sandbox: id.to_owned(),
        uid: format!("uid-{id}"),
    }
}

fn removed(id: &str) -> PodChange {
    PodChange::Removed {
        sandbox: id.to_owned(),
        uid: format!("uid-{id}"),
    }
}

#[test]
fn a_list_shows_what_came_and_went_unheard() {
    let mut inventory = Inventory::of(listing(&["gone", "stays"]));
    let changes = compare(&mut inventory, listing(&["stays", "new"]));
    assert_eq!(changes, [removed("gone"), PodChange::Started(pod("new"))]);
    assert_eq!(ids(&inventory.whole()), ["new", "stays"]);
}

#[test]
fn a_sandbox_that_starts_is_not_in_the_list_yet() {
    let mut inventory = Inventory::of(listing(&[]));
    hear(&mut inventory, event(Happening::Started, "starting"));
    assert_eq!(compare(&mut inventory, listing(&[])), []);
    assert_eq!(compare(&mut inventory, listing(&["starting"])), []);
    assert_eq!(compare(&mut inventory, listing(&[])), [removed("starting")]);
}

#[test]
fn a_sandbox_that_is_gone_does_not_come_back_with_an_old_list() {
    let mut inventory = Inventory::of(listing(&["a"]));
    assert_eq!(
        hear(&mut inventory, event(Happening::Removed, "a")),
        [removed("a")]
    );
    assert_eq!(compare(&mut inventory, listing(&["a"])), []);
    assert_eq!(hear(&mut inventory, event(Happening::Stopped, "a")), []);
    assert_eq!(ids(&inventory.whole()), [""; 0]);
}

#[test]
fn a_sandbox_of_which_nothing_was_heard_is_there_when_something_happens_to_it() {
    let mut inventory = Inventory::of(listing(&[]));
    let changes = hear(&mut inventory, event(Happening::Stopped, "a"));
    assert_eq!(changes, [PodChange::Started(pod("a")), stopped("a")]);
    assert_eq!(hear(&mut inventory, event(Happening::Stopped, "a")), []);
    assert_eq!(hear(&mut inventory, event(Happening::Removed, "b")), []);
}

#[test]
fn a_list_shows_what_stopped_by_itself() {
    let mut inventory = Inventory::of(listing(&["a"]));
    let mut now = listing(&["a"]);
    now.pods[0].stopped = true;
    assert_eq!(compare(&mut inventory, now), [stopped("a")]);
    // A sandbox never starts again; its pod gets another.
    assert_eq!(compare(&mut inventory, listing(&["a"])), []);
}

#[test]
fn images_are_kept_by_container_and_bounded() {
    let mut inventory = Inventory::of(listing(&["a"]));
    for n in 0..MAX_IMAGES + 5 {
        hear(&mut inventory, created("a", &format!("c{n:03}"), "busybox:1"));
    }
    hear(&mut inventory, created("a", "c000", "busybox:2"));
    let PodChange::Synchronized { pods, complete } = inventory.whole() else {
        panic!("not whole");
    };
    assert_eq!(pods[0].images.len(), MAX_IMAGES);
    assert_eq!(pods[0].images["c000"], "busybox:2");
    // It says nothing about other pods.
    assert!(pods[0].cut && complete);
}

#[test]
fn a_list_adds_containers_and_changes_none() {
    let mut inventory = Inventory::of(listing(&["a"]));
    hear(&mut inventory, created("a", "main", "busybox:1"));
    let mut now = listing(&["a"]);
    now.containers = ["main", "side"]
        .map(|name| Container {
            sandbox: "a".to_owned(),
            name: name.to_owned(),
            image: Some("docker.io/library/busybox@sha256:00".to_owned()),
        })
        .into();
    let changes = compare(&mut inventory, now);
    let [PodChange::ContainerCreated { container, .. }] = changes.as_slice() else {
        panic!("{changes:?}");
    };
    assert_eq!(container, "side");
}

#[test]
fn more_pods_than_a_node_can_have_make_it_incomplete() {
    let ids: Vec<String> = (0..=MAX_PODS).map(|n| format!("{n:06}")).collect();
    let all: Vec<&str> = ids.iter().map(String::as_str).collect();
    let inventory = Inventory::of(listing(&all));
    let PodChange::Synchronized { pods, complete } = inventory.whole() else {
        panic!("not whole");
    };
    assert_eq!((pods.len(), complete), (MAX_PODS, false));
}

#[test]
fn what_was_missed_is_whole_again_with_the_next_list() {
    let mut inventory = Inventory::of(listing(&["a"]));
    inventory.missed_something();
    assert!(matches!(
        inventory.whole(),
        PodChange::Synchronized { complete: false, .. }
    ));
    let changes = compare(&mut inventory, listing(&["a", "b"]));
    assert_eq!(changes.len(), 1);
    assert_eq!(ids(&changes[0]), ["a", "b"]);
    assert!(matches!(
        changes[0],
        PodChange::Synchronized { complete: true, .. }
    ));
    // A list that is itself cut proves no end of anything.
    let cut = Listing {
        cut: true,
        ..listing(&[])
    };
    let changes = compare(&mut inventory, cut);
    assert_eq!(ids(&changes[0]), ["a", "b"]);
}

/// One sandbox's life on containerd 1.7, in its order: told as starting, listed, stopped, told as stopped, told as
/// removed, gone from the list.
const LIFE: [Step; 6] = [
    Step::Tell(Happening::Started),
    Step::List,
    Step::Stop,
    Step::Tell(Happening::Stopped),
    Step::Tell(Happening::Removed),
    Step::Unlist,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Tell(Happening),
    List,
    Stop,
    Unlist,
}

/// What happens next in the world: a sandbox gets on, or the plugin does.
#[derive(Debug, Clone, Copy)]
enum Turn {
    Sandbox(usize),
    /// The list for the synchronization is made.
    Snapshot,
    /// From here on the plugin hears of what happens.
    Join,
    /// CRI's list is asked for, ...
    Ask,
    /// ... and its answer arrives, perhaps later.
    Answer,
}

const SANDBOXES: usize = 5;

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let turn = prop_oneof![
        8 => (0..SANDBOXES).prop_map(Turn::Sandbox),
        1 => Just(Turn::Snapshot),
        1 => Just(Turn::Join),
        1 => Just(Turn::Ask),
        1 => Just(Turn::Answer),
    ];
    prop::collection::vec(turn, 0..80)
}

#[derive(Default)]
struct World {
    progress: [usize; SANDBOXES],
    /// Sandboxes in CRI's list, and whether they are stopped.
    listed: std::collections::BTreeMap<String, bool>,
    inventory: Option<Inventory>,
    joined: bool,
    asked: Option<Listing>,
    /// What the listener makes of what it is told.
    known: std::collections::BTreeMap<String, bool>,
}

impl World {
    fn list(&self) -> Listing {
        let pods = self.listed.iter().map(|(id, stopped)| Pod {
            stopped: *stopped,
            ..pod(id)
        });
        Listing {
            pods: pods.collect(),
            ..Listing::default()
        }
    }

    fn listen(&mut self, changes: Vec<PodChange>) {
        for change in changes {
            match change {
                PodChange::Synchronized { pods, .. } => {
                    self.known = pods.into_iter().map(|pod| (pod.sandbox, pod.stopped)).collect();
                }
                PodChange::Started(pod) => {
                    assert_eq!(self.known.insert(pod.sandbox, pod.stopped), None);
                }
                PodChange::Stopped { sandbox, .. } => {
                    assert_eq!(self.known.insert(sandbox, true), Some(false));
                }
                PodChange::Removed { sandbox, .. } => {
                    assert!(self.known.remove(&sandbox).is_some());
                }
                PodChange::ContainerCreated { .. } | PodChange::Down => panic!("{change:?}"),
            }
        }
    }

    fn sandbox(&mut self, number: usize) {
        let id = format!("s{number}");
        let Some(step) = LIFE.get(self.progress[number]) else {
            return;
        };
        self.progress[number] += 1;
        match step {
            Step::Tell(happening) if self.joined => {
                let changes = self.inventory.as_mut().map(|inventory| {
                    let mut changes = Vec::new();
                    inventory.hear(event(*happening, &id), &mut changes);
                    changes
                });
                self.listen(changes.unwrap_or_default());
            }
            Step::Tell(_) => {}
            Step::List => drop(self.listed.insert(id, false)),
            Step::Stop => drop(self.listed.insert(id, true)),
            Step::Unlist => drop(self.listed.remove(&id)),
        }
    }

    fn take(&mut self, turn: Turn) {
        match turn {
            Turn::Sandbox(number) => self.sandbox(number),
            Turn::Snapshot if self.inventory.is_none() => {
                // NRI does not tell which are stopped.
                let mut listing = self.list();
                listing.pods.iter_mut().for_each(|pod| pod.stopped = false);
                let inventory = self.inventory.insert(Inventory::of(listing));
                let whole = inventory.whole();
                self.listen(vec![whole]);
            }
            Turn::Join => self.joined = self.inventory.is_some(),
            Turn::Ask if self.inventory.is_some() && self.asked.is_none() => {
                self.asked = Some(self.list());
            }
            Turn::Answer => {
                if let (Some(listing), Some(inventory)) = (self.asked.take(), &mut self.inventory) {
                    let mut changes = Vec::new();
                    inventory.compare(listing, &mut changes);
                    self.listen(changes);
                }
            }
            Turn::Snapshot | Turn::Ask => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn with_the_next_list_the_inventory_is_right(turns in turns()) {
        let mut world = World::default();
        for turn in turns {
            world.take(turn);
        }
        for turn in [Turn::Snapshot, Turn::Join, Turn::Answer] {
            world.take(turn);
        }
        // Those about whose start something was told come as far as the list, and those about whose end, out of it.
        for number in 0..SANDBOXES {
            while matches!(world.progress[number], 1 | 5) {
                world.sandbox(number);
            }
        }
        world.take(Turn::Ask);
        world.take(Turn::Answer);
        prop_assert_eq!(&world.known, &world.listed);
        let whole = world.inventory.unwrap().whole();
        prop_assert_eq!(ids(&whole), world.listed.keys().map(String::as_str).collect::<Vec<_>>());
    }
}
