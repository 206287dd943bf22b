//! The audit trail: one JSON object a line, appended, mode 0600, rotated by size.
//!
//! A line is handed to the kernel in one write before the lever that it announces is pulled. It is not flushed to the
//! disk first: that would cost the time of a disk in trouble, and a machine that loses its page cache has lost its
//! pulls as well. What an agent that was killed left open, the next one closes.

mod unfinished;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::clock::rfc3339;
use magi_engine::Time;
use magi_engine::audit::{AuditRecord, SCHEMA};
use serde::Serialize;

/// Why a record could not be kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuditError {
    /// The folder could not be made.
    #[error("cannot make the audit folder {}", path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The file could not be opened.
    #[error("cannot open the audit file {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The file is not one that only root writes.
    #[error("{} is no plain file of ours ({problem}): move it away", path.display())]
    Unsafe { path: PathBuf, problem: &'static str },
    /// A record could not be turned into a line.
    #[error("cannot encode an audit record")]
    Encode(#[source] serde_json::Error),
    /// A line could not be written.
    #[error("cannot write to the audit file {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// What an earlier run has written could not be read.
    #[error("cannot read the end of the audit file {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The file could not be put aside.
    #[error("cannot rotate the audit file {}", path.display())]
    Rotate {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Writes the trail.
#[derive(Debug)]
pub(crate) struct AuditLog {
    path: PathBuf,
    rotate: u64,
    keep: u32,
    host: String,
    run: Time,
    sequence: u64,
    file: File,
    size: u64,
}

/// A record that stands in the file.
#[derive(Debug)]
pub(crate) struct Written {
    /// The run of the agent, and the number within it.
    pub(crate) run: Time,
    pub(crate) sequence: u64,
    /// The line, without its end.
    pub(crate) line: Vec<u8>,
}

#[derive(Serialize)]
struct Line<'a> {
    schema: &'static str,
    at: String,
    host: &'a str,
    /// When this run of the agent began, in microseconds since the epoch: with `seq` it names a line.
    run: Time,
    seq: u64,
    #[serde(flatten)]
    record: &'a AuditRecord,
}

impl AuditLog {
    /// Opens the file, making it and its folder if they are not there.
    pub(crate) fn open(
        path: &Path,
        rotate: u64,
        keep: u32,
        host: String,
        run: Time,
    ) -> Result<Self, AuditError> {
        if let Some(folder) = path.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(|source| AuditError::Folder {
                    path: folder.to_owned(),
                    source,
                })?;
        }
        let (file, size) = open(path)?;
        Ok(Self {
            path: path.to_owned(),
            rotate,
            keep,
            host,
            run,
            sequence: 0,
            file,
            size,
        })
    }

    /// Appends a record. On an error nothing of it counts as written.
    pub(crate) fn write(&mut self, at: Time, record: &AuditRecord) -> Result<Written, AuditError> {
        let line = Line {
            schema: SCHEMA,
            at: rfc3339(at),
            host: &self.host,
            run: self.run,
            seq: self.sequence,
            record,
        };
        let mut bytes = serde_json::to_vec(&line).map_err(AuditError::Encode)?;
        bytes.push(b'\n');
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if self.size > 0 && self.size.saturating_add(length) > self.rotate {
            self.rotate()?;
        }
        if let Err(source) = self.file.write_all(&bytes) {
            // Part of the line may stand there; the next one must not be glued to it.
            let _best_effort = self.file.set_len(self.size);
            return Err(AuditError::Write {
                path: self.path.clone(),
                source,
            });
        }
        self.size = self.size.saturating_add(length);
        let sequence = self.sequence;
        self.sequence = sequence.saturating_add(1);
        bytes.pop();
        Ok(Written {
            run: self.run,
            sequence,
            line: bytes,
        })
    }

    /// For each lever whose outcome an earlier run of the agent has not written any more: a record that says so. To be
    /// written before anything else.
    pub(crate) fn unfinished(&self) -> Result<Vec<AuditRecord>, AuditError> {
        unfinished::records(&self.path, &self.numbered(1)).map_err(|source| AuditError::Read {
            path: self.path.clone(),
            source,
        })
    }

    /// A file that was put aside.
    fn numbered(&self, n: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{n}"));
        PathBuf::from(name)
    }

    fn rotate(&mut self) -> Result<(), AuditError> {
        let failed = |source| AuditError::Rotate {
            path: self.path.clone(),
            source,
        };
        for n in (1..self.keep).rev() {
            match std::fs::rename(self.numbered(n), self.numbered(n.saturating_add(1))) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                Ok(()) | Err(_) => {}
            }
        }
        std::fs::rename(&self.path, self.numbered(1)).map_err(failed)?;
        (self.file, self.size) = open(&self.path)?;
        Ok(())
    }
}

fn open(path: &Path) -> Result<(File, u64), AuditError> {
    let nofollow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let file = OpenOptions::new()
        .create(true)
        .read(true)
        .append(true)
        .mode(0o600)
        .custom_flags(nofollow)
        .open(path)
        .map_err(|source| AuditError::Open {
            path: path.to_owned(),
            source,
        })?;
    let meta = file.metadata().map_err(|source| AuditError::Open {
        path: path.to_owned(),
        source,
    })?;
    let problem = if !meta.is_file() {
        Some("not a regular file")
    } else if meta.uid() != rustix::process::geteuid().as_raw() {
        Some("it belongs to another user")
    } else if meta.mode() & 0o077 != 0 {
        Some("others may read or write it")
    } else if meta.nlink() != 1 {
        Some("it has a second name")
    } else {
        None
    };
    match problem {
        Some(problem) => Err(AuditError::Unsafe {
            path: path.to_owned(),
            problem,
        }),
        None => mend(file, meta.len()).map_err(|source| AuditError::Open {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Ends a line that an agent was killed over, so that the next one is not glued to it.
fn mend(mut file: File, size: u64) -> io::Result<(File, u64)> {
    let mut last = [b'\n'];
    if let Some(at) = size.checked_sub(1) {
        file.read_exact_at(&mut last, at)?;
    }
    if last == *b"\n" {
        return Ok((file, size));
    }
    file.write_all(b"\n")?;
    Ok((file, size.saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use magi_engine::audit::Entry;
    use magi_engine::ids::AttemptId;

    use super::*;

    fn record(what: &str) -> AuditRecord {
        AuditRecord {
            pull: None,
            policy: "test".to_owned(),
            entry: Entry::Forgotten {
                what: what.to_owned(),
            },
        }
    }

    fn log(path: &Path, rotate: u64) -> Result<AuditLog, AuditError> {
        AuditLog::open(path, rotate, 2, "node-a".to_owned(), Time::from_micros(1))
    }

    #[test]
    fn lines_are_complete_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/audit.jsonl");
        let mut log = log(&path, 1 << 20).unwrap();
        log.write(Time::from_micros(1_700_000_000_000_001), &record("one"))
            .unwrap();
        log.write(Time::from_micros(1_700_000_000_000_002), &record("two\nlines"))
            .unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["at"], "2023-11-14T22:13:20.000001Z");
        assert_eq!(lines[1]["seq"], 1);
        assert_eq!(lines[1]["kind"], "forgotten");
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn rotation_keeps_so_many() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let mut log = log(&path, 400).unwrap();
        for n in 0..20 {
            log.write(Time::from_micros(n), &record("something of some length"))
                .unwrap();
        }
        let mut names: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2"]);
        let newest = std::fs::read_to_string(&path).unwrap();
        assert!(newest.lines().last().unwrap().contains("\"seq\":19"));
    }

    #[test]
    fn what_a_killed_agent_left_open_is_closed_by_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let opened =
            |run| AuditLog::open(&path, 4000, 2, "node-a".to_owned(), Time::from_micros(run)).unwrap();
        let intent = |attempt| AuditRecord {
            entry: Entry::Intent {
                attempt: AttemptId(attempt),
                reason: magi_engine::Reason::Operator,
                rule: None,
                lever: "destroy-socket".to_owned(),
                socket: None,
                evidence: Vec::new(),
            },
            ..record("")
        };
        let outcome = |attempt| AuditRecord {
            entry: Entry::Outcome {
                attempt: AttemptId(attempt),
                outcome: "done".to_owned(),
                of_run: None,
            },
            ..record("")
        };
        let mut first = opened(1);
        assert_eq!(first.unfinished().unwrap(), []);
        for one in [intent(1), intent(2), outcome(1), intent(3)] {
            first.write(Time::from_micros(10), &one).unwrap();
        }
        // The next record goes no further than this.
        first.file.write_all(b"{\"schema\":\"magi").unwrap();
        drop(first);

        let mut second = opened(2);
        // A number of an earlier run is another attempt.
        second.write(Time::from_micros(20), &intent(1)).unwrap();
        second.write(Time::from_micros(20), &outcome(1)).unwrap();
        let closed = second.unfinished().unwrap();
        let attempts: Vec<_> = closed
            .iter()
            .map(|record| {
                let Entry::Outcome { attempt, of_run, .. } = &record.entry else {
                    panic!("{}", record.entry);
                };
                (attempt.0, of_run.unwrap().as_micros())
            })
            .collect();
        assert_eq!(attempts, [(2, 1), (3, 1)]);
        for one in &closed {
            second.write(Time::from_micros(30), one).unwrap();
        }
        assert_eq!(opened(3).unfinished().unwrap(), []);

        // It may have been put aside since.
        let mut fourth = opened(4);
        fourth.write(Time::from_micros(40), &intent(9)).unwrap();
        fourth.rotate().unwrap();
        fourth.write(Time::from_micros(40), &record("later")).unwrap();
        assert_eq!(opened(5).unfinished().unwrap().len(), 1);
    }

    #[test]
    fn a_planted_link_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        let path = dir.path().join("audit.jsonl");
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        assert!(matches!(log(&path, 400), Err(AuditError::Open { .. })));
        std::fs::remove_file(&path).unwrap();
        std::fs::hard_link(&victim, &path).unwrap();
        std::fs::set_permissions(&victim, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(
            log(&path, 400),
            Err(AuditError::Unsafe {
                problem: "it has a second name",
                ..
            })
        ));
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
    }
}
