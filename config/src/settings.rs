//! The settings of the node agent: what their document looks like, their defaults, and what must hold between them.

use std::path::PathBuf;
use std::time::Duration;

use magi_engine::ids::ContainerdNamespace;
use serde::Serialize;

use crate::document;
use crate::error::ConfigError;
use crate::problem::{Problem, Sink, quoted};
use crate::schema::{Given, List, Said, section};
use crate::values::{Choice, Count, FilePath, MaybeFilePath, OneOf, Size, SocketPath, Span, Version};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
/// Namespaces of containerd that one agent may watch; each costs calls of its own.
const MAX_NAMESPACES: usize = 16;

/// Settings of the node agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
    /// How often containerd is asked.
    pub poll: PollSettings,
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
pub struct ControlSettings {
    /// The socket that the agent listens on.
    pub socket: PathBuf,
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
            poll: PollSettings {
                active: Duration::from_millis(250),
                idle: Duration::from_secs(30),
            },
            trace: None,
            trace_max: 64 * MIB,
        }
    }
}

impl Choice for LogLevel {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];
}

impl Choice for LogFormat {
    const WORDS: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

impl Choice for ProbeMode {
    const WORDS: &'static [(&'static str, Self)] = &[("auto", Self::Auto), ("off", Self::Off)];
}

section! {
    /// How the agent of a node works. Every key may be left out.
    struct RawSettings {
        /// The format of this document.
        "version" version: Version = Yaml("1");
        /// The containerd that is watched.
        "containerd" containerd: RawContainerd = Words("see there");
        /// The file that holds the pull policy.
        "policy" policy: FilePath = Yaml("/etc/magi/policy.yaml");
        /// How operators reach the agent.
        "control" control: RawControl = Words("see there");
        /// The audit log: one JSON object per line for everything that was decided and done.
        "audit" audit: RawAudit = Words("see there");
        /// The agent's own log, on standard error.
        "log" log: RawLog = Words("see there");
        /// Kernel probes, which tie sockets to pulls.
        "probes" probes: RawProbes = Words("see there");
        /// How often containerd is asked what is in flight, beside its events.
        "poll" poll: RawPoll = Words("see there");
        /// A file in which every event is recorded, for `magi-node replay`.
        "trace" trace: MaybeFilePath = Yaml("null");
        /// Recording stops when the file is this large.
        "traceMax" trace_max: Size<MIB, { 100 * GIB }> = Yaml("64MiB");
    }
}

section! {
    /// The containerd that is watched.
    struct RawContainerd {
        /// Its gRPC socket.
        "address" address: SocketPath = Yaml("/run/containerd/containerd.sock");
        /// Its namespaces in which pulls are watched.
        "namespaces" namespaces: List<ContainerdNamespace, 1, MAX_NAMESPACES> = Yaml("[k8s.io]");
    }
}

section! {
    /// How operators reach the agent.
    struct RawControl {
        /// The socket that the agent listens on. Only root may connect.
        "socket" socket: SocketPath = Yaml("/run/magi/node.sock");
    }
}

section! {
    /// The audit log.
    struct RawAudit {
        /// Its file.
        "path" path: FilePath = Yaml("/var/log/magi/audit.jsonl");
        /// It is rotated when it is this large.
        "rotate" rotate: Size<{ 64 * KIB }, { 10 * GIB }> = Yaml("10MiB");
        /// Rotated files that are kept.
        "keep" keep: Count<1, 1000> = Yaml("5");
    }
}

section! {
    /// The agent's own log.
    struct RawLog {
        /// The least important messages that are written.
        "level" level: OneOf<LogLevel> = Yaml("info");
        /// For people (`text`), or one JSON object per line (`json`).
        "format" format: OneOf<LogFormat> = Yaml("text");
    }
}

section! {
    /// Kernel probes.
    struct RawProbes {
        /// `auto` uses them if the kernel lets us, and does without if not; `off` never does.
        "mode" mode: OneOf<ProbeMode> = Yaml("auto");
        /// The kernel's type information.
        "btf" btf: FilePath = Yaml("/sys/kernel/btf/vmlinux");
    }
}

section! {
    /// How often containerd is asked.
    struct RawPoll {
        /// While a pull is in flight.
        "active" active: Span<20, { 10 * SECOND }> = Yaml("250ms");
        /// While none is.
        "idle" idle: Span<SECOND, { 10 * MINUTE }> = Yaml("30s");
    }
}

/// Reads settings from `text`; messages call it `file`.
///
/// # Errors
/// [`ConfigError::Invalid`] with everything that is wrong in it.
pub fn parse_settings(file: &str, text: &str) -> Result<Settings, ConfigError> {
    document::read(file, &document::normalised(text), check)
}

fn check(raw: RawSettings, sink: &mut Sink) -> Option<Settings> {
    check_paths_differ(&raw, sink);
    if !raw.version.is_absent() {
        raw.version.value()?;
    }
    let Settings {
        containerd,
        policy,
        control,
        audit,
        log,
        probes,
        poll,
        trace,
        trace_max,
    } = Settings::default();
    Some(Settings {
        containerd: match raw.containerd.value() {
            Some(raw) => check_containerd(raw, containerd, sink),
            None => containerd,
        },
        policy: raw.policy.value().map_or(policy, |path| path.0),
        control: match raw.control.value() {
            Some(raw) => ControlSettings {
                socket: raw.socket.value().map_or(control.socket, |path| path.0),
            },
            None => control,
        },
        audit: match raw.audit.value() {
            Some(raw) => AuditSettings {
                path: raw.path.value().map_or(audit.path, |path| path.0),
                rotate: raw.rotate.value().map_or(audit.rotate, |size| size.0),
                keep: raw.keep.value().map_or(audit.keep, |count| count.0),
            },
            None => audit,
        },
        log: match raw.log.value() {
            Some(raw) => LogSettings {
                level: raw.level.value().map_or(log.level, |level| level.0),
                format: raw.format.value().map_or(log.format, |format| format.0),
            },
            None => log,
        },
        probes: match raw.probes.value() {
            Some(raw) => ProbeSettings {
                mode: raw.mode.value().map_or(probes.mode, |mode| mode.0),
                btf: raw.btf.value().map_or(probes.btf, |path| path.0),
            },
            None => probes,
        },
        poll: match raw.poll.value() {
            Some(raw) => check_poll(&raw, poll, sink),
            None => poll,
        },
        trace: raw.trace.value().map_or(trace, |path| path.0),
        trace_max: raw.trace_max.value().map_or(trace_max, |size| size.0),
    })
}

fn check_containerd(raw: RawContainerd, default: ContainerdSettings, sink: &mut Sink) -> ContainerdSettings {
    let address = raw.address.value().map_or(default.address, |path| path.0);
    let Some(List(given)) = raw.namespaces.value() else {
        return ContainerdSettings { address, ..default };
    };
    let mut namespaces = Vec::new();
    for (index, Given { value, mark }) in given {
        if namespaces.contains(&value) {
            let message = format!("{} is listed twice", quoted(value.as_str()));
            sink.report(
                &mark,
                Problem::new(format!("containerd.namespaces[{index}]"), message).hint("remove one of them"),
            );
        } else {
            namespaces.push(value);
        }
    }
    ContainerdSettings { address, namespaces }
}

fn check_poll(raw: &RawPoll, default: PollSettings, sink: &mut Sink) -> PollSettings {
    let active = raw.active.given().map_or(default.active, |span| span.value.0);
    let idle = raw.idle.given().map_or(default.idle, |span| span.value.0);
    if active > idle
        && let Some(mark) = raw
            .idle
            .given()
            .map(|span| &span.mark)
            .or(raw.active.given().map(|span| &span.mark))
    {
        let message = format!("`active` ({active:?}) is longer than `idle` ({idle:?})");
        sink.report(
            mark,
            Problem::new("poll", message).hint("ask more often while pulls are in flight"),
        );
    }
    PollSettings { active, idle }
}

/// Two writers of one file would destroy it, and a socket is made where a file may not be.
fn check_paths_differ(raw: &RawSettings, sink: &mut Sink) {
    let mut written = Vec::new();
    if let Some(Given {
        value: RawControl {
            socket: Said::Given(socket),
        },
        ..
    }) = raw.control.given()
    {
        written.push(("control.socket", &socket.value.0, &socket.mark));
    }
    if let Some(Given {
        value: RawAudit {
            path: Said::Given(path),
            ..
        },
        ..
    }) = raw.audit.given()
    {
        written.push(("audit.path", &path.value.0, &path.mark));
    }
    if let Said::Given(Given {
        value: MaybeFilePath(Some(path)),
        mark,
    }) = &raw.trace
    {
        written.push(("trace", path, mark));
    }
    if let Said::Given(policy) = &raw.policy {
        written.push(("policy", &policy.value.0, &policy.mark));
    }
    let mut seen: Vec<(&str, &PathBuf)> = Vec::new();
    for (key, path, mark) in written {
        if let Some((other, _)) = seen.iter().find(|(_, taken)| *taken == path) {
            let message = format!("{} is also `{other}`", quoted(&path.display().to_string()));
            sink.report(
                mark,
                Problem::new(key, message).hint("give each a file of its own"),
            );
        } else {
            seen.push((key, path));
        }
    }
}
