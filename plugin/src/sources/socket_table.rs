//! The kernel's socket table, listed when the engine asks: containerd's own connections and their byte counts.

use magi_engine::event::SocketStat;
use magi_engine::ids::{Cookie, SocketName};
use magi_engine::{Event, Source};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::containerd::Attached;
use crate::inbox::{Inbox, Stopping};

/// Runs until the node stops; `wishes` is the engine's.
pub(crate) async fn run(
    inbox: Inbox,
    mut wishes: mpsc::Receiver<()>,
    mut attached: watch::Receiver<Option<Attached>>,
) {
    let mut lister = Lister { inbox, up: false };
    loop {
        let told = tokio::select! {
            changed = attached.changed() => {
                if changed.is_err() {
                    return;
                }
                let found = attached.borrow_and_update().clone();
                lister.list(found).await
            }
            wish = wishes.recv() => {
                if wish.is_none() {
                    return;
                }
                while wishes.try_recv().is_ok() {}
                let found = attached.borrow_and_update().clone();
                lister.list(found).await
            }
        };
        if told.is_err() {
            return;
        }
    }
}

struct Lister {
    inbox: Inbox,
    up: bool,
}

impl Lister {
    async fn list(&mut self, found: Option<Attached>) -> Result<(), Stopping> {
        let Some(found) = found else { return Ok(()) };
        let listed = tokio::task::spawn_blocking(move || sockets_of(found.pid)).await;
        match listed {
            Ok(Ok(sockets)) => {
                if !std::mem::replace(&mut self.up, true) {
                    info!(sockets = sockets.len(), "the kernel's socket table can be listed");
                    self.inbox.send(Event::SourceUp { source: Source::SocketTable }).await?;
                }
                self.inbox.send(Event::SocketsListed { sockets }).await
            }
            Ok(Err(error)) => self.failed(&crate::causes::in_one_line(&error)).await,
            Err(error) => self.failed(&error.to_string()).await,
        }
    }

    async fn failed(&mut self, error: &str) -> Result<(), Stopping> {
        if std::mem::replace(&mut self.up, false) {
            warn!(error, "the kernel's socket table can no longer be listed");
            return self.inbox.send(Event::SourceDown { source: Source::SocketTable }).await;
        }
        warn!(error, "the kernel's socket table cannot be listed: without probes nothing ties a socket to a pull");
        Ok(())
    }
}

/// The connections that the process itself opened.
fn sockets_of(pid: u32) -> Result<Vec<SocketStat>, magi_sys::SocketTableError> {
    let _ = pid;
    let sockets = magi_sys::SocketTable::open()?.tcp_sockets(&magi_sys::TcpFilter::held())?;
    let stat = |socket: magi_sys::TcpSocket| SocketStat {
        socket: SocketName { cookie: Cookie(socket.cookie), local: socket.local, remote: socket.remote },
        established: socket.state == magi_sys::TcpState::Established,
        received: socket.bytes_received.unwrap_or(0),
        unread: u64::from(socket.unread),
    };
    Ok(sockets.into_iter().map(stat).collect())
}
