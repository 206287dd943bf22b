//! Layers that are small on their way and large once unpacked: one file or many, gzip, gzip in gzip, zstd, and holes.
//!
//! Their digests are right, so they are downloaded and unpacked as any other. Nobody can know their diffIDs cheaply, and
//! nobody gets to compare them.

use std::io::Write as _;
use std::sync::Arc;

use anyhow::{Context, Result};

use super::layer::{Compression, Layer};
use super::shapes::{self, Archive, Form};
use crate::registry::content::{Content, digest_of};

const MEMBER: u64 = 8 << 20;

/// `files` files of zeros, `unpacked` bytes together, compressed as quickly as gzip does it: 10 GiB become some 46 MB.
/// The seed stands in the names.
pub fn gzip(seed: u64, files: u64, unpacked: u64) -> Result<Layer> {
    of_zeros(seed, (files, unpacked), Compression::Gzip, gzipped)
}

/// The same in frames of zstd, which needs far less for it.
pub fn zstd(seed: u64, files: u64, unpacked: u64) -> Result<Layer> {
    of_zeros(seed, (files, unpacked), Compression::Zstd, |content| {
        zstd::encode_all(content.to_vec().as_slice(), 1).context("zstd")
    })
}

/// The bomb of one file compressed once more: no archive, but for who decodes it twice.
pub fn nested(seed: u64, unpacked: u64) -> Result<Layer> {
    let inner = gzip(seed, 1, unpacked)?;
    let outer = gzipped(&inner.content)?;
    Ok(shapes::encoded(
        Compression::Gzip,
        outer.into(),
        digest_of(b"nested bomb"),
    ))
}

/// A layer of a few hundred bytes, with a file of holes.
pub fn holes(unpacked: u64) -> Result<Layer> {
    let mut archive = Archive::default();
    archive.file("before", b"some bytes")?;
    archive.pax(&[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"holes"),
        ("GNU.sparse.realsize", unpacked.to_string().as_bytes()),
    ])?;
    let mut map = format!("1\n{unpacked}\n0\n").into_bytes();
    map.resize(512, 0);
    archive.file("GNUSparseFile.0/holes", &map)?;
    archive.layer(Form::Gzip)
}

fn of_zeros(
    seed: u64,
    (files, unpacked): (u64, u64),
    compression: Compression,
    compress: impl Fn(&Content) -> Result<Vec<u8>>,
) -> Result<Layer> {
    let each = unpacked / files;
    let whole = Content::from(compress(&Content::zeros(MEMBER.min(each)))?);
    let rest = Content::from(compress(&Content::zeros(each % MEMBER))?);
    let mut parts = Vec::new();
    for number in 0..files {
        parts.push(compress(&header(&format!("bomb-{seed}-{number}"), each)?)?.into());
        let members = usize::try_from(each / MEMBER).context("a size")?;
        parts.extend(std::iter::repeat_n(whole.clone(), members));
        parts.push(rest.clone());
    }
    let content = Content::Joined(Arc::new(parts));
    Ok(shapes::encoded(compression, content, digest_of(b"bomb")))
}

fn header(name: &str, len: u64) -> Result<Content> {
    let mut header = tar::Header::new_gnu();
    header
        .set_path(name)
        .with_context(|| format!("name {name} in a tar"))?;
    header.set_size(len);
    header.set_mode(0o644);
    header.set_mtime(1_000_000_000);
    header.set_cksum();
    Ok(header.as_bytes().to_vec().into())
}

fn gzipped(content: &Content) -> Result<Vec<u8>> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut result = Ok(());
    content.for_each(|piece| {
        if result.is_ok() {
            result = gzip.write_all(piece);
        }
    });
    result.context("gzip")?;
    gzip.finish().context("gzip")
}
