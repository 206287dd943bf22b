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
    /// The file that holds the pull policy, or the folder with that one file in it.
    pub policy: PathBuf,
    /// The folder in which the master keeps what must outlive it.
    pub state: PathBuf,
    /// The audit store.
    pub audit: AuditSettings,
    /// After so long a rotated file of the audit store is removed.
    pub audit_age: Duration,
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
            policy: "/etc/magi/policy.yaml".into(),
            state: "/var/lib/magi-master".into(),
            audit: AuditSettings {
                path: "/var/lib/magi-master/audit/audit.jsonl".into(),
                rotate: 64 * MIB,
                keep: 15,
            },
            audit_age: Duration::from_hours(720),
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
