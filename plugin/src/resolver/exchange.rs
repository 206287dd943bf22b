//! One request and its answer, on a connection of their own, within bounds that are checked while bytes come in.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONNECTION, HOST, HeaderMap, HeaderValue, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::address::Reach;
use super::target::{Scheme, Target};

/// Longest head of an answer, in bytes.
const MAX_HEAD: usize = 64 << 10;

/// Most headers of an answer.
const MAX_HEADERS: usize = 100;

/// A place among the resolves that are counted. Work that cannot be cut off, such as asking for a host's addresses,
/// holds on to it.
pub(super) type Permit = Arc<OwnedSemaphorePermit>;

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    /// The host has no address.
    #[error("its address is not known")]
    Lookup(#[source] io::Error),
    /// All of its addresses are ones to which this registry must not send us.
    #[error("it was named by another host, and is reached at an address within: {reach:?}")]
    Inwards { reach: Reach },
    /// Nobody listens there.
    #[error("cannot connect to {address}")]
    Connect {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    /// Its name is none that a certificate can have.
    #[error("no certificate can have its name")]
    Name,
    /// No certificate authority is known, on this node or by the settings.
    #[error("no certificate authority is trusted: none is installed, and none is set")]
    NoAuthorities,
    /// It does not prove who it is.
    #[error("no trust in its certificate, or no TLS")]
    Tls(#[source] io::Error),
    /// It does not speak HTTP as it should.
    #[error("HTTP with it failed")]
    Http(#[source] hyper::Error),
    /// Its answer is too long.
    #[error("it sends more than {limit} bytes")]
    TooLong { limit: usize },
}

/// Why certificate authorities cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustError {
    /// The file holds none, or cannot be read.
    #[error("cannot read certificates from {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: pem::Error,
    },
    /// A certificate in it is broken.
    #[error("cannot trust a certificate of {}", path.display())]
    Certificate {
        path: PathBuf,
        #[source]
        source: rustls::Error,
    },
    /// TLS cannot be set up at all.
    #[error("cannot set up TLS")]
    Setup(#[source] rustls::Error),
}

/// Opens connections. Clones share the authorities.
#[derive(Clone)]
pub(super) struct Client {
    tls: Arc<ClientConfig>,
    has_authorities: bool,
}

/// What is asked.
pub(super) struct Question<'q> {
    pub(super) target: &'q Target,
    /// What may come back.
    pub(super) accept: &'static str,
    /// Who asks.
    pub(super) authorization: Option<&'q HeaderValue>,
    /// Where the host that named this target was reached, if it was another one.
    pub(super) sent_by: Option<Reach>,
}

/// The head of an answer. Its connection ends with it.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// Where it came from.
    pub(super) reach: Reach,
    body: Incoming,
    _connection: AbortOnDropHandle<Result<(), hyper::Error>>,
}

impl Client {
    /// Trusts the system's authorities, as far as they can be read, and those of the files.
    pub(super) fn new(files: &[PathBuf]) -> Result<Self, TrustError> {
        let mut roots = RootCertStore::empty();
        // What one of the system's many files holds wrongly is not worth an error: the others count.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        for path in files {
            add(&mut roots, path)?;
        }
        let has_authorities = !roots.is_empty();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TrustError::Setup)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            tls: Arc::new(tls),
            has_authorities,
        })
    }

    /// Asks and waits for the head of the answer.
    pub(super) async fn ask(
        &self,
        question: &Question<'_>,
        permit: &Permit,
    ) -> Result<Answer, ExchangeError> {
        let target = question.target;
        let (stream, reach) = connect(target, question.sent_by, permit).await?;
        match target.scheme {
            Scheme::Http => exchange(stream, question, reach).await,
            Scheme::Https => {
                if !self.has_authorities {
                    return Err(ExchangeError::NoAuthorities);
                }
                let name = match target.host.parse::<IpAddr>() {
                    Ok(address) => ServerName::IpAddress(address.into()),
                    Err(_) => ServerName::try_from(target.host.clone()).map_err(|_| ExchangeError::Name)?,
                };
                let connector = TlsConnector::from(Arc::clone(&self.tls));
                let stream = connector
                    .connect(name, stream)
                    .await
                    .map_err(ExchangeError::Tls)?;
                exchange(stream, question, reach).await
            }
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Answer {
    /// The whole body, if it is not longer than `limit` bytes.
    pub(super) async fn body(mut self, limit: usize) -> Result<Vec<u8>, ExchangeError> {
        let mut bytes = Vec::new();
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(ExchangeError::Http)?;
            let data = frame.data_ref().map_or(&[][..], |data| data);
            if data.len() > limit.saturating_sub(bytes.len()) {
                return Err(ExchangeError::TooLong { limit });
            }
            bytes.extend_from_slice(data);
        }
        Ok(bytes)
    }
}

fn add(roots: &mut RootCertStore, path: &Path) -> Result<(), TrustError> {
    let read = |source| TrustError::Read {
        path: path.to_owned(),
        source,
    };
    let mut count = 0_usize;
    for certificate in CertificateDer::pem_file_iter(path).map_err(read)? {
        let certificate = certificate.map_err(read)?;
        roots.add(certificate).map_err(|source| TrustError::Certificate {
            path: path.to_owned(),
            source,
        })?;
        count += 1;
    }
    if count == 0 {
        return Err(read(pem::Error::NoItemsFound));
    }
    Ok(())
}

/// A connection to the first of the host's addresses that may be used and answers. The address that is checked is the
/// one that is connected to: a name that changes its mind in between gains nothing.
async fn connect(
    target: &Target,
    sent_by: Option<Reach>,
    permit: &Permit,
) -> Result<(TcpStream, Reach), ExchangeError> {
    let mut failed = ExchangeError::Lookup(io::ErrorKind::NotFound.into());
    for address in addresses(target, permit).await? {
        let reach = Reach::of(address.ip());
        if sent_by.is_some_and(|sender| !sender.may_send_to(reach)) {
            failed = ExchangeError::Inwards { reach };
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok((stream, reach)),
            Err(source) => failed = ExchangeError::Connect { address, source },
        }
    }
    Err(failed)
}

async fn addresses(target: &Target, permit: &Permit) -> Result<Vec<SocketAddr>, ExchangeError> {
    if let Ok(address) = target.host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, target.port)]);
    }
    let (name, permit) = ((target.host.clone(), target.port), Arc::clone(permit));
    let looked_up = tokio::task::spawn_blocking(move || {
        // A name server that does not answer keeps its place among those that are counted.
        let _held = permit;
        name.to_socket_addrs().map(Iterator::collect)
    });
    looked_up
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(ExchangeError::Lookup)
}

async fn exchange<S>(stream: S, question: &Question<'_>, reach: Reach) -> Result<Answer, ExchangeError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(ExchangeError::Http)?;
    let connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = question.target.path.clone().into();
    let headers = request.headers_mut();
    // A host that came out of an address fits into a header.
    if let Ok(host) = HeaderValue::from_str(&question.target.authority()) {
        headers.insert(HOST, host);
    }
    headers.insert(
        USER_AGENT,
        HeaderValue::from_static(concat!("magi-node/", env!("CARGO_PKG_VERSION"))),
    );
    headers.insert(ACCEPT, HeaderValue::from_static(question.accept));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    if let Some(authorization) = question.authorization {
        headers.insert(AUTHORIZATION, authorization.clone());
    }
    let answer = sender.send_request(request).await.map_err(ExchangeError::Http)?;
    let (head, body) = answer.into_parts();
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        reach,
        body,
        _connection: connection,
    })
}
