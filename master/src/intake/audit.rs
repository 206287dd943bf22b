//! One line of a Kubernetes audit log (audit.k8s.io/v1) → what it changed.
//!
//! A line is first looked at without being parsed (`look`); what may matter is decoded (`decode`), borrowed from the
//! line; what it means is decided in `meaning`. The pod watch reads its pods with the same code. Only changes that the API server authorised and completed, and that
//! were no dry run, come out. `auditID`, `sourceIPs` and `userAgent` are the client's to choose, and are never read.

mod counts;
pub(in crate::intake) mod decode;
mod look;
pub(in crate::intake) mod meaning;
mod patch;
mod query;

use crate::change::Change;
use look::Look;

pub use counts::{Counts, Kind, Unusable};

/// The longest line that is read, in bytes. The API server's own bound for one event is `--audit-log-maxsize`, in MB.
pub const MAX_LINE: usize = 16 << 20;

/// Reads lines, and counts what they were.
#[derive(Debug, Default)]
pub struct Reader {
    look: Look,
    counts: Counts,
}

impl Reader {
    /// Reads one line, without its newline: an event, or a list of events as a webhook gets it. Appends what it changed.
    pub fn line(&mut self, line: &[u8], changes: &mut Vec<Change>) {
        self.counts.lines += 1;
        self.counts.bytes += line.len() as u64 + 1;
        if line.len() > MAX_LINE {
            return self.counts.unusable(Unusable::TooLong);
        }
        if !self.look.may_matter(line) {
            self.counts.of_no_interest += 1;
            return;
        }
        let Ok(text) = std::str::from_utf8(line) else {
            return self.counts.unusable(Unusable::NotUtf8);
        };
        self.text(text, changes);
    }

    /// Reads one event of a list that was cut up before. Appends what it changed.
    pub fn item(&mut self, event: &[u8], changes: &mut Vec<Change>) {
        self.counts.items += 1;
        self.counts.bytes += event.len() as u64 + 1;
        if !self.look.may_matter(event) {
            self.counts.of_no_interest += 1;
            return;
        }
        match std::str::from_utf8(event).map(decode::item) {
            Ok(Ok(Some(event))) => self.event(&event, changes),
            Ok(Ok(None)) => self.counts.of_no_interest += 1,
            Ok(Err(unusable)) => self.counts.unusable(unusable),
            Err(_) => self.counts.unusable(Unusable::NotUtf8),
        }
    }

    /// Counts a line of `bytes` bytes that was longer than [`MAX_LINE`] and therefore not kept.
    pub fn too_long(&mut self, bytes: u64) {
        self.counts.lines += 1;
        self.counts.bytes += bytes;
        self.counts.unusable(Unusable::TooLong);
    }

    /// What was read so far.
    #[must_use]
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    fn text(&mut self, text: &str, changes: &mut Vec<Change>) {
        match decode::document(text) {
            Ok(decode::Document::Event(event)) => self.event(&event, changes),
            Ok(decode::Document::OfNoInterest) => self.counts.of_no_interest += 1,
            Ok(decode::Document::List(items)) => {
                self.counts.lists += 1;
                for item in items {
                    self.counts.items += 1;
                    match decode::item(item.get()) {
                        Ok(Some(event)) => self.event(&event, changes),
                        Ok(None) => self.counts.of_no_interest += 1,
                        Err(unusable) => self.counts.unusable(unusable),
                    }
                }
            }
            Err(unusable) => self.counts.unusable(unusable),
        }
    }

    fn event(&mut self, event: &decode::Event<'_>, changes: &mut Vec<Change>) {
        let (kind, unusable) = meaning::read(event, changes);
        if let Some(kind) = kind {
            self.counts.kind(kind);
        }
        if let Some(unusable) = unusable {
            self.counts.unusable(unusable);
        }
    }
}

#[cfg(test)]
mod tests;
