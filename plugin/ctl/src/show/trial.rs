//! What a policy would do with pulls of the past, as tables.

use magi_config::human_bytes;
use magi_engine::policy::Mode;
use magi_engine::trial::Missing;

use super::escape;
use super::table::{Cell, Fill, lines, wrap};
use crate::terminal::{BAD, BOLD, DIM, Room, WARN};
use crate::trial::{Outcome, Row};

const ABORTS: [&str; 7] = [
    "NAMESPACE",
    "REASON",
    "MODE",
    "RULE",
    "PULLS",
    "BYTES",
    "EXAMPLES",
];
const ABORT_FILLS: [Fill; 7] = [
    Fill::Left,
    Fill::Left,
    Fill::Left,
    Fill::Left,
    Fill::Right,
    Fill::Right,
    Fill::Left,
];
const UNKNOWN: [&str; 5] = ["NAMESPACE", "NOT KNOWN", "PULLS", "BYTES", "EXAMPLES"];
const UNKNOWN_FILLS: [Fill; 5] = [Fill::Left, Fill::Left, Fill::Right, Fill::Right, Fill::Left];

/// The outcome as lines that fit into the room's columns.
pub(crate) fn outcome(outcome: &Outcome, room: Room) -> Vec<String> {
    let pulls = |rows: &mut dyn Iterator<Item = u64>| rows.fold(0, u64::saturating_add);
    let stopped = pulls(&mut outcome.would_abort.iter().map(|row| row.pulls));
    let unknown = pulls(&mut outcome.not_judged.iter().map(|row| row.pulls));
    let plural = if outcome.pulls == 1 { "" } else { "s" };
    let mut out = vec![format!(
        "{BOLD}{} pull{plural}: {stopped} would be condemned, {} would go on, {unknown} could not be judged.{BOLD:#}",
        outcome.pulls, outcome.spared
    )];
    if !outcome.would_abort.is_empty() {
        out.push(String::new());
        let mut rows = vec![ABORTS.map(|title| Cell::new(title, BOLD)).to_vec()];
        rows.extend(outcome.would_abort.iter().map(|row| {
            let verdict = &row.said;
            let style = if verdict.mode == Mode::Enforce { BAD } else { WARN };
            let rule = verdict.rule.as_deref().map_or("-".to_owned(), escape::name);
            cells(
                row,
                vec![
                    Cell::new(verdict.reason.code(), style),
                    Cell::plain(verdict.mode.to_string()),
                    Cell::plain(rule),
                ],
            )
        }));
        out.extend(lines(rows, &ABORT_FILLS, room));
    }
    if !outcome.not_judged.is_empty() {
        out.push(String::new());
        let mut rows = vec![UNKNOWN.map(|title| Cell::new(title, BOLD)).to_vec()];
        rows.extend(outcome.not_judged.iter().map(|row| {
            let missing: Vec<&str> = row.said.missing.iter().map(|one| Missing::words(*one)).collect();
            cells(row, vec![Cell::plain(missing.join(", "))])
        }));
        out.extend(lines(rows, &UNKNOWN_FILLS, room));
    }
    for note in notes(outcome) {
        out.push(String::new());
        let wrapped = wrap(&note, room.columns.unwrap_or(usize::MAX));
        out.extend(wrapped.into_iter().map(|line| format!("{DIM}{line}{DIM:#}")));
    }
    out
}

fn cells<S>(row: &Row<S>, said: Vec<Cell>) -> Vec<Cell> {
    let namespace = row.namespace.as_deref().map_or("?".to_owned(), escape::name);
    let examples: Vec<String> = row.examples.iter().map(|image| escape::name(image)).collect();
    let mut cells = vec![Cell::plain(namespace)];
    cells.extend(said);
    cells.extend([
        Cell::plain(row.pulls.to_string()),
        Cell::plain(human_bytes(row.bytes)),
        Cell::plain(examples.join(", ")),
    ]);
    cells
}

fn notes(outcome: &Outcome) -> Vec<String> {
    let mut notes = Vec::new();
    if !outcome.left_out.is_empty() {
        notes.push(format!(
            "Left out, as they hang on other pulls: {}.",
            outcome.left_out.join(", ")
        ));
    }
    let skipped = &outcome.skipped;
    let counted = [
        (skipped.unreadable_lines, "lines that are no records"),
        (skipped.about_no_pull, "records about no pull"),
        (skipped.too_many, "records of pulls beyond the bound"),
    ];
    let counted: Vec<String> = counted
        .into_iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, what)| format!("{number} {what}"))
        .collect();
    if !counted.is_empty() {
        notes.push(format!("Skipped: {}.", counted.join(", ")));
    }
    notes
}
