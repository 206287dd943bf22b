//! The master's status, line by line.

use super::escape;
use super::nodes::{ago, policy, problem};
use super::table::paint;
use crate::master::{Intake, MasterState, NodeState, Switch};
use crate::terminal::{BAD, BOLD, DIM, GOOD, WARN};

/// Widest label and two blanks.
const LABELS: usize = 14;

/// The status as text.
pub(crate) fn status(now_ms: u64, master: &MasterState, nodes: &[NodeState]) -> String {
    let mut lines = vec![
        (
            "magi-master",
            format!(
                "{}, up for {}",
                escape::text(&master.version),
                ago(now_ms, Some(master.started_ms))
            ),
        ),
        ("policy", policy(now_ms, master)),
    ];
    lines.extend(problem(master).map(|problem| ("", problem)));
    lines.push(("kill switch", kill_switch(now_ms, &master.kill_switch, nodes)));
    if master.intakes.is_empty() {
        let none = paint("nothing: no node ever hears that a pod is gone", WARN);
        lines.push(("pods, from", none));
    }
    let labels = std::iter::once("pods, from").chain(std::iter::repeat(""));
    lines.extend(labels.zip(master.intakes.iter().map(|one| intake(now_ms, one))));
    lines.push(("nodes", connected(nodes)));
    lines.push(("verdicts", verdicts(nodes)));
    let counted = master.counters.iter().filter(|(_, number)| **number > 0);
    let labels = std::iter::once("counted").chain(std::iter::repeat(""));
    lines.extend(labels.zip(counted.map(|(name, number)| {
        let name = escape::text(name);
        format!("{DIM}{number:>10}{DIM:#}  {name}")
    })));
    lines
        .into_iter()
        .map(|(label, text)| format!("{BOLD}{label:LABELS$}{BOLD:#}{text}\n"))
        .collect()
}

fn kill_switch(now_ms: u64, switch: &Switch, nodes: &[NodeState]) -> String {
    if switch.revision == 0 {
        return "off, never touched".to_owned();
    }
    let word = if switch.engaged {
        paint("ON: nothing is stopped", BAD)
    } else {
        "off".to_owned()
    };
    let heard = nodes
        .iter()
        .filter(|node| node.kill_switch == switch.revision)
        .count();
    let mut text = format!(
        "{word}, for {}, by {}; {heard} of {} nodes have heard of it",
        ago(now_ms, Some(switch.revision)),
        escape::text(&switch.by),
        nodes.len()
    );
    if !switch.reason.is_empty() {
        text += &format!(": {}", escape::text(&switch.reason));
    }
    text
}

fn intake(now_ms: u64, intake: &Intake) -> String {
    let (word, style) = if intake.up { ("up", GOOD) } else { ("down", BAD) };
    let heard = match intake.last_heard_ms {
        Some(at) => format!("heard {} ago", ago(now_ms, Some(at))),
        None => "nothing heard yet".to_owned(),
    };
    let mut text = format!(
        "{} {}, at {}, {heard}, {} events",
        escape::text(&intake.kind),
        paint(word, style),
        escape::text(&intake.whence),
        intake.events
    );
    for (why, number) in &intake.unusable {
        text += &format!(", {WARN}{number} {}{WARN:#}", escape::text(why));
    }
    if !intake.trouble.is_empty() {
        text += &format!(": {}", escape::text(&intake.trouble));
    }
    text
}

fn connected(nodes: &[NodeState]) -> String {
    let connected = nodes.iter().filter(|node| node.connected).count();
    let away = nodes.len().saturating_sub(connected);
    let style = if away == 0 { GOOD } else { WARN };
    paint(&format!("{connected} connected, {away} away"), style)
}

fn verdicts(nodes: &[NodeState]) -> String {
    let waiting: u64 = nodes.iter().map(|node| u64::from(node.verdicts_waiting)).sum();
    let lost = nodes
        .iter()
        .fold(0_u64, |sum, node| sum.saturating_add(node.verdicts_lost));
    format!("{waiting} wait for nodes, {lost} were forgotten")
}
