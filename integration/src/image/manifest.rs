//! Images: config, manifest and, if wanted, an index, as Docker or OCI write them.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use bytes::Bytes;
use serde::Serialize;

use super::layer::{Compression, Layer};
use crate::registry::content::digest_of;

/// Whose media types an image uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Docker's schema 2.
    Docker,
    /// OCI's.
    Oci,
}

impl Format {
    /// Media type of a manifest.
    pub fn manifest(self) -> &'static str {
        match self {
            Self::Docker => "application/vnd.docker.distribution.manifest.v2+json",
            Self::Oci => "application/vnd.oci.image.manifest.v1+json",
        }
    }

    /// Media type of an index (Docker: manifest list).
    pub fn index(self) -> &'static str {
        match self {
            Self::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
            Self::Oci => "application/vnd.oci.image.index.v1+json",
        }
    }

    /// Media type of a config.
    pub fn config(self) -> &'static str {
        match self {
            Self::Docker => "application/vnd.docker.container.image.v1+json",
            Self::Oci => "application/vnd.oci.image.config.v1+json",
        }
    }

    /// Media type of a layer.
    pub fn layer(self, compression: Compression) -> &'static str {
        match (self, compression) {
            (Self::Docker, Compression::None) => "application/vnd.docker.image.rootfs.diff.tar",
            (Self::Docker, Compression::Gzip) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
            (Self::Docker, Compression::Zstd) => "application/vnd.docker.image.rootfs.diff.tar.zstd",
            (Self::Oci, Compression::None) => "application/vnd.oci.image.layer.v1.tar",
            (Self::Oci, Compression::Gzip) => "application/vnd.oci.image.layer.v1.tar+gzip",
            (Self::Oci, Compression::Zstd) => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// A JSON document with its digest.
#[derive(Debug, Clone)]
pub struct Document {
    /// Its media type.
    pub media_type: String,
    /// The digest of its bytes.
    pub digest: String,
    /// The bytes.
    pub bytes: Bytes,
}

impl Document {
    /// Serialises a value.
    pub fn new(media_type: &str, value: &impl Serialize) -> Result<Self> {
        let bytes = Bytes::from(serde_json::to_vec(value).with_context(|| format!("write a {media_type}"))?);
        Ok(Self {
            media_type: media_type.to_owned(),
            digest: digest_of(&bytes),
            bytes,
        })
    }

    fn descriptor(&self) -> Descriptor {
        Descriptor {
            media_type: self.media_type.clone(),
            digest: self.digest.clone(),
            size: self.bytes.len() as u64,
            platform: None,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
        }
    }
}

/// An image, ready to publish.
#[derive(Debug, Clone)]
pub struct Image {
    /// What the tag points to: a manifest, or an index.
    pub manifest: Document,
    /// With an index: the manifests below it.
    pub children: Vec<Document>,
    /// The config; its digest is the image's id for CRI.
    pub config: Document,
    /// The layers, base first.
    pub layers: Vec<Layer>,
}

impl Image {
    /// The digest that the tag resolves to.
    pub fn digest(&self) -> &str {
        &self.manifest.digest
    }

    /// The id that CRI gives it.
    pub fn id(&self) -> &str {
        &self.config.digest
    }

    /// The sum of the declared sizes of its layers, in bytes.
    pub fn declared(&self) -> u64 {
        self.layers.iter().map(|layer| layer.declared).sum()
    }
}

/// Puts an image together. Starts with OCI's formats and no index.
#[derive(Debug, Clone)]
pub struct ImageBuilder {
    format: Format,
    index: bool,
    layers: Vec<Layer>,
    labels: BTreeMap<String, String>,
    elsewhere: Option<String>,
    layer_type: Option<&'static str>,
}

impl ImageBuilder {
    /// In OCI's format.
    pub fn oci() -> Self {
        Self {
            format: Format::Oci,
            index: false,
            layers: Vec::new(),
            labels: BTreeMap::new(),
            elsewhere: None,
            layer_type: None,
        }
    }

    /// In Docker's format.
    pub fn docker() -> Self {
        Self {
            format: Format::Docker,
            ..Self::oci()
        }
    }

    /// Appends a layer.
    #[must_use]
    pub fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    /// Appends layers.
    #[must_use]
    pub fn layers(mut self, layers: impl IntoIterator<Item = Layer>) -> Self {
        self.layers.extend(layers);
        self
    }

    /// Lets the tag point to an index with this machine's platform and one more.
    #[must_use]
    pub fn with_index(mut self) -> Self {
        self.index = true;
        self
    }

    /// Adds a label to the config. Images with the same layers and labels have the same digest.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Says that each layer is to be had at `prefix` and its digest, as the `urls` of foreign layers do.
    #[must_use]
    pub fn elsewhere(mut self, prefix: String) -> Self {
        self.elsewhere = Some(prefix);
        self
    }

    /// Gives every layer this media type.
    #[must_use]
    pub fn layer_type(mut self, media_type: &'static str) -> Self {
        self.layer_type = Some(media_type);
        self
    }

    /// Writes the documents.
    pub fn build(self) -> Result<Image> {
        let config = Document::new(
            self.format.config(),
            &Config {
                architecture: architecture(),
                os: "linux",
                config: ConfigInner { labels: &self.labels },
                rootfs: RootFs {
                    kind: "layers",
                    diff_ids: self.layers.iter().map(|layer| layer.diff_id.as_str()).collect(),
                },
            },
        )?;
        let manifest = Document::new(
            self.format.manifest(),
            &Manifest {
                schema_version: 2,
                media_type: self.format.manifest(),
                config: config.descriptor(),
                layers: self
                    .layers
                    .iter()
                    .map(|layer| Descriptor {
                        media_type: self
                            .layer_type
                            .unwrap_or_else(|| self.format.layer(layer.compression))
                            .to_owned(),
                        digest: layer.digest.clone(),
                        size: layer.declared,
                        platform: None,
                        urls: self
                            .elsewhere
                            .iter()
                            .map(|prefix| format!("{prefix}{}", layer.digest))
                            .collect(),
                        annotations: BTreeMap::new(),
                    })
                    .collect(),
            },
        )?;
        if !self.index {
            return Ok(Image {
                manifest,
                children: Vec::new(),
                config,
                layers: self.layers,
            });
        }
        let mut own = manifest.descriptor();
        own.platform = Some(Platform {
            architecture: architecture(),
            os: "linux",
        });
        // Names a manifest that is nowhere: a client must choose by platform.
        let mut other = own.clone();
        other.digest = digest_of(other.digest.as_bytes());
        other.platform = Some(Platform {
            architecture: "s390x",
            os: "linux",
        });
        let index = Document::new(
            self.format.index(),
            &Index {
                schema_version: 2,
                media_type: self.format.index(),
                manifests: vec![other, own],
            },
        )?;
        Ok(Image {
            manifest: index,
            children: vec![manifest],
            config,
            layers: self.layers,
        })
    }
}

/// This machine's architecture in the words of OCI.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) platform: Option<Platform>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) urls: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Platform {
    pub(super) architecture: &'static str,
    pub(super) os: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Index {
    pub(super) schema_version: u8,
    pub(super) media_type: &'static str,
    pub(super) manifests: Vec<Descriptor>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u8,
    media_type: &'static str,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Serialize)]
struct Config<'c> {
    architecture: &'static str,
    os: &'static str,
    config: ConfigInner<'c>,
    rootfs: RootFs<'c>,
}

#[derive(Serialize)]
struct ConfigInner<'c> {
    #[serde(rename = "Labels", skip_serializing_if = "BTreeMap::is_empty")]
    labels: &'c BTreeMap<String, String>,
}

#[derive(Serialize)]
struct RootFs<'c> {
    #[serde(rename = "type")]
    kind: &'static str,
    diff_ids: Vec<&'c str>,
}
