//! The thread that writes: appends, flushes, rotates, and says what is stored.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use jiff::Timestamp;
use tokio::sync::{broadcast, mpsc};

use super::files::{each_line, numbered, open_all};
use super::line::{Line, Stored};
use super::{Batch, Marks, StoreError, StoreSettings};
use crate::counters::{Count, Counters};
use crate::names::NodeName;
use crate::push::Queue;

/// Batches that share one flush.
const MAX_TOGETHER: usize = 64;

/// Who hears of what is stored. None of them is waited for.
pub(super) struct Listeners {
    pub(super) tail: broadcast::Sender<Arc<Stored>>,
    pub(super) push: Option<Arc<Queue>>,
}

impl Listeners {
    fn tell(&self, stored: Arc<Stored>) {
        if let Some(push) = &self.push {
            push.offer(Arc::clone(&stored));
        }
        // Nobody may be listening.
        drop(self.tail.send(stored));
    }
}

/// Changed by: batches that come in.
pub(super) struct Writer {
    settings: Arc<StoreSettings>,
    marks: Arc<Marks>,
    listeners: Listeners,
    counters: Arc<Counters>,
    file: File,
    size: u64,
}

impl Writer {
    pub(super) fn open(
        settings: Arc<StoreSettings>,
        marks: Arc<Marks>,
        listeners: Listeners,
        counters: Arc<Counters>,
    ) -> Result<Self, StoreError> {
        if let Some(folder) = settings.path.parent() {
            crate::files::folder(folder).map_err(StoreError::Folder)?;
        }
        let mut size = 0;
        for (path, file) in open_all(&settings)? {
            let whole = each_line(file, |line| {
                let Some(line) = Line::parse(line) else { return };
                if let Ok(node) = NodeName::new(line.node.as_ref()) {
                    marks.set(&node, line.mark());
                }
            })
            .map_err(|source| StoreError::Read {
                path: path.clone(),
                source,
            })?;
            if path == settings.path {
                size = whole;
            }
        }
        let file = open(&settings.path)?;
        // What stands behind the last whole line was never said to be stored.
        file.set_len(size).map_err(|source| StoreError::Write {
            path: settings.path.clone(),
            source,
        })?;
        Ok(Self {
            settings,
            marks,
            listeners,
            counters,
            file,
            size,
        })
    }

    /// Writes until the last handle is gone.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Batch>) {
        while let Some(first) = queue.blocking_recv() {
            let mut batches = vec![first];
            while batches.len() < MAX_TOGETHER
                && let Ok(next) = queue.try_recv()
            {
                batches.push(next);
            }
            // A batch whose `done` is dropped comes again.
            if let Err(error) = self.write(batches) {
                self.counters.one(Count::StoreFailed);
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(%error, cause, "audit records are not stored yet");
            }
        }
    }

    fn write(&mut self, batches: Vec<Batch>) -> Result<(), StoreError> {
        let at = Timestamp::now();
        let at_ms = u64::try_from(at.as_millisecond()).unwrap_or_default();
        let mut bytes = Vec::new();
        let mut stored: Vec<Stored> = Vec::new();
        let mut unusable = Vec::new();
        let mut repeated = 0_u64;
        for batch in &batches {
            for record in &batch.records.records {
                let known = |one: &Stored| one.node == batch.node && one.mark == record.mark;
                if self.marks.has(&batch.node, record.mark) || stored.iter().any(known) {
                    repeated = repeated.saturating_add(1);
                    continue;
                }
                let one = Stored {
                    node: batch.node.clone(),
                    mark: record.mark,
                    at_ms,
                    json: record.json.clone(),
                };
                match one.line() {
                    Some(line) => {
                        bytes.extend_from_slice(&line);
                        stored.push(one);
                    }
                    None => unusable.push((batch.node.clone(), record.mark)),
                }
            }
        }
        if !bytes.is_empty() {
            self.append(&bytes)?;
        }
        self.counters.add(Count::Records, stored.len() as u64);
        self.counters.add(Count::RecordsRepeated, repeated);
        self.counters.add(Count::RecordsUnusable, unusable.len() as u64);
        for (node, mark) in unusable {
            self.marks.set(&node, mark);
        }
        for one in stored {
            self.marks.set(&one.node, one.mark);
            self.listeners.tell(Arc::new(one));
        }
        for batch in batches {
            // A stream that has ended does not wait for it.
            let _ended = batch.done.send(());
        }
        Ok(())
    }

    /// Appends whole lines. On an error nothing of them stays.
    fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let length = bytes.len() as u64;
        if self.size > 0 && self.size.saturating_add(length) > self.settings.rotate {
            self.rotate()?;
        }
        let written = self.file.write_all(bytes).and_then(|()| self.file.sync_data());
        if let Err(source) = written {
            // Part of it may stand there; the next line must not be glued to it.
            let _best_effort = self.file.set_len(self.size);
            return Err(StoreError::Write {
                path: self.settings.path.clone(),
                source,
            });
        }
        self.size = self.size.saturating_add(length);
        Ok(())
    }

    fn rotate(&mut self) -> Result<(), StoreError> {
        let path = &self.settings.path;
        let move_to = |from: PathBuf, to: PathBuf| match fs::rename(&from, to) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::Rotate { path: from, source })
            }
            Ok(()) | Err(_) => Ok(()),
        };
        if numbered(path, self.settings.keep).exists() {
            self.counters.one(Count::StoreRotated);
        }
        for number in (1..self.settings.keep).rev() {
            move_to(numbered(path, number), numbered(path, number.saturating_add(1)))?;
        }
        move_to(path.clone(), numbered(path, 1))?;
        self.file = open(path)?;
        self.size = 0;
        self.remove_old();
        Ok(())
    }

    /// Removes rotated files whose last record is too old.
    fn remove_old(&self) {
        for number in 1..=self.settings.keep {
            let path = numbered(&self.settings.path, number);
            let is_old = fs::metadata(&path)
                .and_then(|meta| meta.modified())
                .ok()
                .and_then(|written| SystemTime::now().duration_since(written).ok())
                .is_some_and(|age| age > self.settings.age);
            if is_old && fs::remove_file(&path).is_ok() {
                self.counters.one(Count::StoreRotated);
            }
        }
    }
}

fn open(path: &PathBuf) -> Result<File, StoreError> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map_err(|source| StoreError::Open {
            path: path.clone(),
            source,
        })
}
