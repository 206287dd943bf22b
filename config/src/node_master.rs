//! The `master:` section of the node's settings: where the node's master is, and who the node is to it.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::problem::{Mark, Problem, Sink, quoted};
use crate::schema::{Given, section};
use crate::settings::MasterLinkSettings;
use crate::values::{FilePath, Refused, Scalar, refuse};

const CA: &str = "/etc/magi/tls/ca.crt";
const CERTIFICATE: &str = "/etc/magi/tls/tls.crt";
const KEY: &str = "/etc/magi/tls/tls.key";
const STATE: &str = "/var/lib/magi";
/// Bytes of a DNS name (RFC 1035 section 2.3.4, written out).
const MAX_DNS_NAME: usize = 253;
/// Bytes of one of its labels.
const MAX_LABEL: usize = 63;

section! {
    /// The master, which tells the node of pods that are gone, pushes the policy, and collects audit records. Without an
    /// `address` there is none, and the node works alone.
    struct RawMasterLink {
        /// Where the master listens.
        "address" address: MaybeHostPort = Yaml("null");
        /// The name that the master's certificate must be for; `null`: the host of `address`.
        "serverName" server_name: MaybeServerName = Yaml("null");
        /// The authorities that the master's certificate must come from.
        "ca" ca: FilePath = Yaml("/etc/magi/tls/ca.crt");
        /// The node's certificate, its intermediates behind it. The files are read anew for each connection.
        "cert" certificate: FilePath = Yaml("/etc/magi/tls/tls.crt");
        /// Its key.
        "key" key: FilePath = Yaml("/etc/magi/tls/tls.key");
        /// The node's name in Kubernetes, for which its certificate is; `null`: the host's name in lower case.
        "node" node: MaybeNodeName = Yaml("null");
        /// The folder in which the node keeps the last good policy of the master.
        "state" state: FilePath = Yaml("/var/lib/magi");
    }
}

/// `mark` is where the section stands.
pub(crate) fn check(raw: Given<RawMasterLink>, sink: &mut Sink) -> Option<MasterLinkSettings> {
    let Given { value: raw, mark } = raw;
    if raw.address.is_absent() {
        says_where(&raw, &mark, sink);
        return None;
    }
    let address = raw.address.value()?.0?;
    let host = || match address.rsplit_once(':') {
        Some((host, _)) => host.trim_matches(['[', ']']).to_owned(),
        None => address.clone(),
    };
    let path = |given: Option<FilePath>, default: &str| given.map_or(PathBuf::from(default), |path| path.0);
    Some(MasterLinkSettings {
        server_name: raw
            .server_name
            .value()
            .and_then(|name| name.0)
            .unwrap_or_else(host),
        ca: path(raw.ca.value(), CA),
        certificate: path(raw.certificate.value(), CERTIFICATE),
        key: path(raw.key.value(), KEY),
        node: raw.node.value().and_then(|name| name.0),
        state: path(raw.state.value(), STATE),
        address,
    })
}

/// Whoever writes anything of a master wants one; that it is nowhere would go unnoticed.
fn says_where(raw: &RawMasterLink, mark: &Mark, sink: &mut Sink) {
    let says_more = !raw.server_name.is_absent()
        || !raw.ca.is_absent()
        || !raw.certificate.is_absent()
        || !raw.key.is_absent()
        || !raw.node.is_absent()
        || !raw.state.is_absent();
    if says_more {
        let problem = Problem::new("master", "the key `address` is missing, so there is no master");
        sink.report(
            mark,
            problem.hint("add `address:`, or leave the whole section out"),
        );
    }
}

/// A host and a port, or nothing.
#[derive(Clone, Debug)]
pub(crate) struct MaybeHostPort(Option<String>);

impl Scalar for MaybeHostPort {
    fn words() -> String {
        "a host and a port, such as `magi-master.magi.svc:7443` or `[::1]:7443`, or `null`".to_owned()
    }

    fn parse(text: &str) -> Result<Self, Refused> {
        let hint = || format!("write {}", Self::words());
        let Some((host, port)) = text.rsplit_once(':') else {
            return refuse(format!("{} has no port", quoted(text)), hint());
        };
        let is_port = matches!(port.parse::<u16>(), Ok(port) if port != 0)
            && port.bytes().all(|digit| digit.is_ascii_digit());
        if is_host(host) && is_port {
            Ok(Self(Some(text.to_owned())))
        } else {
            refuse(format!("{} is no host with a port", quoted(text)), hint())
        }
    }

    fn absent() -> Option<Self> {
        Some(Self(None))
    }
}

/// A name that a server's certificate may be for, or nothing.
#[derive(Clone, Debug)]
pub(crate) struct MaybeServerName(Option<String>);

impl Scalar for MaybeServerName {
    fn words() -> String {
        "a DNS name or an address, or `null`".to_owned()
    }

    fn parse(text: &str) -> Result<Self, Refused> {
        if is_dns_name(text) || text.parse::<IpAddr>().is_ok() {
            return Ok(Self(Some(text.to_owned())));
        }
        refuse(
            format!("{} is neither", quoted(text)),
            format!("write {}", Self::words()),
        )
    }

    fn absent() -> Option<Self> {
        Some(Self(None))
    }
}

/// A node's name, or nothing.
#[derive(Clone, Debug)]
pub(crate) struct MaybeNodeName(Option<String>);

impl Scalar for MaybeNodeName {
    fn words() -> String {
        "a node's name, as `kubectl get nodes` lists it, or `null`".to_owned()
    }

    fn parse(text: &str) -> Result<Self, Refused> {
        if is_dns_name(text) && !text.contains(char::is_uppercase) {
            return Ok(Self(Some(text.to_owned())));
        }
        refuse(
            format!("{} is no name of a node", quoted(text)),
            "write it as `kubectl get nodes` lists it: lower case letters, digits, `-` and `.`",
        )
    }

    fn absent() -> Option<Self> {
        Some(Self(None))
    }
}

/// A DNS name, or an address as it stands in a URL.
pub(crate) fn is_host(host: &str) -> bool {
    let in_brackets = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match in_brackets {
        Some(host) => matches!(host.parse(), Ok(IpAddr::V6(_))),
        None => is_dns_name(host),
    }
}

/// Labels of letters, digits and inner dashes, as RFC 1123 section 2.1 has them.
fn is_dns_name(text: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= MAX_LABEL
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    text.len() <= MAX_DNS_NAME && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use crate::settings_document::parse_settings;

    #[test]
    fn an_address_is_enough() {
        let of = |text: &str| parse_settings("s", text).unwrap().master;
        let master = of("master: { address: '[::1]:7443' }").unwrap();
        assert_eq!((&*master.address, &*master.server_name), ("[::1]:7443", "::1"));
        assert_eq!(master.certificate, std::path::Path::new("/etc/magi/tls/tls.crt"));
        let master = of("master: { address: m.magi.svc:1, serverName: magi-master, node: w-1 }").unwrap();
        assert_eq!(
            (&*master.server_name, master.node.as_deref()),
            ("magi-master", Some("w-1"))
        );
        assert_eq!(of("master: { address: null, ca: /x }"), None);
        assert_eq!(of("master: {}"), None);
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let text = "master: { address: 'https://m:1', serverName: 'a_b', node: W1, key: k, states: /x }";
        let error = parse_settings("s", text).unwrap_err();
        let paths: Vec<&str> = error.problems().iter().map(|problem| &*problem.path).collect();
        assert_eq!(
            paths,
            [
                "master.address",
                "master.serverName",
                "master.node",
                "master.key",
                "master"
            ],
            "{error}"
        );
        for text in ["m", "m:0", "m:+1", "m:65536", ":1", "::1:1", "[1.2.3.4]:1"] {
            parse_settings("s", &format!("master: {{ address: '{text}' }}")).expect_err(text);
        }
        let error = parse_settings("s", "master: { ca: /x }").unwrap_err();
        assert!(error.to_string().contains("`address` is missing"), "{error}");
    }
}
