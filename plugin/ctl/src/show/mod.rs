//! How things look to people.

pub(crate) mod doctor;
pub(crate) mod escape;
pub(crate) mod master;
pub(crate) mod nodes;
mod owner;
pub(crate) mod pods;
pub(crate) mod pulls;
pub(crate) mod records;
pub(crate) mod status;
pub(crate) mod table;
pub(crate) mod time;
pub(crate) mod trial;

use crate::terminal::{BAD, GOOD};

/// A unified diff in colours.
pub(crate) fn diff(diff: &str) -> String {
    let mut out = String::new();
    for line in diff.lines() {
        let style = match line.as_bytes().first() {
            Some(b'-') => BAD,
            Some(b'+') => GOOD,
            Some(_) | None => crate::terminal::PLAIN,
        };
        out.push_str(&table::paint(&escape::text(line), style));
        out.push('\n');
    }
    out
}
