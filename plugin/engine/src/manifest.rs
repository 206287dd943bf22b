//! What a manifest declares, reduced to what decisions need.

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, IngestDir, RepositoryName};

/// A manifest or index that a pull holds, as containerd's content store has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Digest of the document itself.
    pub digest: Digest,
    /// What it lists.
    pub body: ManifestBody,
    /// Where containerd says that it came from (label `containerd.io/distribution.source.<host>`); several if the
    /// same document was pulled from several places.
    pub repositories: Vec<RepositoryName>,
    /// The directories that ingests of its layers will have in the content store, each with its layer; empty: they
    /// cannot be foreseen.
    #[serde(default)]
    pub foreseen: Vec<(IngestDir, Digest)>,
    /// Some of its blobs name places of their own (`urls`). containerd fetches these with one client for all pulls, whose
    /// HTTP/2 connections several of them may share (containerd 2.1.9 core/remotes/docker/fetcher.go:235-273).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub names_places: bool,
}

/// The two kinds of documents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ManifestBody {
    /// An image: config and layers.
    Image {
        /// The config blob.
        config: Digest,
        /// The layers, base first.
        layers: Vec<Layer>,
    },
    /// An index or manifest list.
    Index {
        /// Its entries.
        manifests: Vec<Digest>,
    },
}

/// One layer, as declared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Digest of the compressed blob.
    pub digest: Digest,
    /// Declared compressed size in bytes.
    pub size: u64,
}

impl Manifest {
    /// The layers of an image; none of an index.
    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        match &self.body {
            ManifestBody::Image { layers, .. } => layers,
            ManifestBody::Index { .. } => &[],
        }
    }

    /// Declared compressed size of all layers in bytes; a layer that is listed twice counts once, as it is pulled once.
    #[must_use]
    pub fn declared_bytes(&self) -> u64 {
        let mut seen = std::collections::BTreeSet::new();
        self.layers()
            .iter()
            .filter(|layer| seen.insert(&layer.digest))
            .fold(0, |sum, layer| layer.size.saturating_add(sum))
    }

    /// The blobs that an image is made of, config first; none of an index.
    pub fn blobs(&self) -> impl Iterator<Item = &Digest> {
        let (config, layers) = match &self.body {
            ManifestBody::Image { config, layers } => (Some(config), layers.as_slice()),
            ManifestBody::Index { .. } => (None, [].as_slice()),
        };
        config.into_iter().chain(layers.iter().map(|layer| &layer.digest))
    }

    /// How many layers or manifests this document lists.
    #[must_use]
    pub fn entries(&self) -> usize {
        match &self.body {
            ManifestBody::Image { layers, .. } => layers.len(),
            ManifestBody::Index { manifests } => manifests.len(),
        }
    }

    /// Whether this document names `digest` as a layer or config, so that a blob of that digest is no manifest of the
    /// pull, whatever it looks like.
    #[must_use]
    pub fn uses_as_blob(&self, digest: &Digest) -> bool {
        self.blobs().any(|blob| blob == digest)
    }
}
