//! Who is at the other end: what stands in the certificate, and nothing else.
//!
//! A certificate of one of the master's authorities names one peer, by a subject alternative name of either form:
//!
//! | peer | URI | DNS name, where an issuer makes no URIs |
//! |---|---|---|
//! | node NAME | `magi://node/NAME` | `NAME.node.magi` |
//! | operator NAME | `magi://operator/NAME` | `NAME.operator.magi` |
//!
//! URIs come first: DNS names count only where no URI is magi's. Two peers in one certificate are none. The common name
//! says nothing.

use std::fmt;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::names::NodeName;

const URI: &str = "magi://";
const NODE: &str = "node";
const OPERATOR: &str = "operator";
const DOMAIN: &str = ".magi";
/// The last second of the year 9999, the last that a certificate can tell (RFC 5280, 4.1.2.5).
const END_OF_TIME: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(253_402_300_799));

/// The other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A node.
    Node(NodeName),
    /// Somebody who may ask and set.
    Operator(String),
}

impl Peer {
    /// The URI that stands for it in a certificate.
    #[must_use]
    pub fn uri(&self) -> String {
        match self {
            Self::Node(name) => format!("{URI}{NODE}/{name}"),
            Self::Operator(name) => format!("{URI}{OPERATOR}/{name}"),
        }
    }

    /// The peer that the certificate `leaf` is for.
    ///
    /// # Errors
    /// It names none, or several.
    pub fn of(leaf: &CertificateDer<'_>) -> Result<Self, NoPeer> {
        let leaf = EndEntityCert::try_from(leaf).map_err(NoPeer::Unreadable)?;
        let uris = leaf.valid_uri_names().filter_map(|uri| uri.strip_prefix(URI));
        let mut named: Vec<(&str, &str)> = Vec::new();
        for uri in uris {
            named.push(uri.split_once('/').ok_or(NoPeer::Name)?);
        }
        if named.is_empty() {
            let domains = leaf
                .valid_dns_names()
                .filter_map(|name| name.strip_suffix(DOMAIN));
            named.extend(domains.filter_map(|domain| {
                let (name, role) = domain.rsplit_once('.')?;
                Some((role, name))
            }));
        }
        match named.as_slice() {
            [] => Err(NoPeer::None),
            [(role, name)] => Self::parse(role, name),
            [_, _, ..] => Err(NoPeer::Several),
        }
    }

    fn parse(role: &str, name: &str) -> Result<Self, NoPeer> {
        if !is_dns_name(name) {
            return Err(NoPeer::Name);
        }
        match role {
            NODE => NodeName::new(name).map(Self::Node).map_err(|_| NoPeer::Name),
            OPERATOR => Ok(Self::Operator(name.to_owned())),
            _ => Err(NoPeer::Role),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "node {name}"),
            Self::Operator(name) => write!(f, "operator {name}"),
        }
    }
}

/// When the certificate `leaf` is over. None: it is for ever, or cannot be read.
#[must_use]
pub fn over_at(leaf: &CertificateDer<'_>) -> Option<UnixTime> {
    let leaf = EndEntityCert::try_from(leaf).ok()?;
    // webpki tells its end only to whom it is too late, and looks at that before anything else.
    let asked = leaf.verify_for_usage(&[], &[], &[], END_OF_TIME, KeyUsage::client_auth(), None, None);
    match asked {
        Err(webpki::Error::CertExpired { not_after, .. }) => Some(not_after),
        Ok(_) | Err(_) => None,
    }
}

/// Why a certificate is for nobody.
#[derive(Debug, thiserror::Error)]
pub enum NoPeer {
    /// It cannot be read.
    #[error("the certificate cannot be read")]
    Unreadable(#[source] webpki::Error),
    /// None of its names is magi's.
    #[error("the certificate names neither a node nor an operator")]
    None,
    /// It is for more than one.
    #[error("the certificate names several peers")]
    Several,
    /// Another role than those that there are.
    #[error("the certificate names a peer of an unknown role")]
    Role,
    /// No DNS subdomain (RFC 1123).
    #[error("the certificate names a peer by something that is no DNS name")]
    Name,
}

/// Whether `name` is a DNS subdomain (RFC 1123), as names of nodes are.
#[must_use]
pub fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        (1..=63).contains(&label.len())
            && label.bytes().all(inside)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= NodeName::MAX && name.split('.').all(is_label)
}
