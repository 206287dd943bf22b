//! Layers: tar archives with files, plain or compressed, and claims without a file behind them.

use std::io::Write;

use anyhow::{Context, Result};
use bytes::Bytes;

use crate::registry::content::{Content, digest_of};

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// A plain tar. Needs no memory however large.
    None,
    /// Gzip, built in memory.
    Gzip,
    /// Zstandard, built in memory.
    Zstd,
}

/// A layer as a manifest describes it, and what is served under its digest.
#[derive(Debug, Clone)]
pub struct Layer {
    /// How its media type says that it is compressed.
    pub compression: Compression,
    /// The digest that the manifest gives it.
    pub digest: String,
    /// The size that the manifest declares, in bytes.
    pub declared: u64,
    /// The digest of the uncompressed archive, as the config gives it.
    pub diff_id: String,
    /// What is served.
    pub content: Content,
}

/// No file of a generated archive is larger.
const FILE: u64 = 8 << 20;
const TAR_BLOCK: u64 = 512;

impl Layer {
    /// A real layer with about `size` bytes of incompressible files. The same arguments give the same layer.
    pub fn random(seed: u64, size: u64, compression: Compression) -> Result<Self> {
        let files = file_sizes(size).map(|(number, len)| {
            // Each file differs, or zstd would find the repetition.
            (
                number,
                Content::Generated {
                    seed: seed.wrapping_mul(4096).wrapping_add(number),
                    len,
                },
            )
        });
        Self::of_files(seed, files, compression)
    }

    /// A real layer with about `size` bytes of files that compress about a thousandfold.
    pub fn compressible(seed: u64, size: u64, compression: Compression) -> Result<Self> {
        let unit = Bytes::from(format!("magi {seed:016x}\n"));
        let files = file_sizes(size).map(|(number, len)| {
            (
                number,
                Content::Repeated {
                    unit: unit.clone(),
                    len,
                },
            )
        });
        Self::of_files(seed, files, compression)
    }

    /// A claim: declares `size` bytes and serves as many random ones, under a digest that they do not have.
    ///
    /// For pulls that are stopped before the end.
    pub fn declared(seed: u64, size: u64) -> Self {
        Self::lying(seed, size, size)
    }

    /// A lie: declares `declared` bytes and serves `actual` random ones.
    pub fn lying(seed: u64, declared: u64, actual: u64) -> Self {
        let digest = digest_of(format!("claimed layer {seed} {declared} {actual}").as_bytes());
        Self {
            compression: Compression::Gzip,
            diff_id: digest_of(digest.as_bytes()),
            digest,
            declared,
            content: Content::Generated { seed, len: actual },
        }
    }

    /// A bomb: a small gzip layer that unpacks to one file of `unpacked` zeros. Its digest is right; its diffID is not,
    /// which containerd learns after the last byte only.
    pub fn bomb(seed: u64, unpacked: u64) -> Result<Self> {
        const MEMBER: u64 = 32 << 20;
        let most = flate2::Compression::best();
        let head = gzip(&Content::from(header(&format!("bomb-{seed}"), unpacked)?), most)?;
        let unit = Bytes::from(gzip(&Content::zeros(MEMBER), most)?);
        let whole = Content::Repeated {
            len: unit.len() as u64 * (unpacked / MEMBER),
            unit,
        };
        let rest = gzip(
            &Content::zeros(unpacked % MEMBER + padding(unpacked) + 2 * TAR_BLOCK),
            most,
        )?;
        let content = Content::Joined(vec![head.into(), whole, rest.into()].into());
        let digest = content.digest();
        let diff_id = digest_of(digest.as_bytes());
        Ok(Self {
            compression: Compression::Gzip,
            declared: content.len(),
            digest,
            diff_id,
            content,
        })
    }

    /// The same layer with another declared size.
    #[must_use]
    pub fn declaring(mut self, size: u64) -> Self {
        self.declared = size;
        self
    }

    fn of_files(
        seed: u64,
        files: impl Iterator<Item = (u64, Content)>,
        compression: Compression,
    ) -> Result<Self> {
        let mut parts = vec![Content::from(folder(&format!("data-{seed}/"))?)];
        for (number, file) in files {
            parts.push(header(&format!("data-{seed}/{number}"), file.len())?.into());
            let padding = padding(file.len());
            parts.push(file);
            parts.push(Content::zeros(padding));
        }
        parts.push(Content::zeros(2 * TAR_BLOCK));
        parts.retain(|part| !part.is_empty());
        let archive = Content::Joined(parts.into());
        let diff_id = archive.digest();
        let content = match compression {
            Compression::None => archive,
            Compression::Gzip => gzip(&archive, flate2::Compression::fast())?.into(),
            Compression::Zstd => zstd(&archive)?.into(),
        };
        let digest = if compression == Compression::None {
            diff_id.clone()
        } else {
            content.digest()
        };
        Ok(Self {
            compression,
            declared: content.len(),
            digest,
            diff_id,
            content,
        })
    }
}

fn file_sizes(size: u64) -> impl Iterator<Item = (u64, u64)> {
    // Several files even in a small layer.
    let each = (size / 4).clamp(1, FILE);
    (0..size.div_ceil(each)).map(move |number| (number, each.min(size - number * each)))
}

fn padding(len: u64) -> u64 {
    len.next_multiple_of(TAR_BLOCK) - len
}

fn header(name: &str, len: u64) -> Result<Vec<u8>> {
    entry(name, len, tar::EntryType::Regular, 0o644)
}

fn folder(name: &str) -> Result<Vec<u8>> {
    entry(name, 0, tar::EntryType::Directory, 0o755)
}

fn entry(name: &str, len: u64, kind: tar::EntryType, mode: u32) -> Result<Vec<u8>> {
    let mut header = tar::Header::new_gnu();
    header
        .set_path(name)
        .with_context(|| format!("name {name} in a tar"))?;
    header.set_entry_type(kind);
    header.set_size(len);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000_000);
    header.set_cksum();
    Ok(header.as_bytes().to_vec())
}

fn gzip(content: &Content, effort: flate2::Compression) -> Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), effort);
    copy(content, &mut encoder)?;
    encoder.finish().context("gzip")
}

fn zstd(content: &Content) -> Result<Vec<u8>> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).context("zstd")?;
    copy(content, &mut encoder)?;
    encoder.finish().context("zstd")
}

fn copy(content: &Content, into: &mut impl Write) -> Result<()> {
    let mut result = Ok(());
    content.for_each(|piece| {
        if result.is_ok() {
            result = into.write_all(piece);
        }
    });
    result.context("compress")
}
