//! Simulated nodes: real clients with real certificates, each answering its verdicts.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use magi_master::certs::{Order, make};
use magi_master_api::client::{FromMaster, NodeClient, ToMaster, run};
use magi_master_api::message::{Coverage, Fate, NodeFacts, PolicyAnswer, VerdictAnswer};
use magi_master_api::tls::TlsFiles;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Nodes that connect at a time.
const TOGETHER: usize = 64;
/// Between two things that are waited for.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn name(number: usize) -> String {
    format!("node-{number}")
}

pub(crate) fn certificates(folder: &Path) -> TlsFiles {
    TlsFiles::in_folder(folder)
}

pub(crate) fn make_master(folder: &Path) -> Result<()> {
    let order = Order {
        master: vec!["magi-master".to_owned()],
        ..order(folder)
    };
    make(&order, Timestamp::now())?;
    Ok(())
}

fn order(folder: &Path) -> Order {
    Order {
        out: folder.to_owned(),
        master: Vec::new(),
        nodes: Vec::new(),
        operators: Vec::new(),
        days: 2,
        overwrite: false,
    }
}

/// All of them, connected.
pub(crate) struct Nodes {
    latencies: mpsc::Receiver<i64>,
    _stop: DropGuard,
}

impl Nodes {
    pub(crate) async fn connect(number: usize, folder: &Path, master: SocketAddr) -> Result<Self> {
        let order = Order {
            nodes: (0..number).map(name).collect(),
            ..order(folder)
        };
        make(&order, Timestamp::now())?;
        let stop = CancellationToken::new();
        let (told, latencies) = mpsc::channel(65_536);
        let (connected, mut connections) = mpsc::channel(number);
        let turns = Arc::new(Semaphore::new(TOGETHER));
        for number in 0..number {
            let turn = Arc::clone(&turns).acquire_owned().await?;
            let folder: PathBuf = folder.join("nodes").join(name(number));
            let (told, connected, stop) = (told.clone(), connected.clone(), stop.clone());
            tokio::spawn(async move {
                let (inbound, mut hears) = mpsc::channel(4);
                let (says, outbound) = mpsc::channel(4);
                let client = NodeClient {
                    master: master.to_string(),
                    server_name: "magi-master".to_owned(),
                    tls: TlsFiles::in_folder(&folder),
                    node: name(number),
                    facts: facts(),
                    policy: None,
                    longest_pause: Duration::from_secs(1),
                };
                let mut turn = Some(turn);
                tokio::spawn(run(client, inbound, outbound, stop));
                while let Some(heard) = hears.recv().await {
                    let now = Timestamp::now().as_microsecond();
                    let answer = match heard {
                        FromMaster::Policy { version, .. } => {
                            // The last thing that a new node hears.
                            drop(turn.take());
                            let _full = connected.try_send(());
                            ToMaster::Policy(PolicyAnswer {
                                version,
                                refused: None,
                            })
                        }
                        FromMaster::Verdict(verdict) => {
                            let _over = told.send(now - verdict.at_micros).await;
                            ToMaster::Verdict(VerdictAnswer {
                                id: verdict.id,
                                fate: Fate::Remembered,
                                detail: String::new(),
                            })
                        }
                        FromMaster::Connected { .. }
                        | FromMaster::Disconnected { .. }
                        | FromMaster::KillSwitch(_)
                        | FromMaster::AuditStored(_) => continue,
                    };
                    if says.send(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
        for _ in 0..number {
            tokio::time::timeout(PATIENCE, connections.recv())
                .await
                .context("a node does not connect")?;
        }
        Ok(Self {
            latencies,
            _stop: stop.drop_guard(),
        })
    }

    /// So many latencies, in microseconds from sending to hearing.
    pub(crate) async fn latencies(&mut self, number: usize) -> Result<Vec<i64>> {
        let mut all = Vec::with_capacity(number);
        while all.len() < number {
            let one = tokio::time::timeout(PATIENCE, self.latencies.recv())
                .await
                .with_context(|| format!("only {} of {number} verdicts came", all.len()))?;
            all.push(one.context("the nodes are gone")?);
        }
        Ok(all)
    }
}

/// As a real node tells them.
fn facts() -> NodeFacts {
    let coverage = [
        "probes",
        "requests",
        "nri",
        "socket-destroy",
        "verifier",
        "leases",
    ];
    NodeFacts {
        version: "0.1.0".to_owned(),
        containerd: "2.1.9".to_owned(),
        kernel: "6.18.0".to_owned(),
        coverage: coverage
            .map(|name| Coverage {
                name: name.to_owned(),
                works: true,
                detail: String::new(),
            })
            .into(),
    }
}
