//! The audit store: the records of all nodes as JSON lines, each once, in files that are rotated and in the end removed.
//!
//! One thread writes; it puts batches of several nodes together, and a node hears that its records are stored when they
//! are on the disk. Questions read the files beside it. Nothing here is a database: at a few records per second a scan of
//! what is kept takes a second.

mod files;
mod line;
mod query;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use magi_master_api::bounds::MAX_RUNS;
use magi_master_api::message::{AuditBatch, AuditMark};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::counters::Counters;
use crate::names::NodeName;
use crate::push::Queue;

pub use line::Stored;
pub use query::{Found, Query};

/// Batches that wait for the writer; more are refused, and come again.
const MAX_BATCHES: usize = 256;
/// Records that a slow reader of the tail may be behind.
const TAIL_BEHIND: usize = 256;

/// Where and how much.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    /// The file that is written; rotated ones have a number behind its name.
    pub path: PathBuf,
    /// Bytes after which it is rotated.
    pub rotate: u64,
    /// Rotated files that are kept.
    pub keep: u32,
    /// After so long a rotated file is removed.
    pub age: Duration,
}

/// Why the store cannot be opened, written or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder cannot be made.
    #[error("cannot keep an audit store")]
    Folder(#[source] crate::files::FileError),
    /// A file cannot be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file cannot be put aside or removed.
    #[error("cannot rotate {}", path.display())]
    Rotate {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// There can be no thread.
    #[error("cannot start the store's thread")]
    Thread(#[source] std::io::Error),
}

/// A handle to the store; it ends with the last one.
#[derive(Clone, Debug)]
pub struct Store {
    settings: Arc<StoreSettings>,
    batches: mpsc::Sender<Batch>,
    marks: Arc<Marks>,
    tail: broadcast::Sender<Arc<Stored>>,
}

/// Records of one node on their way to the disk.
#[derive(Debug)]
struct Batch {
    node: NodeName,
    records: Arc<AuditBatch>,
    done: oneshot::Sender<()>,
}

impl Store {
    /// Opens the store, and finds out what is in it. What is stored is offered to `push` besides.
    ///
    /// # Errors
    /// A file cannot be made or read.
    pub fn open(
        settings: StoreSettings,
        push: Option<Arc<Queue>>,
        counters: Arc<Counters>,
    ) -> Result<Self, StoreError> {
        let marks = Arc::new(Marks::default());
        let (batches, queue) = mpsc::channel(MAX_BATCHES);
        let tail = broadcast::Sender::new(TAIL_BEHIND);
        let settings = Arc::new(settings);
        let listeners = writer::Listeners {
            tail: tail.clone(),
            push,
        };
        let writer = writer::Writer::open(Arc::clone(&settings), Arc::clone(&marks), listeners, counters)?;
        std::thread::Builder::new()
            .name("audit-store".to_owned())
            .spawn(move || writer.run(queue))
            .map_err(StoreError::Thread)?;
        Ok(Self {
            settings,
            batches,
            marks,
            tail,
        })
    }

    /// Stores the records of a node. Whether they are on the disk; if not, they may be stored in part, and can be handed
    /// in again: none is stored twice.
    pub async fn append(&self, node: &NodeName, records: &Arc<AuditBatch>) -> bool {
        let (done, stored) = oneshot::channel();
        let batch = Batch {
            node: node.clone(),
            records: Arc::clone(records),
            done,
        };
        self.batches.try_send(batch).is_ok() && stored.await.is_ok()
    }

    /// What is stored of a node's trail: the last record of each of its last runs.
    #[must_use]
    pub fn marks(&self, node: &NodeName) -> Vec<AuditMark> {
        self.marks.of(node)
    }

    /// The newest records that the question asks for. It reads files: call it where waiting hurts nobody.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn query(&self, query: &Query) -> Result<Found, StoreError> {
        query::run(&self.settings, query)
    }

    /// Every record that is stored from now on.
    #[must_use]
    pub fn tail(&self) -> broadcast::Receiver<Arc<Stored>> {
        self.tail.subscribe()
    }
}

/// The last record of each of the last runs of each node. Changed by: records that are stored.
#[derive(Debug, Default)]
struct Marks(Mutex<HashMap<NodeName, Vec<AuditMark>>>);

impl Marks {
    fn of(&self, node: &NodeName) -> Vec<AuditMark> {
        let marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        marks.get(node).cloned().unwrap_or_default()
    }

    /// Whether a record is stored already.
    fn has(&self, node: &NodeName, mark: AuditMark) -> bool {
        let marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        marks.get(node).is_some_and(|runs| {
            runs.iter()
                .any(|last| last.run == mark.run && last.sequence >= mark.sequence)
        })
    }

    fn set(&self, node: &NodeName, mark: AuditMark) {
        let mut marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Nodes have certificates: there are no more than an authority signed for.
        let runs = marks.entry(node.clone()).or_default();
        match runs.iter_mut().find(|last| last.run == mark.run) {
            Some(last) => last.sequence = last.sequence.max(mark.sequence),
            None => {
                if runs.len() >= MAX_RUNS {
                    runs.remove(0);
                }
                runs.push(mark);
            }
        }
    }
}
