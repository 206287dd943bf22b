//! The master's `intake` section: how it hears of pods, described, read and checked.

use std::path::PathBuf;

use crate::master_document::HOUR;
use crate::master_settings::{AuditLogSettings, IntakeSettings, WatchSettings, WebhookSettings};
use crate::problem::{Mark, Problem, Sink, quoted};
use crate::schema::{Given, Said, section};
use crate::values::{FilePath, Flag, MaybeAddress, MaybeFilePath, Span};

section! {
    /// How the master hears of pods. Any mix works; each repairs what another loses. With none of them, no node ever hears that a pod is gone.
    struct RawIntake {
        /// The API server's audit log, read as a file.
        "auditLog" audit_log: RawAuditLog = Words("see there");
        /// An HTTPS endpoint that the API server posts audit events to; it has to do so in batches.
        "webhook" webhook: RawWebhook = Words("see there");
        /// A list and a watch of all pods.
        "watch" watch: RawWatch = Words("see there");
        /// What the API server did longer ago is taken note of, and no node is told: no pull lasts as long. A master that starts anew says again what is younger.
        "age" age: Span<1000, { 24 * HOUR }> = Yaml("15m");
    }
}

section! {
    /// The audit log as a file. It is followed when it is renamed or truncated.
    struct RawAuditLog {
        /// Its path. Without it, no file is read.
        "path" path: MaybeFilePath = Yaml("null");
        /// The file in which the master keeps how far it has read.
        "state" state: FilePath = Yaml("/var/lib/magi-master/audit-log.json");
    }
}

section! {
    /// The audit webhook. Who posts has to show a certificate of `clientCa`, or the token in `tokenFile`; one of the two must be given.
    struct RawWebhook {
        /// Where it listens. Without it, there is no webhook.
        "listen" listen: MaybeAddress = Yaml("null");
        /// Its certificate, its intermediates behind it; `null`: the one in `tls`.
        "cert" cert: MaybeFilePath = Yaml("null");
        /// Its key; `null`: the one in `tls`.
        "key" key: MaybeFilePath = Yaml("null");
        /// The authorities that certificates of API servers must come from.
        "clientCa" client_ca: MaybeFilePath = Yaml("null");
        /// The file that holds the bearer token of API servers, of 16 bytes at least.
        "tokenFile" token_file: MaybeFilePath = Yaml("null");
    }
}

section! {
    /// The pod watch. It needs the right to list and to watch all pods.
    struct RawWatch {
        /// The kubeconfig that tells where the API server is, and who asks.
        "kubeconfig" kubeconfig: MaybeFilePath = Yaml("null");
        /// Whether the master runs in the cluster, and asks as its service account.
        "inCluster" in_cluster: Flag = Yaml("false");
    }
}

/// Checks what must hold within the section.
pub(crate) fn check(raw: Said<RawIntake>, sink: &mut Sink) -> IntakeSettings {
    let default = IntakeSettings::default();
    let Some(raw) = raw.value() else {
        return default;
    };
    IntakeSettings {
        audit_log: raw.audit_log.value().and_then(audit_log),
        webhook: given(raw.webhook).and_then(|raw| webhook(raw, sink)),
        watch: given(raw.watch).and_then(|raw| watch(raw, sink)),
        age: raw.age.value().map_or(default.age, |age| age.0),
    }
}

/// Files that the section names.
#[derive(Default)]
pub(crate) struct Files<'r> {
    /// Those that are read, by their keys.
    pub(crate) read: Vec<(&'static str, &'r PathBuf)>,
    /// The one that is written.
    pub(crate) written: Option<(&'r PathBuf, &'r Mark)>,
}

/// Which files the section names.
pub(crate) fn files(raw: &RawIntake) -> Files<'_> {
    let mut files = Files::default();
    let read = &mut files.read;
    if let Some(Given { value: log, .. }) = raw.audit_log.given() {
        if says(&log.path) {
            files.written = log.state.given().map(|given| (&given.value.0, &given.mark));
        }
        read.extend(path_of("intake.auditLog.path", &log.path));
    }
    if let Some(Given { value: webhook, .. }) = raw.webhook.given() {
        read.extend(path_of("intake.webhook.cert", &webhook.cert));
        read.extend(path_of("intake.webhook.key", &webhook.key));
        read.extend(path_of("intake.webhook.clientCa", &webhook.client_ca));
        read.extend(path_of("intake.webhook.tokenFile", &webhook.token_file));
    }
    if let Some(Given { value: watch, .. }) = raw.watch.given() {
        read.extend(path_of("intake.watch.kubeconfig", &watch.kubeconfig));
    }
    files
}

fn path_of<'r>(key: &'static str, said: &'r Said<MaybeFilePath>) -> Option<(&'static str, &'r PathBuf)> {
    Some((key, said.given()?.value.0.as_ref()?))
}

fn given<T>(said: Said<T>) -> Option<Given<T>> {
    match said {
        Said::Given(given) => Some(given),
        Said::Absent | Said::Wrong => None,
    }
}

fn path(said: Said<MaybeFilePath>) -> Option<PathBuf> {
    said.value().and_then(|path| path.0)
}

fn audit_log(raw: RawAuditLog) -> Option<AuditLogSettings> {
    let state = raw.state.value();
    Some(AuditLogSettings {
        path: path(raw.path)?,
        state: state.map_or_else(AuditLogSettings::default_state, |state| state.0),
    })
}

/// Whether there is a path; a wrong one was told, and counts as one.
fn says(said: &Said<MaybeFilePath>) -> bool {
    match said {
        Said::Absent => false,
        Said::Wrong => true,
        Said::Given(given) => given.value.0.is_some(),
    }
}

fn webhook(Given { value: raw, mark }: Given<RawWebhook>, sink: &mut Sink) -> Option<WebhookSettings> {
    let mut wrong = |message: &str, hint: &str| {
        sink.report(&mark, Problem::new("intake.webhook", message).hint(hint));
    };
    let has_pair = says(&raw.cert) || says(&raw.key);
    let knows_who = says(&raw.client_ca) || says(&raw.token_file);
    if says(&raw.cert) != says(&raw.key) {
        wrong(
            "a certificate and its key go together",
            "give both `cert` and `key`, or neither",
        );
    }
    let is_wrong = matches!(raw.listen, Said::Wrong);
    let Some(listen) = raw.listen.value().and_then(|listen| listen.0) else {
        if (has_pair || knows_who) && !is_wrong {
            wrong(
                "the webhook listens nowhere",
                "add `listen:` with an address and a port",
            );
        }
        return None;
    };
    if !knows_who {
        wrong(
            "anybody could post to the webhook",
            "add `clientCa:` or `tokenFile:`",
        );
    }
    Some(WebhookSettings {
        listen,
        certificate: path(raw.cert).zip(path(raw.key)),
        client_ca: path(raw.client_ca),
        token: path(raw.token_file),
    })
}

fn watch(Given { value: raw, .. }: Given<RawWatch>, sink: &mut Sink) -> Option<WatchSettings> {
    let in_cluster = given(raw.in_cluster).filter(|flag| flag.value.0);
    match (path(raw.kubeconfig), in_cluster) {
        (Some(path), Some(flag)) => {
            let message = format!(
                "{} tells already whom to ask",
                quoted(&path.display().to_string())
            );
            let problem = Problem::new("intake.watch.inCluster", message);
            sink.report(&flag.mark, problem.hint("leave out `kubeconfig` or `inCluster`"));
            None
        }
        (Some(path), None) => Some(WatchSettings::Kubeconfig(path)),
        (None, Some(_)) => Some(WatchSettings::InCluster),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::parse_master_settings;

    fn intake(text: &str) -> IntakeSettings {
        parse_master_settings("test", text)
            .unwrap_or_else(|error| panic!("{error}"))
            .intake
    }

    fn wrong(text: &str) -> Vec<String> {
        let error = parse_master_settings("wrong", text).unwrap_err();
        let paths = error.problems().iter().map(|problem| problem.path.clone());
        paths.collect()
    }

    #[test]
    fn any_mix_may_be_given() {
        assert_eq!(intake(""), IntakeSettings::default());
        let log = intake("intake: { auditLog: { path: /log/audit.log } }\n");
        assert_eq!(
            log.audit_log,
            Some(AuditLogSettings {
                path: "/log/audit.log".into(),
                state: AuditLogSettings::default_state(),
            })
        );
        let all = intake(
            "intake: { age: 2m, auditLog: { path: /a, state: /s }, watch: { inCluster: true },\n\
             webhook: { listen: '[::1]:1', cert: /c, key: /k, tokenFile: /t } }\n",
        );
        assert_eq!(all.watch, Some(WatchSettings::InCluster));
        assert_eq!(all.age, Duration::from_secs(120));
        let webhook = all.webhook.unwrap();
        assert_eq!(webhook.certificate, Some(("/c".into(), "/k".into())));
        assert_eq!((webhook.client_ca, webhook.token), (None, Some("/t".into())));
        let kubeconfig = intake("intake: { watch: { kubeconfig: /k } }\n");
        assert_eq!(kubeconfig.watch, Some(WatchSettings::Kubeconfig("/k".into())));
    }

    #[test]
    fn what_does_not_fit_together_is_told_at_once() {
        assert_eq!(
            wrong(
                "intake:\n  webhook: { listen: '127.0.0.1:1', cert: /c }\n  \
                 watch: { kubeconfig: /k, inCluster: true }\n  age: 1d\n"
            ),
            [
                "intake.webhook",
                "intake.webhook",
                "intake.watch.inCluster",
                "intake.age"
            ]
        );
        assert_eq!(
            wrong("intake: { webhook: { tokenFile: /t } }\n"),
            ["intake.webhook"]
        );
        assert_eq!(
            wrong("intake: { webhook: { listen: here, tokenFile: /t } }\n"),
            ["intake.webhook.listen"]
        );
    }

    #[test]
    fn what_is_written_is_no_file_that_is_read() {
        assert_eq!(
            wrong("intake: { auditLog: { path: /a, state: /a } }\n"),
            ["intake.auditLog.state"]
        );
        assert_eq!(
            wrong("audit: { path: /a }\nintake: { auditLog: { path: /a, state: /b } }\n"),
            ["audit.path"]
        );
        assert_eq!(
            wrong("audit: { path: /a }\nintake: { auditLog: { path: /b, state: /a } }\n"),
            ["intake.auditLog.state"]
        );
    }
}
