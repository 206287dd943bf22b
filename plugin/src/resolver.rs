//! Fetches an image's manifest from its registry, for a question that nobody else can answer in time: the verifier is
//! called before containerd has any byte of it (containerd.md §16).
//!
//! What is asked for is a tenant's text, so magi-node connects to wherever a pod's image name points. That is where
//! containerd has connected a moment before, from the same node; what goes further than containerd's own request does
//! not go: redirects and token services of a registry never lead to loopback or link-local addresses (the cloud's
//! metadata service) unless the registry itself is there. Everything is bounded: time, hops, bytes, and how many at once.
//!
//! What this does not do: mirrors, client certificates and proxies of containerd's `hosts.toml` are not followed, and
//! credential helpers are not run. An image that only those can reach is not resolved, and its question stays open.

mod address;
mod challenge;
mod credentials;
mod exchange;
mod index;
mod session;
mod target;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use magi_engine::ids::Digest;
use magi_engine::reference::Reference;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

pub(crate) use credentials::CredentialsError;
pub(crate) use exchange::{ExchangeError, TrustError};
pub(crate) use index::EntryError;
pub(crate) use target::{Scheme, TargetError};

use credentials::Credentials;
use exchange::{Client, Permit};
use session::Session;

/// Resolves at once; more are answered with [`ResolveError::Busy`].
pub(crate) const MAX_RESOLVES: usize = 8;

/// Longest manifest or index, in bytes: what containerd takes as well (containerd.md §9).
pub(crate) const MAX_DOCUMENT: usize = 4 << 20;

/// Where and how registries are reached.
#[derive(Debug, Clone, Default)]
pub(crate) struct ResolverSettings {
    /// A docker `config.json` with `auths`; without one every registry is asked anonymously.
    pub(crate) docker_config: Option<PathBuf>,
    /// Hosts, with port where the image's name has one, whose scheme is not the usual one. Usual is plain HTTP for
    /// `localhost` and loopback addresses, as in containerd, and HTTPS for all others.
    pub(crate) schemes: BTreeMap<String, Scheme>,
    /// PEM files with certificate authorities that are trusted beside the system's.
    pub(crate) authorities: Vec<PathBuf>,
}

impl ResolverSettings {
    /// With these credentials, and these hosts asked without TLS.
    pub(crate) fn new(docker_config: Option<PathBuf>, insecure: &[String]) -> Self {
        let plain = insecure.iter().map(|host| (host.clone(), Scheme::Http));
        Self {
            docker_config,
            schemes: plain.collect(),
            authorities: Vec::new(),
        }
    }
}

/// What a registry holds under a digest, checked against it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Document {
    /// The digest.
    pub(crate) digest: Digest,
    /// The bytes that have it.
    pub(crate) bytes: Vec<u8>,
}

/// Why a manifest was not had. Nothing in here holds a credential, a token, or the query of an address.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResolveError {
    /// [`MAX_RESOLVES`] are under way.
    #[error("{MAX_RESOLVES} manifests are being fetched already")]
    Busy,
    /// The deadline has passed.
    #[error("the registry was not done in time")]
    Late,
    /// The image's host is none that can be asked.
    #[error("cannot ask {registry}")]
    Registry {
        registry: String,
        #[source]
        source: TargetError,
    },
    /// The credentials cannot be read.
    #[error("no credentials")]
    Credentials(#[source] CredentialsError),
    /// An exchange failed.
    #[error("cannot ask {host}")]
    Exchange {
        host: String,
        #[source]
        source: ExchangeError,
    },
    /// A redirect or token service is one that must not be followed.
    #[error("{host} sends elsewhere")]
    Elsewhere {
        host: String,
        #[source]
        source: TargetError,
    },
    /// Redirects without end.
    #[error("{host} redirects more than {limit} times")]
    Redirects { host: String, limit: usize },
    /// The registry wants to know who asks, in a way that is not spoken here.
    #[error("{host} asks for no authorisation that is known here")]
    Challenge { host: String },
    /// The registry does not let us in.
    #[error("{host} does not let us in ({status})")]
    Denied { host: String, status: u16 },
    /// The same, and a helper might know the credentials.
    #[error(
        "{host} does not let us in ({status}); its credentials are with the helper {helper:?}, which is not run: write them into `auths`"
    )]
    DeniedHelper {
        host: String,
        status: u16,
        helper: String,
    },
    /// The token service's answer holds no token.
    #[error("{host} answers without a token")]
    NoToken { host: String },
    /// Neither the document nor a redirect.
    #[error("{host} answers {status}")]
    Status { host: String, status: u16 },
    /// The digest's algorithm is none that containerd takes.
    #[error("a digest of an unknown algorithm: {digest}")]
    Algorithm { digest: Digest },
    /// The registry sends something else.
    #[error("{host} sends other bytes than those of {digest}")]
    OtherBytes { host: String, digest: Digest },
    /// The index does not say what this node would pull.
    #[error("the index {digest} does not tell what this node pulls")]
    Entry {
        digest: Digest,
        #[source]
        source: EntryError,
    },
}

/// Why there is no resolver.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResolverError {
    /// A certificate authority cannot be trusted.
    #[error("cannot read the certificate authorities")]
    Trust(#[source] TrustError),
    /// The docker configuration cannot be used.
    #[error("cannot use the docker configuration")]
    Credentials(#[source] CredentialsError),
}

/// Fetches manifests. Clones share their bounds.
#[derive(Debug, Clone)]
pub(crate) struct Resolver {
    settings: Arc<ResolverSettings>,
    client: Client,
    free: Arc<Semaphore>,
}

impl Resolver {
    /// Reads the authorities, and the docker configuration once to see that it can be read.
    ///
    /// # Errors
    /// A file that the settings name cannot be used.
    pub(crate) fn new(settings: ResolverSettings) -> Result<Self, ResolverError> {
        if let Some(path) = &settings.docker_config {
            Credentials::read(path).map_err(ResolverError::Credentials)?;
        }
        Ok(Self {
            client: Client::new(&settings.authorities).map_err(ResolverError::Trust)?,
            settings: Arc::new(settings),
            free: Arc::new(Semaphore::new(MAX_RESOLVES)),
        })
    }

    /// The document of `digest` in the reference's repository, and, if it is an index, what it lists for this node's
    /// platform. Of several such entries all are fetched: containerd pulls one of them, and which one is not told here.
    ///
    /// # Errors
    /// Anything that keeps the documents from being had in time; a doubt, never a reason against the image.
    pub(crate) async fn resolve(
        &self,
        reference: &Reference,
        digest: &Digest,
        deadline: Instant,
    ) -> Result<Vec<Document>, ResolveError> {
        let permit: Permit = match Arc::clone(&self.free).try_acquire_owned() {
            Ok(permit) => Arc::new(permit),
            Err(_) => return Err(ResolveError::Busy),
        };
        timeout_at(deadline, self.documents(reference, digest, permit))
            .await
            .unwrap_or(Err(ResolveError::Late))
    }

    async fn documents(
        &self,
        reference: &Reference,
        digest: &Digest,
        permit: Permit,
    ) -> Result<Vec<Document>, ResolveError> {
        let registry = target::Target::registry(reference.domain(), &self.settings.schemes);
        let registry = registry.map_err(|source| ResolveError::Registry {
            registry: reference.domain().to_owned(),
            source,
        })?;
        let known = self.known(reference.domain(), &permit).await?;
        let mut session = Session::new(&self.client, registry, reference.path(), known, permit);
        let top = session.document(digest).await?;
        let entries = index::for_this_node(&top.bytes).map_err(|source| ResolveError::Entry {
            digest: digest.clone(),
            source,
        })?;
        let mut documents = vec![top];
        for entry in entries {
            documents.push(session.document(&entry).await?);
        }
        Ok(documents)
    }

    /// What the docker configuration knows of the registry; read each time, as such files are rotated.
    async fn known(&self, domain: &str, permit: &Permit) -> Result<credentials::Known, ResolveError> {
        let Some(path) = self.settings.docker_config.clone() else {
            return Ok(credentials::Known::Nothing);
        };
        let domain = domain.to_owned();
        let permit = Arc::clone(permit);
        let read = tokio::task::spawn_blocking(move || {
            // A file system that hangs keeps its place among those that are counted.
            let _held = permit;
            Credentials::read(&path).map(|credentials| credentials.of(&domain))
        });
        let read = read.await.unwrap_or_else(|error| {
            let source = io::Error::other(error);
            Err(CredentialsError::Interrupted { source })
        });
        read.map_err(ResolveError::Credentials)
    }
}

#[cfg(test)]
mod tests;
