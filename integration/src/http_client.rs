//! A small HTTP client: what containerd would see on the wire, and pushing to a registry.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::header::{HOST, HeaderMap, HeaderName};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A client of one server; each request gets a connection of its own.
#[derive(Debug, Clone)]
pub struct Client {
    address: SocketAddr,
    tls: Option<Arc<rustls::ClientConfig>>,
}

/// The head of an answer; its body is read piece by piece. Dropping it closes the connection.
#[derive(Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// Our own address, as the server's log names it.
    pub local: SocketAddr,
    body: Incoming,
}

impl Client {
    /// A client for plain HTTP.
    pub fn plain(address: SocketAddr) -> Self {
        Self { address, tls: None }
    }

    /// A client for HTTPS.
    pub fn tls(address: SocketAddr, config: rustls::ClientConfig) -> Self {
        Self {
            address,
            tls: Some(Arc::new(config)),
        }
    }

    /// GET without further headers.
    pub async fn get(&self, path: &str) -> Result<Reply> {
        self.send(Method::GET, path, &[], Bytes::new()).await
    }

    /// Any request.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, &str)],
        body: Bytes,
    ) -> Result<Reply> {
        let stream = TcpStream::connect(self.address)
            .await
            .with_context(|| format!("connect to {}", self.address))?;
        let local = stream.local_addr().context("read the local address")?;
        let mut request = Request::builder()
            .method(&method)
            .uri(path)
            .header(HOST, self.address.to_string());
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let request = request
            .body(Full::new(body))
            .with_context(|| format!("write {method} {path}"))?;
        let answer = match &self.tls {
            None => exchange(stream, request).await,
            Some(config) => {
                let name = ServerName::IpAddress(self.address.ip().into());
                let connector = TlsConnector::from(Arc::clone(config));
                let stream = connector.connect(name, stream).await.context("TLS handshake")?;
                exchange(stream, request).await
            }
        };
        let (head, body) = answer.with_context(|| format!("{method} {path}"))?.into_parts();
        Ok(Reply {
            status: head.status,
            headers: head.headers,
            local,
            body,
        })
    }
}

impl Reply {
    /// A header's text, empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// Reads on until at least `most` bytes are there, the body ends, it breaks, or nothing came for `quiet`.
    pub async fn read(&mut self, most: usize, quiet: Duration) -> (Vec<u8>, Stop) {
        let mut bytes = Vec::new();
        while bytes.len() < most {
            match tokio::time::timeout(quiet, self.body.frame()).await {
                Err(_) => return (bytes, Stop::Quiet),
                Ok(None) => return (bytes, Stop::End),
                Ok(Some(Err(_))) => return (bytes, Stop::Broken),
                Ok(Some(Ok(frame))) => bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
            }
        }
        (bytes, Stop::Enough)
    }
}

/// Why reading a body stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// As many bytes as asked for are there.
    Enough,
    /// The body is complete.
    End,
    /// The connection broke before its end.
    Broken,
    /// Nothing came for the given time.
    Quiet,
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<http::Response<Incoming>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .context("HTTP handshake")?;
    // It ends when the answer's body is dropped.
    tokio::spawn(connection);
    sender.send_request(request).await.context("send")
}
