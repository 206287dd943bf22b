//! The node's side of the contract against a fake master, over loopback TLS: verdicts, policies, and the trail.

mod fake;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use magi_engine::action::Answer;
use magi_engine::audit::Entry;
use magi_engine::policy::Policy;
use magi_engine::report::Report;
use magi_engine::{AuditRecord, Time};
use magi_master_api::message::{AuditMark, Down, NodeFacts, PolicyPart, Up, VerdictId, VerdictKind};
use magi_master_api::policy::part;
use magi_node_api::PolicyStatus;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;
use crate::audit::AuditLog;
use crate::inbox::inbox;
use crate::policies::Policies;
use fake::{Attending, FakeMaster, NAME, PATIENCE, certificates, node_files};

const LOCAL: &str = "version: 1\nmode: observe\n";

/// A node without its engine: what would reach it is here to be read.
struct Node {
    events: mpsc::Receiver<Event>,
    in_force: mpsc::Receiver<Policy>,
    trail: Trail,
    attached: watch::Sender<Option<Attached>>,
    _up: watch::Sender<BTreeSet<Source>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Node {
    async fn start(folder: &Path, master: impl ToString) -> Self {
        std::fs::write(folder.join("local.yaml"), LOCAL).unwrap();
        let (policies, in_force) = mpsc::channel(8);
        let kept = Kept::in_folder(&folder.join("state"));
        let said = watch::Sender::new(PolicyStatus::of(&Policy::default()));
        let mut policies = Policies::new(folder.join("local.yaml"), Some(kept), policies, said);
        policies.start().await;
        let client = NodeClient {
            master: master.to_string(),
            server_name: NAME.to_owned(),
            tls: node_files(folder),
            node: "node-a".to_owned(),
            facts: NodeFacts::default(),
            policy: policies.pushed(),
            longest_pause: Duration::from_millis(50),
        };
        let held = Held::in_folder(&folder.join("state"));
        let (inbox, events) = inbox();
        let (push, mut pushes) = mpsc::channel(1);
        let (ask, mut asked) = mpsc::channel(4);
        let outbox = Outbox::new();
        let trail = outbox.trail();
        let attached = watch::Sender::new(None);
        let up = watch::Sender::new(BTreeSet::from([Source::Containerd]));
        let ties = Ties {
            inbox,
            policies: push,
            outbox,
            asking: Asking::new(ask, magi_config::Settings::default().resolver),
            stops: trail.stops(),
            attached: attached.subscribe(),
            up: up.subscribe(),
            watched: vec![Source::Containerd, Source::Probes],
            held,
        };
        let engine = async move {
            while let Some(crate::core::Asked { reply, .. }) = asked.recv().await {
                let report = Report::default();
                let _gone = reply.send((Time::from_micros(0), Answer::Pulls { report }));
            }
        };
        let taking = async move {
            while let Some(pushed) = pushes.recv().await {
                policies.take(pushed).await;
            }
        };
        let tasks = vec![
            tokio::spawn(run(client, ties)),
            tokio::spawn(engine),
            tokio::spawn(taking),
        ];
        Self {
            events,
            in_force,
            trail,
            attached,
            _up: up,
            tasks,
        }
    }

    async fn event(&mut self) -> Event {
        let next = tokio::time::timeout(PATIENCE, self.events.recv());
        next.await.expect("nothing is heard").expect("the source is gone")
    }

    /// The revision of the next policy that comes into force.
    async fn policy(&mut self) -> String {
        let next = tokio::time::timeout(PATIENCE, self.in_force.recv());
        next.await
            .expect("no policy comes")
            .expect("they are gone")
            .revision
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    folder
}

fn kill_switch(revision: u64, engaged: bool) -> Down {
    Down::KillSwitch(KillSwitch {
        revision,
        engaged,
        by: "anna".to_owned(),
        reason: "too many\u{1b} alarms".to_owned(),
    })
}

/// What the engine is told of it.
fn switched(engaged: bool) -> Event {
    Event::KillSwitch {
        holder: SwitchHolder::Master,
        engaged,
        by: "anna: too many alarms".to_owned(),
    }
}

#[tokio::test]
async fn the_masters_kill_switch_holds_while_it_is_gone_and_over_a_restart() {
    let folder = folder();
    let mut master = FakeMaster::start(folder.path()).await;
    let mut node = Node::start(folder.path(), master.address).await;
    let mut there = master.greeted().await;
    node.event().await;
    there.say(kill_switch(7, true)).await;
    assert_eq!(node.event().await, switched(true));
    assert_eq!(there.hear().await, Up::KillSwitch(7));
    drop((node, there));

    let mut node = Node::start(folder.path(), "127.0.0.1:1").await;
    assert_eq!(node.event().await, switched(true), "no master, and it holds");
    drop(node);

    let mut node = Node::start(folder.path(), master.address).await;
    let mut there = master.greeted().await;
    assert_eq!(node.event().await, switched(true));
    node.event().await;
    there.say(kill_switch(8, false)).await;
    assert_eq!(node.event().await, switched(false));
    assert_eq!(there.hear().await, Up::KillSwitch(8));
    drop((node, there));

    let mut node = Node::start(folder.path(), master.address).await;
    let _there = master.greeted().await;
    assert_eq!(
        node.event().await,
        Event::SourceUp {
            source: Source::Master
        },
        "nothing is kept"
    );
}

fn verdict(n: u8, kind: VerdictKind, images: &[&str]) -> Down {
    Down::Verdict(Verdict {
        number: n.into(),
        id: VerdictId([n; 16]),
        at_micros: 0,
        kind,
        cause: "deleted".to_owned(),
        uid: "uid-1".to_owned(),
        namespace: "team".to_owned(),
        name: "web".to_owned(),
        images: images.iter().map(|&image| image.to_owned()).collect(),
    })
}

/// What became of a verdict.
async fn fate(master: &mut Attending) -> (u8, Fate) {
    let up = master.hear().await;
    let Up::Verdict(VerdictAnswer { id, fate, .. }) = up else {
        panic!("{up:?}");
    };
    (id.0[0], fate)
}

#[tokio::test]
async fn a_verdict_arrives_as_an_event_and_once() {
    let folder = folder();
    let mut master = FakeMaster::start(folder.path()).await;
    let mut node = Node::start(folder.path(), master.address).await;
    let mut stream = master.greeted().await;
    assert_eq!(stream.hello.node, "node-a");
    assert_eq!(
        node.event().await,
        Event::SourceUp {
            source: Source::Master
        }
    );
    stream
        .say(verdict(1, VerdictKind::PodGone, &["registry.example/app:1"]))
        .await;
    let Event::PodLost { lost } = node.event().await else {
        panic!("another event");
    };
    assert_eq!(lost.id.as_str(), "01".repeat(16));
    assert_eq!(
        (lost.pod.uid.as_str(), lost.pod.to_string()),
        ("uid-1", "team/web".to_owned())
    );
    assert_eq!(
        (lost.images[0].as_str(), &*lost.cause),
        ("registry.example/app:1", "deleted")
    );
    assert_eq!(fate(&mut stream).await, (1, Fate::Remembered));

    stream.say(verdict(2, VerdictKind::ImagesReplaced, &[])).await;
    assert_eq!(fate(&mut stream).await, (2, Fate::NotUnderstood));

    drop(stream);
    assert_eq!(
        node.event().await,
        Event::SourceDown {
            source: Source::Master
        }
    );
    let mut stream = master.greeted().await;
    assert_eq!(
        node.event().await,
        Event::SourceUp {
            source: Source::Master
        }
    );
    stream.say(verdict(1, VerdictKind::PodGone, &[])).await;
    assert_eq!(fate(&mut stream).await, (1, Fate::Repeated));
    stream.say(verdict(3, VerdictKind::ImagesReplaced, &["a"])).await;
    let next = node.event().await;
    assert!(
        matches!(&next, Event::PodLost { lost } if lost.images.len() == 1),
        "{next:?}"
    );
    assert_eq!(fate(&mut stream).await, (3, Fate::Remembered));
}

#[tokio::test]
async fn a_node_tells_what_it_is_and_pulls() {
    let folder = folder();
    let mut master = FakeMaster::start(folder.path()).await;
    let node = Node::start(folder.path(), master.address).await;
    let mut stream = master.greeted().await;
    let facts = &stream.hello.facts;
    assert_eq!(
        (&*facts.version, &*facts.containerd),
        (env!("CARGO_PKG_VERSION"), "")
    );
    let works: Vec<_> = facts.coverage.iter().map(|one| (&*one.name, one.works)).collect();
    assert_eq!(works, [("containerd", true), ("probes", false)]);
    assert_eq!(stream.hear_all().await, Up::Pulls(Default::default()));
    node.attached.send_replace(Some(Attached {
        version: "2.1.9".to_owned(),
        pid: 1,
        content_root: "/c".into(),
        snapshot_root: None,
    }));
    // The next greeting tells it; the one after at the latest, as the cut may overtake it.
    let mut containerd = String::new();
    for _ in 0..2 {
        drop(stream);
        stream = master.greeted().await;
        containerd.clone_from(&stream.hello.facts.containerd);
    }
    assert_eq!(containerd, "2.1.9");
}

async fn push(stream: &Attending, version: PolicyVersion, text: &'static str) {
    let whole = Bytes::from_static(text.as_bytes());
    let mut offset = 0;
    while let Some(piece) = part(version, &whole, offset) {
        offset += piece.bytes.len();
        stream.say(Down::Policy(piece)).await;
    }
}

async fn answer(stream: &mut Attending) -> PolicyAnswer {
    let up = stream.hear().await;
    let Up::Policy(answer) = up else {
        panic!("{up:?}");
    };
    answer
}

const PUSHED: &str = "version: 1\nmode: enforce\nlimits: { image: 1GiB }\n";

#[tokio::test]
async fn policies_are_taken_refused_and_kept() {
    let folder = folder();
    let local = magi_config::parse_policy("p", LOCAL).unwrap().revision;
    let pushed = magi_config::parse_policy("p", PUSHED).unwrap().revision;
    let good = PolicyVersion::of(10, PUSHED.as_bytes());
    let mut master = FakeMaster::start(folder.path()).await;
    let mut node = Node::start(folder.path(), master.address).await;
    assert_eq!(node.policy().await, local);
    let mut stream = master.greeted().await;
    assert_eq!(stream.hello.policy, None);

    push(&stream, good, PUSHED).await;
    let taken = answer(&mut stream).await;
    assert_eq!((taken.version, taken.refused), (good, None));
    assert_eq!(node.policy().await, pushed);

    let bad = "version: 1\nmode: enforced\nlimits: { image: 1GiB, layers: 3 }\n";
    push(&stream, PolicyVersion::of(11, bad.as_bytes()), bad).await;
    let why = answer(&mut stream).await.refused.unwrap();
    assert!(
        why.contains("line 2: mode") && why.contains("line 3: limits"),
        "{why}"
    );

    let older = PolicyVersion::of(9, LOCAL.as_bytes());
    push(&stream, older, LOCAL).await;
    let why = answer(&mut stream).await.refused.unwrap();
    assert!(why.contains("revision 9 is not after revision 10"), "{why}");

    let forged = PolicyVersion::of(12, PUSHED.as_bytes());
    stream
        .say(Down::Policy(PolicyPart {
            version: forged,
            total: LOCAL.len(),
            offset: 0,
            bytes: Bytes::from_static(LOCAL.as_bytes()),
        }))
        .await;
    let why = answer(&mut stream).await.refused.unwrap();
    assert!(why.contains("digest"), "{why}");
    assert!(node.in_force.try_recv().is_err(), "nothing else came into force");

    // The agent starts anew, and its master is gone: nobody listens there.
    drop((node, stream));
    let gone = master.address;
    drop(master);
    let mut node = Node::start(folder.path(), gone).await;
    assert_eq!(node.policy().await, pushed);
    drop(node);

    // With a master again it says what it has, and still takes nothing older.
    let mut master = FakeMaster::start(folder.path()).await;
    let mut node = Node::start(folder.path(), master.address).await;
    assert_eq!(node.policy().await, pushed);
    let mut stream = master.greeted().await;
    assert_eq!(stream.hello.policy, Some(good));
    push(&stream, older, LOCAL).await;
    assert!(answer(&mut stream).await.refused.is_some());
    drop((node, stream));

    // What was kept is damaged: the local file is the fallback, and the master may send anything.
    std::fs::write(folder.path().join("state/policy.yaml"), "version: 1\n").unwrap();
    let mut node = Node::start(folder.path(), master.address).await;
    assert_eq!(node.policy().await, local);
    let stream = master.greeted().await;
    assert_eq!(stream.hello.policy, None);
}

/// The next batch of records; the stream carries nothing else here but what is being pulled.
async fn batch(stream: &mut Attending) -> Vec<magi_master_api::message::AuditRecord> {
    let up = stream.hear().await;
    let Up::Audit(batch) = up else {
        panic!("{up:?}");
    };
    batch.records
}

#[tokio::test]
async fn the_trail_arrives_once_over_cuts() {
    const RECORDS: u64 = 200;
    let folder = folder();
    let mut master = FakeMaster::start(folder.path()).await;
    let mut node = Node::start(folder.path(), master.address).await;
    let file = folder.path().join("audit.jsonl");
    let mut log = AuditLog::open(&file, 1 << 20, 1, "node-a".to_owned(), Time::from_micros(7)).unwrap();
    for n in 0..RECORDS {
        let record = AuditRecord {
            pull: None,
            policy: "test".to_owned(),
            entry: Entry::Forgotten {
                what: format!("record {n}\nof some length"),
            },
        };
        let written = log.write(Time::from_micros(n), &record).unwrap();
        let mark = AuditMark {
            run: written.run.as_micros(),
            sequence: written.sequence,
        };
        node.trail.hand(mark, written.line, &record.entry);
    }

    let mut stored = Vec::new();
    let last = |stored: &[magi_master_api::message::AuditRecord]| stored.last().map(|record| record.mark);
    // Every other batch is lost before it is stored; of the rest every other one is stored, and the node does not hear.
    for round in 0.. {
        let mut stream = master.attended().await;
        stream.greet(last(&stored).into_iter().collect()).await;
        let records = batch(&mut stream).await;
        match round % 3 {
            0 => continue,
            1 => stored.extend(records),
            _ => {
                stored.extend(records);
                stream.say(Down::AuditStored(last(&stored).unwrap())).await;
                if stored.len() < usize::try_from(RECORDS).unwrap() {
                    stored.extend(batch(&mut stream).await);
                }
            }
        }
        if stored.len() >= usize::try_from(RECORDS).unwrap() {
            break;
        }
    }
    let lines: Vec<String> = stored
        .into_iter()
        .map(|record| String::from_utf8(record.json.to_vec()).unwrap())
        .collect();
    let written = std::fs::read_to_string(&file).unwrap();
    assert_eq!(lines, written.lines().collect::<Vec<_>>());
}
