//! Certificates for small set-ups and for tests: an authority, and what it signs.
//!
//! Folders are laid out as secrets of cert-manager are, so that a set-up can move there without a change:
//!
//! ```text
//! OUT/ca.crt, ca.key
//! OUT/master/{tls.crt,tls.key,ca.crt}
//! OUT/nodes/NAME/…, OUT/operators/NAME/…
//! ```
//!
//! An authority that is there already signs what is added. Which names stand in a certificate: [`crate::stream::identity`].

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use jiff::{Span, Timestamp, tz::TimeZone};
use magi_master_api::tls::{Material, TlsError, TlsFiles, provider};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::pki_types::UnixTime;
use rustls::server::WebPkiClientVerifier;

use crate::files::{self, FileError};
use crate::names::NodeName;
use crate::stream::identity::{Peer, is_dns_name};

/// The authority's common name; one that is taken up again must have it.
const AUTHORITY: &str = "magi certificate authority";
/// Days for which an authority is good.
const AUTHORITY_DAYS: i64 = 3650;
/// A certificate is good from so many days after today on.
const CLOCK_DAYS: i64 = -2;
const CA_CERTIFICATE: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
/// Others may see which certificates there are; keys have modes of their own.
const FOLDER_MODE: u32 = 0o755;

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    /// A name that no certificate can carry.
    #[error("{name:?} is no DNS name, such as `worker-1`")]
    Name {
        /// The name.
        name: String,
    },
    /// A file is there already.
    #[error("{} is there already; --overwrite replaces it", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A folder cannot be made, or a file not be read or written.
    #[error(transparent)]
    File(FileError),
    /// A key or a certificate cannot be made.
    #[error("cannot make {what}")]
    Make {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// What was written cannot be used.
    #[error("what was written cannot be used")]
    Unusable(#[source] TlsError),
    /// The authority that is there is not one of ours, or its key is another's.
    #[error("{} did not sign with the key beside it: make certificates elsewhere", path.display())]
    Foreign {
        /// Its certificate.
        path: PathBuf,
        /// What is wrong, as rustls says.
        problem: String,
    },
    /// The clock shows a time that no certificate can tell.
    #[error("the clock shows a time that no certificate can tell")]
    Clock(#[source] jiff::Error),
}

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Order {
    /// The folder.
    pub out: PathBuf,
    /// Names and addresses of the master, as nodes call it; empty: no certificate for a master.
    pub master: Vec<String>,
    /// Nodes.
    pub nodes: Vec<String>,
    /// Operators.
    pub operators: Vec<String>,
    /// Days for which they are good; at most zero: they are over already, which tests want.
    pub days: i64,
    /// Whether files that are there are replaced. The authority never is.
    pub overwrite: bool,
}

/// Signs. Its certificate is in PEM.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// A certificate and its key, in PEM.
#[derive(Debug)]
pub struct Leaf {
    certificate: String,
    key: String,
}

/// Makes what is wanted, and the authority if there is none; returns the folders that were written.
///
/// # Errors
/// A name is none, a file is in the way or cannot be written, or the authority that is there cannot sign.
pub fn make(order: &Order, now: Timestamp) -> Result<Vec<PathBuf>, CertsError> {
    let mut wanted = Vec::new();
    if !order.master.is_empty() {
        wanted.push((order.out.join("master"), Subject::Master(order.master.clone())));
    }
    for name in &order.nodes {
        check(name)?;
        let node = NodeName::new(name.clone()).map_err(|_| CertsError::Name { name: name.clone() })?;
        wanted.push((
            order.out.join("nodes").join(name),
            Subject::Peer(Peer::Node(node)),
        ));
    }
    for name in &order.operators {
        check(name)?;
        let operator = Peer::Operator(name.clone());
        wanted.push((order.out.join("operators").join(name), Subject::Peer(operator)));
    }
    // Before anything is written, so that nothing is left half done.
    for (folder, _) in &wanted {
        let files = TlsFiles::in_folder(folder);
        for path in [files.certificate, files.key, files.ca] {
            if !order.overwrite && path.exists() {
                return Err(CertsError::Exists { path });
            }
        }
    }
    let authority = Authority::in_folder(&order.out, now)?;
    let mut folders = Vec::new();
    for (folder, subject) in wanted {
        let leaf = authority.issue(&subject, order.days, now)?;
        authority.write(&folder, &leaf)?;
        folders.push(folder);
    }
    Ok(folders)
}

fn check(name: &str) -> Result<(), CertsError> {
    if is_dns_name(name) {
        return Ok(());
    }
    Err(CertsError::Name {
        name: name.to_owned(),
    })
}

/// Whom a certificate is for.
#[derive(Clone, Debug)]
pub enum Subject {
    /// A master, by the names and addresses that nodes call it by.
    Master(Vec<String>),
    /// A node or an operator.
    Peer(Peer),
    /// Nobody: it carries none of magi's names.
    Nobody,
}

impl Authority {
    /// The authority of the folder; made if there is none.
    ///
    /// # Errors
    /// It cannot be read or made, or is another's.
    pub fn in_folder(folder: &Path, now: Timestamp) -> Result<Self, CertsError> {
        let (certificate, key) = (folder.join(CA_CERTIFICATE), folder.join(CA_KEY));
        if key.exists() || certificate.exists() {
            return Self::read(folder, &certificate, &key, now);
        }
        let authority = Self::new(now)?;
        files::folder_for(folder, FOLDER_MODE).map_err(CertsError::File)?;
        files::replace_for(&key, authority.issuer.key().serialize_pem().as_bytes(), 0o600)
            .map_err(CertsError::File)?;
        files::replace_for(&certificate, authority.certificate.as_bytes(), 0o644)
            .map_err(CertsError::File)?;
        Ok(authority)
    }

    /// A new one.
    ///
    /// # Errors
    /// No key or certificate can be made.
    pub fn new(now: Timestamp) -> Result<Self, CertsError> {
        let key = new_key()?;
        let params = authority_params(now)?;
        let certificate = params
            .self_signed(&key)
            .map_err(|source| CertsError::Make {
                what: "the authority",
                source,
            })?
            .pem();
        Ok(Self {
            issuer: Issuer::new(params, key),
            certificate,
        })
    }

    fn read(folder: &Path, certificate: &Path, key: &Path, now: Timestamp) -> Result<Self, CertsError> {
        let read = |path: &Path| {
            let read = files::read_if_there(path, files::SMALL).and_then(|bytes| {
                let text = bytes.map(String::from_utf8).ok_or(io::ErrorKind::NotFound.into());
                text.and_then(|text| text.map_err(io::Error::other))
                    .map_err(|source| FileError::Read {
                        path: path.to_owned(),
                        source,
                    })
            });
            read.map_err(CertsError::File)
        };
        let key = KeyPair::from_pem(&read(key)?).map_err(|source| CertsError::Make {
            what: "a key of what the authority's file holds",
            source,
        })?;
        let authority = Self {
            issuer: Issuer::new(authority_params(now)?, key),
            certificate: read(certificate)?,
        };
        authority.prove(folder, certificate, now)?;
        Ok(authority)
    }

    /// Signs something and checks it against the certificate that others will trust.
    fn prove(&self, folder: &Path, certificate: &Path, now: Timestamp) -> Result<(), CertsError> {
        let foreign = |problem: String| CertsError::Foreign {
            path: certificate.to_owned(),
            problem,
        };
        let (leaf, _) = self.sign(&Subject::Nobody, 1, now)?;
        let files = TlsFiles {
            certificate: certificate.to_owned(),
            key: folder.join(CA_KEY),
            ca: certificate.to_owned(),
        };
        let material = Material::read(&files).map_err(|error| foreign(error.to_string()))?;
        let verifier = WebPkiClientVerifier::builder_with_provider(material.roots, provider())
            .build()
            .map_err(|error| foreign(error.to_string()))?;
        verifier
            .verify_client_cert(leaf.der(), &[], UnixTime::now())
            .map(|_| ())
            .map_err(|error| foreign(error.to_string()))
    }

    /// Makes a certificate that is good for `days`, counted from today.
    ///
    /// # Errors
    /// No key or certificate can be made.
    pub fn issue(&self, subject: &Subject, days: i64, now: Timestamp) -> Result<Leaf, CertsError> {
        let (certificate, key) = self.sign(subject, days, now)?;
        Ok(Leaf {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    fn sign(
        &self,
        subject: &Subject,
        days: i64,
        now: Timestamp,
    ) -> Result<(Certificate, KeyPair), CertsError> {
        let make = |what| move |source| CertsError::Make { what, source };
        let (common_name, names, usage) = match subject {
            Subject::Master(names) => (
                "magi-master".to_owned(),
                names.iter().map(|name| host(name)).collect::<Result<_, _>>()?,
                ExtendedKeyUsagePurpose::ServerAuth,
            ),
            Subject::Peer(peer) => (
                peer.to_string(),
                vec![SanType::URI(
                    peer.uri().try_into().map_err(make("a certificate's name"))?,
                )],
                ExtendedKeyUsagePurpose::ClientAuth,
            ),
            Subject::Nobody => (
                "nobody".to_owned(),
                Vec::new(),
                ExtendedKeyUsagePurpose::ClientAuth,
            ),
        };
        // Room for clocks that are behind, and for certificates that are over already.
        let first_day = CLOCK_DAYS.min(days.saturating_add(CLOCK_DAYS));
        let mut params = params(&common_name, first_day, days, now)?;
        params.subject_alt_names = names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let key = new_key()?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(make("a certificate"))?;
        Ok((certificate, key))
    }

    /// Writes a certificate, its key and the authority into `folder`.
    ///
    /// # Errors
    /// A file cannot be written, or what was written cannot be used.
    pub fn write(&self, folder: &Path, leaf: &Leaf) -> Result<(), CertsError> {
        files::folder_for(folder, FOLDER_MODE).map_err(CertsError::File)?;
        let files = TlsFiles::in_folder(folder);
        files::replace_for(&files.key, leaf.key.as_bytes(), 0o600).map_err(CertsError::File)?;
        files::replace_for(&files.ca, self.certificate.as_bytes(), 0o644).map_err(CertsError::File)?;
        files::replace_for(&files.certificate, leaf.certificate.as_bytes(), 0o644)
            .map_err(CertsError::File)?;
        Material::read(&files)
            .and_then(|material| material.client())
            .map(|_| ())
            .map_err(CertsError::Unusable)
    }
}

fn authority_params(now: Timestamp) -> Result<CertificateParams, CertsError> {
    let mut params = params(AUTHORITY, CLOCK_DAYS, AUTHORITY_DAYS, now)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn new_key() -> Result<KeyPair, CertsError> {
    KeyPair::generate().map_err(|source| CertsError::Make {
        what: "a key",
        source,
    })
}

fn host(name: &str) -> Result<SanType, CertsError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    check(name)?;
    let name = name.try_into().map_err(|source| CertsError::Make {
        what: "a certificate's name",
        source,
    })?;
    Ok(SanType::DnsName(name))
}

/// Good from midnight of one day to midnight of another, both counted from today.
fn params(
    common_name: &str,
    from_day: i64,
    to_day: i64,
    now: Timestamp,
) -> Result<CertificateParams, CertsError> {
    let date = |days: i64| {
        let days = Span::new().try_days(days).map_err(CertsError::Clock)?;
        let date = now
            .to_zoned(TimeZone::UTC)
            .date()
            .checked_add(days)
            .map_err(CertsError::Clock)?;
        let unsigned = |number: i8| u8::try_from(number).unwrap_or(1);
        Ok(date_time_ymd(
            date.year().into(),
            unsigned(date.month()),
            unsigned(date.day()),
        ))
    };
    let mut params = CertificateParams::default();
    params.not_before = date(from_day)?;
    params.not_after = date(to_day)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    Ok(params)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::stream::identity::NoPeer;

    fn order(out: &Path) -> Order {
        Order {
            out: out.to_owned(),
            master: vec!["magi-master".to_owned(), "127.0.0.1".to_owned()],
            nodes: vec!["worker-1".to_owned()],
            operators: Vec::new(),
            days: 30,
            overwrite: false,
        }
    }

    #[test]
    fn an_authority_is_taken_up_again_and_nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let now = Timestamp::now();
        make(&order(folder.path()), now).unwrap();
        let ca = fs::read(folder.path().join("ca.crt")).unwrap();
        for key in ["ca.key", "master/tls.key", "nodes/worker-1/tls.key"] {
            let mode = fs::metadata(folder.path().join(key))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{key}");
        }
        assert!(matches!(
            make(&order(folder.path()), now),
            Err(CertsError::Exists { .. })
        ));
        let second = Order {
            master: Vec::new(),
            nodes: vec!["worker-2".to_owned()],
            ..order(folder.path())
        };
        make(&second, now).unwrap();
        assert_eq!(fs::read(folder.path().join("nodes/worker-2/ca.crt")).unwrap(), ca);
        let before = fs::read(folder.path().join("nodes/worker-1/tls.crt")).unwrap();
        let again = Order {
            overwrite: true,
            ..order(folder.path())
        };
        make(&again, now).unwrap();
        assert_ne!(
            fs::read(folder.path().join("nodes/worker-1/tls.crt")).unwrap(),
            before
        );
        assert_eq!(fs::read(folder.path().join("ca.crt")).unwrap(), ca);
    }

    #[test]
    fn an_authority_with_the_key_of_another_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let now = Timestamp::now();
        Authority::in_folder(folder.path(), now).unwrap();
        Authority::in_folder(other.path(), now).unwrap();
        fs::copy(other.path().join("ca.key"), folder.path().join("ca.key")).unwrap();
        assert!(matches!(
            Authority::in_folder(folder.path(), now),
            Err(CertsError::Foreign { .. })
        ));
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["../up", "", "a/b", "UPPER", "a..b", "-a", "a b"] {
            let bad = Order {
                nodes: vec![name.to_owned()],
                ..order(folder.path())
            };
            assert!(
                matches!(make(&bad, Timestamp::now()), Err(CertsError::Name { .. })),
                "{name:?}"
            );
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_certificate_names_its_peer() {
        let folder = tempfile::tempdir().unwrap();
        let now = Timestamp::now();
        let authority = Authority::new(now).unwrap();
        let peer_of = |subject: &Subject| {
            let leaf = authority.issue(subject, 1, now).unwrap();
            authority.write(folder.path(), &leaf).unwrap();
            let material = Material::read(&TlsFiles::in_folder(folder.path())).unwrap();
            Peer::of(&material.chain[0])
        };
        let node = Peer::Node(NodeName::new("worker-1.example").unwrap());
        assert_eq!(peer_of(&Subject::Peer(node.clone())).unwrap(), node);
        let operator = Peer::Operator("ann".to_owned());
        assert_eq!(peer_of(&Subject::Peer(operator.clone())).unwrap(), operator);
        let by_dns = Subject::Master(vec!["worker-1.example.node.magi".to_owned()]);
        assert_eq!(peer_of(&by_dns).unwrap(), node);
        for names in [vec!["magi-master".to_owned()], vec!["node.magi".to_owned()]] {
            assert!(matches!(peer_of(&Subject::Master(names)), Err(NoPeer::None)));
        }
        let two = Subject::Master(vec!["a.node.magi".to_owned(), "b.node.magi".to_owned()]);
        assert!(matches!(peer_of(&two), Err(NoPeer::Several)));
        let other = Subject::Master(vec!["a.king.magi".to_owned()]);
        assert!(matches!(peer_of(&other), Err(NoPeer::Role)));
        assert!(matches!(peer_of(&Subject::Nobody), Err(NoPeer::None)));
    }
}
