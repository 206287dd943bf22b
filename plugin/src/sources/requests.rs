//! Who asks containerd for images: requests on its CRI socket, read off the kernel as they pass.
//!
//! The bytes hold registry credentials. They are copied once, into a buffer that [`Snoop`] wipes, and nothing but the
//! decoded request leaves this file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use magi_config::ProbeMode;
use magi_engine::ids::{CallId, ImageName, PodName, PodNamespace, PodUid};
use magi_engine::owner::{PodIdentity, PullRequest, RequestEnd};
use magi_engine::{Event, Source, Time};
use magi_probes::{ConversationOptions, Conversations, LoadError, Lost, Passed, Strategy};
use magi_snoop::{Call, CallEnd, Piece, Seen, Snoop};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use super::containerd::Attached;
use crate::causes;
use crate::clock;
use crate::inbox::{Inbox, Stopping};

/// Pieces handled between two chances for others to run.
const BATCH: usize = 256;
/// Bytes of the kernel's ring: a kubelet moves some hundred kilobytes a second, and a request at most 16 MiB.
const RING: u32 = 2 << 20;
/// How often connections that went without a word are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(3);

/// How this source is set up.
pub(crate) struct Config {
    pub(crate) mode: ProbeMode,
    /// The kernel's type information.
    pub(crate) btf: PathBuf,
    /// containerd's socket, as it is reached from here.
    pub(crate) address: PathBuf,
}

/// Runs until the node stops.
pub(crate) async fn run(config: Config, inbox: Inbox, mut attached: watch::Receiver<Option<Attached>>) {
    if config.mode == ProbeMode::Off {
        info!("requests are not watched, by configuration: whose pull it is stays unknown");
        return;
    }
    // The same moment as for the other probes: then the kernel's type information is read for both.
    if attached.wait_for(Option::is_some).await.is_err() {
        return;
    }
    let options = ConversationOptions {
        btf: Some(config.btf),
        strategy: Strategy::default(),
        paths: paths_of(&config.address),
        own_tgid: std::process::id(),
        ring_bytes: Some(RING),
    };
    let loaded = match tokio::task::spawn_blocking(move || load(&options)).await {
        Ok(Ok(loaded)) => loaded,
        Ok(Err(error)) => return without(&causes::in_one_line(&error)),
        Err(error) => return without(&error.to_string()),
    };
    #[expect(
        deprecated,
        reason = "its replacement is unsafe, for types that change their descriptor; this one cannot"
    )]
    let registered = AsyncFd::with_interest(loaded, Interest::READABLE);
    let conversations = match registered {
        Ok(conversations) => conversations,
        Err(error) => return without(&error.to_string()),
    };
    let mut listener = Listener {
        conversations,
        decoder: Decoder::new(),
        inbox,
        lost: Lost::default(),
        complete_until: clock::wall(),
    };
    let Err(Stopping) = listener.listen(attached).await else {
        return;
    };
}

fn without(error: &str) {
    warn!(
        error,
        "requests cannot be watched: whose pull it is stays unknown"
    );
}

fn load(options: &ConversationOptions) -> Result<Conversations, LoadError> {
    let loaded = Conversations::load(options);
    magi_probes::release_memory();
    loaded
}

/// The paths by which containerd may have named its socket when it made it.
fn paths_of(address: &Path) -> Vec<PathBuf> {
    let mut paths = vec![address.to_owned()];
    paths.extend(address.canonicalize());
    if let Ok(rest) = address.strip_prefix("/run") {
        paths.push(Path::new("/var/run").join(rest));
    }
    if let Ok(rest) = address.strip_prefix("/var/run") {
        paths.push(Path::new("/run").join(rest));
    }
    paths.sort();
    paths.dedup();
    paths
}

struct Listener {
    conversations: AsyncFd<Conversations>,
    decoder: Decoder,
    inbox: Inbox,
    lost: Lost,
    /// Until then nothing was lost, or the engine knows.
    complete_until: Time,
}

impl Listener {
    async fn listen(&mut self, mut attached: watch::Receiver<Option<Attached>>) -> Result<(), Stopping> {
        info!(hooks = ?self.conversations.get_ref().hooks(), "requests on containerd's CRI socket are watched");
        self.follow(&attached.borrow_and_update().clone());
        self.inbox
            .send(Event::SourceUp {
                source: Source::Requests,
            })
            .await?;
        self.missed_so_far().await?;
        let mut sweep = interval(SWEEP_EVERY);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut events = Vec::new();
            tokio::select! {
                changed = attached.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.follow(&attached.borrow_and_update().clone());
                    // What was in flight at the one that was watched before goes on unseen.
                    self.decoder.lost(&mut events);
                    self.missed_so_far().await?;
                }
                _ = sweep.tick() => {
                    let conversations = self.conversations.get_mut();
                    if let Err(error) = conversations.sweep() {
                        debug!(error = causes::in_one_line(&error), "cannot look for closed connections");
                    }
                    self.decoder.drain(conversations, &mut events);
                }
                ready = self.conversations.readable_mut() => {
                    let Ok(mut ready) = ready else { return Ok(()) };
                    let taken = self.decoder.drain(ready.get_inner_mut(), &mut events);
                    if taken < BATCH {
                        ready.clear_ready();
                    }
                }
            }
            self.loss(&mut events);
            for event in events {
                self.inbox.send(event).await?;
            }
        }
    }

    fn follow(&mut self, attached: &Option<Attached>) {
        let pids: Vec<u32> = attached.iter().map(|found| found.pid).collect();
        if let Err(error) = self.conversations.get_mut().watch(&pids) {
            warn!(
                error = causes::in_one_line(&error),
                ?pids,
                "requests to containerd cannot be watched"
            );
        }
    }

    /// Whatever was asked before now was not seen.
    async fn missed_so_far(&mut self) -> Result<(), Stopping> {
        let until = clock::wall();
        self.complete_until = until;
        let since = Time::default();
        self.inbox.send(Event::CallsMissed { since, until }).await
    }

    /// What the kernel side could not hand over may have been requests on connections of which nothing else is seen.
    fn loss(&mut self, events: &mut Vec<Event>) {
        let now = clock::wall();
        let Ok(lost) = self.conversations.get_ref().lost() else {
            return;
        };
        let since = std::mem::replace(&mut self.complete_until, now);
        let before = std::mem::replace(&mut self.lost, lost);
        if lost.ring_full > before.ring_full || lost.no_room > before.no_room {
            warn!(
                bytes = lost.ring_full,
                calls = lost.no_room,
                "what passed on containerd's socket was lost in part"
            );
            self.decoder.lost(events);
            events.push(Event::CallsMissed { since, until: now });
        }
    }
}

/// From bytes to the engine's vocabulary.
struct Decoder {
    snoop: Snoop,
    calls: BTreeMap<Call, CallId>,
    counted: u64,
    /// Bytes of one piece, wiped by the snoop.
    buffer: Vec<u8>,
}

impl Decoder {
    fn new() -> Self {
        Self {
            snoop: Snoop::new(monotonic().as_nanos().try_into().unwrap_or(u64::MAX)),
            calls: BTreeMap::new(),
            counted: 0,
            buffer: Vec::new(),
        }
    }

    fn drain(&mut self, conversations: &mut Conversations, events: &mut Vec<Event>) -> usize {
        let mut seen = Vec::new();
        let Self { snoop, buffer, .. } = self;
        let taken = conversations.drain(BATCH, &mut |passed| match passed {
            Passed::Piece(piece) => {
                buffer.clear();
                buffer.extend_from_slice(piece.bytes);
                let piece = Piece {
                    connection: piece.connection,
                    direction: match piece.direction {
                        magi_probes::Direction::ToServer => magi_snoop::Direction::FromClient,
                        magi_probes::Direction::FromServer => magi_snoop::Direction::ToClient,
                    },
                    offset: piece.offset,
                    at: piece.at_ns,
                    bytes: buffer,
                };
                snoop.piece(piece, &mut seen);
            }
            Passed::Closed { connection, at_ns } => snoop.closed(connection, at_ns, &mut seen),
        });
        let clock = MonotonicToWall::now();
        events.extend(seen.into_iter().filter_map(|seen| self.event(seen, clock)));
        taken
    }

    /// Something was lost before now, of whatever connection.
    fn lost(&mut self, events: &mut Vec<Event>) {
        let mut seen = Vec::new();
        let now = monotonic().as_nanos().try_into().unwrap_or(u64::MAX);
        self.snoop.lost(now, &mut seen);
        let clock = MonotonicToWall::now();
        events.extend(seen.into_iter().filter_map(|seen| self.event(seen, clock)));
    }

    fn event(&mut self, seen: Seen, clock: MonotonicToWall) -> Option<Event> {
        match seen {
            Seen::Began { call, at, request } => {
                let at = clock.time(at);
                let Some(request) = pull_request(request) else {
                    // Somebody asks, but it cannot be said who.
                    return Some(Event::CallsMissed { since: at, until: at });
                };
                self.counted = self.counted.saturating_add(1);
                let id = CallId(self.counted);
                self.calls.insert(call, id);
                Some(Event::CallBegan {
                    call: id,
                    at,
                    request,
                })
            }
            Seen::Ended { call, at, how } => {
                let end = match how {
                    CallEnd::Answered | CallEnd::Refused => RequestEnd::Answered,
                    CallEnd::Cancelled => RequestEnd::Cancelled,
                    CallEnd::ConnectionClosed => RequestEnd::Closed,
                    CallEnd::Lost => RequestEnd::Lost,
                };
                let call = self.calls.remove(&call)?;
                let at = clock.time(at);
                Some(Event::CallEnded { call, at, end })
            }
            Seen::Missed { since, until } => Some(Event::CallsMissed {
                since: clock.time(since),
                until: clock.time(until),
            }),
        }
    }
}

/// A request in the engine's words; none if it names an image or a pod in a way that Kubernetes never does.
fn pull_request(request: magi_snoop::PullRequest) -> Option<PullRequest> {
    let (pod, labels) = match request.pod {
        Some(pod) => {
            let identity = PodIdentity {
                uid: PodUid::new(pod.uid).ok()?,
                namespace: PodNamespace::new(pod.namespace).ok()?,
                name: PodName::new(pod.name).ok()?,
            };
            (Some(identity), pod.labels)
        }
        None => (None, None),
    };
    Some(PullRequest {
        image: ImageName::new(request.image).ok()?,
        pod,
        labels,
        certain: request.certain,
    })
}

/// The kernel's records carry the monotonic clock, containerd's leases the wall clock.
#[derive(Clone, Copy)]
struct MonotonicToWall {
    monotonic: Duration,
    wall: Time,
}

impl MonotonicToWall {
    fn now() -> Self {
        Self {
            monotonic: monotonic(),
            wall: clock::wall(),
        }
    }

    fn time(self, at: u64) -> Time {
        let ago = self.monotonic.saturating_sub(Duration::from_nanos(at));
        let ago = u64::try_from(ago.as_micros()).unwrap_or(u64::MAX);
        Time::from_micros(self.wall.as_micros().saturating_sub(ago))
    }
}

fn monotonic() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or_default())
}
