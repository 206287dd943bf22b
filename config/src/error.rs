//! The one error of this crate: a file that cannot be read, or a document with everything that is wrong with it.

use std::fmt;
use std::path::PathBuf;

use crate::problem::{Marked, Place, Problem, Sink, count};
use crate::render;

/// Why there is no policy or settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Box<Unreadable>),
    /// The document was read, and is wrong.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

impl ConfigError {
    /// Everything that is wrong, in the order of the document; never empty, and at most 50.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Unreadable(unreadable) => std::slice::from_ref(&unreadable.problem),
            Self::Invalid(invalid) => &invalid.problems,
        }
    }

    /// The file, as it was named by the caller.
    #[must_use]
    pub fn file(&self) -> &str {
        match self {
            Self::Unreadable(unreadable) => &unreadable.file,
            Self::Invalid(invalid) => &invalid.file,
        }
    }
}

/// A file that cannot be read, worded for people.
#[derive(Debug, thiserror::Error)]
pub struct Unreadable {
    file: String,
    problem: Problem,
    // Not a `#[source]`: its whole story is in the text already, and a chain would tell it twice.
    step: ReadError,
}

impl Unreadable {
    pub(crate) fn new(step: ReadError) -> Self {
        let mut problem = Problem::new("", step.to_string()).hint(step.hint());
        if let ReadError::NotUtf8 { place, .. } = &step {
            problem.place = Some(*place);
        }
        Self {
            file: step.path().display().to_string(),
            problem,
            step,
        }
    }

    /// The step that failed.
    #[must_use]
    pub fn step(&self) -> &ReadError {
        &self.step
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", render::safe(&self.problem.message), self.step.hint())
    }
}

/// Which step of reading a file failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is no such file.
    #[error("{} does not exist", path.display())]
    NotFound {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The file, or a folder above it, may not be read.
    #[error("{} may not be read", path.display())]
    Denied {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// It cannot be opened for another reason.
    #[error("{} cannot be opened", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// It is open, and its kind cannot be found out.
    #[error("{} cannot be examined", path.display())]
    Examine {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// It is a directory, a pipe, a device: anything but a file.
    #[error("{} is {kind}, not a file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is, with its article.
        kind: &'static str,
    },
    /// It has more bytes than any honest configuration.
    #[error("{} is larger than {} bytes", path.display(), limit)]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Bytes that are allowed.
        limit: usize,
    },
    /// Reading stopped midway.
    #[error("{} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// It is no text.
    #[error("{} is not UTF-8 text (line {}, column {})", path.display(), place.line, place.column)]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Where the first wrong byte stands.
        place: Place,
    },
}

impl ReadError {
    /// The file.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        match self {
            Self::NotFound { path, .. }
            | Self::Denied { path, .. }
            | Self::Open { path, .. }
            | Self::Examine { path, .. }
            | Self::NotAFile { path, .. }
            | Self::TooLarge { path, .. }
            | Self::Read { path, .. }
            | Self::NotUtf8 { path, .. } => path,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::NotFound { .. } => "write it, or name another file where this one is named".to_owned(),
            Self::Denied { .. } => "let this user read it, or run as one who may".to_owned(),
            Self::Open { source, .. } | Self::Examine { source, .. } | Self::Read { source, .. } => {
                format!("the system says: {source}")
            }
            Self::NotAFile { .. } => "name a YAML file".to_owned(),
            Self::TooLarge { .. } => "name the right file, or use patterns instead of lists".to_owned(),
            Self::NotUtf8 { .. } => "save it as UTF-8".to_owned(),
        }
    }
}

/// A document with problems. Displays each with its line and a caret.
#[derive(Debug)]
pub struct Invalid {
    file: String,
    problems: Vec<Problem>,
    report: String,
}

impl Invalid {
    pub(crate) fn new(file: &str, text: &str, sink: Sink) -> Self {
        let (marked, dropped) = sink.finish();
        let mut report = format!(
            "{} has {}",
            render::safe(file),
            count(marked.len() + dropped, "problem")
        );
        for Marked { problem, bytes } in &marked {
            report.push_str("\n\n");
            report.push_str(&render::problem(file, text, problem, bytes));
        }
        if dropped > 0 {
            report.push_str(&format!("\n\n… and {dropped} more"));
        }
        let problems = marked.into_iter().map(|marked| marked.problem).collect();
        Self {
            file: file.to_owned(),
            problems,
            report,
        }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.report)
    }
}

impl std::error::Error for Invalid {}
