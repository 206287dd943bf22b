//! Bad input: manifests and indexes that are broken, huge, or lead nowhere.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use serde_json::{Value, json};

use super::layer::Layer;
use super::manifest::{Document, Format, Image, ImageBuilder, architecture};
use crate::registry::content::digest_of;

/// Documents to publish as they are; a digest may be one that the bytes do not have.
#[derive(Debug, Clone)]
pub struct Raw {
    /// What the tag points to.
    pub top: Document,
    /// Manifests and indexes reachable by digest only.
    pub others: Vec<Document>,
    /// Layers.
    pub layers: Vec<Layer>,
    /// Configs.
    pub configs: Vec<Document>,
}

impl Raw {
    fn alone(top: Document) -> Self {
        Self {
            top,
            others: Vec::new(),
            layers: Vec::new(),
            configs: Vec::new(),
        }
    }

    fn around(image: &Image, top: Document) -> Self {
        Self {
            top,
            others: image.children.clone(),
            layers: image.layers.clone(),
            configs: vec![image.config.clone()],
        }
    }
}

/// Bytes that are no JSON, as an OCI manifest with their right digest.
pub fn garbage(bytes: impl Into<Bytes>) -> Raw {
    Raw::alone(document(Format::Oci.manifest(), bytes.into()))
}

/// The image's manifest cut in the middle, with the right digest of what is left.
pub fn truncated_manifest(image: &Image) -> Raw {
    let half = image.manifest.bytes.slice(..image.manifest.bytes.len() / 2);
    Raw::around(image, document(&image.manifest.media_type, half))
}

/// The image's manifest made `size` bytes long by an annotation; valid otherwise.
pub fn padded_manifest(image: &Image, size: usize) -> Result<Raw> {
    let mut manifest: Value = serde_json::from_slice(&image.manifest.bytes).context("read the manifest")?;
    let with = |manifest: &mut Value, len: usize| -> Result<Vec<u8>> {
        let fields = manifest.as_object_mut().context("the manifest is no object")?;
        fields.insert("annotations".to_owned(), json!({ "padding": "x".repeat(len) }));
        serde_json::to_vec(manifest).context("write the manifest")
    };
    let bare = with(&mut manifest, 0)?.len();
    ensure!(size >= bare, "the manifest has {bare} bytes already");
    let bytes = with(&mut manifest, size - bare)?;
    Ok(Raw::around(
        image,
        document(&image.manifest.media_type, bytes.into()),
    ))
}

/// An index whose only entry is itself. No such digest can be found, so the bytes do not have the one claimed.
pub fn index_of_itself() -> Result<Raw> {
    let digest = digest_of(b"an index of itself");
    let bytes = index(&[(Format::Oci.index(), &digest, 300)])?;
    Ok(Raw::alone(Document {
        media_type: Format::Oci.index().to_owned(),
        digest,
        bytes,
    }))
}

/// Two indexes that name one another, under claimed digests.
pub fn index_loop() -> Result<Raw> {
    let (one, two) = (
        digest_of(b"one index of a loop"),
        digest_of(b"the other index of a loop"),
    );
    let of = |digest: &str, names: &str| -> Result<Document> {
        let bytes = index(&[(Format::Oci.index(), names, 300)])?;
        Ok(Document {
            media_type: Format::Oci.index().to_owned(),
            digest: digest.to_owned(),
            bytes,
        })
    };
    Ok(Raw {
        others: vec![of(&two, &one)?],
        ..Raw::alone(of(&one, &two)?)
    })
}

/// The image below a chain of `depth` indexes, all with right digests.
pub fn nested_indexes(image: &Image, depth: usize) -> Result<Raw> {
    let mut top = image.manifest.clone();
    let mut others = image.children.clone();
    for _ in 0..depth {
        let bytes = index(&[(&top.media_type, &top.digest, top.bytes.len())])?;
        let outer = document(Format::Oci.index(), bytes);
        others.push(std::mem::replace(&mut top, outer));
    }
    Ok(Raw {
        others,
        ..Raw::around(image, top)
    })
}

/// An image with `count` layers of `each` declared bytes: a long manifest and a long config, both valid.
pub fn many_layers(count: u64, each: u64) -> Result<Image> {
    ImageBuilder::oci()
        .layers((0..count).map(|seed| Layer::declared(seed, each)))
        .build()
}

fn document(media_type: &str, bytes: Bytes) -> Document {
    Document {
        media_type: media_type.to_owned(),
        digest: digest_of(&bytes),
        bytes,
    }
}

fn index(entries: &[(&str, &str, usize)]) -> Result<Bytes> {
    let manifests: Vec<Value> = entries
        .iter()
        .map(|(media_type, digest, size)| {
            json!({
                "mediaType": media_type,
                "digest": digest,
                "size": size,
                "platform": { "architecture": architecture(), "os": "linux" },
            })
        })
        .collect();
    let value = json!({ "schemaVersion": 2, "mediaType": Format::Oci.index(), "manifests": manifests });
    Ok(serde_json::to_vec(&value).context("write an index")?.into())
}
