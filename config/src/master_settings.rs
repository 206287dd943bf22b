//! The settings of the master, checked, and their defaults.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::settings::{AuditSettings, LogFormat, LogLevel, LogSettings};

const MIB: u64 = 1 << 20;

/// Settings of the master.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MasterSettings {
    /// Where nodes and operators connect.
    pub listen: SocketAddr,
    /// The master's certificate, and whose certificates it takes.
    pub tls: MasterTlsSettings,
    /// The file that holds the pull policy, or the folder with that one file in it; none: operators push it.
    pub policy: Option<PathBuf>,
    /// The folder in which the master keeps what must outlive it.
    pub state: PathBuf,
    /// How it hears of pods.
    pub intake: IntakeSettings,
    /// The audit store.
    pub audit: AuditSettings,
    /// After so long a rotated file of the audit store is removed.
    pub audit_age: Duration,
    /// Where audit records are pushed to besides.
    pub audit_push: Option<AuditPushSettings>,
    /// The nodes.
    pub nodes: NodesSettings,
    /// The master's own log.
    pub log: LogSettings,
}

/// Certificates; they are read again when they change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MasterTlsSettings {
    /// The master's certificate, its intermediates behind it.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authorities of nodes and operators.
    pub ca: PathBuf,
}

/// A receiver of audit records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditPushSettings {
    /// An HTTPS URL.
    pub url: String,
    /// The file that holds the bearer token.
    pub token: Option<PathBuf>,
    /// The authorities of the receiver; none: the system's.
    pub ca: Option<PathBuf>,
}

/// How the master hears of pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IntakeSettings {
    /// The audit log, as a file.
    pub audit_log: Option<AuditLogSettings>,
    /// The audit webhook.
    pub webhook: Option<WebhookSettings>,
    /// The pod watch.
    pub watch: Option<WatchSettings>,
    /// Of what the API server did longer ago no node is told.
    pub age: Duration,
}

/// The audit log, as a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditLogSettings {
    /// The log.
    pub path: PathBuf,
    /// The file that keeps how far it was read.
    pub state: PathBuf,
}

/// The audit webhook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WebhookSettings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Its certificate and its key; the master's own if there are none.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// The authorities of those who post. This or a token is there.
    pub client_ca: Option<PathBuf>,
    /// The file that holds their bearer token.
    pub token: Option<PathBuf>,
}

/// The pod watch: whom it asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum WatchSettings {
    /// Whom this kubeconfig names.
    Kubeconfig(PathBuf),
    /// The API server of the cluster that the master runs in.
    InCluster,
}

impl AuditLogSettings {
    /// Where the position is kept unless it is said.
    #[must_use]
    pub fn default_state() -> PathBuf {
        "/var/lib/magi-master/audit-log.json".into()
    }
}

impl Default for IntakeSettings {
    fn default() -> Self {
        Self {
            audit_log: None,
            webhook: None,
            watch: None,
            age: Duration::from_mins(15),
        }
    }
}

/// What holds for all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct NodesSettings {
    /// Connections at a time.
    pub most: u32,
    /// A node hears something at least about so often.
    pub ping: Duration,
    /// A verdict that could not be delivered for so long is dropped.
    pub verdict_age: Duration,
}

impl Default for MasterSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 7443)),
            tls: MasterTlsSettings {
                certificate: "/etc/magi/tls/tls.crt".into(),
                key: "/etc/magi/tls/tls.key".into(),
                ca: "/etc/magi/tls/ca.crt".into(),
            },
            policy: Some("/etc/magi/policy.yaml".into()),
            state: "/var/lib/magi-master".into(),
            intake: IntakeSettings::default(),
            audit: AuditSettings {
                path: "/var/lib/magi-master/audit/audit.jsonl".into(),
                rotate: 64 * MIB,
                keep: 15,
            },
            audit_age: Duration::from_hours(720),
            audit_push: None,
            nodes: NodesSettings {
                most: 10_000,
                ping: Duration::from_secs(15),
                verdict_age: Duration::from_mins(10),
            },
            log: LogSettings {
                level: LogLevel::Info,
                format: LogFormat::Text,
            },
        }
    }
}
