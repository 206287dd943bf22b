//! A server on a unix socket, played by this process, and what is heard of its conversations.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use magi_probes::{ConversationOptions, Conversations, Direction, Hooks, Passed, Strategy};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tempfile::TempDir;

use crate::scene::checked;

pub(crate) const HOOKS: [Hooks; 2] = [Hooks::SocketTracepoints, Hooks::SyscallTracepoints];
/// The read buffer of Go's HTTP/2 server in containerd.
pub(crate) const BUFFER: usize = 32 * 1024;
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Server {
    folder: TempDir,
    listener: UnixListener,
}

impl Server {
    pub(crate) fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let listener = UnixListener::bind(folder.path().join("c.sock")).unwrap();
        Self { folder, listener }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("c.sock")
    }

    /// Another socket in the same folder.
    pub(crate) fn beside(&self, name: &str) -> UnixListener {
        UnixListener::bind(self.folder.path().join(name)).unwrap()
    }

    pub(crate) fn connect(&self) -> Link {
        Link::over(&self.listener, UnixStream::connect(self.path()).unwrap())
    }

    pub(crate) fn accept(&self) -> UnixStream {
        self.listener.accept().unwrap().0
    }
}

/// Both ends of a connection.
pub(crate) struct Link {
    pub(crate) client: UnixStream,
    pub(crate) server: UnixStream,
}

impl Link {
    pub(crate) fn to(listener: &UnixListener) -> Self {
        let address = listener.local_addr().unwrap();
        Self::over(listener, UnixStream::connect_addr(&address).unwrap())
    }

    fn over(listener: &UnixListener, client: UnixStream) -> Self {
        let (server, _) = listener.accept().unwrap();
        Self { client, server }
    }

    /// What the kernel side calls it.
    pub(crate) fn id(&self, hooks: Hooks) -> u64 {
        id(&self.server, hooks)
    }

    pub(crate) fn ask(&mut self, bytes: &[u8]) {
        self.client.write_all(bytes).unwrap();
        read_all(&self.server, bytes.len());
    }

    pub(crate) fn answer(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let written = rustix::io::write(&self.server, rest).unwrap();
            self.client.read_exact(&mut vec![0; written]).unwrap();
            rest = &rest[written..];
        }
    }
}

pub(crate) fn id(socket: &UnixStream, hooks: Hooks) -> u64 {
    match hooks {
        Hooks::SocketTracepoints => rustix::net::sockopt::socket_cookie(socket).unwrap(),
        Hooks::SyscallTracepoints => rustix::fs::fstat(socket).unwrap().st_ino,
    }
}

/// Reads with `read(2)`, as Go does, until that many bytes came.
pub(crate) fn read_all(from: &impl AsFd, length: usize) {
    let mut buffer = vec![0; BUFFER];
    let mut got = 0;
    while got < length {
        let count = rustix::io::read(from.as_fd(), &mut buffer[..]).unwrap();
        assert!(count > 0, "{got} of {length} bytes, and the end");
        got += count;
    }
}

/// One stream: its pieces as they came.
#[derive(Default)]
pub(crate) struct Stream {
    pub(crate) pieces: Vec<(u64, Vec<u8>)>,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lengths = self.pieces.iter().map(|(offset, bytes)| (offset, bytes.len()));
        f.debug_map().entries(lengths).finish()
    }
}

impl Stream {
    /// All bytes, if none is missing from 0 on.
    pub(crate) fn whole(&self) -> Option<Vec<u8>> {
        let mut whole = Vec::new();
        for (offset, bytes) in &self.pieces {
            if *offset != whole.len() as u64 {
                return None;
            }
            whole.extend(bytes);
        }
        Some(whole)
    }

    /// Bytes that came, and bytes that a jump of the offset shows as missing before them.
    pub(crate) fn came_and_missing(&self) -> (u64, u64) {
        let (mut came, mut missing, mut next) = (0, 0, 0);
        for (offset, bytes) in &self.pieces {
            missing += offset.checked_sub(next).expect("offsets never go back");
            came += bytes.len() as u64;
            next = offset + bytes.len() as u64;
        }
        (came, missing)
    }
}

/// Watches this process and listens.
pub(crate) struct Ear {
    pub(crate) conversations: Conversations,
    pub(crate) streams: BTreeMap<(u64, Direction), Stream>,
    pub(crate) closed: Vec<u64>,
    pub(crate) tgids: Vec<u32>,
    pub(crate) times: Vec<u64>,
}

impl Ear {
    pub(crate) fn new(hooks: Hooks, path: &Path) -> Option<Self> {
        Self::with(hooks, path, ConversationOptions::default())
    }

    /// With other options than the default ones.
    pub(crate) fn with(hooks: Hooks, path: &Path, options: ConversationOptions) -> Option<Self> {
        let mut conversations = checked(Conversations::load(&ConversationOptions {
            strategy: Strategy::Only(hooks),
            paths: vec![PathBuf::from("/nonexistent/other.sock"), path.to_owned()],
            ..options
        }))?;
        conversations.watch(&[std::process::id()]).unwrap();
        Some(Self {
            conversations,
            streams: BTreeMap::new(),
            closed: Vec::new(),
            tgids: Vec::new(),
            times: Vec::new(),
        })
    }

    /// Takes in what is there.
    pub(crate) fn drain(&mut self) {
        let Self {
            conversations,
            streams,
            closed,
            tgids,
            times,
        } = self;
        let mut take = |passed: Passed<'_>| match passed {
            Passed::Piece(piece) => {
                let stream = streams.entry((piece.connection, piece.direction)).or_default();
                stream.pieces.push((piece.offset, piece.bytes.to_vec()));
                tgids.push(piece.tgid);
                times.push(piece.at_ns);
            }
            Passed::Closed { connection, at_ns } => {
                closed.push(connection);
                times.push(at_ns);
            }
        };
        while conversations.drain(64, &mut take) == 64 {}
    }

    /// Takes in until this holds.
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
                "never: {what}; {:?} {:?}",
                self.streams,
                self.closed
            );
            let mut ready = [PollFd::new(&self.conversations, PollFlags::IN)];
            poll(&mut ready, Some(&Timespec::try_from(left).unwrap())).unwrap();
        }
    }

    /// What this stream said so far, if nothing is missing.
    pub(crate) fn said(&self, connection: u64, direction: Direction) -> Option<Vec<u8>> {
        self.streams.get(&(connection, direction))?.whole()
    }

    pub(crate) fn until_said(&mut self, connection: u64, direction: Direction, bytes: &[u8]) {
        self.until("these bytes", |ear| {
            ear.said(connection, direction).as_deref() == Some(bytes)
        });
    }

    /// Looks until the kernel's table of sockets is trusted.
    pub(crate) fn sweep(&mut self) {
        for _ in 0..2 {
            self.conversations.sweep().unwrap();
        }
        self.drain();
    }
}

/// Bytes that differ wherever they stand.
pub(crate) fn pattern(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761).max(1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// A socket of this process, in the kernel's own list.
pub(crate) fn is_listed(inode: u64) -> bool {
    let list = fs::read_to_string("/proc/self/net/unix").unwrap();
    let inode = inode.to_string();
    list.lines()
        .any(|line| line.split_whitespace().nth(6) == Some(&inode))
}

/// The descriptor, for system calls that std does not make.
pub(crate) fn fd(socket: &UnixStream) -> BorrowedFd<'_> {
    socket.as_fd()
}
