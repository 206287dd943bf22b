//! Where magi-node listens, and how long a pull may wait for it: from the environment, else from a small file, else as
//! built in. containerd hands its own environment on, which few operators can change; hence the file.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::verdict::doubt;

/// How long a pull waits for magi-node. containerd waits for 10 s, and then blocks the pull.
pub(crate) const DEFAULT_DEADLINE: Duration = Duration::from_secs(1);

const DEFAULT_SOCKET: &str = "/run/magi/node.sock";
const DEFAULT_FILE: &str = "/etc/magi/verify.conf";

const SOCKET_VARIABLE: &str = "MAGI_SOCKET";
const DEADLINE_VARIABLE: &str = "MAGI_VERIFY_DEADLINE";
const FILE_VARIABLE: &str = "MAGI_VERIFY_CONF";

/// Deadlines that make sense: below, no answer is in time; above, containerd blocks the pull first.
const DEADLINE_MILLIS: std::ops::RangeInclusive<u64> = 10..=9000;

/// Longest file that is read, in bytes.
const MAX_FILE: u64 = 16 << 10;

/// Longest path of a unix socket, in bytes (unix(7), `sun_path` with its closing zero).
const MAX_SOCKET_PATH: usize = 107;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// magi-node's control socket.
    pub(crate) socket: PathBuf,
    /// From the start of the process until it ends.
    pub(crate) deadline: Duration,
}

/// What one place says; nothing about what it does not mention or gets wrong.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    socket: Option<PathBuf>,
    deadline: Option<Duration>,
}

impl Settings {
    /// Looks in all places. What is wrong is noted, and the next place counts.
    pub(crate) fn load() -> Self {
        let mut environment = Said::default();
        if let Some(value) = variable(SOCKET_VARIABLE) {
            environment.socket = noted(SOCKET_VARIABLE, socket(&value));
        }
        if let Some(value) = variable(DEADLINE_VARIABLE) {
            environment.deadline = noted(DEADLINE_VARIABLE, millis(&value));
        }
        let path = variable(FILE_VARIABLE).map_or_else(|| PathBuf::from(DEFAULT_FILE), PathBuf::from);
        let file = noted(&path.display().to_string(), read(&path))
            .map(|text| Said::parse(&text))
            .unwrap_or_default();
        Self {
            socket: environment
                .socket
                .or(file.socket)
                .unwrap_or_else(|| DEFAULT_SOCKET.into()),
            deadline: environment.deadline.or(file.deadline).unwrap_or(DEFAULT_DEADLINE),
        }
    }
}

impl Said {
    /// Reads `key = value` lines; `#` begins a comment line.
    fn parse(text: &str) -> Self {
        let mut said = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let place = format!("line {number}");
            let (key, value) = line.split_once('=').unwrap_or((line, ""));
            match key.trim() {
                "socket" => said.socket = noted(&place, socket(value.trim())).or(said.socket),
                "deadline" => said.deadline = noted(&place, duration(value.trim())).or(said.deadline),
                _ => doubt(&format!("{place}: neither socket nor deadline")),
            }
        }
        said
    }
}

/// The value, or a note.
fn noted<T>(place: &str, value: Result<T, String>) -> Option<T> {
    value
        .map_err(|problem| doubt(&format!("{place}: {problem}")))
        .ok()
}

/// A variable that is set to something; what is not UTF-8 is no setting of ours.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The file's text; empty if there is none, which is no mistake.
fn read(path: &Path) -> Result<String, String> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        // Opening a fifo would wait for its other end.
        Ok(metadata) if !metadata.is_file() => return Err("not a file".to_owned()),
        Ok(_) | Err(_) => {}
    }
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut text = String::new();
    file.take(MAX_FILE + 1)
        .read_to_string(&mut text)
        .map_err(|error| error.to_string())?;
    if u64::try_from(text.len()).is_ok_and(|len| len <= MAX_FILE) {
        Ok(text)
    } else {
        Err(format!("more than {MAX_FILE} bytes"))
    }
}

fn socket(value: &str) -> Result<PathBuf, String> {
    if !value.starts_with('/') {
        return Err("the socket's path must begin with /".to_owned());
    }
    if value.len() > MAX_SOCKET_PATH {
        return Err(format!(
            "the socket's path is longer than {MAX_SOCKET_PATH} bytes"
        ));
    }
    Ok(value.into())
}

/// `250ms` or `2s`.
fn duration(value: &str) -> Result<Duration, String> {
    let (number, factor) = match (value.strip_suffix("ms"), value.strip_suffix('s')) {
        (Some(number), _) => (number, 1),
        (None, Some(number)) => (number, 1000),
        (None, None) => return Err("a deadline ends with ms or s".to_owned()),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| format!("{number:?} is no whole number"))?;
    in_range(number.saturating_mul(factor))
}

fn millis(value: &str) -> Result<Duration, String> {
    in_range(
        value
            .parse()
            .map_err(|_| format!("{value:?} is no number of milliseconds"))?,
    )
}

fn in_range(millis: u64) -> Result<Duration, String> {
    if DEADLINE_MILLIS.contains(&millis) {
        Ok(Duration::from_millis(millis))
    } else {
        let (least, most) = DEADLINE_MILLIS.into_inner();
        Err(format!("{millis} ms is not between {least} ms and {most} ms"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_s_lines_are_read_and_bad_ones_passed_over() {
        let said = Said::parse("# magi\n\n socket = /run/a b.sock \ndeadline=250ms\nspeed = 9\nnonsense\n");
        assert_eq!(said.socket, Some("/run/a b.sock".into()));
        assert_eq!(said.deadline, Some(Duration::from_millis(250)));
        let said = Said::parse("socket = /good\nsocket = bad\ndeadline = 2s\ndeadline = 1h");
        assert_eq!(said.socket, Some("/good".into()));
        assert_eq!(said.deadline, Some(Duration::from_secs(2)));
    }

    #[test]
    fn deadlines_have_bounds() {
        for (text, expected) in [("10ms", Some(10)), ("9s", Some(9000)), ("9000ms", Some(9000))] {
            assert_eq!(duration(text).ok(), expected.map(Duration::from_millis), "{text}");
        }
        for text in [
            "",
            "s",
            "ms",
            "9ms",
            "9001ms",
            "10s",
            "-1s",
            "1.5s",
            "1",
            "1 s",
            "1m",
            "99999999999999999999s",
            "18446744073709551615s",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(millis("10"), Ok(Duration::from_millis(10)));
        for text in ["", "9", "9001", "1s", "-5"] {
            assert!(millis(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_socket_has_a_whole_path_of_a_length_that_the_kernel_takes() {
        assert!(socket("/run/x").is_ok());
        for text in ["", "run/x", &format!("/{}", "x".repeat(107))] {
            assert!(socket(text).is_err(), "{text}");
        }
    }

    #[test]
    fn no_file_is_no_mistake_and_a_folder_is_one() {
        assert_eq!(read(Path::new("/no/such/file")), Ok(String::new()));
        assert!(read(Path::new("/")).is_err());
        assert!(read(Path::new("/dev/zero")).is_err());
    }
}
