//! The master's `audit.webhook` section: where it pushes audit records, described, read and checked.

use std::path::PathBuf;

use crate::master_settings::AuditPushSettings;
use crate::node_master::is_host;
use crate::problem::{Problem, Sink, quoted};
use crate::schema::{Given, Said, section};
use crate::values::{MaybeFilePath, Refused, Scalar, refuse};

/// Longest URL, in bytes.
const MAX_URL: usize = 2048;
const SCHEME: &str = "https://";

section! {
    /// A receiver of audit records, such as a log collector. The master posts batches of them as JSON arrays; what the
    /// receiver does not take in time is counted and dropped here, and stays in the store.
    struct RawAuditPush {
        /// Where they are posted, by HTTPS. Redirects are not followed. Without it, nothing is pushed.
        "url" url: MaybeUrl = Yaml("null");
        /// The file that holds the bearer token to show; it is read again when it changes. `null`: none is shown.
        "tokenFile" token_file: MaybeFilePath = Yaml("null");
        /// The authorities that the receiver's certificate must come from; `null`: the system's.
        "ca" ca: MaybeFilePath = Yaml("null");
    }
}

/// Checks what must hold within the section.
pub(crate) fn check(said: Said<RawAuditPush>, sink: &mut Sink) -> Option<AuditPushSettings> {
    let Said::Given(Given { value: raw, mark }) = said else {
        return None;
    };
    let is_wrong = matches!(raw.url, Said::Wrong);
    let says_more = says(&raw.token_file) || says(&raw.ca);
    let path = |said: Said<MaybeFilePath>| said.value().and_then(|path| path.0);
    let Some(url) = raw.url.value().and_then(|url| url.0) else {
        if says_more && !is_wrong {
            let problem = Problem::new("audit.webhook", "nothing is pushed anywhere");
            sink.report(&mark, problem.hint("add `url:`, or leave the whole section out"));
        }
        return None;
    };
    Some(AuditPushSettings {
        url,
        token: path(raw.token_file),
        ca: path(raw.ca),
    })
}

/// The files that the section names, by their keys.
pub(crate) fn files(raw: &RawAuditPush) -> Vec<(&'static str, &PathBuf)> {
    let named = [
        ("audit.webhook.tokenFile", &raw.token_file),
        ("audit.webhook.ca", &raw.ca),
    ];
    let given = named.into_iter();
    given
        .filter_map(|(key, said)| Some((key, said.given()?.value.0.as_ref()?)))
        .collect()
}

fn says(said: &Said<MaybeFilePath>) -> bool {
    said.given().is_some_and(|given| given.value.0.is_some())
}

/// An HTTPS URL, or nothing.
#[derive(Clone, Debug)]
pub(crate) struct MaybeUrl(Option<String>);

impl Scalar for MaybeUrl {
    fn words() -> String {
        "a URL such as `https://collector.example:8443/magi`, or `null`".to_owned()
    }

    fn parse(text: &str) -> Result<Self, Refused> {
        let hint = || format!("write {}", Self::words());
        let Some(rest) = text.strip_prefix(SCHEME) else {
            return refuse(format!("{} is no HTTPS URL", quoted(text)), hint());
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.contains('@') {
            // Not shown: what stands there is a secret.
            return refuse(
                "the URL has a user or a password in it".to_owned(),
                "use `tokenFile:`",
            );
        }
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'#' | b'"' | b'<' | b'>');
        let port = authority
            .rsplit_once(':')
            .filter(|(_, port)| !port.ends_with(']'));
        let is_authority = match port {
            Some((host, port)) => is_host(host) && matches!(port.parse::<u16>(), Ok(port) if port != 0),
            None => is_host(authority),
        };
        if text.len() > MAX_URL || !is_authority || !path.bytes().all(is_plain) {
            return refuse(format!("{} is no HTTPS URL", quoted(text)), hint());
        }
        Ok(Self(Some(text.to_owned())))
    }

    fn absent() -> Option<Self> {
        Some(Self(None))
    }
}

#[cfg(test)]
mod tests {
    use crate::parse_master_settings;

    #[test]
    fn a_url_is_enough() {
        let of = |text: &str| {
            parse_master_settings("s", text)
                .unwrap_or_else(|error| panic!("{error}"))
                .audit_push
        };
        assert_eq!(of("audit: { webhook: {} }"), None);
        assert_eq!(of("audit: { webhook: { url: null } }"), None);
        for url in [
            "https://collector",
            "https://collector.example:8443/in?a=b",
            "https://[::1]:1/",
            "https://[::1]/",
            "https://10.0.0.1/x",
        ] {
            let push = of(&format!(
                "audit: {{ webhook: {{ url: '{url}', tokenFile: /t }} }}"
            ))
            .unwrap();
            assert_eq!((&*push.url, push.token), (url, Some("/t".into())));
            assert_eq!(push.ca, None);
        }
    }

    #[test]
    fn what_is_no_https_url_is_refused_and_no_password_is_shown() {
        for url in [
            "http://collector",
            "https://",
            "https:///x",
            "https://collector:0/",
            "https://collector:99999/",
            "https://a b/",
            "https://collector/#x",
            "https://::1/",
        ] {
            parse_master_settings("s", &format!("audit: {{ webhook: {{ url: '{url}' }} }}")).expect_err(url);
        }
        let text = "audit:\n  webhook:\n    url: 'https://me:hunter2@collector/'\n";
        let error = parse_master_settings("s", text).unwrap_err();
        let told: String = error
            .problems()
            .iter()
            .map(|problem| format!("{problem:?}"))
            .collect();
        assert!(told.contains("password") && !told.contains("hunter2"), "{told}");
        let error = parse_master_settings("s", "audit: { webhook: { tokenFile: /t } }").unwrap_err();
        assert!(error.to_string().contains("add `url:`"), "{error}");
    }
}
