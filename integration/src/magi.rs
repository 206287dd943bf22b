//! magi-node and magictl as processes, the way an operator runs them. Nothing of magi is linked in here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::containerd::Containerd;
use crate::process::{Launch, Process, TERM_GRACE};
use crate::wait;

/// How long magi-node may take until it watches.
const READY_WITHIN: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(5);

const KILL_SWITCH: &str = "kill-switch";

/// How to run it.
#[derive(Debug, Clone)]
pub struct Options {
    /// The policy's text.
    pub policy: String,
    /// Use the kernel probes.
    pub probes: bool,
    /// Where the kernel's type information is looked for.
    pub btf: Option<PathBuf>,
    /// Record a trace.
    pub trace: bool,
    /// The containerd socket to watch, if not the given node's.
    pub address: Option<PathBuf>,
    /// Bytes after which the audit file is rotated, with its unit.
    pub rotate: &'static str,
    /// The socket at which it registers as an NRI plugin, if it is to.
    pub nri: Option<PathBuf>,
    /// More settings, as lines of the document.
    pub settings: String,
}

impl Options {
    /// With this policy and everything else as an operator gets it.
    pub fn policy(policy: impl Into<String>) -> Self {
        Self {
            policy: policy.into(),
            probes: true,
            btf: None,
            trace: false,
            address: None,
            rotate: "10MiB",
            nri: None,
            settings: String::new(),
        }
    }
}

/// A policy that enforces `image` as the limit for an image, written with its unit. Each pull is judged by itself:
/// that it was stopped before does not count.
pub fn enforce(image: &str) -> String {
    format!("version: 1\nmode: enforce\ndenyFor: 0s\nlimits: {{ image: {image} }}\n")
}

/// A running magi-node. Ended on drop.
#[derive(Debug)]
pub struct Magi {
    process: Process,
    dir: TempDir,
}

impl Magi {
    /// Starts it beside `node` and waits until it watches.
    pub async fn start(node: &Containerd, options: &Options) -> Result<Self> {
        let magi = Self::launch(
            &options.address.clone().unwrap_or_else(|| node.address()),
            options,
        )?;
        magi.ready(options).await?;
        Ok(magi)
    }

    /// Starts it without waiting for anything.
    pub fn launch(address: &Path, options: &Options) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("magi-node-")
            .tempdir()
            .context("a folder for magi-node")?;
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("policy.yaml"), &options.policy).context("write the policy")?;
        let btf = options
            .btf
            .clone()
            .unwrap_or_else(|| "/sys/kernel/btf/vmlinux".into());
        let trace = if options.trace {
            format!("trace: {}\n", path("trace.jsonl").display())
        } else {
            String::new()
        };
        let requests = if options.probes { "auto" } else { "off" };
        let nri = match &options.nri {
            Some(socket) => format!("nri: {{ socket: {} }}\n", socket.display()),
            None => "nri: { mode: off }\n".to_owned(),
        };
        let settings = format!(
            "version: 1\ncontainerd: {{ address: {} }}\npolicy: {}\ncontrol: {{ socket: {}, killSwitch: {} }}\n\
             audit: {{ path: {}, rotate: {} }}\nprobes: {{ mode: {}, btf: {} }}\nlog: {{ level: debug }}\nrequests: {{ mode: {requests} }}\n{trace}{nri}{}",
            address.display(),
            path("policy.yaml").display(),
            path("run/node.sock").display(),
            path(KILL_SWITCH).display(),
            path("audit/audit.jsonl").display(),
            options.rotate,
            if options.probes { "auto" } else { "off" },
            btf.display(),
            options.settings,
        );
        std::fs::write(path("settings.yaml"), settings).context("write the settings")?;
        let process = process(dir.path())?;
        Ok(Self { process, dir })
    }

    /// Ends it at once, as the OOM killer does. [`Self::start_again`] brings it back.
    pub fn kill9(&self) -> Result<()> {
        self.process.kill9().map(|_| ())
    }

    /// Starts it again after its end, with everything that it kept, and waits until it watches.
    pub async fn start_again(&mut self, options: &Options) -> Result<()> {
        let before = self.audit()?.len();
        self.process = process(self.dir.path())?;
        self.ready_since(options, before).await
    }

    async fn ready(&self, options: &Options) -> Result<()> {
        self.ready_since(options, 0).await
    }

    /// By the records after so many.
    async fn ready_since(&self, options: &Options, before: usize) -> Result<()> {
        let mut wanted = vec!["containerd"];
        if options.probes && options.btf.is_none() {
            wanted.extend(["probes", "requests"]);
        } else {
            wanted.push("socket-table");
        }
        wanted.extend(options.nri.iter().map(|_| "nri"));
        let up = |record: &Value, source: &str| {
            record["kind"] == "source-changed" && record["source"] == source && record["up"] == true
        };
        let ready = wait::until("magi-node to watch", READY_WITHIN, STEP, || async {
            if let Some(status) = self.process.exited() {
                return Some(Err(anyhow::anyhow!("magi-node ended early: {status}")));
            }
            let records = self.audit().unwrap_or_default();
            wanted
                .iter()
                .all(|source| records.iter().skip(before).any(|record| up(record, source)))
                .then_some(Ok(()))
        });
        ready
            .await
            .and_then(|ended| ended)
            .with_context(|| self.log_tail(30))
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The last lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        self.process.log_tail(lines)
    }

    /// The file that switches it off while it is there.
    pub fn kill_switch(&self) -> PathBuf {
        self.dir.path().join(KILL_SWITCH)
    }

    /// All of its log.
    pub fn log(&self) -> Result<String> {
        std::fs::read_to_string(self.process.log()).context("read magi-node's log")
    }

    /// Where its files are.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("run/node.sock")
    }

    /// The audit trail so far, oldest first; a line that is still being written is left out.
    pub fn audit(&self) -> Result<Vec<Value>> {
        let dir = self.dir.path().join("audit");
        let mut records = Vec::new();
        for name in ["audit.jsonl.2", "audit.jsonl.1", "audit.jsonl"] {
            let Ok(text) = std::fs::read_to_string(dir.join(name)) else {
                continue;
            };
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            for line in whole.lines() {
                records.push(serde_json::from_str(line).with_context(|| format!("audit line {line}"))?);
            }
        }
        Ok(records)
    }

    /// Waits until it hears from this source.
    pub async fn wait_for_source(&self, source: &str) -> Result<()> {
        let what = format!("{source} to be heard");
        let up = wait::until(&what, READY_WITHIN, STEP, || async {
            let records = self.audit_of("source-changed").unwrap_or_default();
            records
                .iter()
                .any(|record| record["source"] == source && record["up"] == true)
                .then_some(())
        });
        up.await.with_context(|| self.log_tail(30))
    }

    /// Audit records of one kind.
    pub fn audit_of(&self, kind: &str) -> Result<Vec<Value>> {
        Ok(self
            .audit()?
            .into_iter()
            .filter(|record| record["kind"] == kind)
            .collect())
    }

    /// Waits until so many records of a kind are there, and returns them.
    pub async fn wait_audit(&self, kind: &str, count: usize, bound: Duration) -> Result<Vec<Value>> {
        let what = format!("{count} audit records of kind {kind}");
        let found = wait::until(&what, bound, STEP, || async {
            match self.audit_of(kind) {
                Ok(records) => (records.len() >= count).then_some(Ok(records)),
                Err(error) => Some(Err(error)),
            }
        });
        found
            .await
            .and_then(|found| found)
            .with_context(|| self.log_tail(40))
    }

    /// Replaces the policy's text and tells magi-node to read it.
    pub fn reload(&self, policy: &str) -> Result<()> {
        std::fs::write(self.dir.path().join("policy.yaml"), policy).context("write the policy")?;
        self.process.signal(rustix::process::Signal::HUP)
    }

    /// Resident memory in bytes, as the kernel says.
    pub fn rss(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.process.pid());
        let status = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .context("no VmRSS")?;
        let kib: u64 = line
            .trim()
            .trim_end_matches(" kB")
            .trim()
            .parse()
            .context("VmRSS")?;
        Ok(kib << 10)
    }

    /// Files that it has open, sockets and all, as the kernel says.
    pub fn descriptors(&self) -> Result<usize> {
        let path = format!("/proc/{}/fd", self.process.pid());
        Ok(std::fs::read_dir(&path).with_context(|| path.clone())?.count())
    }

    /// Processor time used so far, user and system, as the kernel says.
    pub fn cpu(&self) -> Result<Duration> {
        let path = format!("/proc/{}/schedstat", self.process.pid());
        let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        let nanos = text
            .split(' ')
            .next()
            .context("no figure")?
            .parse()
            .context("run time")?;
        Ok(Duration::from_nanos(nanos))
    }

    /// Runs `magictl` against it.
    pub fn ctl(&self, args: &[&str]) -> Result<Output> {
        Command::new(binary("magictl")?)
            .arg("--socket")
            .arg(self.socket())
            .args(args)
            .stdin(Stdio::null())
            .output()
            .context("run magictl")
    }

    /// Asks on the control socket, in the contract's own words: one line of JSON out, one in.
    pub async fn ask(&self, ask: &Value) -> Result<Value> {
        let mut stream = UnixStream::connect(self.socket())
            .await
            .context("connect to the control socket")?;
        stream
            .write_all(format!("{ask}\n").as_bytes())
            .await
            .context("ask")?;
        let mut line = String::new();
        BufReader::new(stream)
            .read_line(&mut line)
            .await
            .context("hear the answer")?;
        serde_json::from_str(&line).with_context(|| format!("the answer {line}"))
    }

    /// The pulls in flight, as `magictl pulls --json` gets them.
    pub async fn pulls(&self) -> Result<Vec<Value>> {
        let answer = self.ask(&json!({"v": 1, "ask": "pulls", "ended": false})).await?;
        let pulls = answer
            .pointer("/reply/answer/report/pulls")
            .and_then(Value::as_array);
        pulls.cloned().with_context(|| format!("no report in {answer}"))
    }

    /// Ends it in order.
    pub fn stop(self) -> Result<()> {
        let status = self.process.stop(TERM_GRACE)?;
        if !status.success() {
            bail!("magi-node ended with {status}:\n{}", self.log_tail(40));
        }
        Ok(())
    }
}

/// Of audit records of any number of runs, the intents without an outcome.
pub fn open_intents(records: &[Value]) -> impl Iterator<Item = &Value> {
    let attempt = |record: &Value, run: &str| Some((record.get(run)?.as_u64()?, record["attempt"].as_u64()?));
    let of_kind = |kind: &'static str| records.iter().filter(move |record| record["kind"] == kind);
    let closed: BTreeSet<_> = of_kind("outcome")
        .filter_map(|record| attempt(record, "of_run").or_else(|| attempt(record, "run")))
        .collect();
    of_kind("intent")
        .filter(move |record| attempt(record, "run").is_none_or(|attempt| !closed.contains(&attempt)))
}

fn process(dir: &Path) -> Result<Process> {
    Launch::new("magi-node", binary("magi-node")?, dir.join("log"))
        .arg("--settings")
        .arg(dir.join("settings.yaml"))
        .start()
}

/// A binary of the workspace: from `MAGI_BIN_DIR`, else from where this program itself was built to.
pub fn binary(name: &str) -> Result<PathBuf> {
    let path = match std::env::var_os("MAGI_BIN_DIR") {
        Some(dir) => PathBuf::from(dir).join(name),
        None => {
            let own = std::env::current_exe().context("where this program is")?;
            let dir = own.parent().context("a folder")?;
            let dir = if dir.ends_with("deps") {
                dir.parent().context("a folder")?
            } else {
                dir
            };
            dir.join(name)
        }
    };
    if !path.is_file() {
        bail!(
            "{} is not built: run `make build` first, or set MAGI_BIN_DIR",
            path.display()
        );
    }
    Ok(path)
}
