//! What the soak runs on: a containerd with magi-unpack, magi-node, and a master that hears of pods.

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::containerd;
use crate::magi::{self, Magi};
use crate::master::{Master, Way};
use crate::owners;
use crate::unpack::Unpack;
use crate::{Containerd, Line, Registry};

/// What an operator would set, but that each attack is judged by itself, however many there are.
const POLICY: &str = "version: 1
mode: enforce
denyFor: 0s
orphanGrace: 0s
orphanKeep: { for: 0s }
breaker: { stops: 0 }
limits: { image: 64MiB, layer: 48MiB }
rules:
  - { name: banned, match: { images: [\"*/banned-*\"] }, deny: true }
";
const UNPACKED: &str = "unpacked = 64MiB\n";

pub(super) struct Stage {
    node: Containerd,
    magi: Magi,
    master: Master,
    /// The bounds of magi-unpack, and the pushed policy.
    _folder: TempDir,
}

impl Stage {
    pub(super) async fn set(line: Line) -> Result<Self> {
        let folder = tempfile::tempdir().context("a folder")?;
        let unpack = Unpack::prepare(folder.path(), UNPACKED)?;
        let options = containerd::Options {
            extra_toml: unpack.toml(),
            ..containerd::Options::default()
        };
        let node = Containerd::start_with(line, &options).await?;
        let master = Master::start_hearing(Way::AuditLog, POLICY).await?;
        let mut options = magi::Options::policy(POLICY);
        options.settings = master.node_settings(folder.path());
        options.rotate = "1GiB";
        let magi = Magi::start(&node, &options).await?;
        unpack.tells(&magi.socket())?;
        magi.wait_for_source("master").await?;
        let registry = Registry::start()?;
        node.trust(&registry)?;
        owners::until_known(&magi, &node.cri(), &registry).await?;
        Ok(Self {
            node,
            magi,
            master,
            _folder: folder,
        })
    }

    pub(super) fn version(&self) -> &str {
        self.node.version()
    }

    pub(super) fn node(&self) -> &Containerd {
        &self.node
    }

    pub(super) fn magi(&self) -> &Magi {
        &self.magi
    }

    pub(super) fn master(&self) -> &Master {
        &self.master
    }

    /// What magi-node and magi-master said last.
    pub(super) fn logs(&self) -> String {
        format!(
            "{}\n{}",
            self.magi.log_tail(20),
            self.master.process().log_tail(20)
        )
    }

    pub(super) fn end(self) -> Result<()> {
        self.magi.stop()?;
        self.node.shutdown()?.expect_none()
    }
}
