//! The kernel's socket table, listed when the engine asks: containerd's own connections and their byte counts.

use std::sync::Arc;

use magi_engine::event::SocketStat;
use magi_engine::ids::{Cookie, SocketName};
use magi_engine::{Event, Source};
use magi_sys::{OwnerError, SocketTable, SocketTableError, TcpSocket, TcpState};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::containerd::Attached;
use crate::causes;
use crate::inbox::{Inbox, Stopping};

/// Runs until the node stops; `wishes` is the engine's.
pub(crate) async fn run(
    inbox: Inbox,
    mut wishes: mpsc::Receiver<()>,
    mut attached: watch::Receiver<Option<Attached>>,
) {
    let mut lister = Lister {
        inbox,
        up: false,
        table: None,
    };
    loop {
        let told = tokio::select! {
            changed = attached.changed() => {
                if changed.is_err() {
                    return;
                }
                let found = attached.borrow_and_update().clone();
                lister.tell(found).await
            }
            wish = wishes.recv() => {
                if wish.is_none() {
                    return;
                }
                while wishes.try_recv().is_ok() {}
                let found = attached.borrow_and_update().clone();
                lister.tell(found).await
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
    /// The table of the attached process's network namespace.
    table: Option<(u32, Arc<SocketTable>)>,
}

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
enum ListError {
    #[error("cannot open the socket table")]
    Open(#[source] SocketTableError),
    #[error("cannot list containerd's sockets")]
    List(#[source] OwnerError),
    #[error("the list did not come back")]
    Cut(#[source] tokio::task::JoinError),
}

impl Lister {
    async fn tell(&mut self, found: Option<Attached>) -> Result<(), Stopping> {
        let Some(found) = found else { return Ok(()) };
        match self.list(found.pid).await {
            Ok(sockets) => {
                if !std::mem::replace(&mut self.up, true) {
                    info!(sockets = sockets.len(), "the kernel's socket table can be listed");
                    self.inbox
                        .send(Event::SourceUp {
                            source: Source::SocketTable,
                        })
                        .await?;
                }
                self.inbox.send(Event::SocketsListed { sockets }).await
            }
            Err(error) if std::mem::replace(&mut self.up, false) => {
                warn!(
                    error = causes::in_one_line(&error),
                    "the kernel's socket table can no longer be listed"
                );
                self.inbox
                    .send(Event::SourceDown {
                        source: Source::SocketTable,
                    })
                    .await
            }
            Err(error) => {
                let error = causes::in_one_line(&error);
                warn!(
                    error,
                    "the kernel's socket table cannot be listed: without probes nothing ties a socket to a pull"
                );
                Ok(())
            }
        }
    }

    async fn list(&mut self, pid: u32) -> Result<Vec<SocketStat>, ListError> {
        let table = match &self.table {
            Some((of, table)) if *of == pid => Arc::clone(table),
            Some(_) | None => {
                let table = SocketTable::open_in_netns_of(pid).map_err(ListError::Open)?;
                Arc::clone(&self.table.insert((pid, Arc::new(table))).1)
            }
        };
        let listed = tokio::task::spawn_blocking(move || magi_sys::owned_tcp(pid, &table));
        let owned = listed.await.map_err(ListError::Cut)?.map_err(ListError::List)?;
        Ok(owned.connected().map(|owned| stat(&owned.socket)).collect())
    }
}

fn stat(socket: &TcpSocket) -> SocketStat {
    SocketStat {
        socket: SocketName {
            cookie: Cookie(socket.cookie),
            local: socket.local,
            remote: socket.remote,
        },
        established: socket.state == TcpState::Established,
        received: socket.bytes_received.unwrap_or(0),
        unread: u64::from(socket.unread),
    }
}
