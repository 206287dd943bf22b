//! A node with magi, its master, and an API server's part: the stage on which pods are lost while their images are pulled.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::cri::{Pod, Pull};
use crate::image::{Compression, ImageBuilder, Layer};
use crate::magi::{self, Magi};
use crate::master::{self, Happening, Loss, Master, Way};
use crate::{Behaviour, Containerd, Line, Registry, wait};

/// Orphans are stopped at once.
const POLICY: &str = "version: 1\nmode: enforce\norphanGrace: 0s\ndenyFor: 0s\norphanKeep: { free: 0 }\n";
const BOUND: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(5);
/// Who asked in the first second of magi's life stays unknown, so such a pull is given up early.
const FIRST_TRIES: Duration = Duration::from_secs(2);
/// Six seconds at the registry's pace.
const SIZE: u64 = 6_000_000;
const RATE: u64 = 1_000_000;

/// Registry, containerd, magi-node and magi-master, connected with each other.
pub struct Stage {
    registry: Registry,
    node: Containerd,
    magi: Magi,
    master: Master,
    seeds: AtomicU64,
    /// The pushed policy is kept here.
    _state: tempfile::TempDir,
}

/// A pod, and the pull of its image.
#[derive(Debug)]
pub struct Pulling {
    /// The pod.
    pub pod: Pod,
    /// The image.
    pub reference: String,
    pull: JoinHandle<Pull>,
}

impl Stage {
    /// Starts everything, and waits until magi knows whose pull it sees.
    pub async fn set(line: Line, way: Way) -> Result<Self> {
        let registry = Registry::start()?;
        let node = Containerd::start(line).await?;
        node.trust(&registry)?;
        let master = Master::start_hearing(way, POLICY).await?;
        let state = tempfile::tempdir().context("a folder")?;
        let mut options = magi::Options::policy(POLICY);
        options.settings = master.node_settings(state.path());
        let magi = Magi::start(&node, &options).await?;
        let stage = Self {
            registry,
            node,
            magi,
            master,
            seeds: 1.into(),
            _state: state,
        };
        stage
            .magi
            .wait_for_source("master")
            .await
            .with_context(|| stage.logs())?;
        stage.until_owners_are_known().await?;
        Ok(stage)
    }

    /// The version of its containerd.
    pub fn version(&self) -> &str {
        self.node.version()
    }

    async fn until_owners_are_known(&self) -> Result<()> {
        for round in 0..5 {
            let pulling = self.pull(Pod::new("first", &format!("try-{round}")))?;
            let known = self.until_known(&pulling.pod, FIRST_TRIES).await.is_ok();
            pulling.pull.abort();
            if known {
                return Ok(());
            }
        }
        anyhow::bail!("no owner becomes known\n{}", self.logs())
    }

    /// What the two of them said last.
    pub fn logs(&self) -> String {
        format!(
            "{}\n{}",
            self.magi.log_tail(20),
            self.master.process().log_tail(20)
        )
    }

    /// What pulls.
    pub fn node(&self) -> &Containerd {
        &self.node
    }

    /// What watches it.
    pub fn magi(&self) -> &Magi {
        &self.magi
    }

    /// What tells it of pods and policies.
    pub fn master(&self) -> &Master {
        &self.master
    }

    /// The same, to be started again.
    pub fn master_mut(&mut self) -> &mut Master {
        &mut self.master
    }

    /// Where images come from.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// A new image that nobody has, good, and of six seconds.
    pub fn image(&self, name: &str) -> Result<String> {
        let seed = self.seeds.fetch_add(1, Ordering::Relaxed);
        let layer = Layer::random(seed, SIZE, Compression::None)?;
        let reference = self
            .registry
            .put(name, "1", &ImageBuilder::oci().layer(layer).build()?);
        self.registry.behave(name, Behaviour::rate(RATE));
        Ok(reference)
    }

    /// The pod is created on the node, and its image, a new one, is pulled.
    pub fn pull(&self, pod: Pod) -> Result<Pulling> {
        let reference = self.image(&pod.name)?;
        self.pull_created(pod, reference)
    }

    /// The pod is created on the node, and this image is pulled for it.
    pub fn pull_created(&self, pod: Pod, reference: String) -> Result<Pulling> {
        self.tell(&master::created(&pod, &reference))?;
        Ok(self.pull_image(pod, reference))
    }

    /// The image is pulled for the pod, as the kubelet does.
    pub fn pull_image(&self, pod: Pod, reference: String) -> Pulling {
        let cri = self.node.cri();
        let asked = (reference.clone(), pod.clone());
        let pull = tokio::spawn(async move { cri.pull_as(&asked.0, Some(&asked.1), None).await });
        Pulling { pod, reference, pull }
    }

    /// Waits until magi knows that the pod's image is pulled for the pod.
    pub async fn known(&self, pulling: &Pulling) -> Result<()> {
        self.until_known(&pulling.pod, BOUND).await
    }

    async fn until_known(&self, pod: &Pod, bound: Duration) -> Result<()> {
        let known = wait::until("the owner to be known", bound, STEP, || async {
            let pulls = self.magi.pulls().await.unwrap_or_default();
            pulls
                .iter()
                .any(|pull| pull.pointer("/owner/pod/uid") == Some(&pod.uid.as_str().into()))
                .then_some(())
        });
        known.await.with_context(|| self.logs())
    }

    /// The API server says that this has happened.
    pub fn tell(&self, happened: &[Happening]) -> Result<()> {
        self.master.api_server_writes(happened)
    }

    /// A pod is lost in the middle of its pull. How long it took from the moment before the API server says so until
    /// PullImage returned with an error; that it came through is an error here.
    pub async fn lose(&self, pod: Pod, loss: Loss) -> Result<Duration> {
        let pulling = self.pull(pod)?;
        self.known(&pulling).await?;
        let lost = [loss.of(&pulling.pod, &pulling.reference)];
        let said = Instant::now();
        self.tell(&lost)?;
        let pull = pulling.end().await?;
        ensure!(
            pull.outcome.is_err(),
            "{loss:?}: the pull went on\n{}",
            self.logs()
        );
        Ok(pull.ended.duration_since(said))
    }

    /// What magi meant to do so far.
    pub fn intents(&self) -> Result<Vec<Value>> {
        self.magi.audit_of("intent")
    }

    /// Ends it in order.
    pub fn end(self) -> Result<()> {
        self.magi.stop()?;
        self.node.shutdown()?;
        Ok(())
    }
}

impl Pulling {
    /// Waits for its end.
    pub async fn end(self) -> Result<Pull> {
        self.pull.await.context("the pull")
    }
}
