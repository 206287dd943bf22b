//! magi-gateway as a process, in front of a containerd of ours, as systemd or an operator starts it.

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::containerd::Containerd;
use crate::cri::Cri;
use crate::magi::binary;
use crate::process::{Launch, Process};
use crate::wait;

const READY_WITHIN: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_millis(5);

/// The kubelet's end: a folder with the gateway's socket, which outlives each process that serves it.
#[derive(Debug)]
pub struct Place {
    dir: TempDir,
    /// What systemd would hold, if it did.
    held: Option<OwnedFd>,
}

impl Place {
    /// A folder in which each process makes the socket anew.
    pub fn new() -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("magi-gateway-")
            .tempdir()
            .context("a folder for magi-gateway")?;
        Ok(Self { dir, held: None })
    }

    /// A socket that is there before any process is, and is handed over to each.
    pub fn activated() -> Result<Self> {
        let mut place = Self::new()?;
        std::fs::create_dir(place.dir.path().join("run")).context("a folder for the socket")?;
        let listener = UnixListener::bind(place.socket()).context("the socket")?;
        place.held = Some(listener.into());
        Ok(place)
    }

    /// Whether the socket is handed over.
    pub fn is_activated(&self) -> bool {
        self.held.is_some()
    }

    /// The socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("run/image.sock")
    }

    /// A client of it.
    pub fn cri(&self) -> Cri {
        Cri::connect(&self.socket())
    }

    /// Starts a process that serves the socket, and waits until it does.
    pub async fn start(&self, node: &Containerd, magi: &Path) -> Result<Gateway> {
        let program = binary("magi-gateway")?;
        let log = self.dir.path().join("log");
        let launch = match &self.held {
            None => Launch::new("magi-gateway", program, &log),
            // Its number, and the process's, as sd_listen_fds(3) has them; std hands over nothing but 0, 1 and 2.
            Some(held) => Launch::new("magi-gateway", "/bin/sh", &log)
                .arg("-c")
                .arg("LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\" 3<&0 </dev/null")
                .arg(program)
                .stdin(held.try_clone().context("duplicate the socket")?),
        };
        let before = std::fs::read_to_string(&log).unwrap_or_default().len();
        let process = launch
            .arg("--listen")
            .arg(self.socket())
            .arg("--containerd")
            .arg(node.address())
            .arg("--node")
            .arg(magi)
            .start()?;
        let runs = || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let says = text
                .get(before..)
                .is_some_and(|new| new.contains("magi-gateway runs"));
            (says && UnixStream::connect(self.socket()).is_ok()).then_some(())
        };
        wait::until("magi-gateway to listen", READY_WITHIN, STEP, async || runs())
            .await
            .with_context(|| process.log_tail(20))?;
        Ok(Gateway { process })
    }

    /// All that its processes have logged.
    pub fn log(&self) -> Result<String> {
        std::fs::read_to_string(self.dir.path().join("log")).context("read magi-gateway's log")
    }
}

/// A running magi-gateway. Ended on drop.
#[derive(Debug)]
pub struct Gateway {
    process: Process,
}

impl Gateway {
    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Tells it to end; it does when its calls are over.
    pub fn begin_to_stop(&self) -> Result<()> {
        self.process.signal(Signal::TERM)
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&self, bound: Duration) -> Result<ExitStatus> {
        self.process.wait(bound).await
    }
}
