//! The three ways in which a master hears of pods, from the API server's end.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, StatusCode};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::json;
use tokio::sync::mpsc;

use super::events::Happening;
use crate::fake_api::{self, FakeApiServer};
use crate::http_client::Client;

const TOKEN: &str = "a-token-of-the-test-harness";

/// How the master hears of pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It reads the API server's audit log.
    AuditLog,
    /// The API server posts its audit events.
    Webhook,
    /// It lists and watches all pods.
    Watch,
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::AuditLog, Self::Webhook, Self::Watch];
}

impl std::fmt::Display for Way {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::AuditLog => "audit log",
            Self::Webhook => "audit webhook",
            Self::Watch => "pod watch",
        })
    }
}

/// The API server's end; it outlives each process of the master.
#[derive(Debug, Clone)]
pub struct Teller(To);

#[derive(Debug, Clone)]
enum To {
    AuditLog(PathBuf),
    Webhook(Poster),
    Watch(mpsc::UnboundedSender<String>),
}

impl Teller {
    /// Makes ready what the master is to hear from; with the line of settings that tells it of that.
    pub(super) async fn ready(way: Way, dir: &Path, tls: &Path) -> Result<(Self, String)> {
        match way {
            Way::AuditLog => {
                let (log, state) = (dir.join("audit.log"), dir.join("position.json"));
                std::fs::write(&log, "").context("write the audit log")?;
                let settings = format!(
                    "auditLog: {{ path: {}, state: {} }}",
                    log.display(),
                    state.display()
                );
                Ok((Self(To::AuditLog(log)), settings))
            }
            Way::Webhook => {
                let address = SocketAddr::from(([127, 0, 0, 1], super::free_port()?));
                let token = dir.join("token");
                std::fs::write(&token, TOKEN).context("write the token")?;
                let settings = format!(
                    "webhook: {{ listen: \"{address}\", tokenFile: {} }}",
                    token.display()
                );
                Ok((Self(To::Webhook(Poster::start(address, tls)?)), settings))
            }
            Way::Watch => {
                let (tell, watched) = fake_api::stream();
                let script = vec![fake_api::list(10, None, &[]), watched];
                let (uri, _asked) = FakeApiServer::start(script).await;
                let kubeconfig = dir.join("kubeconfig");
                let text = json!({
                    "apiVersion": "v1", "kind": "Config", "current-context": "fake",
                    "clusters": [{"name": "fake", "cluster": {"server": uri.to_string()}}],
                    "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "master"}}],
                    "users": [{"name": "master", "user": {}}],
                });
                std::fs::write(&kubeconfig, text.to_string()).context("write the kubeconfig")?;
                let settings = format!("watch: {{ kubeconfig: {} }}", kubeconfig.display());
                Ok((Self(To::Watch(tell)), settings))
            }
        }
    }

    /// Tells what happened. The webhook's bodies are on their way then: an API server waits for no webhook.
    pub fn tell(&self, happened: &[Happening]) -> Result<()> {
        let events = || happened.iter().flat_map(|one| &one.audit);
        match &self.0 {
            To::AuditLog(path) => {
                let mut lines = String::new();
                for event in events() {
                    lines.push_str(&event.to_string());
                    lines.push('\n');
                }
                OpenOptions::new()
                    .append(true)
                    .open(path)
                    .and_then(|mut file| file.write_all(lines.as_bytes()))
                    .context("append to the audit log")
            }
            To::Webhook(poster) => {
                // An item has neither kind nor version of its own.
                let items: Vec<_> = events()
                    .cloned()
                    .map(|mut event| {
                        if let Some(event) = event.as_object_mut() {
                            event.remove("kind");
                            event.remove("apiVersion");
                        }
                        event
                    })
                    .collect();
                let list = json!({"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, "items": items});
                poster.post(&list.to_string())
            }
            To::Watch(tell) => {
                let told = happened.iter().flat_map(|one| &one.watch);
                let lines: String = told.map(|(kind, object)| fake_api::line(kind, object)).collect();
                tell.send(lines).context("nobody watches any more")
            }
        }
    }
}

/// Posts one body after the other.
#[derive(Debug, Clone)]
struct Poster {
    bodies: mpsc::UnboundedSender<Bytes>,
    /// Why a body was not taken.
    failure: Arc<Mutex<Option<String>>>,
}

impl Poster {
    /// `tls` is the folder of the master's own certificates.
    fn start(address: SocketAddr, tls: &Path) -> Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(tls.join("ca.crt")).context("read the authority")?;
        roots.add(ca).context("trust the authority")?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("choose TLS versions")?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = Client::tls(address, config);
        let (bodies, mut queue) = mpsc::unbounded_channel::<Bytes>();
        let failure = Arc::<Mutex<Option<String>>>::default();
        let failed = Arc::clone(&failure);
        tokio::spawn(async move {
            while let Some(body) = queue.recv().await {
                if let Err(problem) = post(&client, body).await {
                    let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                    failed.get_or_insert(format!("{problem:#}"));
                }
            }
        });
        Ok(Self { bodies, failure })
    }

    fn post(&self, body: &str) -> Result<()> {
        if let Some(problem) = &*self.failure.lock().unwrap_or_else(PoisonError::into_inner) {
            bail!("an earlier body was not taken: {problem}");
        }
        let body = Bytes::copy_from_slice(body.as_bytes());
        self.bodies.send(body).context("the poster is gone")
    }
}

async fn post(client: &Client, body: Bytes) -> Result<()> {
    let token = format!("Bearer {TOKEN}");
    let headers = [
        (AUTHORIZATION, token.as_str()),
        (CONTENT_TYPE, "application/json"),
    ];
    let reply = client.send(Method::POST, "/?timeout=30s", &headers, body).await?;
    ensure!(
        reply.status == StatusCode::OK,
        "the webhook answered {}",
        reply.status
    );
    Ok(())
}
