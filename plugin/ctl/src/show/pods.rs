//! The table of pods.

use magi_engine::owner::NodePod;

use super::escape;
use super::table::{Cell, Fill, lines};
use crate::terminal::{BOLD, DIM, PLAIN, Room};

const HEADER: [&str; 6] = ["NAMESPACE", "POD", "STATE", "UID", "SANDBOX", "IMAGES"];
const FILLS: [Fill; 6] = [Fill::Left; 6];

/// Characters that tell sandboxes apart for people, as crictl shows them.
const SANDBOX: usize = 13;

/// The pods as lines that fit into the room's columns.
pub(crate) fn pods(pods: &[NodePod], room: Room) -> Vec<String> {
    if pods.is_empty() {
        return vec!["No pod is on this node.".to_owned()];
    }
    let mut rows = vec![HEADER.map(|title| Cell::new(title, BOLD)).to_vec()];
    rows.extend(pods.iter().map(row));
    lines(rows, &FILLS, room)
}

fn row(pod: &NodePod) -> Vec<Cell> {
    let style = if pod.stopped { DIM } else { PLAIN };
    let images: Vec<_> = pod
        .images
        .iter()
        .map(|image| escape::name(image.as_str()))
        .collect();
    let sandbox: String = pod.sandbox.as_str().chars().take(SANDBOX).collect();
    [
        escape::name(pod.pod.namespace.as_str()),
        escape::name(pod.pod.name.as_str()),
        if pod.stopped { "stopped" } else { "running" }.to_owned(),
        escape::name(pod.pod.uid.as_str()),
        escape::name(&sandbox),
        if images.is_empty() {
            "-".to_owned()
        } else {
            images.join(", ")
        },
    ]
    .map(|text| Cell::new(text, style))
    .to_vec()
}
