//! A registry for tests: the OCI distribution API over HTTP/1.1, plain or TLS (there HTTP/2 as well), on IPv4 and IPv6
//! loopback.
//!
//! It serves good images well and bad ones as badly as asked, from memory or generated on the way, and keeps a log of what
//! it really sent. It runs on threads of its own: a test that blocks does not slow it.

mod auth;
mod behaviour;
mod body;
mod connection;
pub mod content;
mod log;
mod serve;
mod store;
mod tls;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub use auth::Auth;
pub use behaviour::{Behaviour, Body};
pub use content::Content;
pub use log::{End, Kind, Log, Request};

use crate::image::{Image, Raw};
use connection::{listen, serve_on};
use store::{Blob, Manifest, Store};
use tls::Tls;

/// A name that nobody resolves, which a registry's certificate is for as well: for those behind a proxy.
pub const NAME: &str = "registry.hostile.test";

/// How a registry is set up. The default is plain HTTP for anybody.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// HTTPS with a certificate authority of its own; HTTP/2 for who asks for it.
    pub tls: bool,
    /// Token authorisation.
    pub auth: Option<Auth>,
    /// Size of the kernel's send buffer for accepted sockets, in bytes. A small one keeps "bytes sent" close to what
    /// the client received; `None` leaves the kernel's choice, for benches of throughput. Below 128 KiB loopback stalls
    /// between single segments: 64 KiB cost a pull of 1 GiB minutes.
    pub send_buffer: Option<usize>,
    /// Another address of loopback's than 127.0.0.1, and none of IPv6.
    pub address: Option<Ipv4Addr>,
    /// The port that it listens on; 0: any.
    pub port: u16,
}

impl Options {
    /// Plain HTTP with a send buffer of 256 KiB.
    pub fn plain() -> Self {
        Self {
            send_buffer: Some(256 << 10),
            ..Self::default()
        }
    }

    /// HTTPS with a send buffer of 256 KiB.
    pub fn tls() -> Self {
        Self {
            tls: true,
            ..Self::plain()
        }
    }

    /// The same with token authorisation.
    #[must_use]
    pub fn with_auth(mut self, auth: Auth) -> Self {
        self.auth = Some(auth);
        self
    }
}

struct Shared {
    store: Store,
    log: Log,
    tokens: auth::Tokens,
    auth: Option<Auth>,
    tls: Option<Tls>,
    send_buffer: Option<usize>,
    connections: AtomicU64,
}

impl Shared {
    fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}

/// A running registry. Dropping it closes its sockets.
pub struct Registry {
    shared: Arc<Shared>,
    v4: SocketAddr,
    v6: Option<SocketAddr>,
    runtime: Option<Runtime>,
    // Here and not in what connections share: those may end after us, or not at all.
    _ca_dir: Option<TempDir>,
}

impl Registry {
    /// Plain HTTP, everybody welcome.
    pub fn start() -> Result<Self> {
        Self::start_with(Options::plain())
    }

    /// Plain HTTP on this socket alone, which may be in another network namespace.
    pub fn start_on(listener: std::net::TcpListener) -> Result<Self> {
        Self::start_listening(Options::default(), Some(listener))
    }

    /// Starts one with options.
    pub fn start_with(options: Options) -> Result<Self> {
        Self::start_listening(options, None)
    }

    fn start_listening(options: Options, listener: Option<std::net::TcpListener>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("registry")
            .enable_all()
            .build()
            .context("start the registry's runtime")?;
        let ca_dir = options
            .tls
            .then(|| tempfile::Builder::new().prefix("magi-ca-").tempdir())
            .transpose()
            .context("create a folder")?;
        let shared = Arc::new(Shared {
            store: Store::default(),
            log: Log::default(),
            tokens: auth::Tokens::default(),
            auth: options.auth,
            tls: ca_dir.as_ref().map(|dir| Tls::new(dir.path())).transpose()?,
            send_buffer: options.send_buffer,
            connections: AtomicU64::new(0),
        });
        let address = options.address.unwrap_or(Ipv4Addr::LOCALHOST);
        let (v4, v6) = match listener {
            Some(listener) => (serve_on(&runtime, listener, &shared)?, None),
            None => {
                let also = (address == Ipv4Addr::LOCALHOST).then_some(IpAddr::V6(Ipv6Addr::LOCALHOST));
                (
                    listen(&runtime, (address, options.port).into(), &shared)?,
                    // A machine without IPv6 is no reason to fail.
                    also.and_then(|address| listen(&runtime, (address, 0).into(), &shared).ok()),
                )
            }
        };
        Ok(Self {
            shared,
            v4,
            v6,
            runtime: Some(runtime),
            _ca_dir: ca_dir,
        })
    }

    /// `127.0.0.1:port`
    pub fn host(&self) -> String {
        self.v4.to_string()
    }

    /// `[::1]:port`, if the machine has IPv6.
    pub fn host_v6(&self) -> Option<String> {
        self.v6.map(|address| address.to_string())
    }

    /// All hosts under which it answers.
    pub fn hosts(&self) -> Vec<String> {
        [Some(self.host()), self.host_v6()]
            .into_iter()
            .flatten()
            .collect()
    }

    /// Its IPv4 address.
    pub fn address(&self) -> SocketAddr {
        self.v4
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        self.shared.scheme()
    }

    /// `scheme://127.0.0.1:port`, for redirects to it.
    pub fn base(&self) -> String {
        format!("{}://{}", self.scheme(), self.host())
    }

    /// The file with its authority's certificate, with TLS.
    pub fn ca_file(&self) -> Option<&Path> {
        self.shared.tls.as_ref().map(Tls::ca_file)
    }

    /// A TLS client's configuration that trusts it, with TLS.
    pub fn client_tls(&self) -> Option<Result<rustls::ClientConfig>> {
        self.shared.tls.as_ref().map(Tls::client)
    }

    /// `127.0.0.1:port/repository:tag`
    pub fn reference(&self, repository: &str, tag: &str) -> String {
        format!("{}/{repository}:{tag}", self.host())
    }

    /// Publishes an image under a tag, with all its blobs, and gives its reference.
    pub fn put(&self, repository: &str, tag: &str, image: &Image) -> String {
        for layer in &image.layers {
            self.put_blob(repository, &layer.digest, layer.content.clone(), true);
        }
        self.put_blob(
            repository,
            &image.config.digest,
            Content::Memory(image.config.bytes.clone()),
            false,
        );
        for child in &image.children {
            self.put_manifest(
                repository,
                None,
                &child.media_type,
                child.bytes.clone(),
                Some(&child.digest),
            );
        }
        let top = &image.manifest;
        self.put_manifest(
            repository,
            Some(tag),
            &top.media_type,
            top.bytes.clone(),
            Some(&top.digest),
        );
        self.reference(repository, tag)
    }

    /// Publishes what no honest builder makes, and gives its reference.
    pub fn put_raw(&self, repository: &str, tag: &str, raw: &Raw) -> String {
        for other in &raw.others {
            self.put_manifest(
                repository,
                None,
                &other.media_type,
                other.bytes.clone(),
                Some(&other.digest),
            );
        }
        for layer in &raw.layers {
            self.put_blob(repository, &layer.digest, layer.content.clone(), true);
        }
        for config in &raw.configs {
            self.put_blob(
                repository,
                &config.digest,
                Content::Memory(config.bytes.clone()),
                false,
            );
        }
        let top = &raw.top;
        self.put_manifest(
            repository,
            Some(tag),
            &top.media_type,
            top.bytes.clone(),
            Some(&top.digest),
        );
        self.reference(repository, tag)
    }

    /// From now on, who fetches what `reference` names (a tag or digest) gets this image's manifest, whatever was said of it.
    pub fn swap_manifest(&self, repository: &str, reference: &str, image: &Image) {
        let top = &image.manifest;
        let manifest = Manifest {
            media_type: top.media_type.clone(),
            digest: top.digest.clone(),
            bytes: top.bytes.clone(),
        };
        self.shared.store.swap(repository, reference, manifest);
    }

    /// Publishes arbitrary bytes as a manifest and gives their digest: the one claimed, else the right one.
    pub fn put_manifest(
        &self,
        repository: &str,
        tag: Option<&str>,
        media_type: &str,
        bytes: Bytes,
        claimed_digest: Option<&str>,
    ) -> String {
        let digest = claimed_digest.map_or_else(|| content::digest_of(&bytes), str::to_owned);
        let manifest = Manifest {
            media_type: media_type.to_owned(),
            digest: digest.clone(),
            bytes,
        };
        self.shared.store.put_manifest(repository, tag, manifest);
        digest
    }

    /// Publishes a blob under any digest.
    pub fn put_blob(&self, repository: &str, digest: &str, content: Content, is_layer: bool) {
        self.shared.store.put_blob(
            repository,
            digest,
            Blob {
                content,
                is_layer,
                behaviour: None,
            },
        );
    }

    /// Sets how a repository answers, from the next request on.
    pub fn behave(&self, repository: &str, behaviour: Behaviour) {
        self.shared.store.behave(repository, behaviour);
    }

    /// Sets how one blob answers, instead of its repository's behaviour.
    pub fn behave_blob(&self, repository: &str, digest: &str, behaviour: Behaviour) -> Result<()> {
        ensure!(
            self.shared.store.behave_blob(repository, digest, behaviour),
            "{repository} has no blob {digest}"
        );
        Ok(())
    }

    /// What it saw and sent.
    pub fn log(&self) -> &Log {
        &self.shared.log
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Not waiting: a drop within another runtime may not block.
            runtime.shutdown_background();
        }
    }
}
