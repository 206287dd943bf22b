//! Tests of the NRI source: bytes, meaning, bookkeeping, and whole connections against a runtime made of frames.
//!
//! `tests/captured` holds what containerd sent to the plugin on a real node, of 1.7.24 and of 2.1.9: two sandboxes at
//! registration, one of them stopped; then one that starts, gets a container, is stopped and removed; then the stopped
//! one is removed. Paths in it were replaced by others of the same length.

mod bookkeeping;
mod connection;
mod fuzz;
mod meaning;
mod wire;

use super::decode::{self, Asked};
use super::inventory::{Happening, Inventory, Listing};
use super::mux::{Connection, Trunk, TrunkError};
use super::ttrpc::{self, Kind, Message};
use super::{Pod, PodChange};

/// What containerd sent, by version.
const CAPTURED: [(&str, &[u8]); 2] = [
    (
        "1.7.24~ds1",
        include_bytes!("tests/captured/containerd-1.7.24.bin"),
    ),
    (
        "2.1.9+unknown",
        include_bytes!("tests/captured/containerd-2.1.9.bin"),
    ),
];

/// The messages in `pieces`, read one after the other.
fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<(Connection, Message)>, TrunkError> {
    let mut trunk = Trunk::default();
    let mut messages = Vec::new();
    for piece in pieces {
        trunk.room().extend_from_slice(piece);
        while let Some(message) = trunk.next()? {
            messages.push(message);
        }
    }
    Ok(messages)
}

/// What a listener hears if `messages` come in.
fn heard(messages: &[(Connection, Message)]) -> Vec<PodChange> {
    let mut changes = Vec::new();
    let mut gathered = Listing::default();
    let mut inventory = None;
    for (connection, message) in messages {
        if *connection != Connection::Plugin || message.kind != Kind::Request {
            continue;
        }
        match Asked::by(&ttrpc::read_call(&message.payload).expect("a call")) {
            Asked::Synchronize(part) => {
                if !decode::part(part, &mut gathered).expect("a list") {
                    let known = inventory.insert(Inventory::of(std::mem::take(&mut gathered)));
                    changes.push(known.whole());
                }
            }
            Asked::Event {
                happening,
                pod,
                container,
                message,
            } => {
                let event = decode::event(happening, (pod, container), message);
                let event = event.expect("an event").expect("of a pod");
                let inventory: &mut Inventory = inventory.as_mut().expect("a list before");
                inventory.hear(event, &mut changes);
            }
            Asked::Configure(_) | Asked::Nothing | Asked::Unknown => {}
        }
    }
    changes
}

fn pod(id: &str) -> Pod {
    Pod {
        sandbox: id.to_owned(),
        uid: format!("uid-{id}"),
        namespace: "team-a".to_owned(),
        name: format!("name-{id}"),
        ..Pod::default()
    }
}

fn ids(change: &PodChange) -> Vec<&str> {
    let PodChange::Synchronized { pods, .. } = change else {
        panic!("{change:?}");
    };
    pods.iter().map(|pod| pod.sandbox.as_str()).collect()
}
