//! One stream of one node, from its hello to its end.
//!
//! What goes down is made when the connection takes it ([`Session::next`]), so that nothing piles up for a slow node. What
//! comes up is read by a task of its own ([`listen`]), which also notices silence.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use magi_master_api::backoff::jittered;
use magi_master_api::bounds::SILENT_PINGS;
use magi_master_api::decode::DecodeError;
use magi_master_api::message::{AuditBatch, AuditMark, Down, Up, Welcome};
use magi_master_api::policy::part;
use magi_master_api::wire;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Status, Streaming};

use super::Shared;
use super::nodes::{Begun, Next, Node};
use crate::counters::Count;
use crate::policy::Snapshot;
use crate::switch::Switch;

/// Between two attempts to store what could not be stored.
const STORE_AGAIN: Duration = Duration::from_secs(5);

/// What the two halves of a stream share.
#[derive(Debug)]
struct Halves {
    node: Arc<Node>,
    number: u64,
    /// Forgotten verdicts that the welcome tells of.
    lost: u64,
    wake: Arc<Notify>,
    /// What the listening half has for the speaking one.
    said: Mutex<Said>,
}

#[derive(Debug, Default)]
struct Said {
    stored: Option<AuditMark>,
    end: Option<Status>,
}

impl Halves {
    fn end(&self, status: Status) {
        self.said
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .end
            .get_or_insert(status);
        self.wake.notify_one();
    }

    fn stored(&self, mark: AuditMark) {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).stored = Some(mark);
        self.wake.notify_one();
    }

    fn take(&self) -> Said {
        std::mem::take(&mut *self.said.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The half that speaks.
pub(super) struct Session {
    shared: Arc<Shared>,
    halves: Arc<Halves>,
    welcome: Option<Welcome>,
    policy: watch::Receiver<Option<Arc<Snapshot>>>,
    /// The policy that is being sent, and how much of it is.
    sending: Option<(Arc<Snapshot>, usize)>,
    kill_switch: watch::Receiver<Switch>,
    ping_at: Instant,
    ping: u64,
    random: SmallRng,
    until: Instant,
    is_over: bool,
    connection: CancellationToken,
    /// Ends the listening half with this one.
    _listening: DropGuard,
}

impl Session {
    /// Begins to speak and to listen.
    pub(super) fn start(
        shared: Arc<Shared>,
        begun: Begun,
        up: Streaming<wire::Up>,
        audit: Vec<AuditMark>,
        connection: CancellationToken,
    ) -> Self {
        let welcome = Welcome {
            token: shared.nodes.token(),
            resumed: begun.is_resumed,
            verdicts_lost: begun.lost,
            ping_every: shared.limits.ping_every,
            audit,
        };
        let halves = Arc::new(Halves {
            node: begun.node,
            number: begun.stream,
            lost: begun.lost,
            wake: begun.wake,
            said: Mutex::default(),
        });
        let mut random =
            SmallRng::seed_from_u64(shared.nodes.token() ^ begun.stream.rotate_left(32) ^ shared.next_seed());
        let mut policy = shared.policy.subscribe();
        policy.mark_changed();
        let mut kill_switch = shared.kill_switch.subscribe();
        kill_switch.mark_changed();
        let listening = CancellationToken::new();
        tokio::spawn(listen(
            Arc::clone(&shared),
            Arc::clone(&halves),
            up,
            listening.clone(),
            connection.clone(),
        ));
        let now = Instant::now();
        Self {
            ping_at: now + jittered(shared.limits.ping_every, &mut random),
            until: now + jittered(shared.limits.stream_age, &mut random),
            policy,
            sending: None,
            kill_switch,
            ping: 0,
            random,
            is_over: false,
            connection,
            welcome: Some(welcome),
            halves,
            shared,
            _listening: listening.drop_guard(),
        }
    }

    /// The next message; waits until there is one. None: the stream has ended.
    pub(super) async fn next(&mut self) -> Option<Result<wire::Down, Status>> {
        if self.is_over {
            return None;
        }
        let next = self.next_down().await;
        self.is_over = next.is_err();
        Some(next.map(Into::into))
    }

    async fn next_down(&mut self) -> Result<Down, Status> {
        if let Some(welcome) = self.welcome.take() {
            return Ok(Down::Welcome(welcome));
        }
        loop {
            let said = self.halves.take();
            if let Some(end) = said.end {
                return Err(end);
            }
            if self.connection.is_cancelled() {
                return Err(Status::unavailable(if self.shared.stop.is_cancelled() {
                    "the master is going"
                } else {
                    "the connection is over"
                }));
            }
            if let Some(mark) = said.stored {
                return Ok(Down::AuditStored(mark));
            }
            if self.kill_switch.has_changed().unwrap_or(false) {
                let switch = self.kill_switch.borrow_and_update().clone();
                if switch.revision > 0 {
                    return Ok(Down::KillSwitch(switch.into()));
                }
            }
            match self.halves.node.next(self.halves.number, &self.shared.counters) {
                Next::Verdict(verdict) => return Ok(Down::Verdict(*verdict)),
                Next::Replaced => return Err(Status::aborted("another stream of this node has begun")),
                Next::Nothing => {}
            }
            let now = Instant::now();
            if now >= self.ping_at {
                self.ping = self.ping.wrapping_add(1);
                self.ping_at = now + jittered(self.shared.limits.ping_every, &mut self.random);
                return Ok(Down::Ping(self.ping));
            }
            if now >= self.until {
                return Err(Status::unavailable("the stream is old: begin another"));
            }
            if let Some(piece) = self.next_piece() {
                return Ok(piece);
            }
            tokio::select! {
                () = self.halves.wake.notified() => {}
                () = self.connection.cancelled() => {}
                Ok(()) = self.policy.changed() => self.policy.mark_changed(),
                Ok(()) = self.kill_switch.changed() => self.kill_switch.mark_changed(),
                () = tokio::time::sleep_until(self.ping_at.min(self.until)) => {}
            }
        }
    }

    fn next_piece(&mut self) -> Option<Down> {
        if self.policy.has_changed().unwrap_or(false) {
            self.sending = self
                .policy
                .borrow_and_update()
                .clone()
                .map(|snapshot| (snapshot, 0));
        }
        let (snapshot, offset) = self.sending.as_mut()?;
        match part(snapshot.version, &snapshot.bytes, *offset) {
            Some(piece) => {
                *offset = offset.saturating_add(piece.bytes.len());
                Some(Down::Policy(piece))
            }
            None => {
                self.sending = None;
                None
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.halves.node.end(self.halves.number, Timestamp::now());
    }
}

/// Reads what the node says until it ends, goes silent, or talks nonsense.
async fn listen(
    shared: Arc<Shared>,
    halves: Arc<Halves>,
    mut up: Streaming<wire::Up>,
    stop: CancellationToken,
    connection: CancellationToken,
) {
    let silence = shared.limits.ping_every.saturating_mul(SILENT_PINGS);
    let mut storing: Option<tokio::task::JoinHandle<AuditMark>> = None;
    let mut heard = Instant::now();
    let mut lost = halves.lost;
    let end = loop {
        let stored = async {
            match storing.as_mut() {
                Some(task) => task.await,
                None => std::future::pending().await,
            }
        };
        let message = tokio::select! {
            () = stop.cancelled() => break None,
            stored = stored => {
                storing = None;
                match stored {
                    Ok(mark) => halves.stored(mark),
                    Err(_) => break Some(Status::internal("the audit store failed")),
                }
                continue;
            }
            () = tokio::time::sleep_until(heard + silence) => {
                shared.counters.one(Count::Silent);
                tracing::info!(node = %halves.node.name(), ?silence, "nothing was heard: the node is gone");
                // Nobody reads what would be said: the connection itself has to go.
                connection.cancel();
                break Some(Status::deadline_exceeded("nothing was heard"));
            }
            message = up.message() => message,
        };
        let message = match message {
            Ok(Some(message)) => message,
            Ok(None) => break Some(Status::ok("")),
            Err(status) => {
                if status.code() == tonic::Code::OutOfRange {
                    shared.counters.one(Count::BadMessage);
                }
                break Some(status);
            }
        };
        heard = Instant::now();
        if !halves
            .node
            .heard(halves.number, std::mem::take(&mut lost), Timestamp::now())
        {
            break Some(Status::aborted("another stream of this node has begun"));
        }
        match Up::try_from(message) {
            Ok(Up::Audit(batch)) if storing.is_none() => {
                halves.node.audit_lost(batch.lost);
                storing = Some(tokio::spawn(store(
                    Arc::clone(&shared),
                    Arc::clone(&halves.node),
                    batch,
                    stop.clone(),
                )));
            }
            Ok(message) => {
                if let Err(status) = take(&shared, &halves, message) {
                    shared.counters.one(Count::BadMessage);
                    break Some(status);
                }
            }
            Err(DecodeError::Unknown) => shared.counters.one(Count::UnknownMessage),
            Err(error) => {
                shared.counters.one(Count::BadMessage);
                tracing::warn!(node = %halves.node.name(), %error, "a message makes no sense");
                break Some(Status::invalid_argument(error.to_string()));
            }
        }
    };
    if let Some(task) = storing {
        task.abort();
    }
    if let Some(status) = end {
        halves.end(status);
    }
    // The node closes the connection of a stream that is over; one that does not is not waited for.
    tokio::select! {
        () = tokio::time::sleep(shared.limits.goodbye) => connection.cancel(),
        () = connection.cancelled() => {}
    }
}

fn take(shared: &Shared, halves: &Halves, message: Up) -> Result<(), Status> {
    let node = &halves.node;
    match message {
        Up::Hello(_) => return Err(Status::invalid_argument("a second hello")),
        Up::Audit(_) => return Err(Status::resource_exhausted("one batch of audit records at a time")),
        Up::Policy(answer) => node.policy_answered(answer, Timestamp::now(), &shared.counters),
        Up::Verdict(answer) => node.verdict_answered(&answer, &shared.counters),
        Up::Pulls(pulls) => node.pulls(pulls),
        Up::KillSwitch(revision) => node.kill_switch(revision),
        Up::Pong(_) => {}
    }
    Ok(())
}

/// Stores a batch, however long it takes: a full disk must not cost the node its verdicts.
async fn store(
    shared: Arc<Shared>,
    node: Arc<Node>,
    batch: AuditBatch,
    stop: CancellationToken,
) -> AuditMark {
    let last = batch.records.last().map(|record| record.mark);
    let batch = Arc::new(batch);
    loop {
        if shared.store.append(node.name(), &batch).await {
            return last.unwrap_or(AuditMark { run: 0, sequence: 0 });
        }
        tokio::select! {
            () = tokio::time::sleep(STORE_AGAIN) => {}
            () = stop.cancelled() => std::future::pending().await,
        }
    }
}
