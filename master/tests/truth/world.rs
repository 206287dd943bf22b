//! A master as its own process, and nodes with the real client.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use magi_master_api::client::{FromMaster, NodeClient, ToMaster, operator, run};
use magi_master_api::message::{Fate, NodeFacts, Verdict, VerdictAnswer};
use magi_master_api::tls::TlsFiles;
use magi_master_api::wire::{ListNodesRequest, MasterStatus, StatusRequest};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

const MASTER: &str = env!("CARGO_BIN_EXE_magi-master");
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const NODES: [&str; 2] = ["worker-1", "worker-2"];

/// Everything that outlives a master.
pub(crate) struct World {
    folder: tempfile::TempDir,
    address: String,
}

/// Ends with the test, however that ends.
pub(crate) struct Master {
    child: Child,
    /// Where each intake listens or looks, as the log says.
    pub(crate) intakes: BTreeMap<String, String>,
}

impl Master {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl World {
    /// With this `intake` section.
    pub(crate) fn new(intake: impl FnOnce(&dyn Fn(&str) -> String) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        make_certificates(folder.path());
        fs::write(path("policy.yaml"), "version: 1\nmode: enforce\n").unwrap();
        // A master that is started again has to be where it was.
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        let settings = format!(
            "listen: {address}\npolicy: {}\nstate: {}\naudit: {{ path: {} }}\nlog: {{ format: json }}\n\
             tls: {{ certificate: {}, key: {}, ca: {} }}\nintake: {}\n",
            path("policy.yaml"),
            path("state"),
            path("audit.jsonl"),
            path("master/tls.crt"),
            path("master/tls.key"),
            path("master/ca.crt"),
            intake(&path)
        );
        fs::write(path("master.yaml"), settings).unwrap();
        fs::create_dir(path("log")).unwrap();
        Self { folder, address }
    }

    /// Makes an authority, and certificates of it, in this folder.
    pub(crate) fn certificates(&self, folder: &str) {
        make_certificates(&self.path(folder));
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts a master, and waits until it listens.
    pub(crate) fn master(&self) -> Master {
        let mut command = Command::new(MASTER);
        command.args(["run", "--settings"]).arg(self.path("master.yaml"));
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut intakes = BTreeMap::new();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        loop {
            let line = lines.next().expect("it starts").unwrap();
            let line: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"));
            let fields = &line["fields"];
            let text = |key: &str| fields[key].as_str().unwrap_or_default().to_owned();
            match &*text("message") {
                "the master stands on" => {
                    intakes.insert(text("intake"), text("whence"));
                }
                "the master listens" => break,
                _ => {}
            }
        }
        // The pipe is emptied, so that the master is not slowed down by it.
        std::thread::spawn(move || lines.for_each(drop));
        Master { child, intakes }
    }

    /// Where the master listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn node(&self, name: &'static str) -> Node {
        self.node_at(name, &self.address)
    }

    /// A node for which the master is at another address.
    pub(crate) fn node_at(&self, name: &'static str, address: &str) -> Node {
        let (inbound, hears) = mpsc::channel(4);
        let (says, outbound) = mpsc::channel(64);
        let client = NodeClient {
            master: address.to_owned(),
            server_name: "magi-master".to_owned(),
            tls: TlsFiles::in_folder(&self.path("nodes").join(name)),
            node: name.to_owned(),
            facts: NodeFacts::default(),
            policy: None,
            longest_pause: Duration::from_millis(100),
        };
        let stop = CancellationToken::new();
        tokio::spawn(run(client, inbound, outbound, stop.clone()));
        Node {
            hears,
            says,
            _stop: stop.drop_guard(),
        }
    }

    pub(crate) async fn status(&self) -> MasterStatus {
        let tls = TlsFiles::in_folder(&self.path("operators/ann"));
        let mut operator = operator(&self.address, "magi-master", &tls).await.unwrap();
        operator.status(StatusRequest {}).await.unwrap().into_inner()
    }

    /// Asks until the status is as wanted; within bounds.
    pub(crate) async fn status_when(&self, wanted: impl Fn(&MasterStatus) -> bool) -> MasterStatus {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let status = self.status().await;
            if wanted(&status) {
                return status;
            }
            assert!(tokio::time::Instant::now() < deadline, "{status:?}");
            // A level is asked for, and each time costs a handshake.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl World {
    /// Asks until the master sees that a node is gone; within bounds.
    pub(crate) async fn until_away(&self, name: &str) {
        let tls = TlsFiles::in_folder(&self.path("operators/ann"));
        let mut operator = operator(&self.address, "magi-master", &tls).await.unwrap();
        let away = async {
            loop {
                let request = ListNodesRequest::default();
                let mut nodes = operator.list_nodes(request).await.unwrap().into_inner();
                while let Some(node) = nodes.message().await.unwrap() {
                    if node.node == name && !node.connected {
                        return;
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, away).await.unwrap();
    }
}

/// A node that answers every verdict.
pub(crate) struct Node {
    hears: mpsc::Receiver<FromMaster>,
    says: mpsc::Sender<ToMaster>,
    _stop: DropGuard,
}

impl Node {
    pub(crate) async fn connected(&mut self) {
        let connected = async {
            while let Some(heard) = self.hears.recv().await {
                if matches!(heard, FromMaster::Connected { .. }) {
                    return;
                }
            }
            panic!("the client has ended");
        };
        tokio::time::timeout(PATIENCE, connected).await.unwrap();
    }

    pub(crate) async fn verdict(&mut self) -> Verdict {
        let verdict = async {
            loop {
                if let FromMaster::Verdict(verdict) = self.hears.recv().await.unwrap() {
                    let answer = VerdictAnswer {
                        id: verdict.id,
                        fate: Fate::Condemned,
                        detail: String::new(),
                    };
                    self.says.send(ToMaster::Verdict(answer)).await.unwrap();
                    return verdict;
                }
            }
        };
        tokio::time::timeout(PATIENCE, verdict)
            .await
            .expect("a verdict comes")
    }
}

/// An audit log as the API server writes it.
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    rotated: u32,
}

impl Log {
    pub(crate) fn new(path: PathBuf) -> Self {
        let file = OpenOptions::new().append(true).create(true).open(&path).unwrap();
        Self {
            path,
            file,
            rotated: 0,
        }
    }

    pub(crate) fn write(&mut self, line: &str) {
        self.write_bytes(line.as_bytes());
    }

    pub(crate) fn write_bytes(&mut self, bytes: &[u8]) {
        self.file.write_all(bytes).unwrap();
    }

    pub(crate) fn rotate(&mut self) {
        self.rotated += 1;
        let name = format!("audit-2026-11-23T00-00-0{}.000.log", self.rotated);
        fs::rename(&self.path, self.path.with_file_name(name)).unwrap();
        let rotated = self.rotated;
        *self = Self::new(self.path.clone());
        self.rotated = rotated;
    }
}

fn make_certificates(folder: &Path) {
    let mut certs = Command::new(MASTER);
    certs.args([
        "certs",
        "--master-name",
        "magi-master",
        "--master-name",
        "127.0.0.1",
    ]);
    certs.args(["--operator", "ann", "--out"]).arg(folder);
    for node in NODES {
        certs.args(["--node", node]);
    }
    assert!(certs.output().unwrap().status.success());
}
