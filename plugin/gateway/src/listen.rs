//! The socket that the kubelet asks on: handed over by systemd, or made here.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use magi_node_api::{BindError, OpenSocket, take_over};
use rustix::io::Errno;
use rustix::net::{AddressFamily, sockopt};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use tokio::net::UnixStream;

use crate::bounds::MAX_CONNECTIONS;

/// Where systemd puts the first descriptor that it hands over (sd_listen_fds(3), `SD_LISTEN_FDS_START`).
const FIRST: i32 = 3;

/// Why there is nothing to listen on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    /// It cannot be made.
    #[error("cannot offer the image service")]
    Bind(#[from] BindError),
    /// systemd hands over several sockets.
    #[error(
        "systemd hands over {count} sockets, and one is wanted: leave one ListenStream= in the socket unit"
    )]
    TooMany {
        /// How many.
        count: u32,
    },
    /// The descriptor cannot be taken.
    #[error("cannot take the socket that systemd hands over")]
    Take(#[source] Errno),
    /// It is something else.
    #[error("what systemd hands over is no listening unix socket: its unit needs ListenStream= with a path")]
    Unfit,
    /// It cannot be used without waiting.
    #[error("cannot set up the socket")]
    SetUp(#[source] std::io::Error),
}

/// The socket, and whose it is.
#[derive(Debug)]
pub(crate) enum Listening {
    /// systemd's: it stays when this process goes, and whoever connects meanwhile waits in it.
    Activated(UnixListener),
    /// Our own.
    Own(OpenSocket),
}

impl Listening {
    /// Takes what systemd hands over, as `environment` tells; else listens at `path`.
    pub(crate) fn begin(
        path: &Path,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ListenError> {
        let number = |name| environment(name)?.parse::<u32>().ok();
        let own = u32::try_from(getpid().as_raw_pid()).ok();
        let count = number("LISTEN_FDS").unwrap_or(0);
        let listening = if number("LISTEN_PID") == own && count > 0 {
            if count > 1 {
                return Err(ListenError::TooMany { count });
            }
            Self::Activated(handed_over()?)
        } else {
            Self::Own(take_over(path)?)
        };
        listening
            .listener()
            .set_nonblocking(true)
            .map_err(ListenError::SetUp)?;
        Ok(listening)
    }

    /// What listens.
    pub(crate) const fn listener(&self) -> &UnixListener {
        match self {
            Self::Activated(listener) => listener,
            Self::Own(socket) => &socket.listener,
        }
    }
}

impl Listening {
    /// Ends it, and gives whoever was waiting in a socket of our own, which nobody else will accept from.
    pub(crate) fn last(self) -> Vec<UnixStream> {
        let Self::Own(socket) = self else {
            return Vec::new();
        };
        let listener = socket.close();
        let accepted = std::iter::from_fn(|| listener.accept().ok());
        let taken = accepted.take(MAX_CONNECTIONS).filter_map(|(stream, _)| {
            stream.set_nonblocking(true).ok()?;
            UnixStream::from_std(stream).ok()
        });
        taken.collect()
    }
}

/// A duplicate of the descriptor, made by the kernel: to claim the number itself would take unsafe code.
fn handed_over() -> Result<UnixListener, ListenError> {
    let ourselves = pidfd_open(getpid(), PidfdFlags::empty()).map_err(ListenError::Take)?;
    let descriptor: OwnedFd =
        pidfd_getfd(&ourselves, FIRST, PidfdGetfdFlags::empty()).map_err(ListenError::Take)?;
    let fits = sockopt::socket_domain(descriptor.as_fd()) == Ok(AddressFamily::UNIX)
        && sockopt::socket_acceptconn(descriptor.as_fd()) == Ok(true);
    if fits {
        Ok(UnixListener::from(descriptor))
    } else {
        Err(ListenError::Unfit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_meant_for_another_process_is_left_alone() {
        let path = std::env::temp_dir().join(format!("magi-gateway-{}", std::process::id()));
        let socket = path.join("image.sock");
        let listening = Listening::begin(&socket, |_| Some("1".to_owned()));
        assert!(matches!(listening, Ok(Listening::Own(_))), "{listening:?}");
        drop(listening);
        assert!(!socket.exists());
        std::fs::remove_dir(path).unwrap();
    }

    #[test]
    fn one_socket_is_wanted() {
        let own = std::process::id().to_string();
        let listening = Listening::begin(Path::new("/nowhere/x"), |name| {
            Some(if name == "LISTEN_PID" {
                own.clone()
            } else {
                "2".to_owned()
            })
        });
        assert!(
            matches!(listening, Err(ListenError::TooMany { count: 2 })),
            "{listening:?}"
        );
    }
}
