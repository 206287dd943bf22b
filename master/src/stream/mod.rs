//! The master's end of the streams: who may connect, what each node is told, and what it says.
//!
//! Verdicts come in by a bounded channel and go into the outbox of their own node; policy and kill switch are levels that
//! every stream follows by itself. Nothing here queues without a bound, and no node waits for another.

mod accept;
mod admin;
mod encode;
pub mod identity;
pub mod nodes;
mod outbox;
mod service;
mod session;
pub mod standing;
#[cfg(test)]
mod tests;
pub mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use magi_master_api::tls::{Material, TlsError, TlsFiles, provider};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::counters::Counters;
use crate::policy::{Publisher, Snapshot};
use crate::store::Store;
use crate::switch::{Switch, Switchboard};
use crate::verdict::Verdict;

use self::nodes::Nodes;
use self::standing::Standing;

/// Questions to the audit store at a time: each reads all of it.
const MAX_QUESTIONS: usize = 2;

/// How long things may take, and how many there may be. [`Limits::default`] suits a cluster; tests are in a hurry.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// From accepting to the end of the TLS handshake, and again to the first call.
    pub handshake: Duration,
    /// A node hears something about so often.
    pub ping_every: Duration,
    /// A stream has to begin anew about so often, so that a certificate that is over does not stay for ever.
    pub stream_age: Duration,
    /// From the end of a stream to the end of its connection.
    pub goodbye: Duration,
    /// A verdict is of use for so long.
    pub verdict_age: Duration,
    /// Certificates are looked at so often.
    pub reload_every: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            handshake: Duration::from_secs(10),
            ping_every: Duration::from_secs(15),
            stream_age: Duration::from_secs(3600),
            goodbye: Duration::from_secs(2),
            verdict_age: Duration::from_secs(600),
            reload_every: Duration::from_secs(5),
        }
    }
}

/// What the streams are made from.
pub struct Parts {
    /// Verdicts from the ledger; the channel's bound is the ledger's to choose.
    pub verdicts: mpsc::Receiver<Verdict>,
    /// What the ledger knows of verdicts that waited.
    pub standing: Arc<dyn Standing>,
    /// The policy, as it changes.
    pub policies: Arc<Publisher>,
    /// The kill switch.
    pub switchboard: Arc<Switchboard>,
    /// Where audit records go.
    pub store: Store,
    /// What is counted.
    pub counters: Arc<Counters>,
    /// The server's certificate, its key, and the authorities of nodes and operators.
    pub tls: TlsFiles,
    /// Bounds.
    pub limits: Limits,
    /// When it is to end.
    pub stop: CancellationToken,
}

/// What every stream uses.
pub(crate) struct Shared {
    pub(crate) nodes: Nodes,
    pub(crate) counters: Arc<Counters>,
    pub(crate) policies: Arc<Publisher>,
    pub(crate) policy: watch::Sender<Option<Arc<Snapshot>>>,
    pub(crate) kill_switch: watch::Sender<Switch>,
    pub(crate) switchboard: Arc<Switchboard>,
    pub(crate) store: Store,
    pub(crate) limits: Limits,
    pub(crate) stop: CancellationToken,
    pub(crate) started: Timestamp,
    /// Permits for questions to the audit store.
    pub(crate) questions: Arc<Semaphore>,
    seeds: AtomicU64,
}

impl Shared {
    /// A number that no other stream of this run gets.
    fn next_seed(&self) -> u64 {
        self.seeds.fetch_add(1, Ordering::Relaxed)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("nodes", &self.nodes)
            .finish_non_exhaustive()
    }
}

/// Why the streams cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// No certificate.
    #[error("cannot use the master's certificate")]
    Tls(#[source] TlsError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// There is no randomness.
    #[error("the system gives no random numbers")]
    Random,
}

/// Bound, and not yet serving.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    listener: TcpListener,
    address: SocketAddr,
    tls: watch::Sender<Arc<rustls::ServerConfig>>,
    fingerprint: [u8; 32],
    files: TlsFiles,
    verdicts: mpsc::Receiver<Verdict>,
}

impl Server {
    /// Reads the certificates and listens on `address`.
    ///
    /// # Errors
    /// Either cannot be done.
    pub async fn bind(address: SocketAddr, parts: Parts) -> Result<Self, StreamError> {
        let material = Material::read(&parts.tls).map_err(StreamError::Tls)?;
        let config = tls::config(&material).map_err(StreamError::Tls)?;
        let mut token = [0; 8];
        provider()
            .secure_random
            .fill(&mut token)
            .map_err(|_| StreamError::Random)?;
        let listen = |source| StreamError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let nodes = Nodes::new(
            parts.standing,
            Arc::clone(&parts.counters),
            u64::from_le_bytes(token),
            parts.limits.verdict_age,
        );
        Ok(Self {
            shared: Arc::new(Shared {
                nodes,
                counters: parts.counters,
                policy: parts.policies.sender(),
                policies: parts.policies,
                kill_switch: parts.switchboard.sender(),
                switchboard: parts.switchboard,
                store: parts.store,
                limits: parts.limits,
                stop: parts.stop,
                started: Timestamp::now(),
                questions: Arc::new(Semaphore::new(MAX_QUESTIONS)),
                seeds: AtomicU64::new(0),
            }),
            listener,
            address,
            tls: watch::Sender::new(Arc::new(config)),
            fingerprint: material.fingerprint,
            files: parts.tls,
            verdicts: parts.verdicts,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until it is told to stop, and says goodbye to every node.
    pub async fn serve(self) {
        let shared = self.shared;
        let current = self.tls.subscribe();
        let mut tasks = JoinSet::new();
        tasks.spawn(tls::follow(
            self.files,
            self.fingerprint,
            tls::config,
            self.tls,
            shared.limits.reload_every,
            Arc::clone(&shared.counters),
        ));
        let routing = Arc::clone(&shared);
        let verdicts = self.verdicts;
        tasks.spawn(async move {
            tokio::select! {
                () = routing.nodes.route(verdicts) => {}
                () = routing.stop.cancelled() => {}
            }
        });
        let connections = Arc::new(Semaphore::new(shared.limits.connections));
        accept::accept(
            Arc::clone(&shared),
            self.listener,
            current,
            Arc::clone(&connections),
        )
        .await;
        while tasks.join_next().await.is_some() {}
        // Every connection holds a permit: all of them at hand means that all have ended.
        let all = u32::try_from(shared.limits.connections).unwrap_or(u32::MAX);
        let goodbye = shared.limits.goodbye.saturating_mul(2);
        if tokio::time::timeout(goodbye, connections.acquire_many(all))
            .await
            .is_err()
        {
            tracing::warn!("some nodes did not take their leave");
        }
    }
}
