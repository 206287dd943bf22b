//! A node with everything of magi on it, and how each part fails and comes back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::fault::{Fault, Kind};
use super::pool::Served;
use crate::cri::Cri;
use crate::gateway::{Gateway, Place};
use crate::magi::{self, Magi};
use crate::master::{Happening, Master, Teller, Way};
use crate::{Containerd, Line, Registry, owners, wait};

const POLICY: &str = "version: 1
mode: enforce
denyFor: 0s
orphanGrace: 0s
orphanKeep: { for: 0s }
breaker: { stops: 0 }
limits: { image: 64MiB }
";
const BOUND: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(2);

pub(super) struct Stage {
    registry: Served,
    node: Containerd,
    options: magi::Options,
    magi: Magi,
    master: Master,
    place: Place,
    gateway: Gateway,
    /// Those that were told to end and may still have calls.
    drained: Vec<Gateway>,
    folder: TempDir,
}

/// What a worker needs; it outlives every process.
#[derive(Debug, Clone)]
pub(super) struct Client {
    containerd: std::path::PathBuf,
    gateway: std::path::PathBuf,
    registry: String,
    teller: Teller,
}

impl Client {
    /// As the kubelet does after a failure, on a new connection each time.
    pub(super) fn cri(&self, by_gateway: bool) -> Cri {
        Cri::connect(if by_gateway {
            &self.gateway
        } else {
            &self.containerd
        })
    }

    pub(super) fn reference(&self, repository: &str) -> String {
        format!("{}/{repository}:1", self.registry)
    }

    /// The API server says so, whoever is there to hear it.
    pub(super) fn tell(&self, happened: &[Happening]) -> Result<()> {
        self.teller.tell(happened)
    }
}

impl Stage {
    pub(super) async fn set(line: Line) -> Result<Self> {
        let folder = tempfile::tempdir().context("a folder")?;
        let registry = Served::start(folder.path()).await?;
        let node = Containerd::start(line).await?;
        node.trust_host(&registry.host(), "http", None)?;
        let master = Master::start_hearing(Way::AuditLog, POLICY).await?;
        let mut options = magi::Options::policy(POLICY);
        options.settings = master.node_settings(folder.path());
        options.rotate = "1GiB";
        let magi = Magi::start(&node, &options).await?;
        magi.wait_for_source("master").await?;
        let place = Place::activated()?;
        let gateway = place.start(&node, &magi.socket()).await?;
        let first = Registry::start()?;
        node.trust(&first)?;
        owners::until_known(&magi, &node.cri(), &first).await?;
        Ok(Self {
            registry,
            node,
            options,
            magi,
            master,
            place,
            gateway,
            drained: Vec::new(),
            folder,
        })
    }

    pub(super) fn version(&self) -> &str {
        self.node.version()
    }

    pub(super) fn magi(&self) -> &Magi {
        &self.magi
    }

    pub(super) fn client(&self) -> Client {
        Client {
            containerd: self.node.address(),
            gateway: self.place.socket(),
            registry: self.registry.host(),
            teller: self.master.teller(),
        }
    }

    /// What everybody said last.
    pub(super) fn logs(&self) -> String {
        [
            self.magi.log_tail(15),
            self.master.process().log_tail(10),
            self.node.log_tail(10),
            self.gateway.process().log_tail(10),
        ]
        .join("\n")
    }

    /// Ends all of magi, until [`Self::magi_comes_back`].
    pub(super) fn magi_goes(&self) -> Result<()> {
        self.gateway.process().kill9()?;
        self.magi.kill9()?;
        self.master.kill()
    }

    pub(super) async fn magi_comes_back(&mut self) -> Result<()> {
        self.master.start_again().await?;
        self.magi.start_again(&self.options).await?;
        self.gateway = self.place.start(&self.node, &self.magi.socket()).await?;
        Ok(())
    }

    /// Makes one fail that is not magi's, and waits until it serves again.
    pub(super) async fn fail_without_magi(&mut self, kind: Kind) -> Result<()> {
        if kind == Kind::Registry {
            self.registry.fail().await
        } else {
            self.node.kill9()?;
            self.node.start_again().await
        }
    }

    /// Makes one fail, and waits until it serves again.
    pub(super) async fn fail(&mut self, kind: Kind) -> Result<Fault> {
        let at = Instant::now();
        let mut attached = None;
        match kind {
            Kind::Node => {
                self.magi.kill9()?;
                let again = Instant::now();
                self.magi.start_again(&self.options).await?;
                attached = Some(again.elapsed());
            }
            Kind::Gateway => {
                self.gateway.process().kill9()?;
                self.gateway = self.place.start(&self.node, &self.magi.socket()).await?;
            }
            Kind::GatewayInOrder => {
                self.gateway.begin_to_stop()?;
                let next = self.place.start(&self.node, &self.magi.socket()).await?;
                self.drained.push(std::mem::replace(&mut self.gateway, next));
                self.drained.retain(|old| old.process().is_running());
            }
            Kind::Containerd => {
                let before = self.attachments()?;
                self.fail_without_magi(kind).await?;
                let again = Instant::now();
                wait::until("magi-node to attach again", BOUND, STEP, async || {
                    (self.attachments().ok()? > before).then_some(())
                })
                .await?;
                attached = Some(again.elapsed());
            }
            Kind::Master => {
                self.master.kill()?;
                self.master.start_again().await?;
            }
            Kind::Registry => self.fail_without_magi(kind).await?,
        }
        Ok(Fault {
            kind,
            at,
            over: Instant::now(),
            attached,
        })
    }

    /// How often magi-node has found containerd.
    fn attachments(&self) -> Result<usize> {
        let changes = self.magi.audit_of("source-changed")?;
        let up = changes
            .iter()
            .filter(|change| change["source"] == "containerd" && change["up"] == true);
        Ok(up.count())
    }

    pub(super) async fn end(self) -> Result<()> {
        self.gateway.begin_to_stop()?;
        ensure!(
            self.gateway.ended(BOUND).await?.success(),
            "magi-gateway did not end in order"
        );
        for old in self.drained {
            ensure!(
                old.ended(BOUND).await?.success(),
                "a magi-gateway did not end in order"
            );
        }
        self.magi.stop()?;
        self.node.shutdown()?;
        drop(self.folder);
        Ok(())
    }
}
