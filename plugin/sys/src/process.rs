//! Telling one process from a later one with the same number.

use std::io;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use thiserror::Error;

use crate::proc_file;

/// Why nothing could be learnt about a process.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// It does not exist (any more).
    #[error("there is no process {pid}")]
    NoSuchProcess {
        /// The process asked for.
        pid: u32,
    },
    /// Its status file could not be read.
    #[error("cannot read the status of process {pid}")]
    Read {
        /// The process asked for.
        pid: u32,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Its status file does not look like one.
    #[error("the status of process {pid} is not understood")]
    Malformed {
        /// The process asked for.
        pid: u32,
    },
}

/// When the process started, in clock ticks since the machine did. Two processes that had the same number one
/// after the other differ in it: `(pid, start time)` names a process for good.
///
/// # Errors
/// `NoSuchProcess`, or `Read` and `Malformed` where `/proc` is not as it should be.
pub fn start_time(pid: u32) -> Result<u64, ProcessError> {
    let stat = proc_file::read(&format!("/proc/{pid}/stat")).map_err(|source| {
        // A process that ends between the opening and the reading gives ESRCH.
        let gone = source.kind() == io::ErrorKind::NotFound
            || source.raw_os_error() == Some(Errno::SRCH.raw_os_error());
        if gone {
            ProcessError::NoSuchProcess { pid }
        } else {
            ProcessError::Read { pid, source }
        }
    })?;
    start_time_in(&stat).ok_or(ProcessError::Malformed { pid })
}

/// Field 22. The second field is the program's name in parentheses and may itself hold blanks and
/// parentheses, so counting begins after the last one.
fn start_time_in(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Whether there is a process with this number, be it only one that has ended and was not waited for.
#[must_use]
pub fn exists(pid: u32) -> bool {
    // Being forbidden to signal it proves that it is there.
    kernel_pid(pid).is_some_and(|pid| test_kill_process(pid) != Err(Errno::SRCH))
}

/// `None` for numbers that no process can have.
pub(crate) fn kernel_pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_process_has_one_start_time_and_none_after_its_end() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = child.id();
        let started = start_time(pid).unwrap();
        assert!(exists(pid));
        assert!(started >= start_time(std::process::id()).unwrap());
        assert_eq!(start_time(pid).unwrap(), started);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(!exists(pid));
        assert!(matches!(start_time(pid), Err(ProcessError::NoSuchProcess { .. })));
    }

    #[test]
    fn impossible_numbers_are_no_processes() {
        for pid in [0, u32::MAX, 1 << 31] {
            assert!(!exists(pid));
            assert!(start_time(pid).is_err());
        }
        assert!(exists(std::process::id()));
    }

    #[test]
    fn a_program_cannot_forge_its_start_time_by_its_name() {
        let fields = "S 1 1 1 0 -1 4194304 1 0 0 0 1 2 0 0 20 0 1 0 4711 1000";
        for name in [
            "cat",
            "a b",
            ") S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20",
            "((",
            "",
        ] {
            assert_eq!(
                start_time_in(&format!("42 ({name}) {fields}")),
                Some(4711),
                "{name}"
            );
        }
        assert_eq!(start_time_in("42 (cat) S 1 1"), None);
    }

    proptest! {
        #[test]
        fn no_status_makes_the_parser_panic(text in ".*") {
            let _seen: Option<u64> = start_time_in(&text);
        }
    }
}
