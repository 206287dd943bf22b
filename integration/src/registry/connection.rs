//! Listening, accepting and serving connections, and counting what their sockets took.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context as TaskContext, Poll};

use anyhow::{Context, Result};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use super::Shared;
use super::log::Log;
use super::serve::{self, Peer};

/// Listens on a free port of `address` and serves what comes, on `runtime`.
pub(super) fn listen(runtime: &Runtime, address: SocketAddr, shared: &Arc<Shared>) -> Result<SocketAddr> {
    let listener = std::net::TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
    serve_on(runtime, listener, shared)
}

/// Serves what comes there. A socket stays in the network namespace in which it was made, whoever serves it.
pub(super) fn serve_on(
    runtime: &Runtime,
    listener: std::net::TcpListener,
    shared: &Arc<Shared>,
) -> Result<SocketAddr> {
    listener
        .set_nonblocking(true)
        .context("make the listener non-blocking")?;
    let local = listener.local_addr().context("read the listener's address")?;
    let _within = runtime.enter();
    let listener = TcpListener::from_std(listener).context("register the listener")?;
    runtime.spawn(accept(listener, Arc::clone(shared)));
    Ok(local)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let shared = Arc::clone(&shared);
                // A connection that fails is the client's matter; the log shows how far it came.
                tokio::spawn(async move {
                    let _ = connection(stream, peer, shared).await;
                });
            }
            // Out of descriptors, say: let some go first.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>) -> Result<()> {
    if let Some(bytes) = shared.send_buffer {
        // The kernel doubles the value for its own bookkeeping.
        rustix::net::sockopt::set_socket_send_buffer_size(&stream, bytes / 2)
            .context("set the send buffer")?;
    }
    stream.set_nodelay(true).context("set TCP_NODELAY")?;
    let written = Arc::new(AtomicU64::new(0));
    let peer = Peer {
        connection: shared.connections.fetch_add(1, Ordering::Relaxed),
        peer,
        local: stream.local_addr().context("read the local address")?,
        written: Arc::clone(&written),
    };
    match &shared.tls {
        None => {
            converse(
                Counted {
                    inner: stream,
                    written,
                    log: shared.log.clone(),
                },
                peer,
                shared,
                false,
            )
            .await
        }
        Some(tls) => {
            let mut stream = tls.acceptor.accept(stream).await.context("TLS handshake")?;
            // Else the session hides up to 64 KiB that the socket has not taken.
            stream.get_mut().1.set_buffer_limit(Some(16 << 10));
            let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            converse(
                Counted {
                    inner: stream,
                    written,
                    log: shared.log.clone(),
                },
                peer,
                shared,
                is_http2,
            )
            .await
        }
    }
}

async fn converse<S>(stream: S, peer: Peer, shared: Arc<Shared>, is_http2: bool) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| serve::exchange(Arc::clone(&shared), peer.clone(), request));
    if is_http2 {
        return http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service)
            .await
            .context("serve");
    }
    http1::Builder::new()
        .timer(TokioTimer::new())
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), service)
        .await
        .context("serve")
}

/// Counts what the connection below took, so that bytes which only sit in a buffer of ours do not count as sent.
struct Counted<S> {
    inner: S,
    written: Arc<AtomicU64>,
    log: Log,
}

impl<S> Counted<S> {
    fn took(&self, poll: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(count)) = poll {
            self.written.fetch_add(*count as u64, Ordering::Relaxed);
            self.log.changed();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut TaskContext<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.inner).poll_write(cx, bytes);
        this.took(&poll);
        poll
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.inner).poll_write_vectored(cx, slices);
        this.took(&poll);
        poll
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
