//! The kernel's table of TCP sockets in one network namespace: listing it, finding one socket in it exactly,
//! and ending exactly one.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use netlink_packet_sock_diag::{AF_INET, AF_INET6};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::channel::{Channel, Failure, Question};
use crate::error::SocketTableError;
use crate::tcp_socket::{Name, TcpFilter, TcpSocket, TcpState, names};

/// The most sockets that one list holds.
pub const MAX_SOCKETS: usize = 65_536;

/// How often a list is tried whose answers were lost or whose table changed.
const LIST_ATTEMPTS: usize = 3;

const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";

/// What a destroy came upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destroyed {
    /// The socket was there and is destroyed: its owner's next read fails with `ECONNABORTED`, its peer gets a reset.
    Closed,
    /// No socket has that cookie and these addresses (any more).
    AlreadyGone,
}

/// A view of the TCP sockets of one network namespace. Every call blocks, for 10 seconds at the very most and
/// some tens of microseconds as a rule; the table may be shared by threads.
#[derive(Debug)]
pub struct SocketTable {
    /// The namespace to look into, unless it is our own.
    namespace: Option<File>,
    // Two channels, so that ending a socket never waits for a long list.
    lists: Mutex<Option<Channel>>,
    commands: Mutex<Option<Channel>>,
}

impl SocketTable {
    /// Opens the table of the calling thread's network namespace.
    ///
    /// # Errors
    /// `Open`, or `Unavailable` where the kernel has no such table.
    pub fn open() -> Result<Self, SocketTableError> {
        Self::open_in(None)
    }

    /// Opens the table of the network namespace that process `pid` is in, and keeps looking there whatever
    /// becomes of the process. The table sees, and ends, sockets of its own namespace only.
    ///
    /// # Errors
    /// `Namespace` if the process is gone or may not be looked at; `Join` without `CAP_SYS_ADMIN`, which is not
    /// needed where the process shares our own namespace; else as [`open`](Self::open).
    pub fn open_in_netns_of(pid: u32) -> Result<Self, SocketTableError> {
        let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
        let (theirs, their_id) = namespace(&path)?;
        let (_, our_id) = namespace(Path::new(OWN_NAMESPACE))?;
        Self::open_in((their_id != our_id).then_some(theirs))
    }

    fn open_in(namespace: Option<File>) -> Result<Self, SocketTableError> {
        let table = Self {
            namespace,
            lists: Mutex::new(None),
            commands: Mutex::new(None),
        };
        let question = Question::List {
            family: AF_INET,
            states: TcpFilter::nothing().states,
        };
        match table.exchange(&table.lists, &question, &mut |_| {}) {
            Ok(()) | Err(Failure::Interrupted) => {}
            Err(Failure::Refused(errno)) if is(errno, Errno::NOENT) => {
                return Err(SocketTableError::Unavailable);
            }
            Err(Failure::Refused(errno)) => return Err(refused(errno)),
            Err(Failure::Broken(error)) => return Err(error),
        }
        *lock(&table.commands) = Some(table.connect()?);
        Ok(table)
    }

    /// Lists the IPv4 and IPv6 sockets that pass the filter.
    ///
    /// # Errors
    /// `TooManySockets` beyond [`MAX_SOCKETS`]; otherwise trouble with the kernel's answers.
    pub fn tcp_sockets(&self, filter: &TcpFilter) -> Result<Vec<TcpSocket>, SocketTableError> {
        self.tcp_sockets_where(filter, |_| true)
    }

    /// Lists the sockets that pass the filter and that `wanted` accepts; only these count against the bound.
    ///
    /// # Errors
    /// As [`tcp_sockets`](Self::tcp_sockets).
    pub fn tcp_sockets_where(
        &self,
        filter: &TcpFilter,
        wanted: impl Fn(&TcpSocket) -> bool,
    ) -> Result<Vec<TcpSocket>, SocketTableError> {
        let mut all = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let found = self.list(family, filter, &wanted, MAX_SOCKETS.saturating_sub(all.len()))?;
            all.extend(found);
        }
        Ok(all)
    }

    pub(crate) fn list(
        &self,
        family: u8,
        filter: &TcpFilter,
        wanted: &dyn Fn(&TcpSocket) -> bool,
        room: usize,
    ) -> Result<Vec<TcpSocket>, SocketTableError> {
        let question = Question::List {
            family,
            states: filter.states.clone(),
        };
        let mut trouble = SocketTableError::Interrupted;
        for _ in 0..LIST_ATTEMPTS {
            let mut found = Vec::new();
            let mut too_many = false;
            // Beyond the bound the rest is read and dropped: a list left half read would block the next one.
            let outcome = self.exchange(&self.lists, &question, &mut |socket| {
                if wanted(&socket) {
                    if found.len() < room {
                        found.push(socket);
                    } else {
                        too_many = true;
                    }
                }
            });
            match outcome {
                Ok(()) if too_many => {
                    return Err(SocketTableError::TooManySockets { limit: MAX_SOCKETS });
                }
                Ok(()) => return Ok(found),
                Err(Failure::Interrupted) => trouble = SocketTableError::Interrupted,
                Err(Failure::Broken(SocketTableError::AnswersLost)) => {
                    trouble = SocketTableError::AnswersLost;
                }
                Err(Failure::Refused(errno)) => return Err(refused(errno)),
                Err(Failure::Broken(error)) => return Err(error),
            }
        }
        Err(trouble)
    }

    /// Finds the one socket with this cookie and these addresses, without listing the table. IPv4-mapped
    /// addresses may be given in either form. `None` if there is no such socket (any more).
    ///
    /// # Errors
    /// `InvalidCookie`, `MixedFamilies`, or trouble with the kernel's answer.
    pub fn tcp_socket(
        &self,
        cookie: u64,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<Option<TcpSocket>, SocketTableError> {
        self.find_by(names(cookie, local, remote, 0)?)
    }

    fn find_by(&self, names: Vec<Name>) -> Result<Option<TcpSocket>, SocketTableError> {
        for (position, name) in names.into_iter().enumerate() {
            let mut found = None;
            match self.exchange(&self.commands, &Question::Find(name), &mut |socket| {
                found = Some(socket)
            }) {
                Ok(()) | Err(Failure::Interrupted) => return Ok(found),
                Err(Failure::Refused(errno)) if means_absent(errno, position) => {}
                Err(Failure::Refused(errno)) => return Err(refused(errno)),
                Err(Failure::Broken(error)) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Ends the one socket that has this cookie *and* these addresses, at once and for both sides. Nothing else
    /// is ever hit: the kernel compares the cookie, and values that it takes for "any" are refused here. A
    /// repetition finds [`Destroyed::AlreadyGone`], which also is the answer for a socket bound to a network
    /// interface (see [`destroy_socket`](Self::destroy_socket)), so look afterwards whether it is gone.
    ///
    /// # Errors
    /// `InvalidCookie`, `MixedFamilies`; `NotPermitted` without `CAP_NET_ADMIN`; `Unsupported` on a kernel that
    /// cannot do it; or trouble with the kernel's answer, after which the socket may or may not be gone.
    pub fn destroy(
        &self,
        cookie: u64,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<Destroyed, SocketTableError> {
        self.destroy_by(names(cookie, local, remote, 0)?)
    }

    /// Ends exactly the socket that an earlier answer described, also one that is bound to an interface.
    ///
    /// # Errors
    /// As [`destroy`](Self::destroy).
    pub fn destroy_socket(&self, socket: &TcpSocket) -> Result<Destroyed, SocketTableError> {
        let mut names = names(socket.cookie, socket.local, socket.remote, socket.interface)?;
        if socket.v4_mapped {
            names.reverse();
        }
        self.destroy_by(names)
    }

    fn destroy_by(&self, names: Vec<Name>) -> Result<Destroyed, SocketTableError> {
        for (position, name) in names.iter().enumerate() {
            match self.exchange(&self.commands, &Question::Destroy(name.clone()), &mut |_| {}) {
                Ok(()) | Err(Failure::Interrupted) => return Ok(Destroyed::Closed),
                Err(Failure::Refused(errno)) if means_absent(errno, position) => {}
                // Older kernels say this of sockets in TIME_WAIT too, which nobody holds.
                Err(Failure::Refused(errno)) if is(errno, Errno::OPNOTSUPP) || is(errno, Errno::INVAL) => {
                    return self.destroy_refused(names);
                }
                Err(Failure::Refused(errno)) => return Err(refused(errno)),
                Err(Failure::Broken(error)) => return Err(error),
            }
        }
        Ok(Destroyed::AlreadyGone)
    }

    fn destroy_refused(&self, names: Vec<Name>) -> Result<Destroyed, SocketTableError> {
        match self.find_by(names)? {
            Some(socket) if socket.state != TcpState::TimeWait => Err(SocketTableError::Unsupported),
            Some(_) | None => Ok(Destroyed::AlreadyGone),
        }
    }

    fn exchange(
        &self,
        slot: &Mutex<Option<Channel>>,
        question: &Question,
        visit: &mut dyn FnMut(TcpSocket),
    ) -> Result<(), Failure> {
        let mut slot = lock(slot);
        let mut channel = match slot.take() {
            Some(channel) => channel,
            None => self.connect().map_err(Failure::Broken)?,
        };
        let outcome = channel.exchange(question, visit);
        if !matches!(outcome, Err(Failure::Broken(_))) {
            *slot = Some(channel);
        }
        outcome
    }

    fn connect(&self) -> Result<Channel, SocketTableError> {
        let Some(namespace) = &self.namespace else {
            return Channel::open();
        };
        // A thread that changed its namespace is of no use to anybody else, so it ends here.
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("magi-netns".to_owned())
                .spawn_scoped(scope, || {
                    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                        .map_err(|errno| SocketTableError::Join { source: errno.into() })?;
                    Channel::open()
                })
                .map_err(|source| SocketTableError::NamespaceThread { source })?
                .join()
                .map_err(|_| SocketTableError::NamespaceThread {
                    source: io::Error::other("it panicked"),
                })?
        })
    }
}

fn namespace(path: &Path) -> Result<(File, (u64, u64)), SocketTableError> {
    let error = |source| SocketTableError::Namespace {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(error)?;
    let about = file.metadata().map_err(error)?;
    Ok((file, (about.dev(), about.ino())))
}

fn is(errno: i32, expected: Errno) -> bool {
    errno == expected.raw_os_error()
}

/// A socket has one family, so a kernel without IPv6, which finds the second name invalid, has no such socket.
fn means_absent(errno: i32, position: usize) -> bool {
    is(errno, Errno::NOENT) || (position > 0 && is(errno, Errno::INVAL))
}

fn refused(errno: i32) -> SocketTableError {
    if is(errno, Errno::PERM) {
        SocketTableError::NotPermitted
    } else {
        SocketTableError::Refused {
            source: io::Error::from_raw_os_error(errno),
        }
    }
}

fn lock<Value>(mutex: &Mutex<Value>) -> MutexGuard<'_, Value> {
    // What is behind the lock is taken out while in use, so a panic leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
