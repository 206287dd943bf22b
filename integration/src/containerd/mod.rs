//! A containerd of our own: real binary, private root, state, sockets and configuration; several at once.

mod config;

use std::ffi::{CString, OsString};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, mount};
use tempfile::TempDir;

use crate::api::{Api, Counts};
use crate::cri::Cri;
use crate::parts;
use crate::process::{Launch, Process, TERM_GRACE, on_path};
use crate::registry::Registry;
use crate::residue::{self, Residue};
use crate::wait;

const READY_BOUND: Duration = Duration::from_secs(30);
/// The folder of blobs and snapshots, in the instance's own.
const ROOT: &str = "root";
const POLL: Duration = Duration::from_millis(20);
/// Begins the name of every instance's folder; the id of the process that owns it follows.
const PREFIX: &str = "magi-";

/// The two lines of versions that the project supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Line {
    /// 1.7 of Debian trixie: configuration version 2, CRI pulls in process.
    V1_7,
    /// The newest 2.x of Debian sid: configuration version 3, CRI pulls through the transfer service.
    V2,
}

impl Line {
    /// Both, in the order of age.
    pub const ALL: [Self; 2] = [Self::V1_7, Self::V2];
}

impl fmt::Display for Line {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::V1_7 => "1.7",
            Self::V2 => "2.x",
        })
    }
}

/// How an instance is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Snapshotter for CRI; `overlayfs` by default.
    pub snapshotter: String,
    /// Appended to `config.toml`: whole tables only, `[stream_processors.…]` for instance.
    pub extra_toml: String,
    /// Limit of parallel downloads: per pull on 1.7, per daemon on 2.x. `None` leaves containerd's own default (3).
    pub max_concurrent_downloads: Option<u32>,
    /// containerd's own stall timeout, as `"20s"`. `None` leaves its default.
    pub image_pull_progress_timeout: Option<String>,
    /// 2.x only: pull in process, as 1.7 does, instead of through the transfer service.
    pub local_pull: bool,
    /// Offer NRI on `nri.sock` in the instance's folder.
    pub nri: bool,
    /// `info` or `debug`.
    pub log_level: String,
    /// PATH of the containerd process. `None`: its own folder, runc's, and a folder that links to what it needs of the
    /// system. pigz and igzip are not in there, so that decompression is the same everywhere.
    pub path: Option<OsString>,
    /// More programs for that folder of links, under the names that they are to have there; not with a `path`.
    pub tools: Vec<(String, PathBuf)>,
    /// More of its environment: proxies, certificates.
    pub env: Vec<(String, OsString)>,
    /// Bytes of a disk of its own, in memory, for blobs and snapshots. `None`: it shares the machine's.
    pub disk: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            snapshotter: "overlayfs".to_owned(),
            extra_toml: String::new(),
            max_concurrent_downloads: None,
            image_pull_progress_timeout: None,
            local_pull: false,
            nri: false,
            log_level: "info".to_owned(),
            path: None,
            tools: Vec::new(),
            env: Vec::new(),
            disk: None,
        }
    }
}

/// A running containerd. Dropping it ends it, unmounts what it mounted and removes its folder.
#[derive(Debug)]
pub struct Containerd {
    line: Line,
    version: String,
    // Before `home`: the process must be gone before its folder goes.
    process: Option<Process>,
    binary: PathBuf,
    path: OsString,
    env: Vec<(String, OsString)>,
    home: Home,
}

impl Containerd {
    /// Starts an instance with the default options and waits until its API answers.
    pub async fn start(line: Line) -> Result<Self> {
        Self::start_with(line, &Options::default()).await
    }

    /// Starts an instance and waits until its API answers.
    pub async fn start_with(line: Line, options: &Options) -> Result<Self> {
        let parts = parts::obtain()?;
        let bin = match line {
            Line::V1_7 => &parts.containerd_1_7,
            Line::V2 => &parts.containerd_2,
        };
        let home = Home::new(line)?;
        let dir = home.path();
        for sub in ["certs.d", "cni", "verifiers", "opt", "tools"] {
            fs::create_dir(dir.join(sub)).with_context(|| format!("create {sub} in {}", dir.display()))?;
        }
        if let Some(bytes) = options.disk {
            mount_disk(&dir.join(ROOT), bytes)?;
        }
        let config = dir.join("config.toml");
        fs::write(&config, config::render(line, dir, options))
            .with_context(|| format!("write {}", config.display()))?;
        for (name, program) in &options.tools {
            std::os::unix::fs::symlink(program, dir.join("tools").join(name))
                .with_context(|| format!("link {name}"))?;
        }
        let path = match &options.path {
            Some(path) => path.clone(),
            None => default_path(bin, parts.runc.as_deref(), &dir.join("tools"))?,
        };
        let mut instance = Self {
            line,
            version: String::new(),
            process: None,
            binary: bin.join("containerd"),
            path,
            env: options.env.clone(),
            home,
        };
        instance.launch().await?;
        Ok(instance)
    }

    async fn launch(&mut self) -> Result<()> {
        let dir = self.home.path();
        let mut launch = Launch::new(
            format!("containerd {}", self.line),
            &self.binary,
            dir.join("containerd.log"),
        )
        .arg("--config")
        .arg(dir.join("config.toml"))
        .env("PATH", &self.path)
        // containerd mounts layers here before it unpacks them; elsewhere they would escape the residue check.
        .env("TMPDIR", dir)
        .cwd(dir);
        for (key, value) in &self.env {
            launch = launch.env(key, value);
        }
        let process = launch.start()?;
        let api = self.api();
        let cri = self.cri();
        let version = wait::until("containerd's API", READY_BOUND, POLL, async || {
            if !process.is_running() {
                return Some(None);
            }
            let version = api.version().await.ok()?;
            cri.version().await.ok()?;
            Some(Some(version))
        })
        .await
        .with_context(|| format!("start containerd {}:\n{}", self.line, process.log_tail(30)))?;
        let Some(version) = version else {
            bail!(
                "containerd {} ended during its start:\n{}",
                self.line,
                process.log_tail(30)
            );
        };
        self.version = version;
        self.process = Some(process);
        Ok(())
    }

    /// Which line of versions it is.
    pub fn line(&self) -> Line {
        self.line
    }

    /// The version that its API reports, such as `1.7.24~ds1`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Its folder: config.toml, containerd.log, root, state and sockets are all in here.
    pub fn dir(&self) -> &Path {
        self.home.path()
    }

    /// The socket of its API and of CRI.
    pub fn address(&self) -> PathBuf {
        self.dir().join("c.sock")
    }

    /// Its root folder (content store, snapshots).
    pub fn root(&self) -> PathBuf {
        self.dir().join(ROOT)
    }

    /// Its state folder.
    pub fn state(&self) -> PathBuf {
        self.dir().join("state")
    }

    /// The folder of its image verifiers (2.x).
    pub fn verifier_dir(&self) -> PathBuf {
        self.dir().join("verifiers")
    }

    /// The process id; 0 after [`Self::kill9`].
    pub fn pid(&self) -> u32 {
        self.process.as_ref().map_or(0, Process::pid)
    }

    /// A CRI client with a connection of its own.
    pub fn cri(&self) -> Cri {
        Cri::connect(&self.address())
    }

    /// An outside view of what it holds, with a connection of its own.
    pub fn api(&self) -> Api {
        Api::connect(&self.address())
    }

    /// Lets it pull from `registry`: protocol and, with TLS, certificate authority. Takes effect with the next pull.
    pub fn trust(&self, registry: &Registry) -> Result<()> {
        for host in registry.hosts() {
            self.trust_host(&host, registry.scheme(), registry.ca_file())?;
        }
        Ok(())
    }

    /// As [`Self::trust`], for any server at `host` (with port).
    pub fn trust_host(&self, host: &str, scheme: &str, ca: Option<&Path>) -> Result<()> {
        let dir = self.dir().join("certs.d").join(host);
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let url = config::quoted(&format!("{scheme}://{host}"));
        let mut text = format!("server = {url}\n[host.{url}]\ncapabilities = [\"pull\", \"resolve\"]\n");
        if let Some(ca) = ca {
            text.push_str(&format!("ca = {}\n", config::quoted(&ca.display().to_string())));
        }
        let file = dir.join("hosts.toml");
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))
    }

    /// Ends it as a service manager would and starts it again on the same root.
    pub async fn restart(&mut self) -> Result<()> {
        if let Some(process) = self.process.take() {
            process.stop(TERM_GRACE)?;
        }
        self.launch().await
    }

    /// Kills it as the OOM killer would. [`Self::start_again`] brings it back.
    pub fn kill9(&mut self) -> Result<()> {
        if let Some(process) = self.process.take() {
            process.kill9()?;
        }
        Ok(())
    }

    /// Starts it on the same root after [`Self::kill9`].
    pub async fn start_again(&mut self) -> Result<()> {
        if self.process.is_some() {
            bail!("containerd {} still runs", self.line);
        }
        self.launch().await
    }

    /// Waits, at most `bound`, until nothing is there beyond `baseline`: by its API, and on disk as well, where the folder
    /// of an ingest goes a moment later than its record.
    pub async fn expect_nothing_left(&self, baseline: &Counts, bound: Duration) -> Result<()> {
        let api = self.api();
        api.expect_nothing_left(baseline, bound).await?;
        wait::until(
            "ingest folders and temporary mounts to go",
            bound,
            POLL,
            async || {
                let found = residue::under(self.dir()).ok()?;
                (found.ingests.len() <= baseline.ingests && found.temporary_mounts.is_empty()).then_some(())
            },
        )
        .await
        .with_context(|| format!("on disk: {:?}", residue::under(self.dir())))
    }

    /// The last lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        crate::process::tail(&self.dir().join("containerd.log"), lines)
    }

    /// Ends it, takes its mounts and folder away, and tells what it had left that it should have removed itself.
    pub fn shutdown(mut self) -> Result<Residue> {
        if let Some(process) = self.process.take() {
            process.stop(TERM_GRACE)?;
        }
        let mut found = residue::under(self.dir())?;
        let dir = self.dir().to_owned();
        // A disk of its own is ours to take away.
        found.mounts.retain(|mount| *mount != dir.join(ROOT));
        drop(self);
        if dir.exists() {
            bail!("{} could not be removed", dir.display());
        }
        Ok(found)
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // In this order: the process, then what it mounted; `home` removes the folder last.
        drop(self.process.take());
    }
}

/// Starts one instance of each line, at the same time.
pub async fn both() -> Result<[Containerd; 2]> {
    both_with(&Options::default()).await
}

/// As [`both`], with options.
pub async fn both_with(options: &Options) -> Result<[Containerd; 2]> {
    let (old, new) = tokio::join!(
        Containerd::start_with(Line::V1_7, options),
        Containerd::start_with(Line::V2, options)
    );
    Ok([old?, new?])
}

/// The instance's folder; on drop, processes and mounts below it go first.
#[derive(Debug)]
struct Home(Option<TempDir>);

impl Home {
    fn new(line: Line) -> Result<Self> {
        sweep();
        // Short, because the path of a unix socket may not be longer than 107 bytes.
        let prefix = format!("{PREFIX}{}-{line}-", std::process::id());
        let dir = tempfile::Builder::new()
            .prefix(&prefix)
            .tempdir()
            .context("create a folder")?;
        Ok(Self(Some(dir)))
    }

    fn path(&self) -> &Path {
        self.0.as_ref().map_or(Path::new(""), TempDir::path)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let Some(dir) = self.0.take() else { return };
        if let Err(error) = residue::clear(dir.path()) {
            eprintln!("harness: {error:#}");
        }
        if std::env::var_os("MAGI_KEEP").is_some() {
            eprintln!("harness: kept {}", dir.keep().display());
        } else if let Err(error) = dir.close() {
            eprintln!("harness: {error}");
        }
    }
}

/// Removes the folders of test processes that were killed: they could not, and a node's images are large.
fn sweep() {
    let folder = std::env::temp_dir();
    for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()?.parse::<u32>().ok());
        let Some(owner) = owner else { continue };
        if !Path::new("/proc").join(owner.to_string()).exists() && residue::clear(&entry.path()).is_ok() {
            // Another process may be sweeping too.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A file system in memory: its size is what a disk's would be.
fn mount_disk(folder: &Path, bytes: u64) -> Result<()> {
    fs::create_dir(folder).with_context(|| format!("create {}", folder.display()))?;
    let size = CString::new(format!("size={bytes}")).context("the size of a disk")?;
    mount("tmpfs", folder, "tmpfs", MountFlags::empty(), size.as_c_str())
        .with_context(|| format!("mount a disk of {bytes} bytes on {}", folder.display()))
}

/// PATH without the system's folders: only the tools that containerd calls while pulling and running pods.
fn default_path(bin: &Path, runc: Option<&Path>, tools: &Path) -> Result<OsString> {
    for tool in ["mount", "umount", "modprobe", "iptables", "ip"] {
        if let Some(file) = on_path(tool) {
            std::os::unix::fs::symlink(&file, tools.join(tool)).with_context(|| format!("link {tool}"))?;
        }
    }
    if let (None, Some(file)) = (runc, on_path("runc")) {
        std::os::unix::fs::symlink(&file, tools.join("runc")).context("link runc")?;
    }
    let dirs = [Some(bin), runc, Some(tools)];
    std::env::join_paths(dirs.into_iter().flatten()).context("make PATH")
}
