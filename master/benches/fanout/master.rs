//! The master as a process of its own, and how this one speaks with it: by lines.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use magi_config::MasterSettings;
use magi_engine::ids::{ImageName, PodName, PodNamespace, PodUid};
use magi_master::names::NodeName;
use magi_master::server::{Intake, Master as Server};
use magi_master::stream::standing::Unknowing;
use magi_master::verdict::{Cause, Verdict, VerdictKind};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::nodes::{certificates, name};

/// Answers of a master that works do not take longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs the master in this process, until standard input ends.
pub(crate) async fn run(folder: &Path) -> Result<()> {
    let (says, verdicts) = mpsc::channel(1024);
    let intake = Intake {
        verdicts,
        standing: Arc::new(Unknowing),
        counters: Arc::default(),
    };
    let mut settings = MasterSettings {
        listen: "127.0.0.1:0".parse()?,
        policy: Some(folder.join("policy.yaml")),
        state: folder.join("state"),
        ..MasterSettings::default()
    };
    let tls = certificates(&folder.join("master"));
    settings.tls.certificate = tls.certificate;
    settings.tls.key = tls.key;
    settings.tls.ca = tls.ca;
    settings.audit.path = folder.join("audit/audit.jsonl");
    let stop = CancellationToken::new();
    let master = Server::start(&settings, intake, stop.clone()).await?;
    println!("{}", master.address());
    let running = tokio::spawn(master.run());
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut sent = 0;
    while let Some(line) = lines.next_line().await? {
        let numbers: Vec<u64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
        let [count, rate, nodes] = numbers.as_slice() else {
            bail!("{line:?} is no order");
        };
        let begun = tokio::time::Instant::now();
        let all_at_once = Timestamp::now();
        for number in 0..*count {
            let mut at = all_at_once;
            if *rate > 0 {
                let due = Duration::from_micros(number * 1_000_000 / rate);
                tokio::time::sleep_until(begun + due).await;
                at = Timestamp::now();
            }
            sent += 1;
            says.send(verdict(number % nodes, sent, at)?).await?;
        }
        println!("sent");
    }
    stop.cancel();
    running.await?;
    Ok(())
}

/// Its time is when it is sent, of a burst when that begins: both processes read the same clock.
fn verdict(node: u64, number: u64, at: Timestamp) -> Result<Verdict> {
    Ok(Verdict {
        kind: VerdictKind::PodGone,
        cause: Cause::Deleted,
        uid: PodUid::new(format!("00000000-0000-0000-0000-{number:012}"))?,
        namespace: PodNamespace::new("team")?,
        name: PodName::new("app-7d9c5b6f4-x2x4z")?,
        node: NodeName::new(name(usize::try_from(node)?))?,
        images: vec![ImageName::new("registry.example/team/app:1.2.3")?],
        at,
    })
}

/// The other process.
pub(crate) struct Master {
    pub(crate) address: SocketAddr,
    child: Child,
    orders: Option<ChildStdin>,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Master {
    pub(crate) async fn start(folder: &Path) -> Result<Self> {
        crate::nodes::make_master(folder)?;
        std::fs::write(folder.join("policy.yaml"), "version: 1\n")?;
        Self::launch(&["master".as_ref(), folder.as_ref()]).await
    }

    /// This program in another role; its first line is the address at which it listens.
    pub(crate) async fn launch(role: &[&OsStr]) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the master")?;
        let mut answers = BufReader::new(child.stdout.take().context("no output")?).lines();
        let first = tokio::time::timeout(PATIENCE, answers.next_line()).await??;
        Ok(Self {
            address: first.context("the master ended")?.parse()?,
            orders: child.stdin.take(),
            child,
            answers,
        })
    }

    /// Has it send so many verdicts at so many per second (0: at once), node by node.
    pub(crate) async fn send(&mut self, verdicts: u64, rate: u64, nodes: usize) -> Result<()> {
        let orders = self.orders.as_mut().context("the master was told to end")?;
        orders
            .write_all(format!("{verdicts} {rate} {nodes}\n").as_bytes())
            .await?;
        let answer = tokio::time::timeout(PATIENCE, self.answers.next_line()).await??;
        if answer.as_deref() != Some("sent") {
            bail!("the master says {answer:?}");
        }
        Ok(())
    }

    /// A line of its `/proc/PID/status`, in MiB.
    pub(crate) fn memory(&self, key: &str) -> Result<f64> {
        let pid = self.child.id().context("the master ended")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let words = line.and_then(|line| line.split_whitespace().next());
        Ok(words.context("no such line")?.parse::<f64>()? / 1024.0)
    }

    /// Seconds of processor time that it took.
    pub(crate) fn cpu(&self) -> Result<f64> {
        cpu_of(&self.child.id().context("the master ended")?.to_string())
    }

    pub(crate) async fn end(mut self) -> Result<()> {
        drop(self.orders.take());
        tokio::time::timeout(PATIENCE, self.child.wait()).await??;
        Ok(())
    }
}

/// Seconds of processor time that the threads of a process took, to the nanosecond.
pub(crate) fn cpu_of(process: &str) -> Result<f64> {
    let mut nanos = 0;
    for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
        // A thread may end in between: those that work do not.
        let text = std::fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
        let first = text.split(' ').next().and_then(|word| word.parse::<u64>().ok());
        nanos += first.unwrap_or_default();
    }
    Ok(nanos as f64 / 1e9)
}
