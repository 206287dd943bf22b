//! An HTTP proxy that knows CONNECT and nothing else, as the only way to a registry that has a name but no address.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A head that is longer, or takes longer, is none.
const LONGEST_HEAD: u64 = 16 << 10;
const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// A running proxy. Dropping it ends it, and the tunnels with it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    tunnels: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// Starts one that leads whatever it is asked for to `target`.
    pub async fn start(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .context("listen as a proxy")?;
        let address = listener.local_addr().context("read the proxy's address")?;
        let tunnels = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        let counter = Arc::clone(&tunnels);
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                while open.try_join_next().is_some() {}
                let counter = Arc::clone(&counter);
                // A tunnel that breaks is its two ends' matter.
                open.spawn(async move { drop(tunnel(client, target, &counter).await) });
            }
        });
        Ok(Self {
            address,
            tunnels,
            _tasks: tasks,
        })
    }

    /// `http://127.0.0.1:port`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many tunnels it has opened so far.
    pub fn tunnels(&self) -> u64 {
        self.tunnels.load(Ordering::Relaxed)
    }
}

async fn tunnel(client: TcpStream, target: SocketAddr, opened: &AtomicU64) -> Result<()> {
    let mut client = BufReader::new(client);
    let mut head = (&mut client).take(LONGEST_HEAD);
    let mut first = String::new();
    let read = async {
        head.read_line(&mut first).await.context("read the request")?;
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            let read = head.read_line(&mut line).await.context("read the head")?;
            ensure!(read > 0, "no head");
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(HEAD_WITHIN, read)
        .await
        .context("a slow head")??;
    if !first.starts_with("CONNECT ") {
        let refusal = b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n";
        client.write_all(refusal).await.context("refuse")?;
        return Ok(());
    }
    let mut server = TcpStream::connect(target)
        .await
        .context("connect to the target")?;
    client
        .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
        .await
        .context("accept")?;
    opened.fetch_add(1, Ordering::Relaxed);
    tokio::io::copy_bidirectional(&mut client, &mut server)
        .await
        .context("pass bytes on")?;
    Ok(())
}
