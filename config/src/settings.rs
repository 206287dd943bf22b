//! The settings of the node agent, checked, and their defaults.

use std::path::PathBuf;
use std::time::Duration;

use magi_engine::ids::ContainerdNamespace;
use serde::Serialize;

const MIB: u64 = 1 << 20;

/// Settings of the node agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// The containerd that is watched.
    pub containerd: ContainerdSettings,
    /// The file that holds the pull policy.
    pub policy: PathBuf,
    /// How operators reach the agent.
    pub control: ControlSettings,
    /// The audit log.
    pub audit: AuditSettings,
    /// The agent's own log.
    pub log: LogSettings,
    /// Kernel probes.
    pub probes: ProbeSettings,
    /// Whether requests on containerd's CRI socket are read off the kernel.
    pub requests: ProbeMode,
    /// The node's pods.
    pub nri: NriSettings,
    /// Manifests from their registry.
    pub resolver: ResolverSettings,
    /// How often containerd is asked.
    pub poll: PollSettings,
    /// The master, if there is one.
    pub master: Option<MasterLinkSettings>,
    /// Where every event is recorded for replay, if anywhere.
    pub trace: Option<PathBuf>,
    /// Bytes after which recording stops.
    pub trace_max: u64,
}

/// The containerd that is watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ContainerdSettings {
    /// Its gRPC socket.
    pub address: PathBuf,
    /// Its namespaces in which pulls are watched; never empty, no two the same.
    pub namespaces: Vec<ContainerdNamespace>,
}

/// How operators reach the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ControlSettings {
    /// The socket that the agent listens on.
    pub socket: PathBuf,
    /// While this file is there, nothing is stopped.
    pub kill_switch: PathBuf,
}

/// The audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditSettings {
    /// Its file, JSON lines.
    pub path: PathBuf,
    /// Bytes after which it is rotated.
    pub rotate: u64,
    /// Rotated files that are kept.
    pub keep: u32,
}

/// The agent's own log, on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LogSettings {
    /// The least important messages that are written.
    pub level: LogLevel,
    /// How they are written.
    pub format: LogFormat,
}

/// How important a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Something may fail.
    Warn,
    /// What an operator wants to know.
    Info,
    /// What a developer wants to know.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// Its word, which the `tracing` crates understand too.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// How messages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Kernel probes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProbeSettings {
    /// Whether they are used.
    pub mode: ProbeMode,
    /// The kernel's type information.
    pub btf: PathBuf,
}

/// Whether kernel probes are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeMode {
    /// If the kernel lets us; otherwise the agent does without.
    Auto,
    /// Never.
    Off,
}

/// How often containerd is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PollSettings {
    /// While a pull is in flight.
    pub active: Duration,
    /// While none is.
    pub idle: Duration,
}

/// The node's pods, as NRI tells them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NriSettings {
    /// Whether the agent registers as a plugin.
    pub mode: ProbeMode,
    /// The runtime's socket for plugins.
    pub socket: PathBuf,
}

/// Manifests from their registry, for questions of the image verifier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ResolverSettings {
    /// Whether the agent asks registries.
    pub mode: ResolverMode,
    /// How long it may take.
    pub deadline: Duration,
    /// Registry hosts, with their ports, that are asked without TLS.
    pub insecure: Vec<String>,
    /// A docker `config.json` with credentials.
    pub credentials: Option<PathBuf>,
}

/// How the node speaks to its master.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MasterLinkSettings {
    /// Host and port.
    pub address: String,
    /// The name that the master's certificate must be for.
    pub server_name: String,
    /// The authorities of the master's certificate.
    pub ca: PathBuf,
    /// The node's certificate, its intermediates behind it.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The node's name; none: the host's.
    pub node: Option<String>,
    /// The folder that holds the last good policy of the master.
    pub state: PathBuf,
}

/// Whether the agent asks registries for manifests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ResolverMode {
    /// Never.
    Off,
    /// When the image verifier asks for an image whose manifest is not known.
    On,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            containerd: ContainerdSettings {
                address: "/run/containerd/containerd.sock".into(),
                namespaces: ContainerdNamespace::new("k8s.io").into_iter().collect(),
            },
            policy: "/etc/magi/policy.yaml".into(),
            control: ControlSettings {
                socket: "/run/magi/node.sock".into(),
                kill_switch: "/var/lib/magi/kill-switch".into(),
            },
            audit: AuditSettings {
                path: "/var/log/magi/audit.jsonl".into(),
                rotate: 10 * MIB,
                keep: 5,
            },
            log: LogSettings {
                level: LogLevel::Info,
                format: LogFormat::Text,
            },
            probes: ProbeSettings {
                mode: ProbeMode::Auto,
                btf: "/sys/kernel/btf/vmlinux".into(),
            },
            requests: ProbeMode::Auto,
            nri: NriSettings {
                mode: ProbeMode::Auto,
                socket: "/var/run/nri/nri.sock".into(),
            },
            resolver: ResolverSettings {
                mode: ResolverMode::Off,
                deadline: Duration::from_millis(800),
                insecure: Vec::new(),
                credentials: None,
            },
            poll: PollSettings {
                active: Duration::from_millis(250),
                idle: Duration::from_secs(30),
            },
            master: None,
            trace: None,
            trace_max: 64 * MIB,
        }
    }
}
