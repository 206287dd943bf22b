//! The images that are pulled, the same ones each time that the registry is started, and the registry as a process of its
//! own that can be killed.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpStream;

use crate::image::{Compression, Image, ImageBuilder, Layer};
use crate::magi::binary;
use crate::process::{Launch, Process};
use crate::registry::{Behaviour, Options};
use crate::{Registry, wait};

/// Each worker has so many healthy images of its own, so that the next one is seldom there already.
pub(super) const HEALTHY: u64 = 10;
/// Workers that pull them.
pub(super) const WORKERS: u64 = 3;
/// Bad images: one for each attacker's turn.
pub(super) const BAD: u64 = 12;
const READY_WITHIN: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(5);
/// Half a second to two seconds for a healthy one.
const HEALTHY_RATE: u64 = 2_000_000;
const MIB: u64 = 1 << 20;

/// How a bad image is bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bad {
    TooLarge,
    Endless,
    /// By itself it is good; its pod goes away.
    Orphan,
}

impl Bad {
    pub(super) fn of(number: u64) -> Self {
        match number % 3 {
            0 => Self::TooLarge,
            1 => Self::Endless,
            _ => Self::Orphan,
        }
    }
}

pub(super) fn healthy_name(worker: u64, turn: u64) -> String {
    format!("healthy-{worker}-{}", turn % HEALTHY)
}

pub(super) fn bad_name(turn: u64) -> String {
    format!("bad-{}", turn % BAD)
}

/// The same for the same numbers.
pub(super) fn healthy(worker: u64, turn: u64) -> Result<Image> {
    let seed = 100 * worker + turn % HEALTHY;
    let size = MIB + seed % 4 * MIB;
    ImageBuilder::oci()
        .layer(Layer::random(seed, size, Compression::None)?)
        .build()
}

/// Fills a registry on this port and serves it until the process is killed. For the hidden command of `magi-chaos`.
pub async fn serve(port: u16) -> Result<()> {
    let registry = Registry::start_with(Options {
        port,
        ..Options::plain()
    })?;
    for worker in 0..WORKERS {
        for turn in 0..HEALTHY {
            let name = healthy_name(worker, turn);
            registry.put(&name, "1", &healthy(worker, turn)?);
            registry.behave(&name, Behaviour::rate(HEALTHY_RATE));
        }
    }
    for number in 0..BAD {
        let name = bad_name(number);
        let seed = 10_000 + 10 * number;
        let (layers, behaviour) = match Bad::of(number) {
            Bad::TooLarge => (
                (0..3).map(|n| Layer::declared(seed + n, 40 * MIB)).collect(),
                Behaviour::rate(MIB),
            ),
            Bad::Endless => (vec![Layer::declared(seed, MIB)], Behaviour::endless().at(5 * MIB)),
            Bad::Orphan => (
                vec![Layer::random(seed, 40 * MIB, Compression::None)?],
                Behaviour::rate(MIB),
            ),
        };
        registry.put(&name, "1", &ImageBuilder::oci().layers(layers).build()?);
        registry.behave(&name, behaviour);
    }
    std::future::pending::<()>().await;
    Ok(())
}

/// The registry's process.
#[derive(Debug)]
pub(super) struct Served {
    process: Process,
    address: SocketAddr,
    log: std::path::PathBuf,
}

impl Served {
    pub(super) async fn start(folder: &Path) -> Result<Self> {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).context("a free port")?;
        let address = listener.local_addr().context("a free port")?;
        drop(listener);
        let log = folder.join("registry.log");
        let served = Self {
            process: launch(address, &log)?,
            address,
            log,
        };
        served.ready().await?;
        Ok(served)
    }

    async fn ready(&self) -> Result<()> {
        let listens = wait::until("the registry to listen", READY_WITHIN, STEP, async || {
            TcpStream::connect(self.address).await.ok()
        });
        listens.await.map(drop).with_context(|| self.process.log_tail(10))
    }

    /// Kills it and starts it again.
    pub(super) async fn fail(&mut self) -> Result<()> {
        self.process.kill9()?;
        self.process = launch(self.address, &self.log)?;
        self.ready().await
    }

    pub(super) fn host(&self) -> String {
        self.address.to_string()
    }
}

fn launch(address: SocketAddr, log: &Path) -> Result<Process> {
    Launch::new("registry", binary("magi-chaos")?, log)
        .arg("registry")
        .arg(address.port().to_string())
        .start()
}
