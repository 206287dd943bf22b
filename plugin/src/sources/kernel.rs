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
use magi_probes::{Level, Options, Probes, Record, TcpState, plain_ipv4};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tracing::{info, warn};

use super::containerd::Attached;
use crate::inbox::Inbox;

/// Records handled between two chances for others to run.
const BATCH: usize = 256;
/// Addresses of sockets that are remembered; cookies grow, so the oldest go first.
const MAX_ADDRESSES: usize = 8192;

/// Loads the probes, or says why there are none.
pub(crate) fn load(settings: &ProbeSettings) -> Option<Probes> {
    if settings.mode == ProbeMode::Off {
        info!("kernel probes are off by configuration; sockets are tied to ingests by byte counts");
        return None;
    }
    let options = Options {
        btf: Some(settings.btf.clone()),
        ..Options::default()
    };
    let loaded = Probes::load(&options);
    // Reading the kernel's type information takes tens of megabytes for a moment.
    magi_sys::release_free_memory();
    match loaded {
        Ok(probes) => {
            let fell_back = probes.fell_back().map(|error| crate::causes::in_one_line(error));
            info!(
                level = level_text(probes.level()),
                fell_back, "kernel probes are attached"
            );
            Some(probes)
        }
        Err(error) => {
            warn!(
                error = crate::causes::in_one_line(&error),
                "no kernel probes; sockets are tied to ingests by byte counts, which takes longer"
            );
            None
        }
    }
}

/// The level in words.
pub(crate) fn level_text(level: Level) -> &'static str {
    match level {
        Level::InodeTracepoints => "inode tracepoints",
        Level::SyscallTracepoints => "system call tracepoints",
    }
}

/// Runs until the node stops.
pub(crate) async fn run(
    probes: Probes,
    inbox: Inbox,
    mut attached: watch::Receiver<Option<Attached>>,
    lost: Arc<AtomicU64>,
) {
    #[expect(
        deprecated,
        reason = "its replacement is unsafe, for types that change their descriptor; this one cannot"
    )]
    let registered = AsyncFd::with_interest(Pollable(probes), Interest::READABLE);
    let mut probes = match registered {
        Ok(probes) => probes,
        Err(error) => {
            warn!(%error, "the probes' ring cannot be watched; going on without probes");
            return;
        }
    };
    let mut ties = Ties::default();
    if inbox
        .send(Event::SourceUp {
            source: Source::Probes,
        })
        .await
        .is_err()
    {
        return;
    }
    follow(&mut probes.get_mut().0, &attached.borrow_and_update());
    loop {
        let mut events = Vec::new();
        tokio::select! {
            changed = attached.changed() => {
                if changed.is_err() {
                    return;
                }
                follow(&mut probes.get_mut().0, &attached.borrow_and_update());
                ties = Ties::default();
                events.push(Event::TiesLost);
            }
            ready = probes.readable_mut() => {
                let Ok(mut ready) = ready else { return };
                let probes = &mut ready.get_inner_mut().0;
                let taken = probes.drain(BATCH, &mut |record| ties.observe(&record, &mut events));
                if let Ok(count) = probes.lost()
                    && lost.swap(count, Ordering::Relaxed) < count
                {
                    warn!(lost = count, "kernel records were lost; every tie is learnt anew");
                    ties.forget(&mut events);
                    if let Err(error) = probes.repeat() {
                        warn!(error = crate::causes::in_one_line(&error), "the probes cannot be asked to repeat");
                    }
                }
                if taken < BATCH {
                    ready.clear_ready();
                }
            }
        }
        for event in events {
            if inbox.send(event).await.is_err() {
                return;
            }
        }
    }
}

fn follow(probes: &mut Probes, attached: &Option<Attached>) {
    let pids: Vec<u32> = attached.iter().map(|found| found.pid).collect();
    if let Err(error) = probes.watch(&pids) {
        warn!(
            error = crate::causes::in_one_line(&error),
            ?pids,
            "the probes cannot watch containerd"
        );
    }
}

/// Lets tokio poll the probes' ring.
struct Pollable(Probes);

impl AsRawFd for Pollable {
    fn as_raw_fd(&self) -> RawFd {
        self.0.fd().as_raw_fd()
    }
}

impl AsFd for Pollable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd()
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

    fn forget(&mut self, events: &mut Vec<Event>) {
        self.attribution.resync(&mut |_| {});
        events.push(Event::TiesLost);
    }
}
