//! The levers, pulled on a connection of our own over the loopback: both ends must see the end that containerd would.

use std::io::{self, ErrorKind, Read};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use magi_sys::{Destroyed, DisconnectError, SocketTable, SocketTableError, disconnect, may_duplicate};
use rustix::net::sockopt::socket_cookie;

use super::check::{Check, Question, causes};

const DESTROY: Question = Question {
    id: "destroy-socket",
    proves: "the kernel destroys the one socket that is named: its owner sees an abort, its peer a reset, another socket nothing",
};
const DISCONNECT: Question = Question {
    id: "disconnect-socket",
    proves: "a socket can be ended through a duplicate of its owner's descriptor, and containerd's descriptors can be duplicated",
};

/// Longest wait for an end to be seen; the kernel takes microseconds.
const WITHIN: Duration = Duration::from_secs(2);

/// Why a lever did not do what it should.
#[derive(Debug, thiserror::Error)]
enum LeverError {
    #[error("no connection over the loopback could be made")]
    Pair(#[source] io::Error),
    #[error("the kernel's socket table cannot be used")]
    Table(#[source] SocketTableError),
    #[error("the socket could not be destroyed")]
    Destroy(#[source] SocketTableError),
    #[error("the socket was not found")]
    Missed,
    #[error("the socket could not be disconnected")]
    Disconnect(#[source] DisconnectError),
    #[error("a descriptor of containerd (pid {pid}) could not be duplicated")]
    Duplicate {
        pid: u32,
        #[source]
        source: DisconnectError,
    },
    #[error("{end} saw {seen} instead of {expected:?}")]
    Seen {
        end: &'static str,
        seen: String,
        expected: ErrorKind,
    },
    #[error("another connection was ended as well")]
    Bystander,
}

/// Both levers. Blocks for some milliseconds, and for some seconds at most.
pub(super) fn checks(containerd: Option<u32>) -> Vec<Check> {
    let destroyed = match destroy(containerd) {
        Ok(()) => DESTROY.ok("a connection over the loopback was destroyed: ECONNABORTED here, ECONNRESET at its peer"),
        Err(error) => DESTROY
            .fail(
                causes(&error),
                "run a kernel that is built with CONFIG_INET_DIAG_DESTROY=y, and load its modules (modprobe tcp_diag)",
            )
            .or("run magi-node, and this command, with CAP_NET_ADMIN (and with CAP_SYS_ADMIN if containerd is in another \
                 network namespace)"),
    };
    let disconnected = match disconnected(containerd) {
        Ok(true) => DISCONNECT.ok(
            "a connection over the loopback was disconnected: ECONNRESET at both ends; a descriptor of containerd can be \
             duplicated",
        ),
        Ok(false) => DISCONNECT.warn(
            "a connection over the loopback was disconnected, but on no process of containerd was anything tried",
            "start containerd, and run this where its process can be seen",
        ),
        Err(error) => DISCONNECT.fail(
            causes(&error),
            "run magi-node, and this command, with CAP_SYS_PTRACE, on a kernel of 5.6 or later",
        ),
    };
    vec![destroyed, disconnected]
}

/// A connection with both of its ends here.
struct Pair {
    near: TcpStream,
    far: TcpStream,
}

impl Pair {
    fn new() -> Result<Self, LeverError> {
        let made = || {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let near = TcpStream::connect(listener.local_addr()?)?;
            let (far, from) = listener.accept()?;
            if from != near.local_addr()? {
                return Err(io::Error::other("a stranger connected"));
            }
            for end in [&near, &far] {
                end.set_read_timeout(Some(WITHIN))?;
            }
            Ok(Self { near, far })
        };
        made().map_err(LeverError::Pair)
    }

    /// How the kernel names the near end.
    fn name(&self) -> Result<(u64, std::net::SocketAddr, std::net::SocketAddr), LeverError> {
        let cookie = socket_cookie(&self.near).map_err(|errno| LeverError::Pair(errno.into()))?;
        let local = self.near.local_addr().map_err(LeverError::Pair)?;
        let remote = self.near.peer_addr().map_err(LeverError::Pair)?;
        Ok((cookie, local, remote))
    }

    fn sees(&self, near: ErrorKind) -> Result<(), LeverError> {
        for (end, stream, expected) in [
            ("the owner", &self.near, near),
            ("its peer", &self.far, ErrorKind::ConnectionReset),
        ] {
            let mut stream = stream;
            let seen = match stream.read(&mut [0]) {
                Err(error) if error.kind() == expected => continue,
                Err(error) => error.to_string(),
                Ok(_) => "an end of the stream".to_owned(),
            };
            return Err(LeverError::Seen { end, seen, expected });
        }
        Ok(())
    }

    /// Whether nothing was done to it.
    fn lives(&self) -> Result<(), LeverError> {
        let failed = |_| LeverError::Bystander;
        self.near.set_nonblocking(true).map_err(failed)?;
        match (&self.near).read(&mut [0]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(_) | Ok(_) => Err(LeverError::Bystander),
        }
    }
}

fn destroy(containerd: Option<u32>) -> Result<(), LeverError> {
    if let Some(pid) = containerd {
        // Where containerd's sockets are looked for; it need not be where ours are.
        drop(SocketTable::open_in_netns_of(pid).map_err(LeverError::Table)?);
    }
    let table = SocketTable::open().map_err(LeverError::Table)?;
    let (pair, bystander) = (Pair::new()?, Pair::new()?);
    let (cookie, local, remote) = pair.name()?;
    match table
        .destroy(cookie, local, remote)
        .map_err(LeverError::Destroy)?
    {
        Destroyed::Closed => {}
        Destroyed::AlreadyGone => return Err(LeverError::Missed),
    }
    pair.sees(ErrorKind::ConnectionAborted)?;
    bystander.lives()
}

/// Whether it was tried on containerd as well, as far as that does it no harm.
fn disconnected(containerd: Option<u32>) -> Result<bool, LeverError> {
    let table = SocketTable::open().map_err(LeverError::Table)?;
    let (pair, bystander) = (Pair::new()?, Pair::new()?);
    let (cookie, local, remote) = pair.name()?;
    disconnect(&table, std::process::id(), cookie, local, remote).map_err(LeverError::Disconnect)?;
    pair.sees(ErrorKind::ConnectionReset)?;
    bystander.lives()?;
    match containerd {
        Some(pid) => may_duplicate(pid).map_err(|source| LeverError::Duplicate { pid, source }),
        None => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::check::Outcome;

    #[test]
    fn both_levers_work_on_sockets_of_our_own() {
        for check in checks(Some(std::process::id())) {
            assert_eq!(check.outcome, Outcome::Ok, "{check:?}");
        }
        assert!(destroy(Some(u32::MAX)).is_err());
    }

    #[test]
    fn an_end_that_was_not_caused_is_not_seen() {
        let Pair { near, far } = Pair::new().unwrap();
        drop(far);
        let far = near.try_clone().unwrap();
        let pair = Pair { near, far };
        // What a peer's ordinary end looks like, which containerd takes for the end of the body.
        assert!(matches!(
            pair.sees(ErrorKind::ConnectionAborted),
            Err(LeverError::Seen { .. })
        ));
        assert!(matches!(pair.lives(), Err(LeverError::Bystander)));
    }
}
