//! One POST over HTTPS: a connection of its own, so that token and authorities are those of the moment.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use magi_config::AuditPushSettings;
use magi_master_api::tls::provider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;
use zeroize::Zeroizing;

/// Bytes of the file that holds a token.
const MAX_TOKEN: u64 = 4096;
/// Bytes of the file that holds authorities.
const MAX_PEM: u64 = 1 << 20;
/// Bytes of the head of an answer; of its body nothing is read.
const MAX_HEAD: usize = 16 << 10;
const HTTPS: u16 = 443;

/// Why records could not be pushed. The token is in none of them, and neither is the URL, which may hold one.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The URL is none.
    #[error("`audit.webhook.url` is no URL of an HTTPS server")]
    Url,
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The token cannot stand in a header.
    #[error("{} holds no token", path.display())]
    Token {
        /// Its file.
        path: PathBuf,
    },
    /// The authorities' file holds something else.
    #[error("{} holds no certificate", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// There are no authorities that the receiver could be known by.
    #[error("there is no authority to know the receiver by")]
    NoAuthority,
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    /// The receiver cannot be reached, or is another.
    #[error("cannot connect to the receiver")]
    Connect(#[source] io::Error),
    /// It does not speak HTTP.
    #[error("the receiver does not answer as it should")]
    Http(#[source] hyper::Error),
    /// It sends elsewhere.
    #[error("the receiver redirects ({status}), which is not followed")]
    Redirect {
        /// Its answer.
        status: StatusCode,
    },
    /// It does not take the records.
    #[error("the receiver answers {status}")]
    Refused {
        /// Its answer.
        status: StatusCode,
    },
    /// It takes too long.
    #[error("the receiver did not answer within {within:?}")]
    Slow {
        /// How long was waited.
        within: Duration,
    },
}

impl PushError {
    /// Whether the same would be said of the same records again. What an operator can set right meanwhile is not final.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::Redirect { .. } => true,
            Self::Refused { status } => {
                let may_pass = [
                    StatusCode::UNAUTHORIZED,
                    StatusCode::FORBIDDEN,
                    StatusCode::NOT_FOUND,
                    StatusCode::REQUEST_TIMEOUT,
                    StatusCode::TOO_MANY_REQUESTS,
                ];
                status.is_client_error() && !may_pass.contains(status)
            }
            Self::Url
            | Self::Read { .. }
            | Self::Token { .. }
            | Self::Pem { .. }
            | Self::NoAuthority
            | Self::Tls(_)
            | Self::Connect(_)
            | Self::Http(_)
            | Self::Slow { .. } => false,
        }
    }
}

/// Where records go.
#[derive(Debug)]
pub(super) struct Receiver {
    host: String,
    port: u16,
    name: ServerName<'static>,
    authority: HeaderValue,
    path: Uri,
    token: Option<PathBuf>,
    authorities: Authorities,
}

#[derive(Debug)]
enum Authorities {
    File(PathBuf),
    /// The system's; reading them takes a while.
    System(Arc<RootCertStore>),
}

impl Receiver {
    pub(super) fn new(settings: &AuditPushSettings) -> Result<Self, PushError> {
        let url: Uri = settings.url.parse().map_err(|_| PushError::Url)?;
        let authority = url.authority().ok_or(PushError::Url)?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let path = url.path_and_query().map_or("/", |path| path.as_str());
        let authorities = match &settings.ca {
            Some(path) => Authorities::File(path.clone()),
            None => {
                let mut roots = RootCertStore::empty();
                // Those that cannot be parsed are of no use; that others are there is what counts.
                let _counts = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                Authorities::System(Arc::new(roots))
            }
        };
        let receiver = Self {
            name: ServerName::try_from(host.clone()).map_err(|_| PushError::Url)?,
            port: authority.port_u16().unwrap_or(HTTPS),
            authority: HeaderValue::from_str(authority.as_str()).map_err(|_| PushError::Url)?,
            path: path.parse().map_err(|_| PushError::Url)?,
            host,
            token: settings.token.clone(),
            authorities,
        };
        // A mistake in the settings shows when the master starts.
        receiver.tls()?;
        receiver.token()?;
        Ok(receiver)
    }

    /// Posts `body` once. The caller bounds the time.
    pub(super) async fn post(&self, body: Bytes) -> Result<(), PushError> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.path.clone();
        let headers = request.headers_mut();
        headers.insert(HOST, self.authority.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("magi-master/", env!("CARGO_PKG_VERSION"))),
        );
        if let Some(token) = self.token()? {
            headers.insert(AUTHORIZATION, token);
        }
        let tls = TlsConnector::from(Arc::new(self.tls()?));
        let tcp = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(PushError::Connect)?;
        let stream = tls
            .connect(self.name.clone(), tcp)
            .await
            .map_err(PushError::Connect)?;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(PushError::Http)?;
        // Ends with this attempt, and with what would still come of the answer.
        let _speaking = AbortOnDropHandle::new(tokio::spawn(connection));
        let status = sender
            .send_request(request)
            .await
            .map_err(PushError::Http)?
            .status();
        match status {
            _ if status.is_success() => Ok(()),
            _ if status.is_redirection() => Err(PushError::Redirect { status }),
            _ => Err(PushError::Refused { status }),
        }
    }

    /// The header that shows the token, as its file has it now.
    fn token(&self) -> Result<Option<HeaderValue>, PushError> {
        let Some(path) = &self.token else {
            return Ok(None);
        };
        let text = Zeroizing::new(read(path, MAX_TOKEN)?);
        let token = text.trim_ascii();
        let header = Zeroizing::new([b"Bearer ".as_slice(), token].concat());
        let mut header = HeaderValue::from_bytes(&header)
            .ok()
            .filter(|_| !token.is_empty())
            .ok_or_else(|| PushError::Token { path: path.clone() })?;
        header.set_sensitive(true);
        Ok(Some(header))
    }

    fn tls(&self) -> Result<ClientConfig, PushError> {
        let roots = match &self.authorities {
            Authorities::System(roots) => Arc::clone(roots),
            Authorities::File(path) => Arc::new(authorities(path)?),
        };
        if roots.is_empty() {
            return Err(PushError::NoAuthority);
        }
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(PushError::Tls)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(config)
    }
}

fn authorities(path: &Path) -> Result<RootCertStore, PushError> {
    let bytes = read(path, MAX_PEM)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        let certificate = certificate.map_err(|source| PushError::Pem {
            path: path.to_owned(),
            source,
        })?;
        roots.add(certificate).map_err(PushError::Tls)?;
    }
    Ok(roots)
}

/// A file, as far as its bound.
fn read(path: &Path, most: u64) -> Result<Vec<u8>, PushError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(most).read_to_end(&mut bytes))
        .map_err(|source| PushError::Read {
            path: path.to_owned(),
            source,
        })?;
    Ok(bytes)
}
