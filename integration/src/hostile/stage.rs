//! One containerd with as much of magi around it as the mode has, configured as an operator would.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::Mode;
use super::world::World;
use crate::api::Counts;
use crate::containerd::Options;
use crate::gateway::{Gateway, Place};
use crate::unpack::Unpack;
use crate::{Containerd, Cri, Line, Magi, Pod, magi, owners, registry, verifier};

/// What the operator allows.
const POLICY: &str = "\
version: 1
mode: enforce
limits: { image: 64MiB, layer: 48MiB }
starving: { rate: 2MiB, for: 3s }
headroom: { free: 20 }
";
/// What a layer may unpack to.
pub(super) const UNPACKED: u64 = 256 << 20;
/// containerd's own: five minutes, where nobody says otherwise.
pub(super) const STALLED: &str = "15s";
/// A disk in memory, so that what is written to it is what containerd writes.
pub(super) const DISK: u64 = 2 << 30;
const VERIFY_WITHIN: Duration = Duration::from_secs(3);
const BOUND: Duration = Duration::from_secs(30);

/// A containerd, magi, and who pulls.
pub(super) struct Stage<'w> {
    pub(super) world: &'w World,
    pub(super) mode: Mode,
    pub(super) node: Containerd,
    pub(super) magi: Magi,
    gateway: Option<(Place, Gateway)>,
    /// Each pull is another pod's.
    pods: AtomicU64,
    _unpack: TempDir,
}

impl<'w> Stage<'w> {
    pub(super) async fn set(world: &'w World, line: Line, mode: Mode) -> Result<Self> {
        let has_hooks = mode != Mode::Passive;
        let folder = tempfile::tempdir().context("a folder for magi-unpack")?;
        let unpack = Unpack::prepare(folder.path(), &format!("unpacked = {UNPACKED}\n"))?;
        let ca = world.tls.ca_file().context("the registry has no authority")?;
        let options = Options {
            extra_toml: if has_hooks { unpack.toml() } else { String::new() },
            disk: Some(DISK),
            nri: true,
            image_pull_progress_timeout: Some(STALLED.to_owned()),
            env: vec![
                ("HTTPS_PROXY".to_owned(), world.proxy.url().into()),
                ("SSL_CERT_FILE".to_owned(), ca.into()),
            ],
            ..Options::default()
        };
        let node = Containerd::start_with(line, &options).await?;
        for registry in world.all() {
            node.trust(registry)?;
        }
        node.trust_host(&behind_proxy(world), "https", Some(ca))?;
        let options = magi::Options {
            nri: Some(node.dir().join("nri.sock")),
            settings: if has_hooks {
                "resolver: { mode: on }\n".to_owned()
            } else {
                String::new()
            },
            ..magi::Options::policy(POLICY)
        };
        let magi = Magi::start(&node, &options).await?;
        unpack.tells(&magi.socket())?;
        if has_hooks && line == Line::V2 {
            verifier::install(&node, &magi.socket(), VERIFY_WITHIN)?;
        }
        let gateway = match mode {
            Mode::Passive | Mode::Hooks => None,
            Mode::Gateway => {
                let place = Place::new()?;
                let gateway = place.start(&node, &magi.socket()).await?;
                Some((place, gateway))
            }
        };
        let stage = Self {
            world,
            mode,
            node,
            magi,
            gateway,
            pods: AtomicU64::new(0),
            _unpack: folder,
        };
        owners::until_known(&stage.magi, &stage.cri(), &world.plain).await?;
        stage.node.api().collect().await?;
        stage.node.expect_nothing_left(&Counts::default(), BOUND).await?;
        Ok(stage)
    }

    pub(super) fn version(&self) -> &str {
        self.node.version()
    }

    /// Where the kubelet of this stage asks for images.
    pub(super) fn cri(&self) -> Cri {
        match &self.gateway {
            Some((place, _)) => place.cri(),
            None => self.node.cri(),
        }
    }

    /// Another pod for each pull.
    pub(super) fn pod(&self, namespace: &str) -> Pod {
        let number = self.pods.fetch_add(1, Ordering::Relaxed);
        Pod::new(namespace, &format!("web-{number}"))
    }

    /// What everybody said last.
    pub(super) fn logs(&self) -> String {
        format!("{}\n{}", self.magi.log_tail(40), self.node.log_tail(15))
    }

    /// Ends everything, and sees that nothing is left.
    pub(super) fn end(self) -> Result<()> {
        drop(self.gateway);
        self.magi.stop()?;
        self.node.shutdown()?.expect_none()
    }
}

/// The registry that only the proxy can reach.
pub(super) fn behind_proxy(world: &World) -> String {
    format!("{}:{}", registry::NAME, world.tls.address().port())
}
