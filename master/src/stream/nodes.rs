//! Every node that the master knows: what it has still to hear, what it said of itself, and its one stream.
//!
//! A verdict goes into the outbox of its own node and nowhere else. Locks are held for moments, never while anything is
//! waited for, and no node's lock is taken for another node's sake: a slow node delays itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use magi_master_api::message::{Hello, NodeFacts, PolicyAnswer, Pulls, VerdictAnswer};
use magi_master_api::policy::PolicyVersion;
use tokio::sync::{Notify, mpsc};

use super::encode;
use super::outbox::{Outbox, Pushed};
use super::standing::{Source, Standing};
use crate::counters::{Count, Counters};
use crate::names::NodeName;
use crate::verdict::Verdict;

/// Nodes that are known; the one that is away for longest is forgotten for a new one. Kubernetes supports 5,000.
pub const MAX_NODES: usize = 20_000;
/// Nodes that are known from verdicts only. Whoever may make pods may make up names of nodes.
const MAX_STRANGERS: usize = 1024;

/// All of them. Changed by: verdicts ([`Self::deliver`]) and streams that begin ([`Self::begin`]).
pub struct Nodes {
    all: Mutex<BTreeMap<NodeName, Arc<Node>>>,
    standing: Arc<dyn Standing>,
    counters: Arc<Counters>,
    /// This run of the master.
    token: u64,
    /// After so long a verdict is of no use any more.
    age: Duration,
}

impl std::fmt::Debug for Nodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nodes")
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}

/// One of them.
#[derive(Debug)]
pub struct Node {
    name: NodeName,
    state: Mutex<State>,
}

/// Changed by: verdicts, and the node's streams: each message of a node, and each verdict that a stream takes.
#[derive(Debug, Default)]
struct State {
    outbox: Outbox,
    stream: Option<Stream>,
    /// Streams so far.
    streams: u64,
    touched: Option<Instant>,
    known: Known,
}

#[derive(Debug)]
struct Stream {
    number: u64,
    wake: Arc<Notify>,
}

/// What a node said of itself.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// When it was last heard.
    pub seen: Option<Timestamp>,
    /// What it runs and sees.
    pub facts: Option<NodeFacts>,
    /// Since when it has a stream, or has none; none: since before this run of the master.
    pub since: Option<Timestamp>,
    /// The policy in force there.
    pub policy: Option<PolicyVersion>,
    /// When it first said so.
    pub policy_since: Option<Timestamp>,
    /// Why it refused the last one; none: it did not.
    pub policy_refused: Option<String>,
    /// The kill switch in force there.
    pub kill_switch: u64,
    /// What it pulls.
    pub pulls: Option<Pulls>,
    /// Audit records that it dropped since its start.
    pub audit_lost: u64,
}

impl Known {
    /// It says at `at` that this policy is in force there.
    fn runs(&mut self, policy: Option<PolicyVersion>, at: Timestamp) {
        if self.policy != policy {
            self.policy = policy;
            self.policy_since = policy.map(|_| at);
        }
    }
}

/// A node as an operator sees it.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Its name.
    pub name: NodeName,
    /// Whether it has a stream.
    pub is_connected: bool,
    /// What it said of itself.
    pub known: Known,
    /// Verdicts that wait for it or for its answer.
    pub waiting: usize,
    /// Verdicts that were ever forgotten.
    pub lost: u64,
}

/// What a new stream begins with.
#[derive(Debug)]
pub struct Begun {
    /// The node.
    pub node: Arc<Node>,
    /// Names the stream; a later one of the node has a higher number.
    pub stream: u64,
    /// Told when there is something to send, or when another stream has begun.
    pub wake: Arc<Notify>,
    /// Whether the last stream goes on.
    pub is_resumed: bool,
    /// Verdicts that were forgotten since the node was told.
    pub lost: u64,
}

/// What a stream sends next.
#[derive(Debug)]
pub enum Next {
    /// This.
    Verdict(Box<magi_master_api::message::Verdict>),
    /// Nothing for now.
    Nothing,
    /// Nothing ever: another stream of this node has begun.
    Replaced,
}

impl Nodes {
    /// None yet. `token` names this run of the master; `age` is how long a verdict is of use.
    #[must_use]
    pub fn new(standing: Arc<dyn Standing>, counters: Arc<Counters>, token: u64, age: Duration) -> Self {
        Self {
            all: Mutex::default(),
            standing,
            counters,
            token,
            age,
        }
    }

    /// What the master knows pods from.
    #[must_use]
    pub fn sources(&self) -> Vec<Source> {
        self.standing.sources()
    }

    /// Names this run of the master.
    #[must_use]
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Takes verdicts until there are no more to come.
    pub async fn route(&self, mut verdicts: mpsc::Receiver<Verdict>) {
        while let Some(verdict) = verdicts.recv().await {
            self.deliver(verdict, Instant::now());
        }
    }

    /// Queues a verdict for its node, connected or not.
    pub fn deliver(&self, verdict: Verdict, now: Instant) {
        self.counters.one(Count::Verdicts);
        match self.node(&verdict.node, now) {
            Some(node) => node.push(verdict, now, self.age, &self.counters),
            None => self.counters.one(Count::VerdictsLost),
        }
    }

    /// The node of this name, known from now on. None: there are too many, all of them connected.
    fn node(&self, name: &NodeName, now: Instant) -> Option<Arc<Node>> {
        let mut all = lock(&self.all);
        if let Some(node) = all.get(name) {
            return Some(Arc::clone(node));
        }
        // A walk over the map, but only when a name is new.
        let mut strangers = 0_usize;
        let (mut oldest_stranger, mut oldest) = (None, None);
        for node in all.values() {
            let (absent_since, is_stranger) = node.absence();
            let Some(since) = absent_since else { continue };
            let candidate = (since, &node.name);
            if is_stranger {
                strangers = strangers.saturating_add(1);
                oldest_stranger = older(oldest_stranger, candidate);
            }
            oldest = older(oldest, candidate);
        }
        let forgotten = if strangers >= MAX_STRANGERS {
            oldest_stranger
        } else if all.len() >= MAX_NODES {
            Some(oldest?)
        } else {
            None
        };
        if let Some(name) = forgotten.map(|(_, name)| name.clone()) {
            all.remove(&name);
            self.counters.one(Count::NodesForgotten);
        }
        let node = Arc::new(Node {
            name: name.clone(),
            state: Mutex::new(State {
                touched: Some(now),
                ..State::default()
            }),
        });
        all.insert(name.clone(), Arc::clone(&node));
        Some(node)
    }

    /// A stream of the node `name` begins. None: there are too many nodes.
    #[must_use]
    pub fn begin(&self, name: &NodeName, hello: Hello, now: Instant, at: Timestamp) -> Option<Begun> {
        let Some(node) = self.node(name, now) else {
            self.counters.one(Count::RefusedNodes);
            return None;
        };
        let resume = hello.resume.filter(|resume| resume.token == self.token);
        // The ledger is asked before the node's lock is taken: it has a lock of its own.
        let since = at.saturating_sub(jiff::SignedDuration::try_from(self.age).unwrap_or_default());
        let remembered = since.map_or_else(|_| Vec::new(), |since| self.standing.since(name, since));
        let mut state = node.lock();
        let begun = state
            .outbox
            .begin(resume.map(|resume| resume.verdict), now, self.age, |verdict| {
                self.standing.still(verdict)
            });
        let counters = &self.counters;
        counters.add(Count::VerdictsResumed, begun.delivered);
        counters.add(Count::VerdictsExpired, begun.expired);
        counters.add(Count::VerdictsMoot, begun.moot);
        for verdict in remembered.into_iter().filter(|verdict| verdict.node == *name) {
            push(&mut state.outbox, verdict, now, counters);
        }
        state.streams = state.streams.saturating_add(1);
        let wake = Arc::new(Notify::new());
        let stream = Stream {
            number: state.streams,
            wake: Arc::clone(&wake),
        };
        if let Some(last) = state.stream.replace(stream) {
            counters.one(Count::Replaced);
            last.wake.notify_one();
        }
        let known = &mut state.known;
        known.seen = Some(at);
        known.facts = Some(hello.facts);
        known.since = Some(at);
        known.runs(hello.policy, at);
        known.policy_refused = None;
        known.audit_lost = hello.audit_lost;
        counters.one(Count::Streams);
        if resume.is_some() {
            counters.one(Count::Resumed);
        }
        let begun = Begun {
            stream: state.streams,
            wake,
            is_resumed: resume.is_some(),
            lost: state.outbox.lost(),
            node: Arc::clone(&node),
        };
        drop(state);
        Some(begun)
    }

    /// Those whose name begins with `prefix` and comes after `after`, at most `most`, in order.
    #[must_use]
    pub fn show(&self, prefix: &str, after: Option<&NodeName>, most: usize) -> Vec<Shown> {
        let nodes: Vec<Arc<Node>> = lock(&self.all)
            .iter()
            .filter(|(name, _)| name.as_str().starts_with(prefix) && after.is_none_or(|after| *name > after))
            .take(most)
            .map(|(_, node)| Arc::clone(node))
            .collect();
        nodes.iter().map(|node| node.show()).collect()
    }
}

impl Node {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &NodeName {
        &self.name
    }

    /// Since when nothing was heard of it, if it has no stream; and whether it never had one.
    fn absence(&self) -> (Option<Instant>, bool) {
        let state = self.lock();
        let is_absent = state.stream.is_none();
        (state.touched.filter(|_| is_absent), state.streams == 0)
    }

    fn push(&self, verdict: Verdict, now: Instant, age: Duration, counters: &Counters) {
        let mut state = self.lock();
        state.touched = Some(now);
        counters.add(Count::VerdictsExpired, state.outbox.expire(now, age));
        push(&mut state.outbox, verdict, now, counters);
        if let Some(stream) = &state.stream {
            stream.wake.notify_one();
        }
    }

    /// What stream `number` sends next.
    pub fn next(&self, number: u64, counters: &Counters) -> Next {
        let mut state = self.lock();
        if state.streams != number {
            return Next::Replaced;
        }
        while let Some(said) = state.outbox.next() {
            match said {
                Ok(verdict) => {
                    counters.one(Count::VerdictsSent);
                    return Next::Verdict(Box::new(verdict));
                }
                Err(error) => {
                    counters.one(Count::VerdictsUnsayable);
                    tracing::warn!(node = %self.name, %error, "a verdict cannot be said");
                }
            }
        }
        Next::Nothing
    }

    /// Stream `number` has ended at `at`.
    pub fn end(&self, number: u64, at: Timestamp) {
        let mut state = self.lock();
        if state
            .stream
            .as_ref()
            .is_some_and(|stream| stream.number == number)
        {
            state.stream = None;
            state.known.since = Some(at);
            state.touched = Some(Instant::now());
        }
    }

    /// The node was heard on stream `number`, and knows of `lost` forgotten verdicts. Whether the stream is the node's.
    pub fn heard(&self, number: u64, lost: u64, at: Timestamp) -> bool {
        let mut state = self.lock();
        if state.streams != number {
            return false;
        }
        state.known.seen = Some(at);
        state.outbox.told(lost);
        true
    }

    /// What became of a verdict.
    pub fn verdict_answered(&self, answer: &VerdictAnswer, counters: &Counters) {
        if self.lock().outbox.answered(answer.id) {
            counters.one(Count::VerdictsAnswered);
        }
        tracing::info!(node = %self.name, id = %answer.id, fate = ?answer.fate, detail = answer.detail, "verdict answered");
    }

    /// What became of a policy, heard at `at`.
    pub fn policy_answered(&self, answer: PolicyAnswer, at: Timestamp, counters: &Counters) {
        match &answer.refused {
            None => tracing::debug!(node = %self.name, version = %answer.version, "policy in force"),
            Some(why) => {
                counters.one(Count::PolicyRefused);
                tracing::warn!(node = %self.name, version = %answer.version, why, "policy refused");
            }
        }
        let known = &mut self.lock().known;
        if answer.refused.is_none() {
            known.runs(Some(answer.version), at);
        }
        known.policy_refused = answer.refused;
    }

    /// What it pulls.
    pub fn pulls(&self, pulls: Pulls) {
        self.lock().known.pulls = Some(pulls);
    }

    /// The kill switch in force there.
    pub fn kill_switch(&self, revision: u64) {
        self.lock().known.kill_switch = revision;
    }

    /// Audit records that it dropped since its start.
    pub fn audit_lost(&self, lost: u64) {
        self.lock().known.audit_lost = lost;
    }

    fn show(&self) -> Shown {
        let state = self.lock();
        Shown {
            name: self.name.clone(),
            is_connected: state.stream.is_some(),
            known: state.known.clone(),
            waiting: state.outbox.waiting(),
            lost: state.outbox.lost_ever(),
        }
    }
}

type Absent<'n> = (Instant, &'n NodeName);

fn older<'n>(one: Option<Absent<'n>>, other: Absent<'n>) -> Option<Absent<'n>> {
    Some(one.map_or(other, |one| one.min(other)))
}

fn push(outbox: &mut Outbox, verdict: Verdict, now: Instant, counters: &Counters) {
    for piece in encode::split(verdict) {
        match outbox.push(piece, now) {
            Pushed::Queued => {}
            Pushed::QueuedForAnother => counters.one(Count::VerdictsLost),
            Pushed::Repeated => counters.one(Count::VerdictsRepeated),
        }
    }
}

/// A poisoned lock means that another task panicked; what it guards is whole between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
