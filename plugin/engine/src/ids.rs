//! Names of the things that magi talks about, each a type of its own.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Longest text that becomes a name; whatever is longer comes from no honest peer.
pub const MAX_NAME: usize = 4096;

/// Why a text is no name of the kind that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty text.
    #[error("{kind} is empty")]
    Empty {
        /// What the text should have named.
        kind: &'static str,
    },
    /// Longer than [`MAX_NAME`].
    #[error("{kind} has {len} bytes, {MAX_NAME} are allowed")]
    TooLong {
        /// What the text should have named.
        kind: &'static str,
        /// Its length in bytes.
        len: usize,
    },
    /// Not `algorithm:hex`.
    #[error("not a digest: {text:?}")]
    NotADigest {
        /// The text, cut.
        text: String,
    },
}

macro_rules! text_name {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// Checks length and takes the text.
            ///
            /// # Errors
            /// Empty, or longer than [`MAX_NAME`].
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                if text.is_empty() {
                    return Err(NameError::Empty { kind: $kind });
                }
                if text.len() > MAX_NAME {
                    return Err(NameError::TooLong { kind: $kind, len: text.len() });
                }
                Ok(Self(text.into_boxed_str()))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.into()
            }
        }
    };
}

text_name!(
    /// A namespace of containerd (`k8s.io` for Kubernetes), not of Kubernetes.
    ContainerdNamespace,
    "containerd namespace"
);
text_name!(
    /// The id of a containerd lease.
    LeaseId,
    "lease id"
);
text_name!(
    /// The reference of an ingest as containerd's API gives it, such as `layer-sha256:…`.
    IngestRef,
    "ingest reference"
);
text_name!(
    /// The name of a snapshotter plugin.
    SnapshotterName,
    "snapshotter name"
);
text_name!(
    /// The key of a snapshot within its snapshotter.
    SnapshotKey,
    "snapshot key"
);
text_name!(
    /// Registry host and repository, such as `registry.example:5000/team/app`, without tag or digest.
    RepositoryName,
    "repository"
);
text_name!(
    /// A namespace of Kubernetes.
    PodNamespace,
    "pod namespace"
);

text_name!(
    /// The uid that the API server gave a pod.
    PodUid,
    "pod uid"
);
text_name!(
    /// The name of a pod.
    PodName,
    "pod name"
);
text_name!(
    /// The id of a pod's sandbox in containerd.
    SandboxId,
    "sandbox id"
);
text_name!(
    /// A verdict of the master; the same one has the same id, however often it is said.
    VerdictId,
    "verdict"
);
text_name!(
    /// An image as somebody wrote it: [`crate::reference::Reference`] tells what it means.
    ImageName,
    "image"
);

/// A content digest, `algorithm:hex`.
///
/// Grammar: OCI image-spec, descriptor.md, "Digests".
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(Box<str>);

impl Digest {
    /// Parses `algorithm:hex`.
    ///
    /// # Errors
    /// The text is no digest, or too long for one.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let wrong = || NameError::NotADigest {
            text: text.chars().take(80).collect(),
        };
        if text.len() > 160 {
            return Err(wrong());
        }
        let (algorithm, encoded) = text.split_once(':').ok_or_else(wrong)?;
        let algorithm_ok = !algorithm.is_empty()
            && algorithm
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+._-".contains(&b));
        let encoded_ok = encoded.len() >= 32
            && encoded
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if algorithm_ok && encoded_ok {
            Ok(Self(text.into()))
        } else {
            Err(wrong())
        }
    }

    /// The text, `algorithm:hex`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Digest {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0.into()
    }
}

macro_rules! number_name {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

number_name!(
    /// A pull of this run of the engine. Never used twice: a retried image is another pull.
    PullId,
    "p"
);
number_name!(
    /// One use of one lever.
    AttemptId,
    "a"
);
number_name!(
    /// Something of an orphaned pull that is kept for a while.
    KeepId,
    "k"
);
number_name!(
    /// A question that waits for its answer; the asker chooses it.
    RequestId,
    "q"
);
number_name!(
    /// A request on containerd's CRI socket; the source that saw it chooses the number, and uses none twice.
    CallId,
    "call"
);
number_name!(
    /// A pull in flight through magi's gateway; the source chooses the number, and uses none twice.
    GatewayCallId,
    "g"
);
number_name!(
    /// The kernel's 64-bit socket cookie: unique until the machine boots again.
    Cookie,
    "c"
);

/// A lease within its containerd namespace: the identity of a pull in flight.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeaseKey {
    /// containerd's namespace.
    pub namespace: ContainerdNamespace,
    /// The lease.
    pub id: LeaseId,
}

/// Names for a pull of the past whose record does not tell them. Nothing is looked up by them.
impl LeaseKey {
    pub(crate) fn stand_in() -> Self {
        Self {
            namespace: ContainerdNamespace("unknown".into()),
            id: LeaseId("unknown".into()),
        }
    }
}

impl IngestRef {
    pub(crate) fn stand_in() -> Self {
        Self("unknown".into())
    }
}

impl Digest {
    pub(crate) fn stand_in() -> Self {
        Self(format!("sha256:{:064}", 0).into())
    }
}

impl fmt::Display for LeaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.id)
    }
}

/// An ingest within its containerd namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IngestKey {
    /// containerd's namespace.
    pub namespace: ContainerdNamespace,
    /// The ingest's reference in it.
    pub reference: IngestRef,
}

/// A snapshot within its containerd namespace and snapshotter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SnapshotName {
    /// containerd's namespace.
    pub namespace: ContainerdNamespace,
    /// The snapshotter plugin.
    pub snapshotter: SnapshotterName,
    /// The key in it.
    pub key: SnapshotKey,
}

/// Name of an ingest's directory in containerd's content store: the SHA-256 of the backend reference.
///
/// Source: containerd 2.1.9 plugins/content/local/store.go, `ingestRoot`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IngestDir([u8; 32]);

impl IngestDir {
    /// From the raw hash.
    #[must_use]
    pub const fn from_hash(hash: [u8; 32]) -> Self {
        Self(hash)
    }

    /// Parses the 64 hexadecimal digits of the directory's name.
    #[must_use]
    pub fn parse(name: &[u8]) -> Option<Self> {
        let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
        let (pairs, rest) = name.as_chunks::<2>();
        if pairs.len() != 32 || !rest.is_empty() {
            return None;
        }
        let mut hash = [0; 32];
        for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
            *byte = (digit(*high)? << 4) | digit(*low)?;
        }
        Some(Self(hash))
    }
}

impl fmt::Display for IngestDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for IngestDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for IngestDir {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(text.as_bytes()).ok_or(NameError::NotADigest {
            text: text.chars().take(80).collect(),
        })
    }
}

impl From<IngestDir> for String {
    fn from(dir: IngestDir) -> Self {
        dir.to_string()
    }
}

/// A TCP socket, named so that no other can be meant: cookie and both addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SocketName {
    /// The kernel's cookie.
    pub cookie: Cookie,
    /// The node's end.
    pub local: SocketAddr,
    /// The registry's end.
    pub remote: SocketAddr,
}

impl fmt::Display for SocketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}→{} ({})", self.local, self.remote, self.cookie)
    }
}
