//! A registry for one image and one pull, on the loopback. Its layer is held back until we have seen the pull.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::image::{Blob, Image};

/// Connections at once; containerd makes a few.
const MOST: usize = 32;

/// Serves until it is dropped.
pub(super) struct Registry {
    address: SocketAddr,
    gate: watch::Sender<bool>,
    serving: AbortHandle,
}

#[derive(Clone)]
struct Shelf {
    repository: Arc<str>,
    image: Arc<Image>,
    open: watch::Receiver<bool>,
}

impl Registry {
    /// Listens on a port that the kernel chooses, and serves the image under this repository's name, with any tag.
    pub(super) async fn start(repository: &str, image: Image) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (gate, open) = watch::channel(false);
        let shelf = Shelf {
            repository: repository.into(),
            image: Arc::new(image),
            open,
        };
        let serving = tokio::spawn(serve(listener, shelf)).abort_handle();
        Ok(Self {
            address,
            gate,
            serving,
        })
    }

    /// Where it listens. containerd speaks plain HTTP to the loopback without being told.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets the layer go.
    pub(super) fn release(&self) {
        self.gate.send_replace(true);
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, shelf: Shelf) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_ended) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MOST => {
                // One that could not be accepted is tried again by its client.
                let Ok((stream, _)) = accepted else { continue };
                let shelf = shelf.clone();
                let answer = service_fn(move |request| answer(shelf.clone(), request));
                connections.spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer),
                );
            }
        }
    }
}

async fn answer(mut shelf: Shelf, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path();
    if path == "/v2/" {
        return Ok(Response::default());
    }
    let found = path
        .strip_prefix("/v2/")
        .and_then(|path| path.strip_prefix(&*shelf.repository))
        .and_then(|path| shelf.image.find(path.strip_prefix('/')?));
    let is_head = request.method() == Method::HEAD;
    let Some(blob) = found
        .cloned()
        .filter(|_| is_head || request.method() == Method::GET)
    else {
        let mut missing = Response::default();
        *missing.status_mut() = StatusCode::NOT_FOUND;
        return Ok(missing);
    };
    if blob.digest == shelf.image.layer.digest && !is_head {
        // The gate is gone only with the registry itself.
        let _gone = shelf.open.wait_for(|open| *open).await;
    }
    Ok(respond(&blob, is_head))
}

fn respond(blob: &Blob, is_head: bool) -> Response<Full<Bytes>> {
    let body = if is_head { Vec::new() } else { blob.bytes.clone() };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(blob.media_type));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(blob.bytes.len()));
    if let Ok(digest) = HeaderValue::from_str(&blob.digest) {
        headers.insert("docker-content-digest", digest);
    }
    response
}

impl Image {
    /// What `manifests/…` or `blobs/…` names.
    fn find(&self, path: &str) -> Option<&Blob> {
        let (kind, name) = path.split_once('/')?;
        match kind {
            "manifests" if name == self.manifest.digest || !name.contains(':') => Some(&self.manifest),
            "blobs" => [&self.config, &self.layer, &self.manifest]
                .into_iter()
                .find(|blob| blob.digest == name),
            _ => None,
        }
    }
}
