//! A master and nodes.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use magi_master_api::client::{self, FromMaster, NodeClient, ToMaster};
use magi_master_api::message::{self, Fate, NodeFacts, VerdictAnswer};
use magi_master_api::policy::PolicyVersion;
use magi_master_api::tls::TlsFiles;
use magi_master_api::wire::admin_client::AdminClient;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Channel;

use crate::certs::{Authority, Subject};
use crate::counters::{Count, Counters};
use crate::names::NodeName;
use crate::policy::{Publisher, Snapshot};
use crate::store::{Store, StoreSettings};
use crate::stream::identity::Peer;
use crate::stream::nodes::Shown;
use crate::stream::standing::{Standing, Unknowing};
use crate::stream::{Limits, Parts, Server};
use crate::switch::Switchboard;
use crate::verdict::Verdict;

/// Nothing here takes so long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(20);
pub(super) const NAME: &str = "magi-master";

/// Limits of a master in a hurry.
pub(super) fn hasty() -> Limits {
    Limits {
        handshake: Duration::from_secs(2),
        ping_every: Duration::from_millis(500),
        goodbye: Duration::from_millis(200),
        reload_every: Duration::from_millis(20),
        ..Limits::default()
    }
}

pub(super) struct World {
    pub(super) folder: tempfile::TempDir,
    pub(super) authority: Authority,
    pub(super) address: SocketAddr,
    pub(super) verdicts: mpsc::Sender<Verdict>,
    pub(super) counters: Arc<Counters>,
    pub(super) policy: watch::Sender<Option<Arc<Snapshot>>>,
    pub(super) store: Store,
    stop: CancellationToken,
    _stop: DropGuard,
    shared: Arc<crate::stream::Shared>,
    pub(super) serving: JoinHandle<()>,
}

impl World {
    pub(super) async fn new() -> Self {
        Self::with(hasty(), Arc::new(Unknowing)).await
    }

    pub(super) async fn with(limits: Limits, standing: Arc<dyn Standing>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::in_folder(folder.path(), Timestamp::now()).unwrap();
        let master = folder.path().join("master");
        issue(&authority, &master, &Subject::Master(vec![NAME.to_owned()]), 1);
        let counters = Arc::new(Counters::default());
        let (verdicts, queue) = mpsc::channel(16);
        let policies = Publisher::open(None, folder.path(), Arc::clone(&counters)).unwrap();
        let policy = policies.sender();
        let stop = CancellationToken::new();
        let store = Store::open(
            StoreSettings {
                path: folder.path().join("audit/audit.jsonl"),
                rotate: 1 << 20,
                keep: 2,
                age: Duration::from_secs(3600),
            },
            None,
            Arc::clone(&counters),
        )
        .unwrap();
        let parts = Parts {
            verdicts: queue,
            standing,
            policies: Arc::new(policies),
            switchboard: Arc::new(Switchboard::open(folder.path()).unwrap()),
            store: store.clone(),
            counters: Arc::clone(&counters),
            tls: TlsFiles::in_folder(&master),
            limits,
            stop: stop.clone(),
        };
        let server = Server::bind("127.0.0.1:0".parse().unwrap(), parts).await.unwrap();
        Self {
            address: server.address(),
            shared: Arc::clone(&server.shared),
            serving: tokio::spawn(server.serve()),
            _stop: stop.clone().drop_guard(),
            stop,
            folder,
            authority,
            verdicts,
            counters,
            policy,
            store,
        }
    }

    /// A certificate of the master's authority.
    pub(super) fn certificate(&self, subject: &Subject) -> TlsFiles {
        let folder = self
            .folder
            .path()
            .join(format!("{subject:?}").replace(['/', '"', ' '], "_"));
        issue(&self.authority, &folder, subject, 1);
        TlsFiles::in_folder(&folder)
    }

    pub(super) async fn operator(&self) -> AdminClient<Channel> {
        let tls = self.certificate(&Subject::Peer(Peer::Operator("ann".to_owned())));
        client::operator(&self.address.to_string(), NAME, &tls)
            .await
            .unwrap()
    }

    /// A node that answers every verdict.
    pub(super) fn node(&self, name: &str) -> Node {
        self.node_at(name, self.address)
    }

    pub(super) fn node_at(&self, name: &str, master: SocketAddr) -> Node {
        self.node_with(name, master, self.certificate(&node(name)), None)
    }

    pub(super) fn node_with(
        &self,
        name: &str,
        master: SocketAddr,
        tls: TlsFiles,
        policy: Option<PolicyVersion>,
    ) -> Node {
        let (inbound, hears) = mpsc::channel(4);
        let (says, outbound) = mpsc::channel(4);
        let stop = CancellationToken::new();
        let config = NodeClient {
            master: master.to_string(),
            server_name: NAME.to_owned(),
            tls,
            node: name.to_owned(),
            facts: NodeFacts {
                version: "test".to_owned(),
                ..NodeFacts::default()
            },
            policy,
            longest_pause: Duration::from_millis(100),
        };
        tokio::spawn(client::run(config, inbound, outbound, stop.clone()));
        Node {
            hears,
            says,
            _stop: stop.drop_guard(),
        }
    }

    pub(super) async fn say(&self, verdict: Verdict) {
        self.verdicts.send(verdict).await.unwrap();
    }

    pub(super) fn publish(&self, revision: u64, text: impl Into<Bytes>) -> PolicyVersion {
        let bytes = text.into();
        let version = PolicyVersion::of(revision, &bytes);
        self.policy.send_replace(Some(Arc::new(Snapshot {
            version,
            bytes,
            by: None,
        })));
        version
    }

    pub(super) fn shown(&self, name: &str) -> Option<Shown> {
        let mut shown = self.shared.nodes.show(name, None, 1);
        shown.pop()
    }

    pub(super) fn count(&self, count: Count) -> u64 {
        self.counters.get(count)
    }

    /// Waits until a counter has this value, at least.
    pub(super) async fn counted(&self, count: Count, wanted: u64) {
        until(&format!("{count:?} is {wanted}"), || self.count(count) >= wanted).await;
    }

    pub(super) async fn connected(&self, name: &str) {
        let is_there = || self.shown(name).is_some_and(|shown| shown.is_connected);
        until(&format!("{name} is connected"), is_there).await;
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.serving)
            .await
            .unwrap()
            .unwrap();
    }
}

pub(super) fn node(name: &str) -> Subject {
    Subject::Peer(Peer::Node(NodeName::new(name).unwrap()))
}

pub(super) fn issue(authority: &Authority, folder: &Path, subject: &Subject, days: i64) {
    let leaf = authority.issue(subject, days, Timestamp::now()).unwrap();
    authority.write(folder, &leaf).unwrap();
}

/// Polls until `is_so`.
pub(super) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let polled = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(
        tokio::time::timeout(PATIENCE, polled).await.is_ok(),
        "not in time: {what}"
    );
}

pub(super) struct Node {
    pub(super) hears: mpsc::Receiver<FromMaster>,
    pub(super) says: mpsc::Sender<ToMaster>,
    _stop: DropGuard,
}

impl Node {
    pub(super) async fn hear(&mut self) -> FromMaster {
        let heard = tokio::time::timeout(PATIENCE, self.hears.recv()).await;
        heard.expect("nothing is heard").expect("the client is gone")
    }

    /// The next verdict, answered; what else is heard is dropped.
    pub(super) async fn verdict(&mut self) -> message::Verdict {
        loop {
            if let FromMaster::Verdict(verdict) = self.hear().await {
                self.answer(&verdict).await;
                return verdict;
            }
        }
    }

    pub(super) async fn answer(&self, verdict: &message::Verdict) {
        let answer = VerdictAnswer {
            id: verdict.id,
            fate: Fate::Remembered,
            detail: String::new(),
        };
        self.says.send(ToMaster::Verdict(answer)).await.unwrap();
    }

    /// Verdicts until the one of the pod `last`, by the pods' uids.
    pub(super) async fn verdicts_until(&mut self, last: &str) -> Vec<String> {
        let mut uids = Vec::new();
        while uids.last().map(String::as_str) != Some(last) {
            uids.push(self.verdict().await.uid);
        }
        uids
    }

    /// Why the master cannot be had.
    pub(super) async fn loss(&mut self) -> String {
        loop {
            if let FromMaster::Disconnected { why } = self.hear().await {
                return why;
            }
        }
    }

    /// The next policy.
    pub(super) async fn policy(&mut self) -> (PolicyVersion, Bytes) {
        loop {
            if let FromMaster::Policy { version, bytes } = self.hear().await {
                return (version, bytes);
            }
        }
    }
}

/// Whether a list has each of `0..most` exactly once.
pub(super) fn is_each_once(uids: &[String], most: usize) -> bool {
    let distinct: BTreeSet<&String> = uids.iter().collect();
    uids.len() == most && distinct.len() == most
}
