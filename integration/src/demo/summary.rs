//! The table at the end, and what was missed.

use super::check::Miss;
use super::report::{LeftBehind, Name, Outcome, Report, Scenario};
use super::screen::{Screen, Styled, size, style};

/// Writes the table of a report and the misses; gives whether all was as expected.
pub fn write(screen: &mut Screen, report: &Report, misses: &[Miss]) -> bool {
    screen.line("");
    screen.line(Styled(
        style::HEAD,
        format_args!(
            "{:<16} {:<9} {:<12} {:>9} {:>12} {:>8} {:>13} {:>11}",
            "containerd", "pull", "outcome", "abort", "layer bytes", "sockets", "left behind", "collateral"
        ),
    ));
    for run in &report.runs {
        for scenario in &run.scenarios {
            let missed = misses
                .iter()
                .any(|miss| miss.containerd == run.containerd && miss.scenario == Some(scenario.name));
            let verdict = if missed {
                Styled(style::BAD, "not as expected")
            } else {
                Styled(style::GOOD, "as expected")
            };
            screen.line(format_args!("{:<16} {} {verdict}", run.containerd, row(scenario)));
        }
    }
    for miss in misses {
        screen.line(format_args!("{} {miss}", Styled(style::BAD, "missed:")));
    }
    misses.is_empty()
}

fn row(scenario: &Scenario) -> String {
    let abort = match scenario.outcome {
        Outcome::Aborted => format!("{} ms", scenario.abort_ms),
        Outcome::Completed | Outcome::NotStopped => "–".to_owned(),
    };
    let outcome = match (scenario.name, scenario.outcome) {
        (Name::Healthy, Outcome::Completed)
        | (Name::Oversize | Name::Lying | Name::Again, Outcome::Aborted) => style::GOOD,
        (_, Outcome::Aborted | Outcome::Completed | Outcome::NotStopped) => style::BAD,
    };
    format!(
        "{:<9} {} {abort:>9} {:>12} {:>8} {:>13} {:>11} ",
        scenario.name,
        Styled(outcome, format_args!("{:<12}", scenario.outcome)),
        size(scenario.received_layer_bytes),
        scenario.sockets_closed,
        left(&scenario.left_behind),
        scenario.collateral,
    )
}

fn left(left: &LeftBehind) -> String {
    if left.is_nothing() {
        return "nothing".to_owned();
    }
    (left.ingests + left.leases + left.snapshots + left.blobs).to_string()
}
