//! The document that holds the settings of the node agent: what it looks like, and what must hold between its parts.

use std::path::PathBuf;

use magi_engine::ids::ContainerdNamespace;

use crate::document;
use crate::error::ConfigError;
use crate::node_master::{self, RawMasterLink};
use crate::patterns::RegistryHost;
use crate::problem::{Problem, Sink, quoted};
use crate::schema::{Given, List, Said, section};
use crate::settings::{
    AuditSettings, ContainerdSettings, ControlSettings, LogFormat, LogLevel, LogSettings, NriSettings,
    PollSettings, ProbeMode, ProbeSettings, ResolverMode, ResolverSettings, Settings,
};
use crate::values::{Choice, Count, FilePath, MaybeFilePath, OneOf, Size, SocketPath, Span, Version};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
/// Namespaces of containerd that one agent may watch; each costs calls of its own.
const MAX_NAMESPACES: usize = 16;
/// Registries that may be named.
const MAX_REGISTRIES: usize = 64;

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

impl Choice for ResolverMode {
    const WORDS: &'static [(&'static str, Self)] = &[("off", Self::Off), ("on", Self::On)];
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
        /// Requests on containerd's CRI socket, read off the kernel: they tell who asks for an image.
        "requests" requests: RawRequests = Words("see there");
        /// The node's pods, as NRI tells them.
        "nri" nri: RawNri = Words("see there");
        /// Manifests from their registry, for questions of containerd's image verifier.
        "resolver" resolver: RawResolver = Words("see there");
        /// How often containerd is asked what is in flight, beside its events.
        "poll" poll: RawPoll = Words("see there");
        /// The master of the cluster.
        "master" master: RawMasterLink = Words("no master");
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
        /// While this file is there, nothing is stopped: `touch` it to switch magi off, whatever else works or not.
        "killSwitch" kill_switch: FilePath = Yaml("/var/lib/magi/kill-switch");
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
    /// Requests on containerd's CRI socket.
    struct RawRequests {
        /// `auto` reads them if the kernel lets us, and does without if not; `off` never does.
        "mode" mode: OneOf<ProbeMode> = Yaml("auto");
    }
}

section! {
    /// The node's pods.
    struct RawNri {
        /// `auto` registers as an NRI plugin as soon as the socket is there; `off` never does.
        "mode" mode: OneOf<ProbeMode> = Yaml("auto");
        /// containerd's socket for NRI plugins.
        "socket" socket: SocketPath = Yaml("/var/run/nri/nri.sock");
    }
}

section! {
    /// Manifests from their registry. They are asked for only when containerd's image verifier wants to know about an
    /// image that this node has not seen, and containerd would fetch the same anyway.
    struct RawResolver {
        /// `on` asks registries, `off` never does.
        "mode" mode: OneOf<ResolverMode> = Yaml("off");
        /// How long it may take; the pull goes on unjudged if it takes longer.
        "deadline" deadline: Span<50, { 5 * SECOND }> = Yaml("800ms");
        /// Registry hosts, with their ports, that are asked without TLS. Those on this machine always may be.
        "insecure" insecure: List<RegistryHost, 0, MAX_REGISTRIES> = Yaml("[]");
        /// A docker `config.json` with credentials.
        "credentials" credentials: MaybeFilePath = Yaml("null");
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
        requests,
        nri,
        resolver,
        poll,
        master,
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
                kill_switch: raw.kill_switch.value().map_or(control.kill_switch, |path| path.0),
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
        requests: match raw.requests.value() {
            Some(raw) => raw.mode.value().map_or(requests, |mode| mode.0),
            None => requests,
        },
        nri: match raw.nri.value() {
            Some(raw) => NriSettings {
                mode: raw.mode.value().map_or(nri.mode, |mode| mode.0),
                socket: raw.socket.value().map_or(nri.socket, |path| path.0),
            },
            None => nri,
        },
        resolver: match raw.resolver.value() {
            Some(raw) => check_resolver(raw, resolver),
            None => resolver,
        },
        poll: match raw.poll.value() {
            Some(raw) => check_poll(&raw, poll, sink),
            None => poll,
        },
        master: match raw.master {
            Said::Given(given) => node_master::check(given, sink),
            Said::Absent | Said::Wrong => master,
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

fn check_resolver(raw: RawResolver, default: ResolverSettings) -> ResolverSettings {
    let insecure = raw.insecure.value().map(|list| list.0);
    ResolverSettings {
        mode: raw.mode.value().map_or(default.mode, |mode| mode.0),
        deadline: raw.deadline.value().map_or(default.deadline, |span| span.0),
        insecure: insecure.map_or(default.insecure, |hosts| {
            hosts.into_iter().map(|(_, given)| given.value.0).collect()
        }),
        credentials: raw.credentials.value().map_or(default.credentials, |path| path.0),
    }
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
            ..
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
    if let Some(Given {
        value: RawMasterLink {
            state: Said::Given(state),
            ..
        },
        ..
    }) = raw.master.given()
    {
        written.push(("master.state", &state.value.0, &state.mark));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Accepts, Read};

    #[test]
    fn the_reference_tells_the_defaults() {
        let Accepts::Section(root) = RawSettings::accepts() else {
            panic!("settings are a mapping")
        };
        let text = root.written_out();
        assert!(text.contains("  keep: 5\n"), "{text}");
        let read = parse_settings("defaults", &text).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(read, Settings::default());
    }

    #[test]
    fn the_example_shows_every_key() {
        let example = include_str!("../examples/settings-node.yaml");
        let Accepts::Section(root) = RawSettings::accepts() else {
            panic!("settings are a mapping")
        };
        let text = root.written_out();
        for line in text.lines() {
            assert!(example.lines().any(|shown| shown == line), "`{line}` is missing");
        }
    }
}
