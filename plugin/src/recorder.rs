//! Records every event and what the engine made of it, for `magi-node replay`.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use magi_engine::trace::{Line, TraceError};

/// Why nothing is recorded (any more).
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecorderError {
    /// The file could not be made.
    #[error("cannot make the trace {}", path.display())]
    Create {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// An event could not be turned into a line.
    #[error("cannot encode an event")]
    Encode(#[source] TraceError),
    /// A line could not be written.
    #[error("cannot write to the trace")]
    Write(#[source] io::Error),
    /// The trace has reached its bound.
    #[error("the trace has reached its bound of {max} bytes")]
    Full { max: u64 },
}

/// Writes the trace.
#[derive(Debug)]
pub(crate) struct Recorder {
    file: BufWriter<File>,
    written: u64,
    max: u64,
}

impl Recorder {
    /// Begins a new trace at `path`, of at most `max` bytes. An older one there is replaced.
    pub(crate) fn create(path: &Path, max: u64) -> Result<Self, RecorderError> {
        let nofollow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(nofollow)
            .open(path)
            .map_err(|source| RecorderError::Create {
                path: path.to_owned(),
                source,
            })?;
        Ok(Self {
            file: BufWriter::new(file),
            written: 0,
            max,
        })
    }

    /// Appends one event and its effects.
    pub(crate) fn record(&mut self, line: &Line) -> Result<(), RecorderError> {
        let mut bytes = Vec::new();
        line.write_to(&mut bytes).map_err(RecorderError::Encode)?;
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if self.written.saturating_add(length) > self.max {
            return Err(RecorderError::Full { max: self.max });
        }
        self.file
            .write_all(&bytes)
            .and_then(|()| self.file.flush())
            .map_err(RecorderError::Write)?;
        self.written = self.written.saturating_add(length);
        Ok(())
    }
}
