//! What the doctor found, for people.

use anstyle::Style;

use super::escape;
use super::table::{paint, wrap};
use crate::doctor::check::{Check, Outcome, Report};
use crate::terminal::{BAD, BOLD, DIM, GOOD, PLAIN, Room, WARN};

/// Widest outcome, widest name, and two blanks behind each.
const OUTCOME: usize = 6;
const NAME: usize = 20;
const INDENT: usize = OUTCOME + NAME;
const STAGE: usize = 23;
const COVERED: usize = 9;

/// The report as lines that fit into the room's columns.
pub(crate) fn report(report: &Report, room: Room) -> Vec<String> {
    let mut out = Vec::new();
    for check in &report.checks {
        out.extend(lines(check, room));
    }
    out.push(String::new());
    out.push(format!(
        "{BOLD}{:STAGE$}{:COVERED$}BY{BOLD:#}",
        "STAGE OF A PULL", "COVERED"
    ));
    for stage in &report.stages {
        let (covered, style) = if stage.covered {
            ("yes", GOOD)
        } else {
            ("no", WARN)
        };
        let head = format!(
            "{:STAGE$}{}",
            stage.stage,
            paint(&format!("{covered:COVERED$}"), style)
        );
        out.extend(hung(&head, STAGE + COVERED, &stage.by, PLAIN, room));
    }
    out.push(String::new());
    out.push(sum(&report.checks));
    out
}

fn lines(check: &Check, room: Room) -> Vec<String> {
    let (word, style) = match check.outcome {
        Outcome::Ok => ("ok", GOOD),
        Outcome::Warn => ("warn", WARN),
        Outcome::Fail => ("FAIL", BAD),
        Outcome::Skip => ("skip", DIM),
    };
    let text = if check.outcome == Outcome::Skip {
        DIM
    } else {
        PLAIN
    };
    let head = format!("{}{:NAME$}", paint(&format!("{word:OUTCOME$}"), style), check.id);
    let mut out = hung(&head, INDENT, &escape::text(&check.seen), text, room);
    for advice in &check.advice {
        let head = format!("{:INDENT$}{}", "", paint("-> ", style));
        out.extend(hung(&head, INDENT + 3, &escape::text(advice), PLAIN, room));
    }
    out
}

/// Text behind a head of this width, wrapped into the room beside it.
fn hung(head: &str, width: usize, text: &str, style: Style, room: Room) -> Vec<String> {
    let columns = room
        .columns
        .map_or(usize::MAX, |columns| columns.saturating_sub(width).max(20));
    let mut out = Vec::new();
    for (at, text) in wrap(text, columns).into_iter().enumerate() {
        let text = paint(&text, style);
        out.push(if at == 0 {
            format!("{head}{text}")
        } else {
            format!("{:width$}{text}", "")
        });
    }
    out
}

fn sum(checks: &[Check]) -> String {
    let count = |outcome| checks.iter().filter(|check| check.outcome == outcome).count();
    let (failed, style) = match count(Outcome::Fail) {
        0 => ("nothing fails".to_owned(), GOOD),
        1 => ("1 fails".to_owned(), BAD),
        many => (format!("{many} fail"), BAD),
    };
    format!(
        "{style}{failed}{style:#}; {} ok, {} warnings, {} skipped",
        count(Outcome::Ok),
        count(Outcome::Warn),
        count(Outcome::Skip)
    )
}
