//! One registry, asked for documents of one repository: redirects, tokens, and who may see which credential.

use http::StatusCode;
use http::header::{HeaderMap, HeaderValue, LOCATION};
use magi_engine::ids::Digest;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use super::address::Reach;
use super::challenge::Challenge;
use super::credentials::Known;
use super::exchange::{Answer, Client, ExchangeError, Permit, Question};
use super::target::Target;
use super::{Document, MAX_DOCUMENT, ResolveError};

/// Redirects that are followed for one document.
const MAX_REDIRECTS: usize = 5;

/// Longest answer of a token service, in bytes.
const MAX_TOKEN_ANSWER: usize = 64 << 10;

/// Longest token, in bytes. Registries cut heads of requests off at 8 to 16 KiB.
const MAX_TOKEN: usize = 16 << 10;

/// What manifests and indexes are called.
/// Source: containerd 2.1.9 core/remotes/docker/resolver.go, the `Accept` header.
const DOCUMENTS: &str = "application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*";

pub(super) struct Session<'c> {
    client: &'c Client,
    registry: Target,
    repository: &'c str,
    known: Known,
    permit: Permit,
    /// What the registry wanted to see, once it said so.
    authorization: Option<HeaderValue>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
}

impl<'c> Session<'c> {
    pub(super) fn new(
        client: &'c Client,
        registry: Target,
        repository: &'c str,
        known: Known,
        permit: Permit,
    ) -> Self {
        Self {
            client,
            registry,
            repository,
            known,
            permit,
            authorization: None,
        }
    }

    /// The document that has this digest.
    pub(super) async fn document(&mut self, digest: &Digest) -> Result<Document, ResolveError> {
        let path = format!("/v2/{}/manifests/{digest}", self.repository);
        let target = self.registry.at(&path).map_err(|source| ResolveError::Registry {
            registry: self.registry.authority(),
            source,
        })?;
        let (mut from, mut answer) = self.follow(&target, self.authorization.as_ref(), None).await?;
        let may_authorize = self.authorization.is_none() && from.is_same_origin(&self.registry);
        if answer.status == StatusCode::UNAUTHORIZED && may_authorize {
            self.authorize(&answer.headers, answer.reach).await?;
            (from, answer) = self.follow(&target, self.authorization.as_ref(), None).await?;
        }
        match answer.status {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(self.denied(&from, answer.status)),
            status => return Err(status_error(&from, status)),
        }
        let bytes = answer
            .body(MAX_DOCUMENT)
            .await
            .map_err(|source| exchange_error(&from, source))?;
        if !has_digest(&bytes, digest)? {
            return Err(ResolveError::OtherBytes {
                host: from.authority(),
                digest: digest.clone(),
            });
        }
        Ok(Document {
            digest: digest.clone(),
            bytes,
        })
    }

    /// Gets a target through its redirects. The authorisation stays with the first host, and does not come back to it
    /// from another one.
    async fn follow(
        &self,
        first: &Target,
        authorization: Option<&HeaderValue>,
        sent_by: Option<Reach>,
    ) -> Result<(Target, Answer), ResolveError> {
        let mut target = first.clone();
        let (mut authorization, mut sent_by) = (authorization, sent_by);
        for _ in 0..=MAX_REDIRECTS {
            let question = Question {
                target: &target,
                accept: DOCUMENTS,
                authorization,
                sent_by,
            };
            let answer = self
                .client
                .ask(&question, &self.permit)
                .await
                .map_err(|source| exchange_error(&target, source))?;
            let Some(location) = location(&answer) else {
                return Ok((target, answer));
            };
            let next = location.and_then(|location| target.redirect(location));
            let next = next.map_err(|source| ResolveError::Elsewhere {
                host: target.authority(),
                source,
            })?;
            if !next.is_same_origin(first) {
                authorization = None;
            }
            if !next.is_same_origin(&target) {
                sent_by = Some(answer.reach);
            }
            target = next;
        }
        Err(ResolveError::Redirects {
            host: first.authority(),
            limit: MAX_REDIRECTS,
        })
    }

    /// Gets what the registry wants to see.
    async fn authorize(&mut self, headers: &HeaderMap, reach: Reach) -> Result<(), ResolveError> {
        let challenge = Challenge::from_headers(headers).ok_or_else(|| ResolveError::Challenge {
            host: self.registry.authority(),
        })?;
        self.authorization = Some(match (challenge, &self.known) {
            (Challenge::Basic, Known::Basic(basic)) => basic.header(),
            (Challenge::Basic, Known::Nothing | Known::Helper(_)) => {
                return Err(self.denied(&self.registry, StatusCode::UNAUTHORIZED));
            }
            (Challenge::Bearer { realm, service }, _) => {
                self.token(&realm, service.as_deref(), reach).await?
            }
        });
        Ok(())
    }

    /// A token for reading the repository, of the service that the registry names. It asks for no more than that,
    /// whatever scope the registry proposes.
    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        reach: Reach,
    ) -> Result<HeaderValue, ResolveError> {
        let elsewhere = |source| ResolveError::Elsewhere {
            host: self.registry.authority(),
            source,
        };
        let realm = self.registry.realm(realm).map_err(elsewhere)?;
        let mut query = format!(
            "scope={}",
            encoded(&format!("repository:{}:pull", self.repository))
        );
        if let Some(service) = service {
            query.push_str(&format!("&service={}", encoded(service)));
        }
        let mark = if realm.path.query().is_some() { '&' } else { '?' };
        let realm = realm
            .at(&format!("{}{mark}{query}", realm.path))
            .map_err(elsewhere)?;
        let sent_by = (!realm.is_same_origin(&self.registry)).then_some(reach);
        let basic = match &self.known {
            Known::Basic(basic) => Some(basic.header()),
            Known::Nothing | Known::Helper(_) => None,
        };
        let (from, answer) = self.follow(&realm, basic.as_ref(), sent_by).await?;
        match answer.status {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(self.denied(&from, answer.status)),
            status => return Err(status_error(&from, status)),
        }
        let bytes = answer
            .body(MAX_TOKEN_ANSWER)
            .await
            .map_err(|source| exchange_error(&from, source))?;
        bearer(&bytes).ok_or_else(|| ResolveError::NoToken {
            host: from.authority(),
        })
    }

    fn denied(&self, from: &Target, status: StatusCode) -> ResolveError {
        let (host, status) = (from.authority(), status.as_u16());
        match &self.known {
            Known::Helper(helper) => ResolveError::DeniedHelper {
                host,
                status,
                helper: helper.clone(),
            },
            Known::Nothing | Known::Basic(_) => ResolveError::Denied { host, status },
        }
    }
}

/// Where the answer sends us, if it does.
fn location(answer: &Answer) -> Option<Result<&str, super::TargetError>> {
    if !matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let value = answer.headers.get(LOCATION).map(HeaderValue::to_str);
    Some(value.and_then(Result::ok).ok_or(super::TargetError::NotWhole))
}

/// The header of the token in the answer, marked so that nothing prints it.
fn bearer(bytes: &[u8]) -> Option<HeaderValue> {
    let answer: TokenAnswer = serde_json::from_slice(bytes).ok()?;
    let token = answer
        .token
        .filter(|token| !token.is_empty())
        .or(answer.access_token)
        .filter(|token| !token.is_empty() && token.len() <= MAX_TOKEN)?;
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Source of the algorithms: go-digest 1.0.0 algorithm.go.
fn has_digest(bytes: &[u8], digest: &Digest) -> Result<bool, ResolveError> {
    let (algorithm, expected) = digest.as_str().split_once(':').unwrap_or_default();
    let found = match algorithm {
        "sha256" => hex::encode(Sha256::digest(bytes)),
        "sha384" => hex::encode(Sha384::digest(bytes)),
        "sha512" => hex::encode(Sha512::digest(bytes)),
        _ => {
            return Err(ResolveError::Algorithm {
                digest: digest.clone(),
            });
        }
    };
    Ok(found == expected)
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn exchange_error(target: &Target, source: ExchangeError) -> ResolveError {
    ResolveError::Exchange {
        host: target.authority(),
        source,
    }
}

fn status_error(target: &Target, status: StatusCode) -> ResolveError {
    ResolveError::Status {
        host: target.authority(),
        status: status.as_u16(),
    }
}
