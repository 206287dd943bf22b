//! A wire between nodes and a master that can be cut, and stopped without being cut. The tests of the whole master have it too.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// A wire to the master that can be cut, and stopped without being cut.
pub(super) struct Wire {
    pub(super) address: SocketAddr,
    links: Arc<Mutex<JoinSet<()>>>,
    flows: watch::Sender<bool>,
    listening: JoinHandle<()>,
}

impl Wire {
    pub(super) async fn to(master: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let links: Arc<Mutex<JoinSet<()>>> = Arc::default();
        let flows = watch::Sender::new(true);
        let (ours, flowing) = (Arc::clone(&links), flows.subscribe());
        let listening = tokio::spawn(async move {
            while let Ok((node, _)) = listener.accept().await {
                let Ok(master) = TcpStream::connect(master).await else {
                    continue;
                };
                let (node_reads, node_writes) = node.into_split();
                let (master_reads, master_writes) = master.into_split();
                let mut links = ours.lock().unwrap();
                links.spawn(carry(node_reads, master_writes, flowing.clone()));
                links.spawn(carry(master_reads, node_writes, flowing.clone()));
            }
        });
        Self {
            address,
            links,
            flows,
            listening,
        }
    }

    /// Breaks every connection.
    pub(super) fn cut(&self) {
        self.links.lock().unwrap().abort_all();
    }

    /// Carries nothing any more, and tells nobody.
    pub(super) fn stop(&self, is_stopped: bool) {
        self.flows.send_replace(!is_stopped);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.listening.abort();
        self.cut();
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut flowing: watch::Receiver<bool>) {
    let mut buffer = vec![0; 4096];
    loop {
        if flowing.wait_for(|flows| *flows).await.is_err() {
            return;
        }
        let Ok(read) = from.read(&mut buffer).await else {
            return;
        };
        if flowing.wait_for(|flows| *flows).await.is_err() {
            return;
        }
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
