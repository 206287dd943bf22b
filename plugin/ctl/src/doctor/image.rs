//! A tiny image, made in memory, unlike any other: containerd must fetch it, and finds nothing of it in its store.

use serde_json::json;
use sha2::{Digest as _, Sha256};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A blob and its names.
#[derive(Clone, Debug)]
pub(super) struct Blob {
    pub(super) media_type: &'static str,
    pub(super) digest: String,
    pub(super) bytes: Vec<u8>,
}

impl Blob {
    fn new(media_type: &'static str, bytes: Vec<u8>) -> Self {
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(&bytes)));
        Self {
            media_type,
            digest,
            bytes,
        }
    }

    fn json(media_type: &'static str, value: &serde_json::Value) -> Self {
        Self::new(media_type, value.to_string().into_bytes())
    }

    fn descriptor(&self) -> serde_json::Value {
        json!({"mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len()})
    }
}

/// An image of one layer, with one small file.
#[derive(Clone, Debug)]
pub(super) struct Image {
    pub(super) manifest: Blob,
    pub(super) config: Blob,
    pub(super) layer: Blob,
}

impl Image {
    /// `mark` tells it from all others.
    ///
    /// # Errors
    /// None that memory can give.
    pub(super) fn new(mark: &str) -> std::io::Result<Self> {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(u64::try_from(mark.len()).unwrap_or(u64::MAX));
        header.set_mode(0o444);
        archive.append_data(&mut header, "magi-doctor", mark.as_bytes())?;
        let layer = Blob::new(LAYER, archive.into_inner()?);
        let config = Blob::json(
            CONFIG,
            &json!({
                "architecture": architecture(),
                "os": "linux",
                "config": {"Labels": {"magi-doctor": mark}},
                "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
            }),
        );
        let manifest = Blob::json(
            MANIFEST,
            &json!({
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": config.descriptor(),
                "layers": [layer.descriptor()],
            }),
        );
        Ok(Self {
            manifest,
            config,
            layer,
        })
    }
}

/// This machine's, in OCI's words, which are Go's.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
