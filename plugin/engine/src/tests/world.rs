//! A small world around the engine: containerd with leases and ingests, sockets, probes, a socket table, people and
//! levers. What is true and what the engine was told are kept apart: looks, listings and kernel records come late, but
//! each source keeps its order, as the real ones do.

mod gateway;
mod images;
mod requests;
mod run;
mod truth;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::check::{Broken, Checker, Invariant};
use crate::action::{Action, Effects, Lever, LeverOutcome};
use crate::engine::Engine;
use crate::event::{Event, Question, SocketStat, View};
use crate::evidence::{Source, TieMethod};
use crate::ids::{
    AttemptId, CallId, Cookie, Digest, GatewayCallId, LeaseKey, PullId, RequestId, SnapshotName,
};
use crate::time::Time;
use crate::trace::Line;

pub(super) use requests::Asker;
pub(super) use run::{Outcome, Step};

/// A layer within its containerd namespace: what an ingest is about.
type LayerKey = (&'static str, u64);

pub(super) struct World {
    pub(super) engine: Engine,
    pub(super) checker: Checker,
    pub(super) trace: Vec<Line>,
    now: Time,
    up: BTreeSet<Source>,
    pulls: Vec<Pull>,
    ingests: BTreeMap<LayerKey, Ingest>,
    sockets: BTreeMap<u64, Socket>,
    extracts: BTreeSet<SnapshotName>,
    /// Records of the kernel on their way to the engine, in order.
    records: VecDeque<Event>,
    /// A look under way: the picture as it was taken.
    look: Option<View>,
    listing: Option<Vec<SocketStat>>,
    levers: BTreeMap<AttemptId, Lever>,
    /// Requests of the kernel side on their way to the engine, in order.
    requests: VecDeque<Event>,
    /// What the gateway tells, on its way to the engine, in order.
    gateway: VecDeque<Event>,
    /// Until then the engine knows of all requests.
    requests_told: Time,
    /// Pods that are there, by number.
    pods: BTreeSet<u8>,
    wake: Option<Time>,
    wants_look: bool,
    wants_extracts: bool,
    wants_listing: bool,
    counted: u64,
    /// The kernel cannot destroy sockets.
    pub(super) cannot_destroy: bool,
}

/// A pull as it really is.
#[derive(Clone, Debug)]
struct Pull {
    lease: LeaseKey,
    namespace: &'static str,
    image: usize,
    created: Time,
    /// Who asked for it; none: a client that nobody sees.
    asked: Option<Asked>,
    /// Its lease was deleted under it.
    is_leaseless: bool,
    /// The process that ran it is there; else only its lease is.
    runs: bool,
    documents_told: usize,
    content: BTreeSet<Digest>,
    /// Layers whose ingests its lease lists.
    lists: BTreeSet<u64>,
    snapshot: SnapshotName,
    /// Its extract snapshot is there, and its lease holds it.
    unpacks: bool,
}

/// A request that led to a pull.
#[derive(Clone, Copy, Debug)]
struct Asked {
    call: CallId,
    at: Time,
    pod: Option<u8>,
    /// It came through the gateway.
    gateway: Option<GatewayCallId>,
}

#[derive(Clone, Debug)]
struct Ingest {
    offset: u64,
    total: u64,
    /// The pull that writes it.
    writer: Option<LeaseKey>,
}

#[derive(Clone, Debug)]
struct Socket {
    owner: LeaseKey,
    feeds: Option<LayerKey>,
    /// Bytes over its life.
    received: u64,
    /// Bytes for the present ingest.
    for_ingest: u64,
    unread: u64,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            engine: Engine::new(),
            checker: Checker::default(),
            trace: Vec::new(),
            now: Time::from_micros(1_700_000_000_000_000),
            up: BTreeSet::new(),
            pulls: Vec::new(),
            ingests: BTreeMap::new(),
            sockets: BTreeMap::new(),
            extracts: BTreeSet::new(),
            records: VecDeque::new(),
            look: None,
            listing: None,
            levers: BTreeMap::new(),
            requests: VecDeque::new(),
            gateway: VecDeque::new(),
            requests_told: Time::default(),
            pods: BTreeSet::new(),
            wake: None,
            wants_look: false,
            wants_extracts: false,
            wants_listing: false,
            counted: 0,
            cannot_destroy: false,
        }
    }

    fn count(&mut self) -> u64 {
        self.counted += 1;
        self.counted
    }

    /// Tells the engine, and holds its effects against every invariant.
    fn tell(&mut self, event: Event) -> Result<(), Broken> {
        let mut fx = Effects::default();
        if event == Event::Tick {
            self.wake = None;
        }
        self.engine.handle(self.now, event.clone(), &mut fx);
        let effects = fx.take();
        self.trace.push(Line {
            at: self.now,
            event: event.clone(),
            effects: Some(effects.clone()),
        });
        self.checker.hear(self.engine.report(false));
        self.checker.observe(self.now, &event, &effects)?;
        self.owners_are_right()?;
        let (mut kept, mut collects) = (Vec::new(), false);
        for effect in effects {
            match effect {
                Action::Keep { hold, .. } => kept.push(hold.keep),
                Action::Release { .. } => {}
                Action::Collect { .. } => collects = true,
                Action::PullLever { attempt, lever, .. } => {
                    self.hits_no_bystander(&lever)?;
                    self.levers.insert(attempt, lever);
                }
                Action::Look { extracts } => {
                    self.wants_look = true;
                    self.wants_extracts |= extracts;
                }
                Action::ListSockets => self.wants_listing = true,
                Action::WakeAt { at } => self.wake = Some(at),
                Action::Record { .. } | Action::Answer { .. } => {}
            }
        }
        for keep in kept {
            let failed = keep.0.is_multiple_of(3).then(|| "no room".to_owned());
            self.tell(Event::KeepDone { keep, failed })?;
        }
        if collects {
            self.tell(Event::CollectDone)?;
        }
        Ok(())
    }

    /// The truth about a lever: the socket belongs to no pull that the engine could know to be innocent.
    fn hits_no_bystander(&self, lever: &Lever) -> Result<(), Broken> {
        if let Lever::CancelCalls { calls, .. } = lever {
            return self.cancels_no_bystander(calls);
        }
        let (Lever::DestroySocket { socket } | Lever::DisconnectSocket { socket }) = lever else {
            return Ok(());
        };
        let Some(truth) = self.sockets.get(&socket.cookie.0) else {
            return Ok(());
        };
        if self.checker.is_innocent(&truth.owner) {
            return Err(Broken {
                invariant: Invariant::RightPull,
                what: format!("{lever:?} hits the innocent {}", truth.owner),
            });
        }
        Ok(())
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now.after(time);
    }

    fn change_source(&mut self, source: Source, up: bool) -> Result<(), Broken> {
        if up == self.up.contains(&source) {
            return Ok(());
        }
        if up {
            self.up.insert(source);
            self.tell(Event::SourceUp { source })?;
            if source == Source::Requests {
                self.requests_told = self.now;
            }
            if source == Source::Gateway {
                self.gateway_connects();
            }
            if source == Source::Nri {
                let pods = self.pods.iter().map(|pod| requests::node_pod(*pod)).collect();
                self.tell(Event::PodsListed { pods })?;
            }
            if source == Source::SocketTable {
                // The real source knows that it works only by listing.
                let listing = self.list();
                self.tell(Event::SocketsListed { sockets: listing })?;
            }
        } else {
            self.up.remove(&source);
            match source {
                Source::Containerd => self.look = None,
                Source::SocketTable => self.listing = None,
                Source::Probes => self.records.clear(),
                Source::Requests => self.requests.clear(),
                Source::Gateway => self.gateway.clear(),
                Source::Nri | Source::Verifier | Source::Master | Source::Operator => {}
            }
            self.tell(Event::SourceDown { source })?;
        }
        Ok(())
    }

    fn start_look(&mut self) {
        if self.look.is_none() && self.up.contains(&Source::Containerd) {
            let extracts = std::mem::take(&mut self.wants_extracts);
            self.wants_look = false;
            self.look = Some(self.view(extracts));
        }
    }

    fn end_look(&mut self) -> Result<(), Broken> {
        let Some(view) = self.look.take() else {
            return Ok(());
        };
        // What the kernel tells comes at once, what containerd tells takes a while.
        self.deliver_requests(usize::MAX)?;
        self.tell(Event::Looked { view })
    }

    fn start_listing(&mut self) {
        if self.listing.is_none() && self.up.contains(&Source::SocketTable) {
            self.wants_listing = false;
            self.listing = Some(self.list());
        }
    }

    fn end_listing(&mut self) -> Result<(), Broken> {
        let Some(sockets) = self.listing.take() else {
            return Ok(());
        };
        self.tell(Event::SocketsListed { sockets })
    }

    /// Reads the next document of a pull, as the real source does: once per lease and attachment.
    fn tell_document(&mut self, pull: usize) -> Result<bool, Broken> {
        if !self.up.contains(&Source::Containerd) {
            return Ok(false);
        }
        let Some(one) = self.pulls.get_mut(pull) else {
            return Ok(false);
        };
        let documents = images::documents(one.image);
        let Some(manifest) = documents.get(one.documents_told) else {
            return Ok(false);
        };
        one.documents_told += 1;
        let lease = one.lease.clone();
        self.tell(Event::ManifestRead {
            lease,
            manifest: manifest.clone(),
        })?;
        Ok(true)
    }

    fn deliver_records(&mut self, most: usize) -> Result<(), Broken> {
        for _ in 0..most {
            let Some(event) = self.records.pop_front() else {
                break;
            };
            self.tell(event)?;
        }
        Ok(())
    }

    /// The kernel notices bytes for an ingest.
    fn record_feed(&mut self, cookie: u64, method: TieMethod) {
        if !self.up.contains(&Source::Probes) {
            return;
        }
        let Some(socket) = self.sockets.get(&cookie) else {
            return;
        };
        let Some(layer) = socket.feeds else { return };
        let mut feed = super::build::feed(
            cookie,
            super::build::ingest_dir(layer.0, layer.1),
            socket.for_ingest,
        );
        feed.method = method;
        self.records.push_back(Event::SocketFed { feed });
    }

    fn ask(&mut self, question: Question) -> Result<(), Broken> {
        let request = RequestId(self.count());
        self.tell(Event::Asked { request, question })
    }

    fn some_pull_id(&self, which: usize) -> PullId {
        let known = self.checker.pulls_in_flight();
        known
            .get(which % (known.len() + 1))
            .copied()
            .unwrap_or(PullId(1_000_000))
    }

    /// A lever comes back; what it did is done to the world.
    fn lever_back(&mut self, attempt: AttemptId, outcome: Outcome) -> Result<(), Broken> {
        let Some(lever) = self.levers.remove(&attempt) else {
            return Ok(());
        };
        let why = "for the test".to_owned();
        let outcome = match outcome {
            Outcome::Works => self.carry_out(&lever),
            Outcome::DoneInVain => LeverOutcome::Done { count: 1 },
            Outcome::AlreadyGone => LeverOutcome::AlreadyGone,
            Outcome::NotAsExpected => LeverOutcome::NotAsExpected { what: why },
            Outcome::Unsupported => LeverOutcome::Unsupported { why },
            Outcome::Failed => LeverOutcome::Failed { why },
            Outcome::IntentNotWritten => LeverOutcome::IntentNotWritten { why },
        };
        self.tell(Event::LeverDone { attempt, outcome })
    }

    fn carry_out(&mut self, lever: &Lever) -> LeverOutcome {
        match lever {
            Lever::DestroySocket { .. } if self.cannot_destroy => LeverOutcome::Unsupported {
                why: "for the test".to_owned(),
            },
            Lever::DestroySocket { socket } | Lever::DisconnectSocket { socket } => {
                if self.break_socket(socket.cookie) {
                    LeverOutcome::Done { count: 1 }
                } else {
                    LeverOutcome::AlreadyGone
                }
            }
            Lever::CancelCalls { calls, .. } => self.cancel(calls),
            Lever::DeleteLease { lease } => {
                let mut pulls = self.pulls.iter_mut();
                match pulls.find(|pull| pull.lease == *lease && !pull.is_leaseless) {
                    Some(pull) => {
                        pull.is_leaseless = true;
                        LeverOutcome::Done { count: 1 }
                    }
                    None => LeverOutcome::AlreadyGone,
                }
            }
            Lever::DestroyAll { sockets } => {
                let hit = sockets
                    .iter()
                    .filter(|socket| self.break_socket(socket.cookie))
                    .count();
                LeverOutcome::Done {
                    count: u64::try_from(hit).unwrap(),
                }
            }
            Lever::AbortIngest { ingest } => {
                let key = self
                    .ingests
                    .keys()
                    .copied()
                    .find(|key| images::ingest_key(*key) == *ingest);
                match key.and_then(|key| self.ingests.remove(&key)) {
                    Some(_) => LeverOutcome::Done { count: 1 },
                    None => LeverOutcome::AlreadyGone,
                }
            }
            Lever::RemoveSnapshot { snapshot } => {
                if self.extracts.remove(snapshot) {
                    LeverOutcome::Done { count: 1 }
                } else {
                    LeverOutcome::AlreadyGone
                }
            }
        }
    }

    /// An aborted socket ends its pull if it was feeding.
    fn break_socket(&mut self, cookie: Cookie) -> bool {
        let Some(socket) = self.sockets.get(&cookie.0) else {
            return false;
        };
        let (owner, feeds) = (socket.owner.clone(), socket.feeds.is_some());
        self.close_socket(cookie.0);
        if feeds && let Some(pull) = self.pulls.iter().position(|pull| pull.lease == owner) {
            self.end_pull(pull, true);
        }
        true
    }
}
