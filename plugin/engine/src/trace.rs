//! The record of an engine's life, and its replay: JSON lines, one event each, with the effects that followed.
//!
//! ```text
//! {"at":1700000000000000,"event":{"event":"tick"},"effects":[]}
//! ```
//!
//! A trace begins with a new engine, so whoever records must record from the first event on. `magi-node replay` reads
//! this form, and a property test that finds a broken invariant prints it. Reading is bounded by [`MAX_LINE`] and by
//! one line at a time, whatever the file holds.

use std::io::{BufRead, Read, Write};

use serde::{Deserialize, Serialize};

use crate::action::{Action, Effects};
use crate::engine::Engine;
use crate::event::Event;
use crate::time::Time;

/// Longest line, in bytes without its end.
pub const MAX_LINE: usize = 16 << 20;

/// One event of a trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// When the engine was told.
    pub at: Time,
    /// What it was told.
    pub event: Event,
    /// What it wanted then, in order; none: not recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effects: Option<Vec<Action>>,
}

/// Why a trace cannot be written or read on; lines count from one.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The reader failed.
    #[error("line {line} cannot be read")]
    Read {
        /// Its number.
        line: u64,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Longer than [`MAX_LINE`].
    #[error("line {line} is longer than {MAX_LINE} bytes")]
    TooLong {
        /// Its number.
        line: u64,
    },
    /// No [`Line`] in JSON.
    #[error("line {line} is no event of a trace")]
    Syntax {
        /// Its number.
        line: u64,
        /// What is wrong, and where in the line.
        #[source]
        source: serde_json::Error,
    },
    /// Time steps back, which the engine never sees.
    #[error("line {line} lies before the line above it")]
    TimeStepsBack {
        /// Its number.
        line: u64,
    },
    /// An event whose line would be longer than [`MAX_LINE`].
    #[error("an event of {bytes} bytes is too long for a trace")]
    Unwritable {
        /// Its length.
        bytes: usize,
    },
    /// An event that has no form in JSON.
    #[error("an event cannot be written as JSON")]
    Encode {
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The writer failed.
    #[error("the trace cannot be written")]
    Write {
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl Line {
    /// Writes the line and its end, in one call of `out`.
    ///
    /// # Errors
    /// Longer than a reader would accept, or `out` fails.
    pub fn write_to(&self, out: &mut impl Write) -> Result<(), TraceError> {
        let mut bytes = serde_json::to_vec(self).map_err(|source| TraceError::Encode { source })?;
        if bytes.len() > MAX_LINE {
            return Err(TraceError::Unwritable { bytes: bytes.len() });
        }
        bytes.push(b'\n');
        out.write_all(&bytes)
            .map_err(|source| TraceError::Write { source })
    }
}

/// Reads a trace line by line; blank lines are skipped, and the first error ends it.
pub fn read<R: BufRead>(reader: R) -> Reader<R> {
    Reader {
        reader,
        line: 0,
        before: Time::default(),
        over: false,
    }
}

/// See [`read`].
#[derive(Debug)]
pub struct Reader<R> {
    reader: R,
    line: u64,
    before: Time,
    over: bool,
}

impl<R: BufRead> Reader<R> {
    fn next_line(&mut self) -> Result<Option<Line>, TraceError> {
        loop {
            let number = self.line.saturating_add(1);
            let mut bytes = Vec::new();
            // Room for the end of the line, and for one byte too many.
            let bound = u64::try_from(MAX_LINE).unwrap_or(u64::MAX).saturating_add(2);
            let read = self
                .reader
                .by_ref()
                .take(bound)
                .read_until(b'\n', &mut bytes)
                .map_err(|source| TraceError::Read { line: number, source })?;
            if read == 0 {
                return Ok(None);
            }
            self.line = number;
            let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
            if text.len() > MAX_LINE {
                return Err(TraceError::TooLong { line: number });
            }
            let text = text.trim_ascii();
            if text.is_empty() {
                continue;
            }
            let line: Line =
                serde_json::from_slice(text).map_err(|source| TraceError::Syntax { line: number, source })?;
            if line.at < self.before {
                return Err(TraceError::TimeStepsBack { line: number });
            }
            self.before = line.at;
            return Ok(Some(line));
        }
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    /// The line and its number.
    type Item = Result<(u64, Line), TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let next = self.next_line().transpose();
        self.over = !matches!(next, Some(Ok(_)));
        next.map(|read| read.map(|line| (self.line, line)))
    }
}

/// Replays a trace on a new engine, lazily: one line in, one [`Replayed`] out. The first error ends it.
pub fn replay<R: BufRead>(reader: R) -> Replay<R> {
    Replay {
        reader: read(reader),
        engine: Engine::new(),
    }
}

/// See [`replay`].
#[derive(Debug)]
pub struct Replay<R> {
    reader: Reader<R>,
    engine: Engine,
}

/// What became of one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// The line's number, from one.
    pub line: u64,
    /// When the engine was told.
    pub at: Time,
    /// What it was told.
    pub event: Event,
    /// What it wants this time.
    pub effects: Vec<Action>,
    /// Where that first differs from the recorded effects; none also if none were recorded.
    pub difference: Option<Difference>,
}

/// The first effect that is not the recorded one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its place among the effects of its line, from zero.
    pub index: usize,
    /// What was recorded; none: nothing more.
    pub recorded: Option<Action>,
    /// What came this time; none: nothing more.
    pub replayed: Option<Action>,
}

impl<R> Replay<R> {
    /// The engine as the lines so far have left it.
    pub const fn engine(&self) -> &Engine {
        &self.engine
    }
}

impl<R: BufRead> Iterator for Replay<R> {
    type Item = Result<Replayed, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (number, line) = match self.reader.next()? {
            Ok(read) => read,
            Err(error) => return Some(Err(error)),
        };
        let mut fx = Effects::default();
        self.engine.handle(line.at, line.event.clone(), &mut fx);
        let effects = fx.take();
        let difference = line
            .effects
            .and_then(|recorded| first_difference(&recorded, &effects));
        Some(Ok(Replayed {
            line: number,
            at: line.at,
            event: line.event,
            effects,
            difference,
        }))
    }
}

fn first_difference(recorded: &[Action], replayed: &[Action]) -> Option<Difference> {
    let longest = recorded.len().max(replayed.len());
    let index = (0..longest).find(|index| recorded.get(*index) != replayed.get(*index))?;
    Some(Difference {
        index,
        recorded: recorded.get(index).cloned(),
        replayed: replayed.get(index).cloned(),
    })
}

#[cfg(test)]
mod tests;
