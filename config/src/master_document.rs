//! The document that holds the settings of the master.

use std::path::PathBuf;

use crate::audit_push::{self, RawAuditPush};
use crate::document;
use crate::error::ConfigError;
use crate::master_intake::{self, RawIntake};
use crate::master_settings::{MasterSettings, MasterTlsSettings, NodesSettings};
use crate::problem::{Mark, Problem, Sink, quoted};
use crate::schema::{Said, section};
use crate::settings::{AuditSettings, LogSettings};
use crate::settings_document::RawLog;
use crate::values::{Address, Count, FilePath, MaybeFilePath, Size, Span, Version};

const KIB: u64 = 1 << 10;
const GIB: u64 = 1 << 30;
const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
pub(crate) const HOUR: u64 = 60 * MINUTE;
/// Ten years; an audit trail that is kept longer belongs elsewhere.
const MAX_AGE: u64 = 10 * 366 * 24 * HOUR;

section! {
    /// How the master works. Every key may be left out.
    struct RawMaster {
        /// The format of this document.
        "version" version: Version = Yaml("1");
        /// Where nodes and operators connect: an address and a port.
        "listen" listen: Address = Yaml("0.0.0.0:7443");
        /// The master's certificate, and whose certificates it takes. Files that change are read again.
        "tls" tls: RawTls = Words("see there");
        /// The file that holds the pull policy for all nodes, or a folder with that one YAML file in it. `null`: operators
        /// push it with `magictl policy push`, and the master keeps it in `state`; where there is a file, it refuses that.
        "policy" policy: MaybeFilePath = Yaml("/etc/magi/policy.yaml");
        /// The folder in which the master keeps the policy's number, the last good policy, and the kill switch.
        "state" state: FilePath = Yaml("/var/lib/magi-master");
        /// How the master hears of pods.
        "intake" intake: RawIntake = Words("see there");
        /// The audit records of all nodes: one JSON object per line.
        "audit" audit: RawStore = Words("see there");
        /// What holds for all nodes.
        "nodes" nodes: RawNodes = Words("see there");
        /// The master's own log, on standard error.
        "log" log: RawLog = Words("see there");
    }
}

section! {
    /// Certificates.
    struct RawTls {
        /// The master's certificate, its intermediates behind it.
        "certificate" certificate: FilePath = Yaml("/etc/magi/tls/tls.crt");
        /// Its key.
        "key" key: FilePath = Yaml("/etc/magi/tls/tls.key");
        /// The authorities that certificates of nodes and operators must come from.
        "ca" ca: FilePath = Yaml("/etc/magi/tls/ca.crt");
    }
}

section! {
    /// The audit store.
    struct RawStore {
        /// Its file.
        "path" path: FilePath = Yaml("/var/lib/magi-master/audit/audit.jsonl");
        /// It is rotated when it is this large.
        "rotate" rotate: Size<{ 64 * KIB }, { 10 * GIB }> = Yaml("64MiB");
        /// Rotated files that are kept.
        "keep" keep: Count<1, 1000> = Yaml("15");
        /// A rotated file is removed when it is this old.
        "age" age: Span<MINUTE, MAX_AGE> = Yaml("720h");
        /// Where records are pushed to besides, as they are stored.
        "webhook" webhook: RawAuditPush = Words("see there");
    }
}

section! {
    /// What holds for all nodes.
    struct RawNodes {
        /// Connections at a time, operators' ones included.
        "most" most: Count<1, 100_000> = Yaml("10000");
        /// A node hears something about so often; after three times this silence either side gives the other up.
        "ping" ping: Span<SECOND, MINUTE> = Yaml("15s");
        /// A verdict that could not be delivered for so long is dropped.
        "verdictAge" verdict_age: Span<SECOND, { 24 * HOUR }> = Yaml("10m");
    }
}

/// Reads settings of the master from `text`; messages call it `file`.
///
/// # Errors
/// [`ConfigError::Invalid`] with everything that is wrong in it.
pub fn parse_master_settings(file: &str, text: &str) -> Result<MasterSettings, ConfigError> {
    document::read(file, &document::normalised(text), check)
}

fn check(raw: RawMaster, sink: &mut Sink) -> Option<MasterSettings> {
    check_paths_differ(&raw, sink);
    if !raw.version.is_absent() {
        raw.version.value()?;
    }
    let default = MasterSettings::default();
    let path = |said: Said<FilePath>, default: PathBuf| said.value().map_or(default, |path| path.0);
    let mut audit_age = default.audit_age;
    let mut audit_push = None;
    Some(MasterSettings {
        listen: raw.listen.value().map_or(default.listen, |address| address.0),
        tls: match raw.tls.value() {
            Some(raw) => MasterTlsSettings {
                certificate: path(raw.certificate, default.tls.certificate),
                key: path(raw.key, default.tls.key),
                ca: path(raw.ca, default.tls.ca),
            },
            None => default.tls,
        },
        policy: raw.policy.value().map_or(default.policy, |path| path.0),
        state: path(raw.state, default.state),
        intake: master_intake::check(raw.intake, sink),
        audit: match raw.audit.value() {
            Some(raw) => {
                audit_push = audit_push::check(raw.webhook, sink);
                audit_age = raw.age.value().map_or(audit_age, |age| age.0);
                AuditSettings {
                    path: path(raw.path, default.audit.path),
                    rotate: raw.rotate.value().map_or(default.audit.rotate, |size| size.0),
                    keep: raw.keep.value().map_or(default.audit.keep, |count| count.0),
                }
            }
            None => default.audit,
        },
        audit_age,
        audit_push,
        nodes: match raw.nodes.value() {
            Some(raw) => NodesSettings {
                most: raw.most.value().map_or(default.nodes.most, |count| count.0),
                ping: raw.ping.value().map_or(default.nodes.ping, |span| span.0),
                verdict_age: raw
                    .verdict_age
                    .value()
                    .map_or(default.nodes.verdict_age, |span| span.0),
            },
            None => default.nodes,
        },
        log: match raw.log.value() {
            Some(raw) => LogSettings {
                level: raw.level.value().map_or(default.log.level, |level| level.0),
                format: raw.format.value().map_or(default.log.format, |format| format.0),
            },
            None => default.log,
        },
    })
}

/// What is written must be no file that is read, and nothing else that is written.
fn check_paths_differ(raw: &RawMaster, sink: &mut Sink) {
    let tls = raw.tls.given().map(|raw| &raw.value);
    let policy = raw.policy.given().and_then(|given| given.value.0.as_ref());
    let read = [
        ("tls.certificate", tls.and_then(|tls| tls.certificate.given())),
        ("tls.key", tls.and_then(|tls| tls.key.given())),
        ("tls.ca", tls.and_then(|tls| tls.ca.given())),
    ];
    let mut read: Vec<(&str, &PathBuf)> = read
        .into_iter()
        .filter_map(|(key, given)| Some((key, &given?.value.0)))
        .chain(policy.map(|path| ("policy", path)))
        .collect();
    let store = raw.audit.given().and_then(|raw| raw.value.path.given());
    let store = store.map(|given| (&given.value.0, &given.mark));
    let intake = raw.intake.given().map(|raw| master_intake::files(&raw.value));
    let master_intake::Files {
        read: of_intake,
        written: position,
    } = intake.unwrap_or_default();
    read.extend(of_intake);
    let push = raw.audit.given().and_then(|raw| raw.value.webhook.given());
    read.extend(push.map(|raw| audit_push::files(&raw.value)).unwrap_or_default());
    let mut differs = |written: Option<(&PathBuf, &Mark)>, key: &str, others: &[(&str, &PathBuf)]| {
        let Some((path, mark)) = written else { return };
        for (other, _) in others.iter().filter(|(_, other)| *other == path) {
            let message = format!("{} is also `{other}`", quoted(&path.display().to_string()));
            sink.report(
                mark,
                Problem::new(key, message).hint("give each a file of its own"),
            );
        }
    };
    differs(store, "audit.path", &read);
    read.extend(store.map(|(path, _)| ("audit.path", path)));
    differs(position, "intake.auditLog.state", &read);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Accepts, Read};

    #[test]
    fn reference_example_and_defaults_agree() {
        let Accepts::Section(root) = RawMaster::accepts() else {
            panic!("settings are a mapping")
        };
        let text = root.written_out();
        let read = parse_master_settings("defaults", &text).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(read, MasterSettings::default());
        let example = include_str!("../examples/settings-master.yaml");
        for line in text.lines() {
            assert!(example.lines().any(|shown| shown == line), "`{line}` is missing");
        }
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let text =
            "listen: nowhere\nnodes: { ping: 1h, most: 0 }\npolicy: /same\naudit: { path: /same, kept: 1 }\n";
        let error = parse_master_settings("wrong", text).unwrap_err();
        let paths: Vec<&str> = error.problems().iter().map(|problem| &*problem.path).collect();
        assert_eq!(
            paths,
            ["listen", "nodes.ping", "nodes.most", "audit.path", "audit"],
            "{error}"
        );
    }
}
