//! One HTTP exchange: what is asked for, whether it may be had, and the answer that its behaviour gives.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use bytes::Bytes;
use http::response::Builder;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue,
    LOCATION, RANGE, WWW_AUTHENTICATE,
};
use hyper::{Method, Request as HttpRequest, Response, StatusCode};

use super::Shared;
use super::auth::{self, Refusal};
use super::behaviour::{Behaviour, Body};
use super::body::{Served, Shape};
use super::content::Content;
use super::log::{Kind, Record, Request};
use super::store::{Blob, Manifest};

/// The connection on which a request came.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) connection: u64,
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) written: Arc<AtomicU64>,
}

/// What the path names.
enum Target {
    Ping,
    Token,
    Manifest { repository: String, reference: String },
    Blob { repository: String, digest: String },
    Unknown,
}

impl Target {
    fn of(path: &str) -> Self {
        match path {
            "/v2/" | "/v2" => return Self::Ping,
            "/token" => return Self::Token,
            _ => {}
        }
        let Some(rest) = path.strip_prefix("/v2/") else {
            return Self::Unknown;
        };
        if let Some((repository, reference)) = rest.rsplit_once("/manifests/") {
            return Self::Manifest {
                repository: repository.to_owned(),
                reference: reference.to_owned(),
            };
        }
        if let Some((repository, digest)) = rest.rsplit_once("/blobs/") {
            return Self::Blob {
                repository: repository.to_owned(),
                digest: digest.to_owned(),
            };
        }
        Self::Unknown
    }

    fn repository(&self) -> &str {
        match self {
            Self::Manifest { repository, .. } | Self::Blob { repository, .. } => repository,
            Self::Ping | Self::Token | Self::Unknown => "",
        }
    }
}

/// An answer before its record exists: the status must be known for that.
struct Answer {
    head: Builder,
    status: StatusCode,
    kind: Kind,
    digest: String,
    range_start: u64,
    make: Box<dyn FnOnce(Arc<Record>) -> Served + Send>,
}

impl Answer {
    fn short(status: StatusCode, kind: Kind, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        Self {
            head: Response::builder(),
            status,
            kind,
            digest: String::new(),
            range_start: 0,
            make: Box::new(move |record| Served::whole(body, record)),
        }
    }

    fn error(status: StatusCode, kind: Kind, code: &str) -> Self {
        let body = format!(r#"{{"errors":[{{"code":"{code}","message":"{code}"}}]}}"#);
        Self::short(status, kind, body).header(CONTENT_TYPE, "application/json")
    }

    fn header(mut self, name: impl Into<hyper::header::HeaderName>, value: impl AsRef<str>) -> Self {
        if let Ok(value) = HeaderValue::from_str(value.as_ref()) {
            self.head = self.head.header(name.into(), value);
        }
        self
    }
}

/// Answers one request and records it.
pub(super) async fn exchange(
    shared: Arc<Shared>,
    peer: Peer,
    request: HttpRequest<Incoming>,
) -> Result<Response<Served>, http::Error> {
    let at = Instant::now();
    let method = request.method().clone();
    let uri = request.uri().clone();
    let path = uri.path_and_query().map_or_else(String::new, ToString::to_string);
    let target = Target::of(uri.path());
    let repository = target.repository().to_owned();
    let headers = request.headers().clone();
    let answer = match target {
        Target::Token => {
            let form = request
                .into_body()
                .collect()
                .await
                .map(|body| body.to_bytes())
                .unwrap_or_default();
            let text = String::from_utf8_lossy(&form);
            let parameters = if method == Method::POST {
                text.as_ref()
            } else {
                uri.query().unwrap_or_default()
            };
            token(&shared, &method, &headers, parameters)
        }
        Target::Ping | Target::Manifest { .. } | Target::Blob { .. } | Target::Unknown => {
            guarded(&shared, &peer, &method, &headers, target).await
        }
    };
    let record = shared.log.open(
        Request {
            id: 0,
            connection: peer.connection,
            at,
            method: method.to_string(),
            path,
            kind: answer.kind,
            repository,
            digest: answer.digest,
            peer: peer.peer,
            local: peer.local,
            status: answer.status.as_u16(),
            range_start: answer.range_start,
            body_sent: 0,
            first_body_byte: None,
            ended: None,
        },
        peer.written,
    );
    let body = if method == Method::HEAD {
        Served::whole(Bytes::new(), record)
    } else {
        (answer.make)(record)
    };
    answer
        .head
        .status(answer.status)
        .header("Docker-Distribution-Api-Version", "registry/2.0")
        .body(body)
}

async fn guarded(
    shared: &Shared,
    peer: &Peer,
    method: &Method,
    headers: &HeaderMap,
    target: Target,
) -> Answer {
    if shared.auth.is_some()
        && let Err(refusal) = shared.tokens.check(headers, target.repository())
    {
        return challenge(shared, peer, target.repository(), refusal);
    }
    match target {
        Target::Ping => Answer::short(StatusCode::OK, Kind::Ping, "{}"),
        Target::Manifest {
            repository,
            reference,
        } => {
            let behaviour = shared.store.behaviour(&repository);
            if let Some(status) = behaviour
                .status_for_all
                .and_then(|code| StatusCode::from_u16(code).ok())
            {
                return Answer::error(status, Kind::Manifest, "TOOMANYREQUESTS");
            }
            tokio::time::sleep(behaviour.delay_manifests).await;
            let swapped = (method != Method::HEAD)
                .then(|| shared.store.swapped(&repository, &reference))
                .flatten();
            match swapped.or_else(|| shared.store.manifest(&repository, &reference)) {
                Some(found) => manifest(found),
                None => Answer::error(StatusCode::NOT_FOUND, Kind::Manifest, "MANIFEST_UNKNOWN"),
            }
        }
        Target::Blob { repository, digest } => {
            let Some(found) = shared.store.blob(&repository, &digest) else {
                return Answer::error(StatusCode::NOT_FOUND, Kind::Other, "BLOB_UNKNOWN");
            };
            let mut behaviour = found
                .behaviour
                .clone()
                .unwrap_or_else(|| shared.store.behaviour(&repository));
            if let Some((step, first)) = behaviour.from_the_start.zip(behaviour.close_after) {
                let earlier = shared.log.layers(&repository).len() as u64;
                behaviour.close_after = Some(first.saturating_add(step.saturating_mul(earlier)));
            }
            tokio::time::sleep(if found.is_layer {
                behaviour.delay
            } else {
                behaviour.delay_manifests
            })
            .await;
            let mut answer = blob(&repository, &digest, found, &behaviour, method, headers);
            answer.digest = digest;
            answer
        }
        Target::Token | Target::Unknown => Answer::error(StatusCode::NOT_FOUND, Kind::Other, "UNSUPPORTED"),
    }
}

fn manifest(found: Manifest) -> Answer {
    let mut answer = Answer::short(StatusCode::OK, Kind::Manifest, found.bytes.clone())
        .header(CONTENT_TYPE, &found.media_type)
        .header(CONTENT_LENGTH, found.bytes.len().to_string())
        .header(
            hyper::header::HeaderName::from_static("docker-content-digest"),
            &found.digest,
        );
    answer.digest = found.digest;
    answer
}

fn blob(
    repository: &str,
    digest: &str,
    found: Blob,
    behaviour: &Behaviour,
    method: &Method,
    headers: &HeaderMap,
) -> Answer {
    let kind = if found.is_layer { Kind::Layer } else { Kind::Config };
    let refused = behaviour
        .status_for_all
        .or(behaviour.status.filter(|_| found.is_layer));
    if let Some(status) = refused.and_then(|code| StatusCode::from_u16(code).ok()) {
        return Answer::error(status, kind, "TOOMANYREQUESTS");
    }
    let behaviour = if found.is_layer {
        behaviour.clone()
    } else {
        Behaviour::default()
    };
    if let Some(base) = &behaviour.redirect_to {
        return Answer::short(StatusCode::TEMPORARY_REDIRECT, kind, Bytes::new())
            .header(LOCATION, format!("{base}/v2/{repository}/blobs/{digest}"));
    }
    let whole = found.content.len();
    let reach = match behaviour.body {
        Body::EndlessChunked | Body::EndlessClaiming(_) => u64::MAX,
        Body::Honest | Body::WrongBytes | Body::GzipEncoded(_) => whole,
    };
    let start = range_start(headers).filter(|start| *start < reach && behaviour.from_the_start.is_none());
    let at = start.unwrap_or(0);
    let mut shape = Shape {
        claimed: None,
        flip: false,
        stall_after: behaviour.stall_after,
        close_after: behaviour.close_after,
        rate: behaviour.rate,
    };
    let (content, from, end) = match behaviour.body {
        Body::Honest => (found.content, at, whole),
        Body::WrongBytes => {
            shape.flip = true;
            (found.content, at, whole)
        }
        Body::EndlessChunked | Body::EndlessClaiming(_) => {
            let endless = Content::Joined(vec![found.content, Content::endless(whole)].into());
            (endless, at, u64::MAX)
        }
        Body::GzipEncoded(bytes) => {
            let bomb = zeros_in_gzip(bytes);
            let len = bomb.len();
            (bomb, 0, len)
        }
    };
    shape.claimed = match behaviour.body {
        Body::EndlessChunked => None,
        Body::EndlessClaiming(claimed) => Some(claimed.saturating_sub(from)),
        Body::Honest | Body::WrongBytes | Body::GzipEncoded(_) => Some(end - from),
    };
    let mut answer = Answer::short(StatusCode::OK, kind, Bytes::new())
        .header(CONTENT_TYPE, "application/octet-stream")
        .header(ACCEPT_RANGES, "bytes");
    if let Some(claimed) = shape.claimed {
        answer = answer.header(CONTENT_LENGTH, claimed.to_string());
    }
    if matches!(behaviour.body, Body::GzipEncoded(_)) {
        answer = answer.header(CONTENT_ENCODING, "gzip");
    } else if let Some(start) = start {
        answer.status = StatusCode::PARTIAL_CONTENT;
        answer.range_start = start;
        answer = match shape.claimed {
            Some(claimed) => {
                let size = start.saturating_add(claimed);
                answer.header(
                    CONTENT_RANGE,
                    format!("bytes {start}-{}/{size}", size.saturating_sub(1)),
                )
            }
            None => answer.header(CONTENT_RANGE, format!("bytes {start}-{}/*", u64::MAX >> 2)),
        };
    }
    if method != Method::HEAD {
        answer.make = Box::new(move |record| Served::new(content, from, end, &shape, record));
    }
    answer
}

fn range_start(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(RANGE)?.to_str().ok()?.strip_prefix("bytes=")?;
    value.split_once('-')?.0.parse().ok()
}

/// Gzip members of 32 MiB of zeros each, as many as are needed: tiny in memory and on the wire.
fn zeros_in_gzip(bytes: u64) -> Content {
    const MEMBER: u64 = 32 << 20;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    Content::zeros(MEMBER).for_each(|piece| encoder.write_all(piece).expect("a Vec takes every write"));
    let unit: Bytes = encoder.finish().expect("a Vec takes every write").into();
    let len = unit.len() as u64 * bytes.div_ceil(MEMBER);
    Content::Repeated { unit, len }
}

fn challenge(shared: &Shared, peer: &Peer, repository: &str, refusal: Refusal) -> Answer {
    let scheme = shared.scheme();
    let scope = if repository.is_empty() {
        String::new()
    } else {
        format!(",scope=\"repository:{repository}:pull\"")
    };
    let error = match refusal {
        Refusal::Missing => "",
        Refusal::Invalid => ",error=\"invalid_token\"",
    };
    let value = format!(
        "Bearer realm=\"{scheme}://{}/token\",service=\"magi-test\"{scope}{error}",
        peer.local
    );
    Answer::error(StatusCode::UNAUTHORIZED, Kind::Other, "UNAUTHORIZED").header(WWW_AUTHENTICATE, value)
}

fn token(shared: &Shared, method: &Method, headers: &HeaderMap, parameters: &str) -> Answer {
    let Some(auth) = &shared.auth else {
        return Answer::error(StatusCode::NOT_FOUND, Kind::Token, "UNSUPPORTED");
    };
    let given = if method == Method::POST {
        auth::parameter(parameters, "username").zip(auth::parameter(parameters, "password"))
    } else {
        auth::basic(headers)
    };
    if auth.credentials.is_some() && given != auth.credentials {
        return Answer::error(StatusCode::UNAUTHORIZED, Kind::Token, "UNAUTHORIZED");
    }
    let scope = auth::parameter(parameters, "scope").unwrap_or_default();
    let token = shared.tokens.issue(&scope, auth.lifetime);
    // Clients take anything below a minute for a minute, and so learn of an early end by a refusal only.
    let seconds = auth.lifetime.as_secs();
    let body = format!(r#"{{"token":"{token}","access_token":"{token}","expires_in":{seconds}}}"#);
    Answer::short(StatusCode::OK, Kind::Token, body).header(CONTENT_TYPE, "application/json")
}
