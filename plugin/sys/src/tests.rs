//! Real sockets on the loopback, a real kernel, and what it does to them. These tests need root.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::socket_cookie;
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use super::*;

mod disconnecting;
mod namespaces;
mod owners;
mod table;

/// Long enough for any machine, short enough to fail instead of hanging.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// How the victim's program sees its network.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stack {
    V4,
    V6,
    /// An IPv6 socket that talks to an IPv4 address, as Go makes them for dual-stack names.
    Mapped,
}

pub(super) const STACKS: [Stack; 3] = [Stack::V4, Stack::V6, Stack::Mapped];

/// A connection with both of its ends in this process.
pub(super) struct Pair {
    /// The end that connected: the victim.
    pub(super) client: TcpStream,
    /// The end that was accepted.
    pub(super) server: TcpStream,
    pub(super) listener: TcpListener,
}

impl Pair {
    pub(super) fn new(stack: Stack) -> Self {
        let listen = match stack {
            Stack::V4 | Stack::Mapped => "127.0.0.1:0",
            Stack::V6 => "[::1]:0",
        };
        let listener = TcpListener::bind(listen).unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = match stack {
            Stack::V4 | Stack::V6 => TcpStream::connect(listener.local_addr().unwrap()),
            Stack::Mapped => TcpStream::connect(format!("[::ffff:127.0.0.1]:{port}")),
        }
        .unwrap();
        let (server, _) = listener.accept().unwrap();
        for end in [&client, &server] {
            end.set_read_timeout(Some(PATIENCE)).unwrap();
            end.set_write_timeout(Some(PATIENCE)).unwrap();
        }
        Self {
            client,
            server,
            listener,
        }
    }

    /// The client's cookie by its own descriptor, and its addresses.
    pub(super) fn client_name(&self) -> (u64, SocketAddr, SocketAddr) {
        name_of(&self.client)
    }

    /// Whether bytes still get through from the server to the client.
    pub(super) fn works(&mut self) -> bool {
        let mut byte = [0];
        self.server.write_all(b"x").is_ok() && self.client.read_exact(&mut byte).is_ok()
    }
}

pub(super) fn name_of(stream: &TcpStream) -> (u64, SocketAddr, SocketAddr) {
    (
        socket_cookie(stream).unwrap(),
        stream.local_addr().unwrap(),
        stream.peer_addr().unwrap(),
    )
}

/// Reads as an event loop does: only after the kernel has said that there is something to be had.
pub(super) fn read_when_ready(stream: &TcpStream) -> Result<usize, ErrorKind> {
    let mut events = [PollFd::new(stream, PollFlags::IN)];
    let wait = Timespec::try_from(PATIENCE).unwrap();
    assert_eq!(poll(&mut events, Some(&wait)), Ok(1), "nothing happened");
    let mut stream = stream;
    stream.read(&mut [0; 16]).map_err(|error| error.kind())
}

/// Runs `work` on a thread that lacks these capabilities, as a node agent with too few of them would.
pub(super) fn without<Value: Send>(missing: CapabilitySet, work: impl FnOnce() -> Value + Send) -> Value {
    std::thread::scope(|scope| {
        let limited = scope.spawn(|| {
            let mut sets = capabilities(None).unwrap();
            sets.effective.remove(missing);
            sets.permitted.remove(missing);
            set_capabilities(None, sets).unwrap();
            work()
        });
        limited.join().unwrap()
    })
}

/// A child process that reads a socket until that ends. It is awaited when dropped.
pub(super) struct Reader {
    child: Child,
}

impl Reader {
    pub(super) fn of(stream: TcpStream) -> Self {
        // `cat` says on its standard error how its input ended.
        let child = Command::new("cat")
            .env("LC_ALL", "C")
            .stdin(OwnedFd::from(stream))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the child's end and gives its last words.
    pub(super) fn last_words(mut self) -> String {
        let mut words = String::new();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut words)
            .unwrap();
        words
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _status = self.child.wait();
    }
}
