//! Small registries, honest and not, on loopback.

use std::convert::Infallible;
use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::NamedTempFile;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

pub(super) type Body = BoxBody<Bytes, Infallible>;

/// What came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) path: String,
    pub(super) host: String,
    pub(super) authorization: Option<String>,
}

/// A server that answers as its closure says; `None` is never.
pub(super) struct Registry {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    _task: AbortOnDropHandle<()>,
}

impl Registry {
    pub(super) async fn start<A>(answer: A) -> Self
    where
        A: Fn(&Seen) -> Option<Response<Body>> + Send + Sync + 'static,
    {
        Self::start_with(None, answer).await
    }

    /// Over TLS, with its authority's certificate in a file.
    pub(super) async fn start_tls<A>(answer: A) -> (Self, NamedTempFile)
    where
        A: Fn(&Seen) -> Option<Response<Body>> + Send + Sync + 'static,
    {
        let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let file = NamedTempFile::new().unwrap();
        std::fs::write(file.path(), own.cert.pem()).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        (Self::start_with(Some(acceptor), answer).await, file)
    }

    async fn start_with<A>(tls: Option<TlsAcceptor>, answer: A) -> Self
    where
        A: Fn(&Seen) -> Option<Response<Body>> + Send + Sync + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (answer, log) = (Arc::new(answer), Arc::clone(&seen));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, log, tls) = (Arc::clone(&answer), Arc::clone(&log), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, answer, log).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, answer, log).await;
                            }
                        }
                    }
                });
            }
        });
        Self {
            address,
            seen,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// What came in so far.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The paths of it.
    pub(super) fn paths(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.path).collect()
    }
}

async fn serve<S, A>(stream: S, answer: Arc<A>, log: Arc<Mutex<Vec<Seen>>>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    A: Fn(&Seen) -> Option<Response<Body>>,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let text = |name| {
            let value = request.headers().get(name)?;
            Some(value.to_str().unwrap().to_owned())
        };
        let seen = Seen {
            path: request.uri().to_string(),
            host: text(header::HOST).unwrap_or_default(),
            authorization: text(header::AUTHORIZATION),
        };
        log.lock().unwrap().push(seen.clone());
        let answer = answer(&seen);
        async move {
            match answer {
                Some(answer) => Ok::<_, Infallible>(answer),
                None => pending().await,
            }
        }
    });
    let _client_may_hang_up = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// A server below HTTP: what it does with each connection is its own affair.
pub(super) async fn raw<F, D>(converse: F) -> (SocketAddr, AbortOnDropHandle<()>)
where
    F: Fn(TcpStream) -> D + Send + 'static,
    D: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(converse(stream));
        }
    });
    (address, AbortOnDropHandle::new(task))
}

pub(super) fn ok(bytes: impl Into<Bytes>) -> Option<Response<Body>> {
    Some(Response::new(Full::new(bytes.into()).boxed()))
}

pub(super) fn status(code: u16) -> Response<Body> {
    let mut response = Response::new(Full::default().boxed());
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}

pub(super) fn redirect(to: &str) -> Option<Response<Body>> {
    let mut response = status(307);
    response
        .headers_mut()
        .insert(header::LOCATION, to.parse().unwrap());
    Some(response)
}

pub(super) fn challenge(text: &str) -> Option<Response<Body>> {
    let mut response = status(401);
    response
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, text.parse().unwrap());
    Some(response)
}
