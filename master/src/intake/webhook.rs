//! The audit webhook: the API server posts lists of events over HTTPS.
//!
//! It never waits for the master. A body is taken apart while it comes in, and its events go to a bounded queue; if that
//! is full, or too many bodies come at once, the answer is 429 at once, and the API server, which must run its webhook in
//! batch mode, sends the batch again. What had been queued of it comes twice then, which the ledger takes without harm.
//! 200 means that every event is queued. Nothing of a body is logged.

mod access;
mod body;
mod items;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::header::{CONTENT_LENGTH, RETRY_AFTER};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

pub use access::{Access, Token, TokenError};
use body::Refusal;
pub use items::Events;

/// The largest body that is taken, in bytes. Batches have up to 400 events, and rarely more than 10 MB.
pub const MAX_BODY: u64 = 128 << 20;
/// How many bodies are taken apart at a time. Each holds at most one event, and about a megabyte of whole ones.
pub const MAX_BODIES: usize = 4;
/// How many connections there are at a time. An API server needs a few.
pub const MAX_CONNECTIONS: usize = 64;
/// How many pieces of bodies wait at most.
pub const MAX_QUEUE: usize = 8;
/// How long a client may take for its handshake, for a request's head, and for each piece of a body.
const PATIENCE: Duration = Duration::from_secs(10);
/// After how many seconds a client should come again.
const COME_AGAIN: &str = "1";

/// What the endpoint did.
#[derive(Debug, Default)]
pub struct Counts {
    /// Bodies that were queued in full.
    pub taken: AtomicU64,
    /// Events that were queued.
    pub events: AtomicU64,
    /// Requests with neither a client's certificate nor the token.
    pub unauthorized: AtomicU64,
    /// Connections whose handshake failed: no certificate, a wrong one, no TLS.
    pub no_handshake: AtomicU64,
    /// Bodies that were too large.
    pub too_large: AtomicU64,
    /// Bodies that were no list of events, or broke off.
    pub broken: AtomicU64,
    /// Bodies that were sent away because the queue was full.
    pub full: AtomicU64,
    /// Events that were longer than is read, and skipped.
    pub too_long: AtomicU64,
}

/// The endpoint.
#[derive(Debug)]
pub struct Webhook {
    access: Access,
    queue: mpsc::Sender<Events>,
    bodies: Semaphore,
    counts: Arc<Counts>,
}

impl Webhook {
    /// An endpoint that lets in whom `access` says, and the queue of what it gets.
    #[must_use]
    pub fn new(access: Access) -> (Self, mpsc::Receiver<Events>) {
        let (queue, events) = mpsc::channel(MAX_QUEUE);
        let webhook = Self {
            access,
            queue,
            bodies: Semaphore::new(MAX_BODIES),
            counts: Arc::default(),
        };
        (webhook, events)
    }

    /// What it did, while it goes on.
    #[must_use]
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// Serves until the task is dropped, or nobody takes the events any more. Each connection gets what `tls` is then.
    pub async fn serve(self, listener: TcpListener, tls: watch::Receiver<Arc<ServerConfig>>) {
        let this = Arc::new(self);
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut tasks = tokio::task::JoinSet::new();
        loop {
            let Ok(permit) = Arc::clone(&connections).acquire_owned().await else {
                return;
            };
            let stream = tokio::select! {
                stream = listener.accept() => stream,
                () = this.queue.closed() => return,
            };
            while tasks.try_join_next().is_some() {}
            let Ok((stream, _)) = stream else {
                // Out of descriptors, mostly: others must go first.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let (this, tls) = (Arc::clone(&this), TlsAcceptor::from(Arc::clone(&tls.borrow())));
            tasks.spawn(async move {
                this.connection(stream, tls).await;
                drop(permit);
            });
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, tls: TlsAcceptor) {
        let Ok(Ok(stream)) = timeout(PATIENCE, tls.accept(stream)).await else {
            self.counts.no_handshake.fetch_add(1, Ordering::Relaxed);
            return;
        };
        // What the acceptor let in with a certificate was verified by it.
        let has_certificate = stream.get_ref().1.peer_certificates().is_some();
        let service = service_fn(move |request| {
            let this = Arc::clone(&self);
            async move { Ok::<_, Infallible>(this.answer(request, has_certificate).await) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .serve_connection(TokioIo::new(stream), service);
        // A client that goes away in the middle of something harms nobody but itself.
        let _gone = served.await;
    }

    async fn answer(&self, request: Request<Incoming>, has_certificate: bool) -> Response<Empty<Bytes>> {
        let counts = &self.counts;
        let (status, counter) = if !self.access.lets_in(request.headers(), has_certificate) {
            (StatusCode::UNAUTHORIZED, &counts.unauthorized)
        } else if request.method() != Method::POST {
            (StatusCode::METHOD_NOT_ALLOWED, &counts.broken)
        } else {
            match self.take(request).await {
                Ok(()) => (StatusCode::OK, &counts.taken),
                Err(Refusal::TooLarge) => (StatusCode::PAYLOAD_TOO_LARGE, &counts.too_large),
                Err(Refusal::Broken) => (StatusCode::BAD_REQUEST, &counts.broken),
                Err(Refusal::Full) => (StatusCode::TOO_MANY_REQUESTS, &counts.full),
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let mut response = Response::new(Empty::new());
        *response.status_mut() = status;
        if status == StatusCode::TOO_MANY_REQUESTS {
            let headers = response.headers_mut();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(COME_AGAIN));
        }
        response
    }

    async fn take(&self, request: Request<Incoming>) -> Result<(), Refusal> {
        let length = request.headers().get(CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| length > MAX_BODY) {
            return Err(Refusal::TooLarge);
        }
        let _permit = self.bodies.try_acquire().map_err(|_| Refusal::Full)?;
        let (events, too_long) = body::take_apart(request.into_body(), &self.queue).await?;
        self.counts.events.fetch_add(events, Ordering::Relaxed);
        self.counts.too_long.fetch_add(too_long, Ordering::Relaxed);
        Ok(())
    }
}
