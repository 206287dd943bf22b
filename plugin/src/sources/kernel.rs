//! The kernel's view through the probes: which socket of containerd feeds which ingest.
//!
//! The probes watch the process that containerd itself names. Lost records are counted and lead to a resync, never to
//! a guess. Where the probes cannot run this source says so once, and magi goes on with byte counts.

use magi_config::{ProbeMode, ProbeSettings};
use magi_engine::event::Feed;
use magi_engine::evidence::TieMethod;
use magi_engine::ids::{Cookie, IngestDir, SocketName};
use magi_engine::{Event, Source};
use magi_probes::attribution::{Attribution, Change, Method};
use magi_probes::{Level, LoadError, Options, Probes, Record, TcpState, plain_ipv4};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tracing::{info, warn};

use super::containerd::Attached;
use crate::causes;
use crate::inbox::Inbox;

/// Records handled between two chances for others to run.
const BATCH: usize = 256;
/// Addresses of sockets that are remembered; cookies grow, so the oldest go first.
const MAX_ADDRESSES: usize = 8192;

/// What the status says of the probes.
pub(crate) const NOT_LOADED: &str = "not loaded yet";
const OFF: &str = "off by configuration";
const NONE: &str = "none: sockets are tied to layers by byte counts";

/// How this source is set up, and whom it tells how it does.
pub(crate) struct Kernel {
    pub(crate) settings: ProbeSettings,
    pub(crate) inbox: Inbox,
    pub(crate) attached: watch::Receiver<Option<Attached>>,
    /// Records lost since the start.
    pub(crate) lost: Arc<AtomicU64>,
    /// What is running, in words.
    pub(crate) level: watch::Sender<&'static str>,
}

/// Keeps what loading takes for a moment from staying for ever. Call first of all, while no other thread runs.
pub(crate) fn prepare() {
    magi_probes::return_freed_memory();
}

/// Runs until the node stops. The probes are loaded when containerd is first found, because which of them are right
/// depends on the file system of its content store.
pub(crate) async fn run(mut source: Kernel) {
    if source.settings.mode == ProbeMode::Off {
        info!("kernel probes are off by configuration; sockets are tied to ingests by byte counts");
        source.level.send_replace(OFF);
        return;
    }
    let Ok(store) = source.attached.wait_for(Option::is_some).await.map(|found| {
        // The store's folder comes with its first blob; until then the folder above it says on which file system.
        let root = found.as_ref().map(|found| found.content_root.as_path());
        root.and_then(|root| root.ancestors().find(|folder| folder.exists()))
            .map(Path::to_owned)
    }) else {
        return;
    };
    let options = Options {
        btf: Some(source.settings.btf.clone()),
        store,
        ..Options::default()
    };
    match tokio::task::spawn_blocking(move || load(&options)).await {
        Ok(Ok(probes)) => {
            let level = level_text(probes.level());
            let fell_back = probes.fell_back().map(|error| causes::in_one_line(error));
            info!(level, fell_back, "kernel probes are attached");
            source.level.send_replace(level);
            source.listen(probes).await;
        }
        Ok(Err(error)) => source.without(&causes::in_one_line(&error)),
        Err(error) => source.without(&error.to_string()),
    }
}

fn load(options: &Options) -> Result<Probes, LoadError> {
    let probes = Probes::load(options);
    // Reading the kernel's type information takes tens of megabytes for a moment.
    magi_probes::release_memory();
    probes
}

/// The level in words.
fn level_text(level: Level) -> &'static str {
    match level {
        Level::InodeTracepoints => "inode tracepoints",
        Level::SyscallTracepoints => "system call tracepoints",
    }
}

impl Kernel {
    fn without(&self, error: &str) {
        warn!(
            error,
            "no kernel probes; sockets are tied to ingests by byte counts, which takes longer"
        );
        self.level.send_replace(NONE);
    }

    async fn listen(&mut self, probes: Probes) {
        #[expect(
            deprecated,
            reason = "its replacement is unsafe, for types that change their descriptor; this one cannot"
        )]
        let registered = AsyncFd::with_interest(probes, Interest::READABLE);
        let mut probes = match registered {
            Ok(probes) => probes,
            Err(error) => return self.without(&error.to_string()),
        };
        let mut ties = Ties::default();
        if self
            .inbox
            .send(Event::SourceUp {
                source: Source::Probes,
            })
            .await
            .is_err()
        {
            return;
        }
        follow(probes.get_mut(), &self.attached.borrow_and_update());
        loop {
            let mut events = Vec::new();
            tokio::select! {
                changed = self.attached.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    follow(probes.get_mut(), &self.attached.borrow_and_update());
                    ties = Ties::default();
                    events.push(Event::TiesLost);
                }
                ready = probes.readable_mut() => {
                    let Ok(mut ready) = ready else { return };
                    let probes = ready.get_inner_mut();
                    let taken = probes.drain(BATCH, &mut |record| ties.observe(&record, &mut events));
                    self.count_lost(probes);
                    if taken < BATCH {
                        ready.clear_ready();
                    }
                }
            }
            for event in events {
                if self.inbox.send(event).await.is_err() {
                    return;
                }
            }
        }
    }

    /// The probes themselves turn a loss into [`Record::Gap`] and say again what still holds; here it is counted.
    fn count_lost(&self, probes: &mut Probes) {
        if let Ok(count) = probes.lost()
            && self.lost.swap(count, Ordering::Relaxed) < count
        {
            warn!(lost = count, "kernel records were lost; every tie is learnt anew");
        }
    }
}

fn follow(probes: &mut Probes, attached: &Option<Attached>) {
    let pids: Vec<u32> = attached.iter().map(|found| found.pid).collect();
    if let Err(error) = probes.watch(&pids) {
        warn!(
            error = causes::in_one_line(&error),
            ?pids,
            "the probes cannot watch containerd"
        );
    }
}

/// Attribution, plus what the engine's vocabulary needs besides.
#[derive(Default)]
struct Ties {
    attribution: Attribution,
    addresses: BTreeMap<u64, (SocketAddr, SocketAddr)>,
}

impl Ties {
    fn observe(&mut self, record: &Record, events: &mut Vec<Event>) {
        let mut progressed = None;
        match record {
            Record::SocketRead {
                cookie,
                local,
                remote,
                ..
            } => {
                self.remember(*cookie, *local, *remote);
                progressed = Some(*cookie);
            }
            Record::SocketState {
                cookie,
                local,
                remote,
                state: TcpState::Established,
                ..
            } => {
                self.remember(*cookie, *local, *remote);
            }
            Record::Gap => events.push(Event::TiesLost),
            Record::SocketState {
                state: TcpState::Close,
                ..
            }
            | Record::FileTouched { .. }
            | Record::FileLeft { .. }
            | Record::SocketSent { .. }
            | Record::ThreadVote { .. } => {}
        }
        let mut changes = Vec::new();
        self.attribution
            .observe(record, &mut |change| changes.push(change));
        for change in changes {
            match change {
                Change::Feed(feed) => {
                    progressed = progressed.filter(|cookie| *cookie != feed.cookie);
                    events.extend(self.feed(&feed));
                }
                Change::Unfed { cookie } => events.push(Event::SocketUnfed {
                    cookie: Cookie(cookie),
                }),
            }
        }
        // More bytes on a known tie change no conclusion, but they are how an overrun shows first.
        if let Some(feed) = progressed
            .and_then(|cookie| self.attribution.feed_of(cookie))
            .copied()
        {
            events.extend(self.feed(&feed));
        }
        if let Record::SocketState {
            cookie,
            state: TcpState::Close,
            ..
        } = record
        {
            self.addresses.remove(cookie);
            events.push(Event::SocketClosed {
                cookie: Cookie(*cookie),
            });
        }
    }

    fn feed(&self, feed: &magi_probes::attribution::Feed) -> Option<Event> {
        let (local, remote) = *self.addresses.get(&feed.cookie)?;
        let dir = IngestDir::parse(feed.directory.as_str().as_bytes())?;
        let socket = SocketName {
            cookie: Cookie(feed.cookie),
            local,
            remote,
        };
        let method = match feed.method {
            Method::Goroutine => TieMethod::Goroutine,
            Method::Thread => TieMethod::Thread,
        };
        Some(Event::SocketFed {
            feed: Feed {
                socket,
                dir,
                method,
                bytes: feed.bytes,
                lasts: Duration::from_nanos(feed.lasts_ns),
            },
        })
    }

    fn remember(&mut self, cookie: u64, local: SocketAddr, remote: SocketAddr) {
        if self.addresses.len() >= MAX_ADDRESSES && !self.addresses.contains_key(&cookie) {
            self.addresses.pop_first();
        }
        self.addresses
            .insert(cookie, (plain_ipv4(local), plain_ipv4(remote)));
    }
}
