//! Which containerd it is, and what that means for its configuration.

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long `containerd --version` may take, and how much it may say.
const PATIENCE: Duration = Duration::from_secs(5);
const LONGEST_ANSWER: usize = 4096;
/// Between two looks at a program that closed its output and has not ended.
const STEP: Duration = Duration::from_millis(5);

/// A version of containerd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 1 or 2.
    pub major: u32,
    /// The line of releases.
    pub minor: u32,
    /// The release.
    pub patch: u32,
}

/// How imported files are merged (measured with `containerd config dump` of 1.7.24 and 2.1.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Merge {
    /// 1.7: a plugin's table in a later file replaces the whole table.
    Sections,
    /// 2.x: key by key, at any depth.
    Keys,
}

/// Why the version is not known, or not supported.
#[derive(Debug, thiserror::Error)]
pub enum VersionError {
    /// No version in the text.
    #[error("{0:?} names no version of containerd; say --containerd-version, such as 1.7.24")]
    Text(String),
    /// Too old or too new.
    #[error("containerd {0} is not supported: 1.7 and 2.x are")]
    Unsupported(Version),
    /// It could not be started.
    #[error("cannot run {} --version; say --containerd-binary or --containerd-version", path.display())]
    Run {
        /// The program.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It did not answer in time.
    #[error("{} --version took longer than {patience:?}; say --containerd-version", path.display())]
    Hangs {
        /// The program.
        path: PathBuf,
        /// How long was waited.
        patience: Duration,
    },
}

impl Version {
    /// Asks a containerd binary. Executed without a shell and with an empty environment, for 5 seconds at most.
    pub fn of_binary(path: &Path) -> Result<Self, VersionError> {
        Self::of_binary_within(path, PATIENCE)
    }

    pub(crate) fn of_binary_within(path: &Path, patience: Duration) -> Result<Self, VersionError> {
        let failed = |source| VersionError::Run {
            path: path.to_owned(),
            source,
        };
        let mut child = Command::new(path)
            .arg("--version")
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let answer = child
            .stdout
            .take()
            .ok_or_else(|| io::Error::other("no pipe"))
            .and_then(|mut pipe| {
                let deadline = Instant::now() + patience;
                let answer = read_until(&mut pipe, deadline)?;
                while child.try_wait()?.is_none() {
                    if Instant::now() >= deadline {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    std::thread::sleep(STEP);
                }
                Ok(answer)
            });
        if answer.is_err() {
            // Whatever went wrong, it is not left running.
            let _gone_already = child.kill();
            let _gone_already = child.wait();
        }
        match answer {
            Ok(answer) => String::from_utf8_lossy(&answer).parse(),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(VersionError::Hangs {
                path: path.to_owned(),
                patience,
            }),
            Err(error) => Err(failed(error)),
        }
    }

    /// The highest version of a configuration that it reads.
    pub(crate) fn highest_config(self) -> i64 {
        match (self.major, self.minor) {
            (1, _) => 2,
            (2, 0..=2) => 3,
            _ => 4,
        }
    }

    /// Whether NRI is off unless the configuration turns it on (containerd 1.7.24 pkg/nri/config.go:46; 2.x is the opposite).
    pub(crate) fn nri_is_off(self) -> bool {
        self.major == 1
    }

    /// Whether CRI pulls call image verifiers.
    pub fn verifies(self) -> bool {
        (self.major, self.minor) >= (2, 1)
    }

    pub(crate) fn merge(self) -> Merge {
        if self.major == 1 {
            Merge::Sections
        } else {
            Merge::Keys
        }
    }
}

/// Reads what the pipe has until it ends or is full.
fn read_until(pipe: &mut std::process::ChildStdout, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let mut chunk = [0; 512];
    while answer.len() < LONGEST_ANSWER {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        if poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&left))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let length = pipe.read(&mut chunk)?;
        if length == 0 {
            break;
        }
        answer.extend(chunk.iter().take(length));
    }
    Ok(answer)
}

impl FromStr for Version {
    type Err = VersionError;

    /// Takes `1.7.24`, and what `containerd --version` prints: program, package, version (`v2.1.4`, `1.7.24~ds1`,
    /// `2.1.5-k3s1`), revision.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || VersionError::Text(text.chars().take(120).collect());
        let mut words = text.split_whitespace();
        let version = match (words.next(), words.next(), words.next()) {
            (Some(one), None, None) => one,
            (Some(_), Some(_), Some(version)) => version,
            _ => return Err(refused()),
        };
        let version = version.strip_prefix('v').unwrap_or(version);
        let end = version
            .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
            .unwrap_or(version.len());
        let numbers: Result<Vec<u32>, _> = version
            .get(..end)
            .unwrap_or_default()
            .trim_end_matches('.')
            .split('.')
            .map(str::parse)
            .collect();
        let version = match numbers.as_deref() {
            Ok([major, minor]) => Self {
                major: *major,
                minor: *minor,
                patch: 0,
            },
            Ok([major, minor, patch, ..]) => Self {
                major: *major,
                minor: *minor,
                patch: *patch,
            },
            Ok(_) | Err(_) => return Err(refused()),
        };
        match (version.major, version.minor) {
            (1, 7) | (2, _) => Ok(version),
            _ => Err(VersionError::Unsupported(version)),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}
