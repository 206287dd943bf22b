//! Runs the program and plays magi-node.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub(crate) const IMAGE: &str = "127.0.0.1:5000/team/app:1";
pub(crate) const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
pub(crate) const ADMITTED: &str =
    "{\"v\":1,\"reply\":{\"now\":1,\"answer\":{\"answer\":\"admitted\",\"known\":true}}}\n";
pub(crate) const REFUSED: &str =
    "{\"v\":1,\"reply\":{\"now\":1,\"answer\":{\"answer\":\"refused\",\"why\":\"too large\"}}}\n";

/// What a run may take that should end at once. Far above what it takes, far below containerd's 10 s, and shorter than
/// the deadline of such a run, so that the deadline does not hide a wait.
const AT_ONCE: Duration = Duration::from_secs(4);

/// The deadline of runs that should not need it.
const PATIENT: &str = "8000";

/// How one run ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

impl Ended {
    /// The pull goes on, at once, and the doubt was noted.
    #[track_caller]
    pub(crate) fn allowed_at_once(&self, doubt: &str) {
        assert!(self.took < AT_ONCE, "{self:?}");
        self.allowed(doubt);
    }

    /// The pull goes on when the deadline is over, not before and not much later.
    #[track_caller]
    pub(crate) fn allowed_at(&self, deadline: Duration) {
        assert!(
            self.took >= deadline && self.took < deadline + AT_ONCE,
            "{self:?}"
        );
        self.allowed(&format!("no answer within {} ms", deadline.as_millis()));
    }

    #[track_caller]
    fn allowed(&self, doubt: &str) {
        assert_eq!(self.status.code(), Some(0), "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        if doubt.is_empty() {
            assert_eq!(self.stderr, "", "{self:?}");
        } else {
            assert!(self.stderr.contains(doubt), "{doubt:?} is not in {self:?}");
        }
        assert!(self.stderr.len() < 1000, "{self:?}");
    }

    /// The pull is refused, at once, for this reason.
    #[track_caller]
    pub(crate) fn refused(&self, why: &str) {
        assert!(self.took < AT_ONCE, "{self:?}");
        assert_eq!(self.status.code(), Some(1), "{self:?}");
        assert_eq!(self.stdout, why, "{self:?}");
    }
}

/// The program, about to be run.
pub(crate) struct Program {
    pub(crate) command: Command,
    pub(crate) stdin: Vec<u8>,
}

impl Program {
    /// As containerd runs it, with nothing of this machine in its environment.
    pub(crate) fn new(socket: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_magi-verify"));
        command
            .env_clear()
            .env("MAGI_SOCKET", socket)
            .env("MAGI_VERIFY_DEADLINE", PATIENT)
            .env("MAGI_VERIFY_CONF", "/no/such/file")
            .args(["-name", IMAGE, "-digest", DIGEST])
            .args(["-stdin-media-type", "application/vnd.oci.descriptor.v1+json"]);
        let descriptor = format!(
            r#"{{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"{DIGEST}","size":423}}"#
        );
        Self {
            command,
            stdin: descriptor.into_bytes(),
        }
    }

    /// With other arguments.
    pub(crate) fn called(socket: &str, args: &[&str]) -> Self {
        let mut program = Self::new(socket);
        let mut command = Command::new(program.command.get_program());
        command.env_clear().args(args);
        for (key, value) in program.command.get_envs() {
            command.env(key, value.unwrap_or_default());
        }
        program.command = command;
        program
    }

    pub(crate) fn env(mut self, key: &str, value: &str) -> Self {
        self.command.env(key, value);
        self
    }

    pub(crate) fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    pub(crate) fn run(self) -> Ended {
        let (ended, stdin) = self.run_with_open_stdin();
        drop(stdin);
        ended.wait()
    }

    /// Runs it without ending its standard input.
    pub(crate) fn run_with_open_stdin(mut self) -> (Running, ChildStdin) {
        let started = Instant::now();
        let mut child = self
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // It need not take all of it.
        let _broken = stdin.write_all(&self.stdin);
        (Running { child, started }, stdin)
    }
}

/// A run that has not ended yet.
pub(crate) struct Running {
    pub(crate) child: Child,
    started: Instant,
}

impl Running {
    /// Until it has ended and, as containerd does, until the ends of its output are closed.
    pub(crate) fn wait(mut self) -> Ended {
        let mut stderr = self.child.stderr.take().unwrap();
        let said = thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).unwrap();
            text
        });
        let mut stdout = String::new();
        if let Some(mut pipe) = self.child.stdout.take() {
            pipe.read_to_string(&mut stdout).unwrap();
        }
        let stderr = said.join().unwrap();
        let status = self.child.wait().unwrap();
        Ended {
            status,
            stdout,
            stderr,
            took: self.started.elapsed(),
        }
    }
}

/// A control socket in a folder of its own. What connects waits until somebody accepts.
pub(crate) struct Place {
    dir: TempDir,
    pub(crate) listener: UnixListener,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("node.sock")).unwrap();
        Self { dir, listener }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("node.sock")
    }

    pub(crate) fn socket(&self) -> String {
        self.path().to_str().unwrap().to_owned()
    }
}

/// A node that hears each question and answers it in its own way.
pub(crate) struct Node {
    place: Place,
    questions: Receiver<String>,
}

impl Node {
    pub(crate) fn new(answer: impl Fn(&mut UnixStream) + Send + 'static) -> Self {
        let place = Place::new();
        let listener = place.listener.try_clone().unwrap();
        let (sender, questions) = mpsc::channel();
        // It ends with this process: nothing can interrupt its accept.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).unwrap();
                answer(&mut stream);
                let _nobody_cares = sender.send(line);
            }
        });
        Self { place, questions }
    }

    /// One that says this and hangs up.
    pub(crate) fn saying(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::new(move |stream| {
            let _gone = stream.write_all(&answer);
        })
    }

    pub(crate) fn socket(&self) -> String {
        self.place.socket()
    }

    /// The next question that it heard.
    pub(crate) fn question(&self) -> String {
        self.questions.recv_timeout(AT_ONCE).unwrap()
    }
}
