//! What passes between containerd and its clients: the bytes on the connections that it accepted on given unix
//! sockets, both directions, for any client, joined in mid-connection.
//!
//! # Credentials
//! These bytes hold registry passwords. Nothing here copies them: a [`Piece`] lends them where the kernel put them,
//! and shows none when it is printed. Whoever copies them must clear the copy. The kernel's ring itself cannot be
//! cleared from here, as the kernel maps its data read-only; a piece that was taken stays in there until later ones
//! overwrite it, readable only for those who may read the memory of this process or any map of the kernel
//! (`CAP_SYS_ADMIN`, or `CAP_SYS_PTRACE`), who can read containerd's memory too.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::PathBuf;

use aya::maps::MapError;
use aya::programs::links::FdLink;

use crate::load::{LoadError, Strategy};
use crate::probes::ReadError;
use crate::watch::{PidNamespace, WatchError, map_error};

mod decode;
mod kernel_side;
mod piece;
mod table;

use kernel_side::{Entry, Maps};
pub use kernel_side::{MAX_CONVERSATIONS, MAX_PATH_BYTES, MAX_PATHS};
pub use piece::{Direction, Lost, Passed, Piece};
pub use table::SweepError;

/// How to load.
#[derive(Debug, Clone, Default)]
pub struct ConversationOptions {
    /// The kernel's type information; by default where the kernel publishes it.
    pub btf: Option<PathBuf>,
    /// Which variant to take.
    pub strategy: Strategy<Hooks>,
    /// The sockets whose connections count: at most [`MAX_PATHS`], each exactly as its listener passed it to
    /// `bind`, whatever mounts or links lie between.
    pub paths: Vec<PathBuf>,
    /// A process whose own connections are left out, as this process's pid namespace numbers it; it must live in
    /// that namespace too. 0: none. Who connects counts, not who writes.
    pub own_tgid: u32,
    /// Bytes of the kernel's ring, rounded up to a power of two and to whole pages; 4 MiB by default. The kernel
    /// counts twice as many as resident in this process, as it maps the ring twice.
    pub ring_bytes: Option<u32>,
}

/// The variant that is running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hooks {
    /// BTF tracepoints where sockets receive and send: no cost for other processes. Linux 6.3 or newer.
    SocketTracepoints,
    /// The raw tracepoint at the end of system calls: a small tax on every system call of the machine. Connections
    /// are named by inode number, which the kernel may use again after some 4 thousand million others. Bytes moved
    /// by `sendmmsg`, `recvmmsg`, `splice` or `io_uring` are not even counted.
    SyscallTracepoints,
}

/// Loaded and attached; dropping it detaches.
///
/// Watches nobody until [`watch`](Self::watch). The descriptor is readable while something waits: put the whole
/// value into an `AsyncFd`, or poll [`fd`](Self::fd), then [`drain`](Self::drain). Every few seconds,
/// [`sweep`](Self::sweep).
///
/// # What is seen
/// Bytes are copied when the watched process's own call has moved them, so those of one direction of one
/// connection come in order. `read`, `write`, and `recv`/`send` without special flags are copied, up to 64 KiB of
/// one call. All others are counted only: they show as a jump of the offset, as does a full ring.
pub struct Conversations {
    maps: Maps,
    hooks: Hooks,
    fell_back: Option<LoadError>,
    namespace: PidNamespace,
    watched: Vec<u32>,
    /// In the kernel's list of sockets at no last look: gone, if the next look does not find them either.
    missing: Vec<u64>,
    /// To be told once the ring is empty, as their last pieces may be in there.
    gone: Vec<u64>,
    undecodable: u64,
    _attachments: Vec<FdLink>,
}

impl std::fmt::Debug for Conversations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conversations")
            .field("hooks", &self.hooks)
            .field("watched", &self.watched)
            .finish_non_exhaustive()
    }
}

impl Conversations {
    /// Loads and attaches. Takes tens of milliseconds and, for that moment, tens of megabytes: see
    /// [`release_memory`](crate::release_memory).
    ///
    /// # Errors
    /// See [`LoadError`]; nothing stays attached then.
    pub fn load(options: &ConversationOptions) -> Result<Self, LoadError> {
        let namespace = PidNamespace::own()?;
        let loaded = kernel_side::load(options, namespace)?;
        Ok(Self {
            maps: loaded.maps,
            hooks: loaded.hooks,
            fell_back: loaded.fell_back,
            namespace,
            watched: Vec::new(),
            missing: Vec::new(),
            gone: Vec::new(),
            undecodable: 0,
            _attachments: loaded.attachments,
        })
    }

    /// Watches these processes, named as this process's pid namespace numbers them, instead of those before; none
    /// at all switches every program off. Takes effect at once. The connections of a process that is not watched
    /// any more are told as closed by the next [`drain`](Self::drain).
    ///
    /// # Errors
    /// If the list is unusable or the kernel refuses.
    pub fn watch(&mut self, pids: &[u32]) -> Result<(), WatchError> {
        let targets = self.namespace.targets(pids)?;
        // What passed unseen was not counted, so a process that was not watched begins anew.
        let staying: Vec<u32> = self
            .watched
            .iter()
            .copied()
            .filter(|pid| pids.contains(pid))
            .collect();
        self.forget_all_but(&staying)
            .map_err(map_error("conversations"))?;
        self.maps
            .targets
            .set(0, targets, 0)
            .map_err(map_error("targets"))?;
        self.watched = pids.to_vec();
        self.forget_all_but(pids).map_err(map_error("conversations"))
    }

    fn forget_all_but(&mut self, pids: &[u32]) -> Result<(), MapError> {
        for (connection, entry) in self.maps.entries()? {
            if !pids.contains(&entry.tgid) {
                self.forget(connection, &entry)?;
            }
        }
        Ok(())
    }

    fn forget(&mut self, connection: u64, entry: &Entry) -> Result<(), MapError> {
        self.maps.remove(connection)?;
        if entry.is_open {
            self.gone.push(connection);
        }
        Ok(())
    }

    /// The descriptor to poll.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.maps.pieces.as_fd()
    }

    /// Hands over at most `max` items that wait in the ring, oldest first, and returns how many. Less than `max`
    /// means that none is left; then also the connections that [`sweep`](Self::sweep) or [`watch`](Self::watch)
    /// found gone are told, uncounted. Never blocks.
    ///
    /// The times of two directions, or of two connections, may be out of order by the length of a call.
    pub fn drain(&mut self, max: usize, f: &mut dyn FnMut(Passed<'_>)) -> usize {
        for taken in 0..max {
            let Some(item) = self.maps.pieces.next() else {
                let at_ns = now_ns();
                for connection in self.gone.drain(..) {
                    f(Passed::Closed { connection, at_ns });
                }
                return taken;
            };
            match decode::decode(&item) {
                Ok(passed) => f(passed),
                Err(_) => self.undecodable = self.undecodable.saturating_add(1),
            }
        }
        max
    }

    /// Looks which connections are gone without a word, as those that the watched process itself closed: the kernel
    /// lists their sockets no more. Makes room in the kernel's table, and must be called every few seconds for that
    /// alone; reads `/proc/PID/net/unix` for each watched process with connections, and takes well below a
    /// millisecond on a node with few sockets. A connection is told as closed by the [`drain`](Self::drain) after the
    /// second look that does not find it.
    ///
    /// # Errors
    /// If the kernel does not tell; then nothing is forgotten.
    pub fn sweep(&mut self) -> Result<(), SweepError> {
        // Nobody drains: what was found gone must be told first.
        if self.gone.len() >= MAX_CONVERSATIONS {
            return Ok(());
        }
        let entries = self.maps.entries().map_err(SweepError::table)?;
        let listed = table::listed(&entries)?;
        let mut missing = Vec::new();
        for (connection, entry) in entries {
            let is_watched = self.watched.contains(&entry.tgid);
            if is_watched && listed.contains(&(entry.tgid, entry.inode)) {
                continue;
            }
            // The kernel may skip a socket in its list while another one goes.
            if is_watched && !self.missing.contains(&connection) {
                missing.push(connection);
                continue;
            }
            self.forget(connection, &entry).map_err(SweepError::table)?;
        }
        self.missing = missing;
        Ok(())
    }

    /// What could not be handed over since loading, in numbers; where it is missing shows in the offsets.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn lost(&self) -> Result<Lost, ReadError> {
        self.maps.lost().map_err(|error| ReadError(Box::new(error)))
    }

    /// How many connections the kernel side holds, those that are left out or ended but not swept yet included.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn held(&self) -> Result<usize, ReadError> {
        let entries = self.maps.entries().map_err(|error| ReadError(Box::new(error)))?;
        Ok(entries.len())
    }

    /// How many items of the ring were none of this version: anything but 0 is a defect.
    #[must_use]
    pub fn undecodable(&self) -> u64 {
        self.undecodable
    }

    /// The variant that is running.
    #[must_use]
    pub fn hooks(&self) -> Hooks {
        self.hooks
    }

    /// Why the better variant is not running, if it was tried.
    #[must_use]
    pub fn fell_back(&self) -> Option<&LoadError> {
        self.fell_back.as_ref()
    }
}

impl AsFd for Conversations {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd()
    }
}

impl AsRawFd for Conversations {
    fn as_raw_fd(&self) -> RawFd {
        self.fd().as_raw_fd()
    }
}

/// The clock of the kernel side.
fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let rest = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}
