//! The node's status, line by line.

use magi_engine::policy::Mode;
use magi_node_api::NodeStatus;

use super::{escape, time};
use crate::terminal::{BAD, BOLD, GOOD, PLAIN, WARN};

/// Widest label and two blanks.
const LABELS: usize = 14;

fn gateway(status: &NodeStatus) -> String {
    let found = status.gateway;
    match found.connected {
        0 => "not connected".to_owned(),
        1 => format!("{GOOD}connected{GOOD:#}, {} pulls in flight", found.pulls),
        several => format!(
            "{GOOD}{several} connected{GOOD:#}, {} pulls in flight",
            found.pulls
        ),
    }
}

/// The status as text.
pub(crate) fn status(status: &NodeStatus) -> String {
    let up = |up: bool| {
        if up {
            format!("{GOOD}up{GOOD:#}")
        } else {
            format!("{BAD}down{BAD:#}")
        }
    };

    let containerd = &status.containerd;
    let mut engine = up(containerd.up);
    if let Some(version) = &containerd.version {
        engine += &format!(", version {}", escape::text(version));
    }
    engine += &format!(", at {}", escape::text(&containerd.address));
    if let Some(pid) = containerd.pid {
        engine += &format!(", pid {pid}");
    }
    if let Some(root) = &containerd.root {
        engine += &format!(", root {}", escape::text(root));
    }

    let sources = status
        .sources
        .iter()
        .map(|source| format!("{} {}", source.source, up(source.up)));
    let mode = match status.policy.mode {
        Mode::Observe => "observe: nothing is stopped".to_owned(),
        Mode::Enforce => format!("{WARN}enforce{WARN:#}"),
    };
    let holders = status.kill_switch.iter();
    let switch = match holders
        .map(|(holder, by)| format!("{holder} ({})", escape::text(by)))
        .collect::<Vec<_>>()
    {
        none if none.is_empty() => "off".to_owned(),
        some => format!("{WARN}on{WARN:#}: nothing is stopped, by {}", some.join(" and ")),
    };
    let lost = if status.lost_records == 0 { PLAIN } else { WARN };

    let lines = [
        (
            "magi-node",
            format!(
                "{}, up for {}",
                escape::text(&status.version),
                time::short(status.now.since(status.started))
            ),
        ),
        ("containerd", engine),
        ("probes", escape::text(&status.probes)),
        ("sources", sources.collect::<Vec<_>>().join(", ")),
        ("verifier", format!("{} questions", status.verifier.asked)),
        ("gateway", gateway(status)),
        (
            "policy",
            format!("{mode}, revision {}", escape::text(&status.policy.revision)),
        ),
        ("kill switch", switch),
        ("audit", escape::text(&status.audit)),
        ("lost records", format!("{lost}{}{lost:#}", status.lost_records)),
        ("trace", if status.trace { "on" } else { "off" }.to_owned()),
    ];
    lines
        .into_iter()
        .map(|(label, text)| format!("{BOLD}{label:LABELS$}{BOLD:#}{text}\n"))
        .collect()
}
