//! What is wrong with a document: where, why, and what to do; collected, so that one run shows all of it.

use std::ops::Range;

use serde::Serialize;

/// Problems that are kept; the rest is counted.
pub(crate) const MAX_PROBLEMS: usize = 50;
/// Characters of a document's own text that a message repeats.
const MAX_QUOTED: usize = 60;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where in the file; absent if the file as a whole is meant.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// The setting concerned, such as `rules[2].limits.image`; empty for the document.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// A place in a file, counted from one, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

/// A stretch of a document's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) place: Place,
    pub(crate) bytes: Range<usize>,
}

impl Mark {
    /// The first character of a document.
    pub(crate) const START: Self = Self {
        place: Place { line: 1, column: 1 },
        bytes: 0..0,
    };
}

impl Problem {
    pub(crate) fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            place: None,
            path: path.into(),
            message: message.into(),
            hint: None,
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// A problem and the text that it is about.
#[derive(Debug)]
pub(crate) struct Marked {
    pub(crate) problem: Problem,
    pub(crate) bytes: Range<usize>,
}

/// Takes problems while a document is read.
#[derive(Debug, Default)]
pub(crate) struct Sink {
    kept: Vec<Marked>,
    dropped: usize,
}

impl Sink {
    pub(crate) fn report(&mut self, mark: &Mark, problem: Problem) {
        if self.is_full() {
            self.dropped += 1;
        } else {
            let problem = Problem {
                place: Some(mark.place),
                ..problem
            };
            self.kept.push(Marked {
                problem,
                bytes: mark.bytes.clone(),
            });
        }
    }

    /// Whether further problems are only counted, so that a caller need not word them with care.
    pub(crate) fn is_full(&self) -> bool {
        self.kept.len() >= MAX_PROBLEMS
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// The problems in the order of the document, and how many more there were.
    pub(crate) fn finish(mut self) -> (Vec<Marked>, usize) {
        self.kept.sort_by_key(|marked| marked.problem.place);
        (self.kept, self.dropped)
    }
}

/// A document's own text, fit to stand in a message: cut, and with nothing that a terminal obeys.
pub(crate) fn quoted(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(MAX_QUOTED)
        .flat_map(char::escape_debug)
        .collect();
    shown = shown.replace("\\\"", "\"").replace("\\'", "'");
    let rest = if text.chars().nth(MAX_QUOTED).is_some() {
        "…"
    } else {
        ""
    };
    format!("`{shown}{rest}`")
}

/// `1 rule`, `2 rules`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}
