//! magi-master as a process, and the API server's part beside it.

mod events;
mod ways;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::magi::binary;
use crate::process::{Launch, Process};
use crate::wait;

pub use events::{
    Happening, Loss, collection_deleted, created, deleted, dry_run, evicted, eviction_refused, force_deleted,
    image_patched, namespace_deleted, refused, status_changed,
};
pub use ways::{Teller, Way};

const READY_WITHIN: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(5);
/// The node that it knows.
pub const NODE: &str = "node-1";

/// A running magi-master with one node's certificates. Ended on drop.
#[derive(Debug)]
pub struct Master {
    process: Process,
    dir: TempDir,
    port: u16,
    teller: Teller,
}

impl Master {
    /// Starts it with this policy beside an audit log, and waits until it listens.
    pub async fn start(policy: &str) -> Result<Self> {
        Self::start_hearing(Way::AuditLog, policy).await
    }

    /// Starts it without a policy: it takes one that is pushed.
    pub async fn start_for_pushes() -> Result<Self> {
        Self::start_with(Way::AuditLog, None).await
    }

    /// The same, hearing of pods in this way.
    pub async fn start_hearing(way: Way, policy: &str) -> Result<Self> {
        Self::start_with(way, Some(policy)).await
    }

    async fn start_with(way: Way, policy: Option<&str>) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("magi-master-")
            .tempdir()
            .context("a folder for magi-master")?;
        let path = |name: &str| dir.path().join(name);
        let made = Command::new(binary("magi-master")?)
            .args([
                "certs",
                "--node",
                NODE,
                "--operator",
                "tester",
                "--master-name",
                "localhost",
                "--master-name",
                "127.0.0.1",
            ])
            .arg("--out")
            .arg(path("tls"))
            .output()
            .context("magi-master certs")?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let source = match policy {
            Some(policy) => {
                std::fs::write(path("policy.yaml"), policy).context("write the policy")?;
                path("policy.yaml").display().to_string()
            }
            None => "null".to_owned(),
        };
        let port = free_port()?;
        let tls = path("tls/master");
        let (teller, intake) = Teller::ready(way, dir.path(), &tls).await?;
        let settings = format!(
            "version: 1\nlisten: 127.0.0.1:{port}\n\
             tls: {{ certificate: {tls}/tls.crt, key: {tls}/tls.key, ca: {tls}/ca.crt }}\n\
             policy: {source}\nstate: {}\naudit: {{ path: {} }}\n\
             intake: {{ {intake} }}\nlog: {{ level: debug }}\n",
            path("state").display(),
            path("records/audit.jsonl").display(),
            tls = tls.display(),
        );
        std::fs::write(path("settings.yaml"), settings).context("write the settings")?;
        let process = launch(dir.path())?;
        let master = Self {
            process,
            dir,
            port,
            teller,
        };
        master.listening().await?;
        Ok(master)
    }

    async fn listening(&self) -> Result<()> {
        let listening = wait::until("magi-master to listen", READY_WITHIN, STEP, || async {
            if let Some(status) = self.process.exited() {
                return Some(Err(anyhow::anyhow!("magi-master ended early: {status}")));
            }
            tokio::net::TcpStream::connect(("127.0.0.1", self.port))
                .await
                .is_ok()
                .then_some(Ok(()))
        });
        listening
            .await
            .and_then(|ended| ended)
            .with_context(|| self.process.log_tail(30))
    }

    /// Ends it at once, as a crash does.
    pub fn kill(&self) -> Result<()> {
        self.process.kill9().map(|_| ())
    }

    /// Starts it again after its end, with everything that it kept.
    pub async fn start_again(&mut self) -> Result<()> {
        ensure!(!self.process.is_running(), "it still runs");
        self.process = launch(self.dir.path())?;
        self.listening().await
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Lines of magi-node's settings that lead it here.
    pub fn node_settings(&self, state: &Path) -> String {
        let tls = self.dir.path().join("tls/nodes").join(NODE);
        format!(
            "master: {{ address: \"localhost:{}\", ca: {tls}/ca.crt, cert: {tls}/tls.crt, key: {tls}/tls.key, \
             node: {NODE}, state: {} }}\n",
            self.port,
            state.display(),
            tls = tls.display(),
        )
    }

    /// Its host and port.
    pub fn address(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// The folder of the operator's certificate.
    pub fn operator(&self) -> PathBuf {
        self.dir.path().join("tls/operators/tester")
    }

    /// The folder of the node's certificate.
    pub fn node(&self) -> PathBuf {
        self.dir.path().join("tls/nodes").join(NODE)
    }

    /// `magictl`, which asks it as the operator.
    pub fn ctl_command(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(binary("magictl")?);
        command
            .args(args)
            .env("MAGI_MASTER", self.address())
            .env("MAGI_MASTER_TLS", self.operator())
            .stdin(Stdio::null());
        Ok(command)
    }

    /// Runs it.
    pub fn ctl(&self, args: &[&str]) -> Result<Output> {
        self.ctl_command(args)?.output().context("run magictl")
    }

    /// Writes another policy to its file.
    pub fn change_policy(&self, policy: &str) -> Result<()> {
        std::fs::write(self.dir.path().join("policy.yaml"), policy).context("write the policy")
    }

    /// The records that it has collected.
    pub fn records(&self) -> PathBuf {
        self.dir.path().join("records/audit.jsonl")
    }

    /// The API server says that this has happened, all of it in one piece.
    pub fn api_server_writes(&self, happened: &[Happening]) -> Result<()> {
        self.teller.tell(happened)
    }

    /// The API server's end, for who tells while this process is down.
    pub fn teller(&self) -> Teller {
        self.teller.clone()
    }
}

fn launch(dir: &Path) -> Result<Process> {
    Launch::new("magi-master", binary("magi-master")?, dir.join("log"))
        .arg("run")
        .arg("--settings")
        .arg(dir.join("settings.yaml"))
        .start()
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("a free port")?;
    Ok(listener.local_addr().context("a free port")?.port())
}
