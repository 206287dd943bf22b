//! A content store, a registry's connection and loaded probes, all in this process.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use magi_probes::attribution::{Attribution, Change, Feed};
use magi_probes::{IngestDirectory, Level, LoadError, Options, Probes, Record, Strategy};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tempfile::TempDir;

use crate::goroutine::Goroutine;

pub(crate) const MIB: usize = 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(10);

/// All tests watch this one process: one at a time.
static ALONE: Mutex<()> = Mutex::new(());

pub(crate) fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The probes of one level, or nothing where this machine cannot run them, for a reason that is checked.
pub(crate) fn probes(level: Level) -> Option<Probes> {
    checked(Probes::load(&Options {
        strategy: Strategy::Only(level),
        ..Options::default()
    }))
}

/// What was loaded, or nothing where this machine cannot run it, for a reason that is checked.
pub(crate) fn checked<T>(loaded: Result<T, LoadError>) -> Option<T> {
    match loaded {
        Ok(loaded) => Some(loaded),
        Err(
            error @ (LoadError::NoCompiledObject { .. }
            | LoadError::NotPermitted { .. }
            | LoadError::NoBtf { .. }),
        ) => {
            eprintln!("not tested here: {error}");
            None
        }
        Err(error @ LoadError::ProgramRefused { .. }) if kernel() < (6, 3) => {
            eprintln!("not tested here: {error}");
            None
        }
        Err(error) => panic!("{error:?}"),
    }
}

fn kernel() -> (u32, u32) {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// A content store's folders, on the file system that the build uses.
pub(crate) struct Store {
    root: TempDir,
}

pub(crate) struct Ingest {
    pub(crate) directory: IngestDirectory,
    pub(crate) path: PathBuf,
}

impl Store {
    pub(crate) fn new() -> Self {
        let root = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        fs::create_dir_all(root.path().join("blobs/sha256")).unwrap();
        fs::create_dir_all(root.path().join("ingest")).unwrap();
        Self { root }
    }

    /// Opens an ingest as containerd does, up to its empty `data` file.
    pub(crate) fn open(&self, goroutine: Goroutine, digit: u8) -> (Ingest, File) {
        let directory = IngestDirectory::new([digit; 64]).unwrap();
        let path = self.root.path().join("ingest").join(directory.as_str());
        fs::create_dir(&path).unwrap();
        let ingest = Ingest { directory, path };
        goroutine.write(
            &File::create(ingest.path.join("ref")).unwrap(),
            b"k8s.io/1/layer-sha256:00",
        );
        for name in ["startedat", "updatedat"] {
            ingest.stamp(goroutine, name);
        }
        goroutine.write(&File::create(ingest.path.join("total")).unwrap(), b"1234");
        let data = File::create(ingest.path.join("data")).unwrap();
        (ingest, data)
    }

    /// Turns an ingest into a blob as containerd does, and notes that in its database.
    pub(crate) fn commit(&self, goroutine: Goroutine, ingest: &Ingest, data: File) {
        goroutine.close(data);
        let blob = self
            .root
            .path()
            .join("blobs/sha256")
            .join(ingest.directory.as_str());
        fs::rename(ingest.path.join("data"), blob).unwrap();
        goroutine.write(&File::create(self.root.path().join("meta.db")).unwrap(), b"page");
    }
}

impl Ingest {
    /// Writes a file of time, by way of a temporary one.
    pub(crate) fn stamp(&self, goroutine: Goroutine, name: &str) {
        let temporary = self.path.join(format!("{name}.tmp"));
        goroutine.write(&File::create(&temporary).unwrap(), b"2026-01-01T00:00:00Z");
        fs::rename(temporary, self.path.join(name)).unwrap();
    }
}

/// A connection to a server that sends as much as one reads, until the connection ends.
pub(crate) struct Connection {
    pub(crate) client: TcpStream,
    pub(crate) server: SocketAddr,
    peer: TcpStream,
    sender: Option<JoinHandle<()>>,
}

impl Connection {
    pub(crate) fn open(bind: &str, host: &str) -> Self {
        let listener = TcpListener::bind((bind, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect((host, port)).unwrap();
        let (peer, _) = listener.accept().unwrap();
        let mut sending = peer.try_clone().unwrap();
        let sender = thread::spawn(move || {
            let request = sending.read(&mut [0; 64]);
            while request.is_ok() && sending.write_all(&[7; 16 * 1024]).is_ok() {}
        });
        let server = client.peer_addr().unwrap();
        Self {
            client,
            server,
            peer,
            sender: Some(sender),
        }
    }

    pub(crate) fn plain() -> Self {
        Self::open("127.0.0.1", "127.0.0.1")
    }

    pub(crate) fn cookie(&self) -> u64 {
        rustix::net::sockopt::socket_cookie(&self.client).unwrap()
    }

    /// Sends the request, and reads the head of the response, as the transport's own goroutines do.
    pub(crate) fn request(&self, transport: Goroutine) {
        transport.write(&self.client, b"GET /v2/ HTTP/1.1\r\n\r\n");
        transport.read(&self.client, &mut [0; 4096]);
    }

    pub(crate) fn fill(&self, goroutine: Goroutine, buffer: &mut [u8]) {
        let mut filled = 0;
        while filled < buffer.len() {
            let got = goroutine.read(&self.client, &mut buffer[filled..]);
            assert!(got > 0, "the server sends on");
            filled += got;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The server's end: it may be waiting for room to send.
        let _ = self.peer.shutdown(std::net::Shutdown::Both);
        if let Some(sender) = self.sender.take() {
            let _ = sender.join();
        }
    }
}

/// Watches this process and concludes.
pub(crate) struct Watcher {
    pub(crate) probes: Probes,
    pub(crate) attribution: Attribution,
    pub(crate) records: Vec<Record>,
    pub(crate) changes: Vec<Change>,
}

impl Watcher {
    pub(crate) fn new(level: Level) -> Option<Self> {
        let mut probes = probes(level)?;
        probes.watch(&[std::process::id()]).unwrap();
        Some(Self {
            probes,
            attribution: Attribution::new(),
            records: Vec::new(),
            changes: Vec::new(),
        })
    }

    /// Takes in what is there.
    pub(crate) fn drain(&mut self) {
        let Self {
            probes,
            attribution,
            records,
            changes,
        } = self;
        let mut take = |record: Record| {
            attribution.observe(&record, &mut |change| changes.push(change));
            records.push(record);
        };
        while probes.drain(256, &mut take) == 256 {}
    }

    /// Takes records in until this holds.
    pub(crate) fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.drain();
            if holds(self) {
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "never: {what}; seen: {:#?}\n{:#?}",
                self.records,
                self.changes
            );
            let mut ready = [PollFd::new(&self.probes, PollFlags::IN)];
            poll(&mut ready, Some(&Timespec::try_from(left).unwrap())).unwrap();
        }
    }

    pub(crate) fn feed(&self, cookie: u64) -> Option<Feed> {
        self.attribution.feed_of(cookie).copied()
    }

    /// Records of this goroutine.
    pub(crate) fn of(&self, goroutine: Goroutine) -> Vec<&Record> {
        self.records
            .iter()
            .filter(|record| match record {
                Record::FileTouched { by, .. }
                | Record::FileLeft { by, .. }
                | Record::SocketRead { by, .. }
                | Record::SocketSent { by, .. }
                | Record::ThreadVote { by, .. } => by.goroutine == goroutine.0,
                Record::SocketState { .. } | Record::Gap => false,
            })
            .collect()
    }
}
