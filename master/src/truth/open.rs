//! Takes up the intakes that the settings name. What cannot be taken up stops the master at its start.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::config::{KubeConfigOptions, Kubeconfig};
use magi_config::{AuditLogSettings, MasterSettings, WatchSettings, WebhookSettings};
use magi_master_api::tls::{Material, TlsError, TlsFiles, provider};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::TruthError;
use super::catch_up::LogEnd;
use super::register::{Entry, Register, words};
use crate::counters::{Count, Counters};
use crate::files;
use crate::intake::file::{self, Position, Progress};
use crate::intake::watch as pods;
use crate::intake::webhook::{Access, Events, Token, Webhook};
use crate::settings;
use crate::stream::tls;

/// The place in the log is written at most so often: each time waits for the disk.
const KEEP_EVERY: Duration = Duration::from_millis(100);

/// What is listened to.
pub(super) struct Sources {
    pub(super) log: Option<mpsc::Receiver<file::Told>>,
    pub(super) webhook: Option<mpsc::Receiver<Events>>,
    pub(super) watch: Option<mpsc::Receiver<pods::Told>>,
    /// What is to be caught up with.
    pub(super) start: Option<Start>,
    place: watch::Sender<Option<Position>>,
    keeping: Option<JoinHandle<()>>,
}

/// What lies before the present.
pub(super) struct Start {
    /// Rotated parts of the log from before the place from which it is followed, the oldest first.
    pub(super) rotated: Vec<(PathBuf, File)>,
    /// Where the log ends.
    pub(super) end: Option<LogEnd>,
}

impl Sources {
    /// Everything up to here is handled.
    pub(super) fn keep(&self, position: &Position) {
        self.place.send_replace(Some(position.clone()));
    }

    /// Listens no more, and waits until the last place is kept.
    pub(super) async fn close(self) {
        let Self { place, keeping, .. } = self;
        drop(place);
        if let Some(keeping) = keeping {
            // A panic there was told already.
            drop(keeping.await);
        }
    }
}

/// Takes up all of them.
pub(super) async fn open(
    settings: &MasterSettings,
    register: &Register,
    counters: &Arc<Counters>,
) -> Result<Sources, TruthError> {
    let mut sources = Sources {
        log: None,
        webhook: None,
        watch: None,
        start: None,
        place: watch::Sender::new(None),
        keeping: None,
    };
    if let Some(webhook) = &settings.intake.webhook {
        sources.webhook = Some(open_webhook(webhook, settings, register, counters).await?);
    }
    if let Some(whom) = &settings.intake.watch {
        sources.watch = Some(open_watch(whom, register).await?);
    }
    if let Some(log) = &settings.intake.audit_log {
        open_log(log, register, counters, &mut sources)?;
    }
    Ok(sources)
}

fn open_log(
    settings: &AuditLogSettings,
    register: &Register,
    counters: &Arc<Counters>,
    sources: &mut Sources,
) -> Result<(), TruthError> {
    let AuditLogSettings { path, state } = settings;
    if let Some(folder) = state.parent() {
        files::folder(folder).map_err(TruthError::State)?;
    }
    let progress = Progress::new(state.clone());
    let from = progress.load().unwrap_or_else(|problem| {
        counters.one(Count::PlaceFailed);
        tracing::warn!(
            problem = words(&problem),
            "it is not known how far the audit log was read: all of it is read"
        );
        None
    });
    let rotated = file::rotated_before(path, from.as_ref()).map_err(TruthError::Follow)?;
    let end = fs::metadata(path).ok().map(|metadata| LogEnd {
        inode: metadata.ino(),
        size: metadata.len(),
    });
    let entry = Entry::new("audit-log", path.display());
    register.enter_log(if end.is_some() { entry.up() } else { entry });
    let is_there = from.is_some() || end.is_some_and(|end| end.size > 0) || !rotated.is_empty();
    sources.start = is_there.then_some(Start { rotated, end });
    sources.log = Some(file::follow(path, from).map_err(TruthError::Follow)?);
    let places = sources.place.subscribe();
    sources.keeping = Some(tokio::spawn(keep(progress, places, Arc::clone(counters))));
    Ok(())
}

/// Writes the place down as it changes, the last one before the end.
async fn keep(progress: Progress, mut places: watch::Receiver<Option<Position>>, counters: Arc<Counters>) {
    let mut is_failing = false;
    while places.changed().await.is_ok() {
        let Some(place) = places.borrow_and_update().clone() else {
            continue;
        };
        let progress = progress.clone();
        match tokio::task::spawn_blocking(move || progress.save(&place)).await {
            Ok(Ok(())) => is_failing = false,
            Ok(Err(problem)) => {
                counters.one(Count::PlaceFailed);
                if !is_failing {
                    tracing::warn!(problem = words(&problem), "what was read would be read again");
                }
                is_failing = true;
            }
            Err(_) => return,
        }
        tokio::time::sleep(KEEP_EVERY).await;
    }
}

async fn open_webhook(
    settings: &WebhookSettings,
    master: &MasterSettings,
    register: &Register,
    counters: &Arc<Counters>,
) -> Result<mpsc::Receiver<Events>, TruthError> {
    let token = settings.token.as_deref().map(Token::read).transpose();
    let token = token.map_err(TruthError::Token)?;
    let clients = Clients {
        are_asked_for_one: settings.client_ca.is_some(),
        may_have_none: token.is_some(),
    };
    let files = certificates(settings, master);
    let material = Material::read(&files).map_err(TruthError::Tls)?;
    let tls = clients.server_config(&material).map_err(TruthError::Tls)?;
    let (publish, tls) = watch::channel(Arc::new(tls));
    let listen = |source| TruthError::Listen {
        address: settings.listen,
        source,
    };
    let listener = TcpListener::bind(settings.listen).await.map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    let (webhook, events) = Webhook::new(Access { token });
    register.enter_webhook(Entry::new("webhook", address).up().with(webhook.counts()));
    tokio::spawn(tls::follow(
        files,
        material.fingerprint,
        move |material| clients.server_config(material),
        publish,
        settings::limits(master).reload_every,
        Arc::clone(counters),
    ));
    // It ends when nobody takes its events any more.
    tokio::spawn(webhook.serve(listener, tls));
    Ok(events)
}

/// The webhook's own certificate or the master's.
fn certificates(settings: &WebhookSettings, master: &MasterSettings) -> TlsFiles {
    let (certificate, key) = settings
        .certificate
        .clone()
        .unwrap_or_else(|| (master.tls.certificate.clone(), master.tls.key.clone()));
    TlsFiles {
        certificate,
        key,
        // Without authorities of its own nobody's certificate is asked for, and these are read for nothing.
        ca: settings.client_ca.as_ref().unwrap_or(&master.tls.ca).clone(),
    }
}

/// How clients of the webhook prove who they are.
#[derive(Clone, Copy)]
struct Clients {
    /// There are authorities for their certificates, which are looked at.
    are_asked_for_one: bool,
    /// They may have a token instead.
    may_have_none: bool,
}

impl Clients {
    fn server_config(self, material: &Material) -> Result<ServerConfig, TlsError> {
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|source| material.pair(source))?;
        let config = if self.are_asked_for_one {
            let mut verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::clone(&material.roots), provider());
            if self.may_have_none {
                verifier = verifier.allow_unauthenticated();
            }
            let verifier = verifier.build().map_err(|error| TlsError::Verifier {
                path: material.files().ca.clone(),
                problem: error.to_string(),
            })?;
            config.with_client_cert_verifier(verifier)
        } else {
            config.with_no_client_auth()
        };
        config
            .with_single_cert(material.chain.clone(), material.key.clone_key())
            .map_err(|source| material.pair(source))
    }
}

async fn open_watch(
    whom: &WatchSettings,
    register: &Register,
) -> Result<mpsc::Receiver<pods::Told>, TruthError> {
    let config = match whom {
        WatchSettings::Kubeconfig(path) => {
            let failed = |source| TruthError::Kubeconfig {
                path: path.clone(),
                source,
            };
            let file = Kubeconfig::read_from(path).map_err(failed)?;
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .map_err(failed)?
        }
        WatchSettings::InCluster => kube::Config::incluster().map_err(TruthError::InCluster)?,
    };
    register.enter_watch(Entry::new("watch", &config.cluster_url));
    let client = kube::Client::try_from(config).map_err(TruthError::Client)?;
    let (tell, told) = mpsc::channel(pods::MAX_QUEUE);
    // It ends when nobody listens any more.
    tokio::spawn(pods::watch(client, Timestamp::now, tell));
    Ok(told)
}
