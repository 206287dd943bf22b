//! A stage for scenarios by hand: `world.lease("l1").manifest(…).ingest(…)`, then `world.fed(…)`, and what the engine
//! wants is read from [`World::levers`] and [`World::records`]. Every step is held against the invariants as well.

use std::time::Duration;

use super::build;
use super::check::Checker;
use crate::action::{Action, Answer, Effects, Lever, LeverOutcome};
use crate::audit::Entry;
use crate::engine::Engine;
use crate::event::{Event, Feed, LeaseView, Question, SocketStat, View};
use crate::evidence::{Evidence, Reason, Source};
use crate::ids::{AttemptId, CallId, Cookie, Digest, ImageName, KeepId, LeaseKey, PullId, RequestId};
use crate::manifest::Manifest;
use crate::owner::RequestEnd;
use crate::policy::Policy;
use crate::time::Time;

/// The namespace of containerd in which scenarios play.
pub(super) const K8S: &str = "k8s.io";

pub(super) struct World {
    pub(super) engine: Engine,
    checker: Checker,
    pub(super) now: Time,
    pub(super) view: View,
    pub(super) sockets: Vec<SocketStat>,
    levers: Vec<(AttemptId, Lever)>,
    records: Vec<Entry>,
    answers: Vec<(RequestId, Answer)>,
    /// What is wished to be kept, and not let go of.
    pub(super) kept: Vec<(KeepId, Vec<Digest>)>,
    /// How often garbage was to be collected.
    pub(super) collections: usize,
    wake: Option<Time>,
    wants_look: bool,
    wants_listing: bool,
    /// Looks that were asked for in all.
    pub(super) looks: usize,
    pub(super) listings: usize,
    /// Whether [`Self::live`] answers listings.
    pub(super) lists: bool,
    questions: u64,
}

impl World {
    /// All sources are up, and nothing is pulled.
    pub(super) fn new(policy: Policy) -> Self {
        let mut world = Self::dark(policy);
        for source in [Source::Containerd, Source::Probes, Source::SocketTable] {
            world.tell(Event::SourceUp { source });
        }
        world.look();
        world.records.clear();
        world
    }

    /// No source is up.
    pub(super) fn dark(policy: Policy) -> Self {
        let mut world = Self {
            engine: Engine::new(),
            checker: Checker::default(),
            now: Time::from_micros(1_000_000),
            view: View::default(),
            sockets: Vec::new(),
            levers: Vec::new(),
            records: Vec::new(),
            collections: 0,
            kept: Vec::new(),
            answers: Vec::new(),
            wake: None,
            wants_look: false,
            wants_listing: false,
            looks: 0,
            listings: 0,
            lists: true,
            questions: 0,
        };
        world.tell(Event::PolicyLoaded { policy });
        world
    }

    pub(super) fn tell(&mut self, event: Event) -> &mut Self {
        let mut fx = Effects::default();
        if event == Event::Tick {
            self.wake = None;
        }
        self.engine.handle(self.now, event.clone(), &mut fx);
        let effects = fx.take();
        self.checker.hear(self.engine.report(false));
        if let Err(broken) = self.checker.observe(self.now, &event, &effects) {
            panic!("{broken}\nafter {event:?}");
        }
        for effect in effects {
            self.keep(effect);
        }
        self
    }

    fn keep(&mut self, effect: Action) {
        match effect {
            Action::PullLever { attempt, lever, .. } => self.levers.push((attempt, lever)),
            Action::Record { record } => self.records.push(record.entry),
            Action::Answer { request, answer } => self.answers.push((request, answer)),
            Action::Look { .. } => {
                self.looks += 1;
                self.wants_look = true;
            }
            Action::ListSockets => {
                self.listings += 1;
                self.wants_listing = true;
            }
            Action::WakeAt { at } => self.wake = Some(at),
            Action::Keep { hold, content } => self.kept.push((hold.keep, content)),
            Action::Collect { .. } => self.collections += 1,
            Action::Release { hold } => self.kept.retain(|(kept, _)| *kept != hold.keep),
        }
    }

    /// Tells the engine without the checker, which is too slow for the largest pictures.
    pub(super) fn engine_only(&mut self, event: Event) -> &mut Self {
        let mut fx = Effects::default();
        self.engine.handle(self.now, event, &mut fx);
        for effect in fx.take() {
            self.keep(effect);
        }
        self
    }

    pub(super) fn pass(&mut self, milliseconds: u64) -> &mut Self {
        self.now = self.now.after(Duration::from_millis(milliseconds));
        self
    }

    /// containerd is looked at, extract snapshots included.
    pub(super) fn look(&mut self) -> &mut Self {
        self.wants_look = false;
        let mut view = self.view.clone();
        view.extracts.get_or_insert_default();
        view.begun = Some(self.now);
        self.tell(Event::Looked { view })
    }

    pub(super) fn list(&mut self) -> &mut Self {
        self.wants_listing = false;
        let sockets = self.sockets.clone();
        self.tell(Event::SocketsListed { sockets })
    }

    /// Time goes by in which looks and listings are answered and ticks come; levers wait for the test.
    pub(super) fn live(&mut self, milliseconds: u64) -> &mut Self {
        let end = self.now.after(Duration::from_millis(milliseconds));
        loop {
            if self.wants_listing && self.lists {
                self.list();
            }
            if self.wants_look {
                self.pass(1).look();
            }
            let next = self.wake.filter(|at| *at <= end);
            let Some(at) = next else { break };
            self.now = self.now.max(at);
            self.tell(Event::Tick);
        }
        self.now = self.now.max(end);
        self
    }

    /// A lease that the next look shows.
    pub(super) fn lease(&mut self, id: &str) -> Lease<'_> {
        self.lease_in(K8S, id)
    }

    pub(super) fn lease_in(&mut self, namespace: &str, id: &str) -> Lease<'_> {
        let key = build::lease_key(namespace, id);
        if !self.view.leases.iter().any(|lease| lease.key == key) {
            self.view.leases.push(LeaseView {
                created: Some(self.now),
                ..build::lease_view(key.clone(), &[])
            });
            self.look();
        }
        Lease { world: self, key }
    }

    /// The same, for those who want nothing more of it.
    pub(super) fn leases(&mut self, id: &str) -> &mut Self {
        self.lease(id).world
    }

    /// A lease holds a manifest, which the next look shows.
    pub(super) fn holds(&mut self, lease: &str, manifest: u64) -> &mut Self {
        let key = build::lease_key(K8S, lease);
        let mut leases = self.view.leases.iter_mut();
        let lease = leases.find(|lease| lease.key == key).unwrap();
        lease.content.push(build::digest(manifest));
        self.look()
    }

    /// Somebody asks for an image now, for a pod (`namespace/name`) or for nobody.
    pub(super) fn asked(&mut self, call: u64, image: &str, pod: Option<&str>) -> &mut Self {
        self.asked_at(call, self.now, image, pod)
    }

    pub(super) fn asked_at(&mut self, call: u64, at: Time, image: &str, pod: Option<&str>) -> &mut Self {
        let request = build::request(image, pod);
        let call = CallId(call);
        self.tell(Event::CallBegan { call, at, request })
    }

    pub(super) fn call_ended(&mut self, call: u64) -> &mut Self {
        let (call, at, end) = (CallId(call), self.now, RequestEnd::Answered);
        self.tell(Event::CallEnded { call, at, end })
    }

    /// A pod is there.
    pub(super) fn pod(&mut self, sandbox: &str, pod: &str) -> &mut Self {
        let pod = build::node_pod(sandbox, pod);
        self.tell(Event::PodSeen { pod })
    }

    /// containerd's verifier wants to know of an image; the answer.
    pub(super) fn verify(&mut self, image: &str, document: u64) -> Answer {
        let (image, digest) = (ImageName::new(image).unwrap(), build::digest(document));
        let request = self.ask(Question::Verify { image, digest });
        let mut answers = self.answers().into_iter();
        answers.find(|(answered, _)| *answered == request).unwrap().1
    }

    /// The probes see a socket feed a layer.
    pub(super) fn fed(&mut self, cookie: u64, layer: u64, bytes: u64) -> &mut Self {
        let feed = build::feed(cookie, build::ingest_dir(K8S, layer), bytes);
        self.tell(Event::SocketFed { feed })
    }

    /// The same, and so long already.
    pub(super) fn fed_for(&mut self, cookie: u64, layer: u64, bytes: u64, lasts: Duration) -> &mut Self {
        let feed = Feed {
            lasts,
            ..build::feed(cookie, build::ingest_dir(K8S, layer), bytes)
        };
        self.tell(Event::SocketFed { feed })
    }

    pub(super) fn closed(&mut self, cookie: u64) -> &mut Self {
        let cookie = Cookie(cookie);
        self.tell(Event::SocketClosed { cookie })
    }

    pub(super) fn up(&mut self, source: Source) -> &mut Self {
        self.tell(Event::SourceUp { source })
    }

    pub(super) fn down(&mut self, source: Source) -> &mut Self {
        self.tell(Event::SourceDown { source })
    }

    pub(super) fn load(&mut self, policy: Policy) -> &mut Self {
        self.tell(Event::PolicyLoaded { policy })
    }

    /// One lease gives an ingest up and another takes it over; the next look shows it.
    pub(super) fn lease_is_replaced(&mut self, before: &str, after: &str, layer: u64) -> &mut Self {
        let (before, after) = (build::lease_key(K8S, before), build::lease_key(K8S, after));
        self.view
            .leases
            .retain(|lease| lease.key != before && lease.key != after);
        self.view.leases.push(build::lease_view(after, &[layer]));
        self
    }

    /// The ingest of a layer goes, whoever holds it.
    pub(super) fn drop_ingest(&mut self, layer: u64) -> &mut Self {
        let reference = build::ingest_ref(layer);
        self.view
            .ingests
            .retain(|ingest| ingest.key.reference != reference);
        for lease in &mut self.view.leases {
            lease.ingests.retain(|one| *one != reference);
        }
        self
    }

    /// The levers since the last call.
    pub(super) fn levers(&mut self) -> Vec<(AttemptId, Lever)> {
        std::mem::take(&mut self.levers)
    }

    /// The one lever since the last call.
    pub(super) fn lever(&mut self) -> (AttemptId, Lever) {
        let mut levers = self.levers();
        assert_eq!(levers.len(), 1, "{levers:?}; {:?}", self.records);
        levers.remove(0)
    }

    /// The one lever since the last call, which must close this socket; it comes back with `outcome`.
    pub(super) fn closes(&mut self, expected: Lever, outcome: LeverOutcome) -> &mut Self {
        let (attempt, lever) = self.lever();
        assert_eq!(lever, expected);
        self.tell(Event::LeverDone { attempt, outcome })
    }

    pub(super) fn no_lever(&mut self) -> &mut Self {
        let levers = self.levers();
        assert!(levers.is_empty(), "{levers:?}");
        self
    }

    /// The records since the last call, without those of sources and policies.
    pub(super) fn records(&mut self) -> Vec<Entry> {
        let mut records = std::mem::take(&mut self.records);
        records.retain(|entry| !matches!(entry, Entry::SourceChanged { .. } | Entry::PolicyInForce { .. }));
        records
    }

    pub(super) fn ask(&mut self, question: Question) -> RequestId {
        self.questions += 1;
        let request = RequestId(self.questions);
        self.tell(Event::Asked { request, question });
        request
    }

    pub(super) fn abort(&mut self, pull: PullId) -> RequestId {
        let actor = "root".to_owned();
        self.ask(Question::Abort { pull, actor })
    }

    pub(super) fn panic_button(&mut self) -> RequestId {
        let actor = "root".to_owned();
        self.ask(Question::Panic { actor })
    }

    /// The answers since the last call.
    pub(super) fn answers(&mut self) -> Vec<(RequestId, Answer)> {
        std::mem::take(&mut self.answers)
    }

    /// The pull of a lease, by the engine's own report.
    pub(super) fn id_of(&mut self, lease: &str) -> PullId {
        let request = self.ask(Question::Pulls { ended: false });
        let key = build::lease_key(K8S, lease);
        let answers = self.answers();
        let report = answers.into_iter().find_map(|(answered, answer)| match answer {
            Answer::Pulls { report } if answered == request => Some(report),
            Answer::Pulls { .. }
            | Answer::Pods { .. }
            | Answer::TurnedAway { .. }
            | Answer::Noted { .. }
            | Answer::Admitted { .. }
            | Answer::Refused { .. }
            | Answer::Ended
            | Answer::NoSuchPull
            | Answer::StillRunning { .. }
            | Answer::Closed { .. }
            | Answer::Failed { .. }
            | Answer::Busy => None,
        });
        let pulls = report.unwrap().pulls;
        pulls.iter().find(|pull| pull.lease == key).unwrap().id
    }
}

/// A lease on the stage.
pub(super) struct Lease<'a> {
    pub(super) world: &'a mut World,
    key: LeaseKey,
}

impl Lease<'_> {
    fn view(&mut self) -> &mut LeaseView {
        let key = &self.key;
        self.world
            .view
            .leases
            .iter_mut()
            .find(|lease| lease.key == *key)
            .unwrap()
    }

    /// Its manifest is read.
    pub(super) fn manifest(self, manifest: Manifest) -> Self {
        let lease = self.key.clone();
        self.world.tell(Event::ManifestRead { lease, manifest });
        self
    }

    /// It holds an ingest, which the next look shows.
    pub(super) fn ingest(mut self, layer: u64, offset: u64, total: u64) -> Self {
        let namespace = self.key.namespace.as_str().to_owned();
        let view = build::ingest_view(&namespace, layer, offset, total);
        let ingests = &mut self.world.view.ingests;
        ingests.retain(|ingest| ingest.key != view.key);
        ingests.push(view);
        let reference = build::ingest_ref(layer);
        let view = self.view();
        view.ingests.retain(|one| *one != reference);
        view.ingests.push(reference);
        self.world.look();
        self
    }

    /// It holds an extract snapshot, which the next look shows.
    pub(super) fn extract(mut self, key: &str) -> Self {
        let snapshot = build::snapshot(self.key.namespace.as_str(), key);
        self.world
            .view
            .extracts
            .get_or_insert_default()
            .push(snapshot.clone());
        self.view().snapshots.push(snapshot);
        self.world.look();
        self
    }

    /// The lease is gone in the next look; its ingests stay.
    pub(super) fn ends(self) {
        let key = &self.key;
        self.world.view.leases.retain(|lease| lease.key != *key);
    }
}

pub(super) fn destroy(cookie: u64) -> Lever {
    Lever::DestroySocket {
        socket: build::socket(cookie),
    }
}

pub(super) fn disconnect(cookie: u64) -> Lever {
    Lever::DisconnectSocket {
        socket: build::socket(cookie),
    }
}

pub(super) fn done() -> LeverOutcome {
    LeverOutcome::Done { count: 1 }
}

pub(super) fn why() -> String {
    "for the test".to_owned()
}

/// The reasons of would-abort records.
pub(super) fn would_abort(records: &[Entry]) -> Vec<Reason> {
    let reason = |entry: &Entry| {
        let Entry::WouldAbort { reason, .. } = entry else {
            return None;
        };
        Some(*reason)
    };
    records.iter().filter_map(reason).collect()
}

/// What stands in the way, as not-stopped records say.
pub(super) fn not_stopped(records: &[Entry]) -> Vec<&str> {
    fn why(entry: &Entry) -> Option<&str> {
        let Entry::NotStopped { why, .. } = entry else {
            return None;
        };
        Some(why)
    }
    records.iter().filter_map(why).collect()
}

/// The sources of the last intent's evidence.
pub(super) fn sources(evidence: &[Evidence]) -> Vec<Source> {
    let mut sources: Vec<Source> = evidence.iter().map(Evidence::source).collect();
    sources.sort();
    sources.dedup();
    sources
}
