//! What the registry saw and sent: one record for each request, live while its body is on its way.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::sync::Notify;

/// What a request asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `/v2/`
    Ping,
    /// A token of the authorisation service.
    Token,
    /// A manifest or index, by tag or digest.
    Manifest,
    /// A blob that is a layer.
    Layer,
    /// Any other blob.
    Config,
    /// Anything else.
    Other,
}

/// How a response ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// All bytes were handed to the socket.
    Complete,
    /// The client went away before.
    ClientGone,
    /// We closed the connection, as the behaviour asks.
    Closed,
}

/// One request, as it stands.
#[derive(Debug, Clone)]
pub struct Request {
    /// Counts from 0 in order of arrival.
    pub id: u64,
    /// Counts the connections of the registry from 0.
    pub connection: u64,
    /// When its head was read.
    pub at: Instant,
    /// `GET`, `HEAD`, `POST`.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// What it asked for.
    pub kind: Kind,
    /// The repository named by the path; empty if none is.
    pub repository: String,
    /// The digest of the blob or manifest served; empty if none was.
    pub digest: String,
    /// The client's address and port.
    pub peer: SocketAddr,
    /// Our address and port.
    pub local: SocketAddr,
    /// The status answered.
    pub status: u16,
    /// The first offset of a Range request, else 0.
    pub range_start: u64,
    /// Bytes of the body that were handed to the socket (with TLS: to the session, at most 16 KiB before it).
    pub body_sent: u64,
    /// When the first of them was.
    pub first_body_byte: Option<Instant>,
    /// When and how the response ended; `None` while it is under way.
    pub ended: Option<(Instant, End)>,
}

/// The live side of a [`Request`].
#[derive(Debug)]
pub(super) struct Record {
    fixed: Request,
    /// Bytes of body given to the HTTP library, which buffers a little.
    yielded: AtomicU64,
    /// Bytes written to the connection, of heads and bodies; shared by all requests of the connection.
    written: Arc<AtomicU64>,
    written_before: u64,
    progress: Mutex<Progress>,
    log: Log,
}

#[derive(Debug, Default)]
struct Progress {
    first: Option<Instant>,
    end: Option<(Instant, End, u64)>,
}

impl Record {
    pub(super) fn sent(&self) -> u64 {
        let written = self
            .written
            .load(Ordering::Relaxed)
            .saturating_sub(self.written_before);
        self.yielded.load(Ordering::Relaxed).min(written)
    }

    pub(super) fn add(&self, bytes: u64) {
        if self.yielded.fetch_add(bytes, Ordering::Relaxed) == 0 && bytes > 0 {
            self.progress.lock().unwrap_or_else(PoisonError::into_inner).first = Some(Instant::now());
        }
        self.log.changed();
    }

    pub(super) fn end(&self, end: End) {
        let sent = match end {
            End::Complete => self.yielded.load(Ordering::Relaxed),
            End::ClientGone | End::Closed => self.sent(),
        };
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.end.get_or_insert((Instant::now(), end, sent));
        drop(progress);
        self.log.changed();
    }

    fn view(&self) -> Request {
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let mut view = self.fixed.clone();
        view.first_body_byte = progress.first;
        view.ended = progress.end.map(|(at, how, _)| (at, how));
        view.body_sent = progress.end.map_or_else(|| self.sent(), |(_, _, sent)| sent);
        view
    }
}

/// The registry's log. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Log(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    records: Mutex<Vec<Arc<Record>>>,
    changed: Notify,
}

impl Log {
    pub(super) fn open(&self, mut fixed: Request, written: Arc<AtomicU64>) -> Arc<Record> {
        let mut records = self.0.records.lock().unwrap_or_else(PoisonError::into_inner);
        fixed.id = records.len() as u64;
        let record = Arc::new(Record {
            fixed,
            yielded: AtomicU64::new(0),
            written_before: written.load(Ordering::Relaxed),
            written,
            progress: Mutex::default(),
            log: self.clone(),
        });
        records.push(Arc::clone(&record));
        drop(records);
        self.changed();
        record
    }

    /// Wakes who waits: a count has changed.
    pub(super) fn changed(&self) {
        self.0.changed.notify_waiters();
    }

    /// All requests so far, in order of arrival.
    pub fn requests(&self) -> Vec<Request> {
        let records = self.0.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.iter().map(|record| record.view()).collect()
    }

    /// The requests for layers of one repository.
    pub fn layers(&self, repository: &str) -> Vec<Request> {
        let mut requests = self.requests();
        requests.retain(|request| request.kind == Kind::Layer && request.repository == repository);
        requests
    }

    /// Bytes of layers of one repository that were handed to sockets.
    pub fn layer_bytes(&self, repository: &str) -> u64 {
        self.layers(repository)
            .iter()
            .map(|request| request.body_sent)
            .sum()
    }

    /// When the first byte of any layer of the repository was handed to a socket.
    pub fn first_layer_byte(&self, repository: &str) -> Option<Instant> {
        self.layers(repository)
            .iter()
            .filter_map(|request| request.first_body_byte)
            .min()
    }

    /// Forgets all requests that have ended.
    pub fn clear(&self) {
        let mut records = self.0.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.retain(|record| {
            record
                .progress
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .end
                .is_none()
        });
    }

    /// Waits until `accept` finds what it looks for, looking at each change; an error names `what` after `bound`.
    pub async fn wait_for<T>(
        &self,
        what: &str,
        bound: Duration,
        mut accept: impl FnMut(&[Request]) -> Option<T>,
    ) -> Result<T> {
        let deadline = tokio::time::Instant::now() + bound;
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            // Registered before looking, so that no change in between is lost.
            changed.as_mut().enable();
            let requests = self.requests();
            if let Some(found) = accept(&requests) {
                return Ok(found);
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                bail!(
                    "waited {bound:?} in vain for {what}; the registry saw:
{}",
                    self.table()
                );
            }
        }
    }

    /// Waits until at least `bytes` of layers of the repository were sent.
    pub async fn wait_layer_bytes(&self, repository: &str, bytes: u64, bound: Duration) -> Result<()> {
        self.wait_for(&format!("{bytes} bytes of {repository}"), bound, |requests| {
            let sent: u64 = requests
                .iter()
                .filter(|request| request.kind == Kind::Layer && request.repository == repository)
                .map(|request| request.body_sent)
                .sum();
            (sent >= bytes).then_some(())
        })
        .await
    }

    /// All requests as a table for messages.
    pub fn table(&self) -> String {
        table(&self.requests())
    }
}

fn table(requests: &[Request]) -> String {
    let Some(first) = requests.first() else {
        return "(no request)".to_owned();
    };
    requests
        .iter()
        .map(|request| {
            format!(
                "{:8.3} s  {:<4} {:<70} {} from {} {:>12} B  {}\n",
                request.at.duration_since(first.at).as_secs_f64(),
                request.method,
                request.path,
                request.status,
                request.peer,
                request.body_sent,
                match request.ended {
                    None => "under way".to_owned(),
                    Some((at, how)) => format!("{how:?} after {:?}", at.duration_since(request.at)),
                }
            )
        })
        .collect()
}
