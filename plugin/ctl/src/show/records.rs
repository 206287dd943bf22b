//! The table of audit records, which may go on.

use magi_engine::AuditRecord;
use magi_engine::audit::{Entry, PullFacts};
use serde::Deserialize as _;
use serde_json::Value;

use super::escape;
use super::table::{Cell, Fill, line, natural_widths};
use crate::master::Record;
use crate::terminal::{BOLD, Room};

const HEADER: [&str; 5] = ["AT", "NODE", "POD", "IMAGE", "WHAT"];
const FILLS: [Fill; 5] = [Fill::Left; 5];

/// The widths of the columns so far. Changed by: rows, which never make one narrower.
#[derive(Debug, Default)]
pub(crate) struct Columns {
    widths: Vec<usize>,
}

impl Columns {
    /// More rows, the header before the first ones.
    pub(crate) fn lines(&mut self, records: &[Record], room: Room) -> Vec<String> {
        let mut rows: Vec<Vec<Cell>> = Vec::new();
        if self.widths.is_empty() && !records.is_empty() {
            rows.push(HEADER.map(|title| Cell::new(title, BOLD)).to_vec());
        }
        rows.extend(records.iter().map(row));
        let needed = natural_widths(&rows);
        self.widths.resize(self.widths.len().max(needed.len()), 0);
        for (width, needed) in self.widths.iter_mut().zip(needed) {
            *width = needed.max(*width);
        }
        // Only the last column may be cut: the others name what it is about.
        let mut widths = self.widths.clone();
        if let (Some(columns), Some((last, others))) = (room.columns, widths.split_last_mut()) {
            let before = super::table::total(others) + super::table::GAP;
            *last = (*last).min(columns.saturating_sub(before).max(NARROWEST_LAST));
        }
        rows.iter().map(|row| line(row, &FILLS, &widths)).collect()
    }
}

/// The last column is never narrower: a line that wraps says more than one that is cut to nothing.
const NARROWEST_LAST: usize = 40;

fn row(record: &Record) -> Vec<Cell> {
    let text = |key: &str| record.record.get(key).and_then(Value::as_str).unwrap_or("-");
    // A later release may write what this one does not know.
    let known = AuditRecord::deserialize(&record.record).ok();
    let what = match &known {
        Some(known) => known.entry.to_string(),
        None => record.record.to_string(),
    };
    let pull = known.as_ref().and_then(|known| known.pull.as_ref());
    let image = pull.map_or_else(|| image_of(known.as_ref()), image);
    [
        text("at"),
        &record.node,
        &pull.map_or("-".to_owned(), pod),
        &image,
        &what,
    ]
    .map(|text| Cell::plain(escape::name(text)))
    .to_vec()
}

fn pod(pull: &PullFacts) -> String {
    match (&pull.owner, pull.owner_candidates.as_slice()) {
        (Some(owner), _) => owner.pod.as_ref().map_or("-".to_owned(), ToString::to_string),
        (None, []) => "?".to_owned(),
        (None, [..]) => format!("? (one of {})", pull.owner_candidates.len()),
    }
}

fn image(pull: &PullFacts) -> String {
    let asked = pull.owner.as_ref().map(|owner| owner.image.to_string());
    let from = || pull.repositories.first().map(ToString::to_string);
    asked.or_else(from).unwrap_or_else(|| "?".to_owned())
}

fn image_of(record: Option<&AuditRecord>) -> String {
    record
        .and_then(|record| match_refused(&record.entry))
        .unwrap_or_else(|| "-".to_owned())
}

fn match_refused(entry: &Entry) -> Option<String> {
    if let Entry::Refused { image, .. } = entry {
        Some(image.to_string())
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(record: Value) -> Record {
        Record {
            node: "node-1".to_owned(),
            run: 1,
            seq: 1,
            stored: 1,
            record,
        }
    }

    #[test]
    fn records_become_rows_and_columns_only_grow() {
        let refused = record(serde_json::json!({
            "at": "2026-01-01T00:00:00.000000Z", "pull": null, "policy": "r", "kind": "source-changed",
            "source": "nri", "up": false,
        }));
        let strange = record(serde_json::json!({"at": "later", "kind": "of-tomorrow\u{1b}"}));
        let mut columns = Columns::default();
        let lines = columns.lines(&[refused], Room::default());
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[1].ends_with("source nri is gone"), "{lines:?}");
        let more = columns.lines(&[strange], Room::default());
        assert_eq!(more.len(), 1);
        assert!(
            more[0].starts_with("later                        node-1"),
            "{more:?}"
        );
        assert!(!more[0].contains('\u{1b}'), "{more:?}");
        assert_eq!(columns.lines(&[], Room::default()), [""; 0]);
    }
}
