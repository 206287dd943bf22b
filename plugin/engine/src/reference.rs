//! Image references, read by the grammar that containerd reads them by, and brought into its one full form.
//!
//! A name that magi reads differently from containerd is another image. So nothing is guessed from colons and slashes:
//! the grammar is that of `distribution/reference` 0.6.0 (`regexp.go`), the completion of short names is that of its
//! `ParseDockerRef`, which containerd's CRI plugin applies to every image that it is asked to pull.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, NameError, RepositoryName};

/// Longest text that is looked at, in bytes. What the kernel side hands over has the same bound.
pub const MAX_REFERENCE: usize = 4096;
/// Longest path of a repository, in bytes, without the registry's host.
/// Source: distribution/reference 0.6.0 reference.go, `RepositoryNameTotalLengthMax`. Older ones count the host too.
pub const MAX_REPOSITORY_PATH: usize = 255;
/// Longest tag, in bytes.
const MAX_TAG: usize = 128;

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DEFAULT_DOMAIN: &str = "index.docker.io";
const OFFICIAL_PATH: &str = "library/";
const DEFAULT_TAG: &str = "latest";
/// Hexadecimal digits of a bare image id, which is never taken for a name.
const IDENTIFIER: usize = 64;

/// Why a text is no image reference. Texts in it are cut.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Empty text.
    #[error("image reference is empty")]
    Empty,
    /// Longer than [`MAX_REFERENCE`].
    #[error("image reference has {len} bytes, {MAX_REFERENCE} are allowed")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// 64 hexadecimal digits: the id of an image, not its name.
    #[error("64 hexadecimal digits are an image id, not a reference: {text:?}")]
    Identifier {
        /// The digits.
        text: String,
    },
    /// The repository has upper-case letters. Only the registry's host and the tag may.
    #[error("repository must be lower-case: {text:?}")]
    Uppercase {
        /// The repository's path.
        text: String,
    },
    /// The registry's host, or its port, is none.
    #[error("not a registry's host: {text:?}")]
    Domain {
        /// What stands before the first slash.
        text: String,
    },
    /// The repository's path is none.
    #[error("not a repository: {text:?}")]
    Path {
        /// What stands between host and tag.
        text: String,
    },
    /// The repository's path is longer than [`MAX_REPOSITORY_PATH`].
    #[error("repository has {len} bytes, {MAX_REPOSITORY_PATH} are allowed")]
    PathTooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// What follows the colon is no tag.
    #[error("not a tag: {text:?}")]
    Tag {
        /// What stands where a tag should.
        text: String,
    },
    /// What follows the at sign is no digest that containerd takes: sha256, sha384 or sha512 at their full length.
    #[error("not a digest of a known algorithm: {text:?}")]
    Digest {
        /// What stands where a digest should.
        text: String,
    },
    /// A part is no name.
    #[error(transparent)]
    Name(#[from] NameError),
}

/// An image reference in full form: host, repository, and either tag or digest.
///
/// Two references are equal exactly if containerd stores their images under one name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    repository: RepositoryName,
    version: Version,
}

/// Which image of the repository. If both were given, containerd keeps the digest and forgets the tag.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Version {
    Tag(Box<str>),
    Digest(Digest),
}

impl Reference {
    /// Reads a reference as it stands in a pod or in a CRI request, and completes it: `nginx` becomes
    /// `docker.io/library/nginx:latest`.
    ///
    /// # Errors
    /// The text is no reference by the grammar, or beyond one of its bounds.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if text.len() > MAX_REFERENCE {
            return Err(ReferenceError::TooLong { len: text.len() });
        }
        if text.len() == IDENTIFIER && text.bytes().all(is_lower_hex) {
            return Err(ReferenceError::Identifier { text: cut(text) });
        }
        let (domain, official, remainder) = complete(text);

        // Neither sign can stand in a path, so the first of each ends it; and a tag has no at sign in it.
        let path_end = remainder.find([':', '@']).unwrap_or(remainder.len());
        let (path, version) = remainder.split_at_checked(path_end).unwrap_or((remainder, ""));
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(ReferenceError::Uppercase { text: cut(path) });
        }
        if !path.split('/').all(is_path_component) {
            return Err(ReferenceError::Path { text: cut(path) });
        }
        let path_len = if is_host_and_port(domain) {
            official.len() + path.len()
        } else if is_path_component(domain) {
            // `my_registry.example/app`: by the grammar one path without a host; containerd asks its first part.
            domain.len() + "/".len() + path.len()
        } else {
            return Err(ReferenceError::Domain { text: cut(domain) });
        };
        if path_len > MAX_REPOSITORY_PATH {
            return Err(ReferenceError::PathTooLong { len: path_len });
        }
        Ok(Self {
            repository: RepositoryName::new(format!("{domain}/{official}{path}"))?,
            version: Version::parse(version)?,
        })
    }

    /// Host, port if any, and path: `registry.example:5000/team/app`.
    #[must_use]
    pub fn repository(&self) -> &RepositoryName {
        &self.repository
    }

    /// The registry's host and port: `registry.example:5000`, `[::1]:5000`, `docker.io`.
    #[must_use]
    pub fn domain(&self) -> &str {
        self.parts().0
    }

    /// The registry's host as containerd writes it into its label `distribution.source`: no port, and an IPv6 address
    /// without brackets. Repositories of two registries on one host are one to that label.
    ///
    /// Source: containerd 2.1.9 core/remotes/docker/handler.go, `AppendDistributionSourceLabel` (Go's `URL.Hostname`).
    #[must_use]
    pub fn domain_without_port(&self) -> &str {
        let domain = self.domain();
        if let Some(inner) = domain.strip_prefix('[') {
            return inner.split_once(']').map_or(inner, |(address, _port)| address);
        }
        domain.split_once(':').map_or(domain, |(host, _port)| host)
    }

    /// Host without port, and path, as containerd's label of a manifest's origin names the repository.
    #[must_use]
    pub(crate) fn label(&self) -> Option<RepositoryName> {
        RepositoryName::new(format!("{}/{}", self.domain_without_port(), self.path())).ok()
    }

    /// The repository within its registry: `library/nginx`.
    #[must_use]
    pub fn path(&self) -> &str {
        self.parts().1
    }

    /// The tag, unless there is a digest.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        match &self.version {
            Version::Tag(tag) => Some(tag),
            Version::Digest(_) => None,
        }
    }

    /// The digest of the manifest or index, if it was given.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        match &self.version {
            Version::Tag(_) => None,
            Version::Digest(digest) => Some(digest),
        }
    }

    /// A host has no slash in it, and always stands before one.
    fn parts(&self) -> (&str, &str) {
        self.repository.as_str().split_once('/').unwrap_or_default()
    }
}

impl Version {
    /// Reads `[":" tag] ["@" digest]`.
    fn parse(text: &str) -> Result<Self, ReferenceError> {
        let (tag, digest) = match text.split_once('@') {
            Some((tag, digest)) => (tag, Some(digest)),
            None => (text, None),
        };
        let tag = match tag.strip_prefix(':') {
            Some(tag) if is_tag(tag) => Some(tag),
            Some(tag) => return Err(ReferenceError::Tag { text: cut(tag) }),
            None => None,
        };
        let Some(digest) = digest else {
            return Ok(Self::Tag(tag.unwrap_or(DEFAULT_TAG).into()));
        };
        let wrong = || ReferenceError::Digest { text: cut(digest) };
        // Source: go-digest 1.0.0 digest.go `Validate`, algorithm.go.
        let hex_digits = match digest.split_once(':').ok_or_else(wrong)? {
            ("sha256", hex) if hex.len() == 64 => hex,
            ("sha384", hex) if hex.len() == 96 => hex,
            ("sha512", hex) if hex.len() == 128 => hex,
            _ => return Err(wrong()),
        };
        if !hex_digits.bytes().all(is_lower_hex) {
            return Err(wrong());
        }
        Ok(Self::Digest(Digest::parse(digest)?))
    }
}

/// Finds the registry's host, or supplies it: host, what is to be put before the path, and the rest of the text.
///
/// Source: distribution/reference 0.6.0 normalize.go, `splitDockerDomain`.
fn complete(text: &str) -> (&str, &'static str, &str) {
    let (domain, remainder) = match text.split_once('/') {
        Some((LEGACY_DEFAULT_DOMAIN, rest)) => (DEFAULT_DOMAIN, rest),
        Some((first, rest)) if is_meant_as_domain(first) => (first, rest),
        Some(_) | None => (DEFAULT_DOMAIN, text),
    };
    let official = domain == DEFAULT_DOMAIN && !remainder.contains('/');
    (domain, if official { OFFICIAL_PATH } else { "" }, remainder)
}

fn is_meant_as_domain(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.chars().any(char::is_uppercase)
}

fn is_host_and_port(text: &str) -> bool {
    let (host, port) = if let Some(inner) = text.strip_prefix('[') {
        let Some((address, after)) = inner.split_once(']') else {
            return false;
        };
        let address_ok = !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
        if !address_ok {
            return false;
        }
        match after.strip_prefix(':') {
            None => return after.is_empty(),
            Some(port) => (None, Some(port)),
        }
    } else {
        match text.split_once(':') {
            None => (Some(text), None),
            Some((host, port)) => (Some(host), Some(port)),
        }
    };
    host.is_none_or(|host| host.split('.').all(is_domain_component))
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

/// Letters, digits, and hyphens within.
fn is_domain_component(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// Runs of small letters and digits, and between two of them one dot, one or two underscores, or any number of hyphens.
fn is_path_component(text: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut bytes = text.bytes().peekable();
    loop {
        if bytes.next_if(|b| is_plain(*b)).is_none() {
            return false;
        }
        while bytes.next_if(|b| is_plain(*b)).is_some() {}
        match bytes.next() {
            None => return true,
            Some(b'.') => {}
            Some(b'_') => {
                let _second = bytes.next_if_eq(&b'_');
            }
            Some(b'-') => while bytes.next_if_eq(&b'-').is_some() {},
            Some(_) => return false,
        }
    }
}

fn is_tag(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= MAX_TAG
        && text.bytes().next().is_some_and(is_word)
        && text.bytes().all(|b| is_word(b) || b == b'.' || b == b'-')
}

fn is_lower_hex(b: u8) -> bool {
    b.is_ascii_digit() || (b'a'..=b'f').contains(&b)
}

/// The beginning of a text, for an error.
fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Version::Tag(tag) => write!(f, "{}:{tag}", self.repository),
            Version::Digest(digest) => write!(f, "{}@{digest}", self.repository),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;
    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Reference {
    type Error = ReferenceError;
    fn try_from(text: String) -> Result<Self, ReferenceError> {
        Self::parse(&text)
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

#[cfg(test)]
mod tests;
