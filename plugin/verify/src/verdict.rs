//! The two ways to end, and what is said on the way out.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

/// Longest reason that is handed on, in bytes. containerd takes 32 KiB; it ends up in events of pods, where 1 KiB is
/// the limit of a message.
const MAX_REASON: usize = 1024;

/// Longest note about a doubt, in bytes: far below what a pipe takes without a reader.
const MAX_DOUBT: usize = 300;

/// What containerd is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The pull goes on.
    Allow,
    /// It does not, for this reason.
    Refuse(String),
}

impl Verdict {
    /// containerd takes 0 as yes and all else as no.
    pub(crate) fn exit_code(&self) -> i32 {
        match self {
            Self::Allow => 0,
            Self::Refuse(_) => 1,
        }
    }
}

/// Writes the reason of a refusal to standard output, past the buffer that `std::io::stdout` keeps: what is written
/// here has left this process.
pub(crate) fn tell(why: &str) -> io::Result<()> {
    let mut stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    stdout.write_all(format!("{}\n", one_line(why, MAX_REASON - 1)).as_bytes())
}

/// Notes on standard error what is in doubt; containerd logs it at debug level.
pub(crate) fn doubt(what: &str) {
    let line = format!("magi-verify: {}\n", one_line(what, MAX_DOUBT));
    // `eprintln!` would panic if nobody reads; a doubt that cannot be noted is still a doubt.
    let _nobody_reads = io::stderr().write_all(line.as_bytes());
}

/// The text with control characters as blanks, cut between two characters.
fn one_line(text: &str, most: usize) -> String {
    let mut line = String::new();
    for character in text.chars() {
        let character = if character.is_control() { ' ' } else { character };
        if line.len() + character.len_utf8() > most {
            break;
        }
        line.push(character);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_line_cut_between_characters() {
        assert_eq!(one_line("a\r\nb\u{1b}[2J\u{85}c\t", 99), "a  b [2J c ");
        assert_eq!(one_line("äöü", 5), "äö");
        assert_eq!(one_line("äöü", 6), "äöü");
        assert_eq!(one_line("", 5), "");
    }

    #[test]
    fn only_a_refusal_blocks() {
        assert_eq!(Verdict::Allow.exit_code(), 0);
        assert_eq!(Verdict::Refuse(String::new()).exit_code(), 1);
    }
}
