//! What leaves the program: text on its two streams, and its exit code.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use magi_node_api::ClientError;
use serde::Serialize;

use crate::show::escape;
use crate::terminal::{BAD, BOLD};

/// How it went. `--help` documents the codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    Unreachable = 3,
    NoSuchPull = 4,
    StillRunning = 5,
    Unwell = 6,
    Differs = 7,
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// It did not go well, and this is what to tell.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    message: String,
    /// The message has several lines, which are safe to show as they are.
    is_verbatim: bool,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            is_verbatim: false,
        }
    }

    /// With a report of several lines that escapes by itself what others wrote.
    pub(crate) fn verbatim(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            is_verbatim: true,
            ..Self::new(exit, message)
        }
    }

    /// With an error and all that caused it.
    pub(crate) fn caused(exit: Exit, error: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(exit, causes(error))
    }

    pub(crate) fn print(&self) {
        let message = if self.is_verbatim {
            self.message.clone()
        } else {
            escape::text(&self.message)
        };
        complain(&format!("{BAD}error:{BAD:#} {message}\n"));
    }
}

/// An error and all that caused it, in one line. What says no more than the one before is left out.
pub(crate) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut told: Vec<String> = Vec::new();
    for cause in causes.map(ToString::to_string) {
        if told.last().is_none_or(|last| !last.ends_with(&cause)) {
            told.push(cause);
        }
    }
    told.join(": ")
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = if error.is_unreachable() {
            Exit::Unreachable
        } else {
            Exit::Failed
        };
        Self::caused(exit, &error)
    }
}

/// Whether somebody still reads what is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Reader {
    Listening,
    /// As after `| head -1`; no failure, and no use going on.
    Gone,
}

/// Prints to standard output; colours only where they are wanted.
pub(crate) fn print(text: &str) -> Result<Reader, Failure> {
    let mut stdout = anstream::stdout().lock();
    heard(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
}

/// Prints control sequences that are no colours; only for terminals.
pub(crate) fn control(sequence: &str) -> Result<Reader, Failure> {
    let mut stdout = io::stdout().lock();
    heard(
        stdout
            .write_all(sequence.as_bytes())
            .and_then(|()| stdout.flush()),
    )
}

fn heard(written: io::Result<()>) -> Result<Reader, Failure> {
    match written {
        Ok(()) => Ok(Reader::Listening),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(Failure::new(
            Exit::Failed,
            format!("cannot write to standard output: {error}"),
        )),
    }
}

/// Prints to standard error. Where that fails, there is nobody left to tell.
pub(crate) fn complain(text: &str) {
    let mut stderr = anstream::stderr().lock();
    let _nobody_left = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

/// Prints one line of JSON.
pub(crate) fn print_json(value: &impl Serialize) -> Result<Reader, Failure> {
    let json = serde_json::to_string(value)
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot encode JSON: {error}")))?;
    print(&(escape::json(&json) + "\n"))
}

/// One line that says how it went.
pub(crate) fn say(what: impl Display) -> Result<Reader, Failure> {
    print(&format!("{BOLD}{}{BOLD:#}\n", escape::text(&what.to_string())))
}
