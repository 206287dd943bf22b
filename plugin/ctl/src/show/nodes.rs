//! The table of nodes and the policies that they run.

use super::table::{Cell, Fill, lines, paint};
use super::{escape, time};
use crate::master::policy::runs_newest;
use crate::master::{MasterState, NodeState};
use crate::terminal::{BAD, BOLD, DIM, GOOD, PLAIN, Room, WARN};

const HEADER: [&str; 7] = [
    "NODE",
    "CONNECTED",
    "SINCE",
    "REVISION",
    "AGE",
    "RUNS IT SINCE",
    "STATE",
];
const FILLS: [Fill; 7] = [Fill::Left; 7];
/// Digits of a digest that tell policies apart for people.
const DIGEST: usize = 12;

/// The policy of the master, and which node runs which, as lines that fit into the room's columns.
pub(crate) fn policies(now_ms: u64, master: &MasterState, nodes: &[NodeState], room: Room) -> Vec<String> {
    let mut out = vec![policy(now_ms, master)];
    out.extend(problem(master));
    if nodes.is_empty() {
        out.push("No node has connected to this master.".to_owned());
        return out;
    }
    let mut rows = vec![HEADER.map(|title| Cell::new(title, BOLD)).to_vec()];
    rows.extend(nodes.iter().map(|node| row(now_ms, master, node)));
    out.extend(lines(rows, &FILLS, room));
    let newest = nodes.iter().filter(|node| runs_newest(node, master)).count();
    let style = if newest == nodes.len() { GOOD } else { WARN };
    out.push(paint(
        &format!("{newest} of {} nodes run the newest policy.", nodes.len()),
        style,
    ));
    out
}

/// The master's policy in a line.
pub(crate) fn policy(now_ms: u64, master: &MasterState) -> String {
    let from = match (&master.policy_source, &master.policy_by) {
        (Some(path), _) => format!("from {}", escape::text(path)),
        (None, Some(by)) => format!("pushed by {}", escape::text(by)),
        (None, None) => "pushed by operators".to_owned(),
    };
    match &master.policy {
        Some(version) => {
            let digest: String = version.sha256.chars().take(DIGEST).collect();
            let age = ago(now_ms, Some(version.revision));
            format!(
                "revision {} (sha256:{digest}), {age} old, {from}",
                version.revision
            )
        }
        None => format!("{BAD}none{BAD:#}, {from}"),
    }
}

/// What is wrong with the policy's file.
pub(crate) fn problem(master: &MasterState) -> Option<String> {
    let problem = &master.policy_problem;
    // The report has several lines, each of which escapes what others wrote.
    (!problem.is_empty()).then(|| {
        let shown: Vec<String> = problem.lines().map(escape::text).collect();
        paint(&format!("its file is not in force: {}", shown.join("\n")), WARN)
    })
}

fn row(now_ms: u64, master: &MasterState, node: &NodeState) -> Vec<Cell> {
    let policy = node.policy.as_ref();
    let (state, style) = state(master, node);
    let connected = if node.connected {
        Cell::plain("yes")
    } else {
        Cell::new("no", WARN)
    };
    vec![
        Cell::plain(escape::name(&node.node)),
        connected,
        Cell::plain(ago(now_ms, node.since_ms)),
        Cell::plain(policy.map_or("-".to_owned(), |version| version.revision.to_string())),
        Cell::plain(ago(now_ms, policy.map(|version| version.revision))),
        Cell::plain(ago(now_ms, node.policy_since_ms)),
        Cell::new(state, style),
    ]
}

fn state(master: &MasterState, node: &NodeState) -> (String, anstyle::Style) {
    let refused = &node.policy_refused;
    match (&node.policy, &master.policy) {
        _ if runs_newest(node, master) => ("newest".to_owned(), GOOD),
        _ if !refused.is_empty() => (format!("refused: {}", escape::name(refused)), BAD),
        (_, None) => ("the master has none".to_owned(), DIM),
        (None, Some(_)) => ("none from a master".to_owned(), WARN),
        (Some(theirs), Some(ours)) if theirs.revision < ours.revision => ("older".to_owned(), WARN),
        (Some(_), Some(_)) => ("another master's".to_owned(), PLAIN),
    }
}

/// How long ago that was; a dash if it never was.
pub(crate) fn ago(now_ms: u64, at_ms: Option<u64>) -> String {
    at_ms.map_or("-".to_owned(), |at| {
        time::short(std::time::Duration::from_millis(now_ms.saturating_sub(at)))
    })
}
