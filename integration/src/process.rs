//! Child processes that cannot outlive their test: ended on drop, also by a panic, and by the kernel if we are killed.
//!
//! Each child leads its own process group, writes to a log file, and lives in the network namespace of whoever starts it. Children are started through `setpriv --pdeathsig`
//! (setting it ourselves would need unsafe code). The kernel sends that signal when the *thread* that started the child
//! ends, so one thread that never ends starts them all.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError, mpsc};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal};

use crate::{link, wait};

/// How long a child may take to end after SIGTERM before it gets SIGKILL.
pub const TERM_GRACE: Duration = Duration::from_secs(5);
const KILL_BOUND: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);

/// What to start, and how.
#[derive(Debug)]
pub struct Launch {
    name: String,
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    log: PathBuf,
    stdout: Option<PathBuf>,
    stdin: Option<OwnedFd>,
    cwd: Option<PathBuf>,
}

impl Launch {
    /// `name` is for messages; standard output and error are appended to `log`.
    pub fn new(name: impl Into<String>, program: impl Into<OsString>, log: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            log: log.into(),
            stdout: None,
            stdin: None,
            cwd: None,
        }
    }

    /// Appends one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Sets a variable in the child's environment, which otherwise is ours.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env
            .push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Writes standard output to a file of its own instead of the log.
    #[must_use]
    pub fn stdout(mut self, path: impl Into<PathBuf>) -> Self {
        self.stdout = Some(path.into());
        self
    }

    /// Its standard input, which is nothing otherwise.
    #[must_use]
    pub fn stdin(mut self, input: OwnedFd) -> Self {
        self.stdin = Some(input);
        self
    }

    /// Sets the child's working directory.
    #[must_use]
    pub fn cwd(mut self, path: impl Into<PathBuf>) -> Self {
        self.cwd = Some(path.into());
        self
    }

    /// Starts it.
    pub fn start(self) -> Result<Process> {
        let log = append_to(&self.log)?;
        let stdout = match &self.stdout {
            Some(path) => append_to(path)?,
            None => log.try_clone().context("duplicate the log's descriptor")?,
        };
        let mut command = match setpriv() {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL", "--"]).arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .stdin(self.stdin.map_or_else(Stdio::null, Stdio::from))
            .stdout(stdout)
            .stderr(log)
            .process_group(0);
        if let Some(cwd) = &self.cwd {
            command.current_dir(cwd);
        }
        let child = spawn_on_lasting_thread(command)
            .with_context(|| format!("start {} ({})", self.name, self.program.display()))?;
        Ok(Process {
            name: self.name,
            pid: child.id(),
            child: Mutex::new(child),
            log: self.log,
        })
    }
}

/// A running child. Dropping it ends it: SIGTERM to its process group, SIGKILL after [`TERM_GRACE`].
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: u32,
    child: Mutex<Child>,
    log: PathBuf,
}

impl Process {
    /// Its process id, also the id of its process group.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The name it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that holds its output.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its exit status if it has ended. The child is reaped by this call.
    pub fn exited(&self) -> Option<ExitStatus> {
        self.child
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .try_wait()
            .ok()
            .flatten()
    }

    /// Whether it still runs.
    pub fn is_running(&self) -> bool {
        self.exited().is_none()
    }

    /// Sends a signal to the child alone; an error if it has ended already.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if let Some(status) = self.exited() {
            bail!("{} has ended already: {status}", self.name);
        }
        rustix::process::kill_process(self.id()?, signal).with_context(|| format!("signal {}", self.name))
    }

    /// Waits until it has ended by itself.
    pub async fn wait(&self, bound: Duration) -> Result<ExitStatus> {
        wait::until(&format!("the end of {}", self.name), bound, POLL, async || {
            self.exited()
        })
        .await
    }

    /// Ends it with SIGTERM, after `grace` with SIGKILL. Blocks until it is gone.
    pub fn stop(&self, grace: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.exited() {
            return Ok(status);
        }
        self.signal_group(Signal::TERM);
        match wait::until_blocking("its end", grace, POLL, || self.exited()) {
            Ok(status) => Ok(status),
            Err(_) => self.kill9(),
        }
    }

    /// Ends it at once with SIGKILL. Blocks until it is gone.
    pub fn kill9(&self) -> Result<ExitStatus> {
        if let Some(status) = self.exited() {
            return Ok(status);
        }
        self.signal_group(Signal::KILL);
        wait::until_blocking(
            &format!("the end of {} after SIGKILL", self.name),
            KILL_BOUND,
            POLL,
            || self.exited(),
        )
    }

    /// The last `lines` lines of its output.
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }

    fn id(&self) -> Result<Pid> {
        i32::try_from(self.pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| anyhow!("pid {} out of range", self.pid))
    }

    fn signal_group(&self, signal: Signal) {
        // The group may have ended in between; then there is nothing to do.
        if let Ok(id) = self.id() {
            let _ = rustix::process::kill_process_group(id, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "---- last lines of {} ({}) ----\n{}",
                self.name,
                self.log.display(),
                self.log_tail(40)
            );
        }
        if let Err(error) = self.stop(TERM_GRACE) {
            eprintln!(
                "harness: {} (pid {}) could not be ended: {error:#}",
                self.name, self.pid
            );
        }
    }
}

/// The last `lines` lines of a text file, or what went wrong reading it. Reads at most 256 KiB.
pub fn tail(path: &Path, lines: usize) -> String {
    const MOST: u64 = 256 << 10;
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(MOST)))?;
        let mut bytes = Vec::new();
        file.take(MOST).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Ok(text) => {
            let all: Vec<&str> = text.lines().collect();
            all.get(all.len().saturating_sub(lines)..)
                .unwrap_or_default()
                .join("\n")
        }
        Err(error) => format!("({}: {error})", path.display()),
    }
}

/// Finds a program on PATH.
pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

fn append_to(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("open {}", path.display()))
}

fn setpriv() -> Option<&'static Path> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOUND.get_or_init(|| on_path("setpriv")).as_deref()
}

struct Order {
    command: Command,
    /// The thread's own network namespace, which the one that spawns need not be in.
    network: File,
    answer: mpsc::SyncSender<std::io::Result<Child>>,
}

fn spawn_on_lasting_thread(command: Command) -> Result<Child> {
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
    let orders = SPAWNER.get_or_init(|| {
        let (sender, receiver) = mpsc::channel::<Order>();
        std::thread::Builder::new()
            .name("spawner".into())
            .spawn(move || {
                for mut order in receiver {
                    let child = link::enter(&order.network).and_then(|()| order.command.spawn());
                    let _ = order.answer.send(child);
                }
            })
            .expect("a thread can be started");
        Mutex::new(sender)
    });
    let (answer, child) = mpsc::sync_channel(1);
    let order = Order {
        command,
        network: link::own().context("find the own network namespace")?,
        answer,
    };
    orders
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send(order)
        .map_err(|_| anyhow!("the thread that starts children is gone"))?;
    Ok(child
        .recv()
        .context("the thread that starts children gave no answer")??)
}
