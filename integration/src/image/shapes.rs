//! Images as they are found in the world, with all that a layer can hold, in every form in which it can be compressed.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use anyhow::{Context, Result};
use sha2::{Digest as _, Sha256};
use tar::EntryType;

use super::layer::{Compression, Layer};
use super::manifest::{Image, ImageBuilder};
use crate::registry::content::{Content, digest_of};

/// How an archive becomes a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One gzip member.
    Gzip,
    /// Several gzip members of uneven length, an empty one among them, as parallel compressors write them.
    Members,
    /// One zstd frame with its checksum.
    Zstd,
    /// Several zstd frames, and skippable ones before, between and behind them.
    Frames,
}

/// An archive that grows.
pub struct Archive(tar::Builder<Vec<u8>>);

impl Default for Archive {
    fn default() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }
}

impl Archive {
    /// Appends anything.
    pub fn entry(
        &mut self,
        name: &str,
        kind: EntryType,
        (mode, uid, gid): (u32, u64, u64),
        content: &[u8],
    ) -> Result<&mut Self> {
        let mut header = header(kind, content.len() as u64, mode);
        header.set_uid(uid);
        header.set_gid(gid);
        self.0
            .append_data(&mut header, name, content)
            .with_context(|| format!("append {name}"))?;
        Ok(self)
    }

    /// Appends a file of root's.
    pub fn file(&mut self, name: &str, content: &[u8]) -> Result<&mut Self> {
        self.entry(name, EntryType::Regular, (0o644, 0, 0), content)
    }

    /// Appends a folder of root's.
    pub fn folder(&mut self, name: &str) -> Result<&mut Self> {
        self.entry(name, EntryType::Directory, (0o755, 0, 0), &[])
    }

    /// Appends a link of this kind. A hard link's mode becomes that of its file.
    pub fn link(&mut self, name: &str, kind: EntryType, mode: u32, to: &str) -> Result<&mut Self> {
        let mut header = header(kind, 0, mode);
        self.0
            .append_link(&mut header, name, to)
            .with_context(|| format!("append {name}"))?;
        Ok(self)
    }

    /// Appends a device.
    pub fn device(&mut self, name: &str, kind: EntryType, (major, minor): (u32, u32)) -> Result<&mut Self> {
        let mut header = header(kind, 0, 0o620);
        header.set_device_major(major).context("a device's number")?;
        header.set_device_minor(minor).context("a device's number")?;
        self.0
            .append_data(&mut header, name, [].as_slice())
            .with_context(|| format!("append {name}"))?;
        Ok(self)
    }

    /// Says more about the next entry, as PAX does.
    pub fn pax(&mut self, records: &[(&str, &[u8])]) -> Result<&mut Self> {
        self.0
            .append_pax_extensions(records.iter().copied())
            .context("append a PAX header")?;
        Ok(self)
    }

    /// Ends it, and makes a layer of it.
    pub fn layer(self, form: Form) -> Result<Layer> {
        let archive = self.0.into_inner().context("end an archive")?;
        layer(&archive, form)
    }
}

/// A layer of an archive.
pub fn layer(archive: &[u8], form: Form) -> Result<Layer> {
    let pieces = || archive.chunks((archive.len() / 7).max(1));
    let (compression, bytes) = match form {
        Form::Gzip => (Compression::Gzip, gzip(archive)?),
        Form::Members => {
            let mut members = pieces().map(gzip).collect::<Result<Vec<_>>>()?;
            members.insert(1, gzip(&[])?);
            (Compression::Gzip, members.concat())
        }
        Form::Zstd => (Compression::Zstd, frame(archive)?),
        Form::Frames => {
            let mut frames = vec![skippable(0)];
            for (number, piece) in pieces().enumerate() {
                frames.push(frame(piece)?);
                frames.push(skippable(number * 999));
            }
            (Compression::Zstd, frames.concat())
        }
    };
    Ok(encoded(compression, bytes.into(), digest_of(archive)))
}

/// A layer of a size as images have it: the files of this machine's own folders, until there are `wanted` bytes of them,
/// in one gzip member of the usual effort; and the bytes that it unpacks to.
///
/// Machines differ, so figures of it are compared on one machine only.
pub fn of_this_machine(wanted: u64) -> Result<(Layer, u64)> {
    const FOLDERS: [&str; 4] = ["/usr/bin", "/usr/share", "/usr/lib", "/usr/include"];
    let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    let mut builder = tar::Builder::new(Counted {
        to: gzip,
        hash: Sha256::new(),
        count: 0,
    });
    let mut folders: Vec<PathBuf> = FOLDERS.iter().rev().map(PathBuf::from).collect();
    while let Some(folder) = folders.pop() {
        let mut entries: Vec<PathBuf> = fs::read_dir(&folder)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        entries.sort();
        for path in entries {
            let Ok(meta) = path.symlink_metadata() else {
                continue;
            };
            if meta.is_dir() {
                folders.push(path);
                continue;
            }
            if !meta.is_file() || builder.get_ref().count + meta.len() > wanted {
                continue;
            }
            // Whoever installs something meanwhile may take a file away.
            let Ok(content) = fs::read(&path) else { continue };
            let mut header = header(EntryType::Regular, content.len() as u64, meta.mode() & 0o7777);
            let name = path.strip_prefix("/").unwrap_or(&path);
            builder
                .append_data(&mut header, name, content.as_slice())
                .with_context(|| format!("append {}", path.display()))?;
        }
    }
    let counted = builder.into_inner().context("end an archive")?;
    let bytes = counted.to.finish().context("gzip")?;
    let diff_id = format!("sha256:{}", hex::encode(counted.hash.finalize()));
    Ok((encoded(Compression::Gzip, bytes.into(), diff_id), counted.count))
}

/// Hashes and counts what is compressed.
struct Counted<W> {
    to: W,
    hash: Sha256,
    count: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.to.write_all(bytes)?;
        self.hash.update(bytes);
        self.count += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

/// A layer whose bytes are what they are.
pub fn encoded(compression: Compression, content: Content, diff_id: String) -> Layer {
    Layer {
        compression,
        digest: content.digest(),
        declared: content.len(),
        diff_id,
        content,
    }
}

/// Six images, each with its name: hard links, whiteouts, extended attributes, devices, long names, sparse files.
pub fn six() -> Result<Vec<(&'static str, Image)>> {
    let both = |layers: Vec<Layer>| ImageBuilder::oci().layers(layers).build();
    Ok(vec![
        ("hard-links", ImageBuilder::docker().layer(hard_links()?).build()?),
        ("whiteouts", both(whiteouts()?)?),
        ("attributes", both(vec![attributes()?])?),
        ("devices", both(vec![devices()?])?),
        ("long-names", both(vec![long_names()?])?),
        ("sparse", both(vec![sparse()?])?),
    ])
}

fn hard_links() -> Result<Layer> {
    let mut archive = Archive::default();
    archive.folder("usr/")?.folder("usr/bin/")?;
    archive.entry(
        "usr/bin/su",
        EntryType::Regular,
        (0o4755, 0, 0),
        &noise(1, 90_001),
    )?;
    archive.entry(
        "usr/bin/wall",
        EntryType::Regular,
        (0o2755, 0, 5),
        &noise(2, 30_000),
    )?;
    archive.link("usr/bin/su-too", EntryType::Link, 0o4755, "usr/bin/su")?;
    archive.link("su-three", EntryType::Link, 0o4755, "usr/bin/su")?;
    archive.link("bin", EntryType::Symlink, 0o777, "usr/bin")?;
    archive.entry("tmp/", EntryType::Directory, (0o1777, 0, 0), &[])?;
    archive.entry("home/user/", EntryType::Directory, (0o700, 1000, 1000), &[])?;
    archive.entry("home/user/empty", EntryType::Regular, (0o600, 1000, 1000), &[])?;
    archive.layer(Form::Members)
}

fn whiteouts() -> Result<Vec<Layer>> {
    let mut base = Archive::default();
    base.folder("a/")?.folder("b/")?;
    for number in 0..20 {
        base.file(&format!("a/{number}"), &noise(number, 10_000))?;
        base.file(&format!("b/{number}"), &noise(100 + number, 1000))?;
    }
    let mut over = Archive::default();
    over.file("a/.wh.3", &[])?
        .file("a/.wh.4", &[])?
        .file("a/5", b"new")?;
    over.folder("b/")?
        .file("b/.wh..wh..opq", &[])?
        .file("b/only", b"this is left")?;
    Ok(vec![base.layer(Form::Gzip)?, over.layer(Form::Zstd)?])
}

fn attributes() -> Result<Layer> {
    let mut archive = Archive::default();
    // cap_net_raw+ep, as `ping` has it.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    archive.pax(&[("SCHILY.xattr.security.capability", &capability)])?;
    archive.entry("ping", EntryType::Regular, (0o755, 0, 0), &noise(3, 70_000))?;
    archive.pax(&[
        ("SCHILY.xattr.user.colour", b"blue\n= green"),
        ("SCHILY.xattr.user.size", b"99999999999"),
        ("mtime", b"1700000000.123456789"),
    ])?;
    archive.file("painted", &noise(4, 3000))?;
    archive.pax(&[("SCHILY.xattr.user.of-a-folder", b"x")])?;
    archive.folder("folder/")?;
    archive.layer(Form::Gzip)
}

fn devices() -> Result<Layer> {
    let mut archive = Archive::default();
    archive.folder("dev/")?;
    archive.device("dev/null", EntryType::Char, (1, 3))?;
    archive.device("dev/tty77", EntryType::Char, (4, 77))?;
    archive.device("dev/disk", EntryType::Block, (259, 300))?;
    archive.device("dev/pipe", EntryType::Fifo, (0, 0))?;
    archive.link("dev/fd", EntryType::Symlink, 0o777, "/proc/self/fd")?;
    archive.layer(Form::Zstd)
}

fn long_names() -> Result<Layer> {
    let mut archive = Archive::default();
    let long = |parts: usize, name: &str| format!("{}{name}", format!("{name}-of-a-folder/").repeat(parts));
    // GNU's way.
    archive.file(&long(12, "gnu"), &noise(5, 5000))?;
    archive.link(&long(11, "gnu-link"), EntryType::Symlink, 0o777, &long(12, "gnu"))?;
    // PAX's way, in letters that need it.
    let name = long(13, "päckchen-包");
    archive.pax(&[("path", name.as_bytes()), ("uid", b"3000000000")])?;
    archive.file("short", &noise(6, 777))?;
    // Beyond eight octal digits: base 256.
    archive.entry(
        "owned",
        EntryType::Regular,
        (0o640, 60_000_000, 4_000_000_000),
        b"far away",
    )?;
    archive.layer(Form::Frames)
}

fn sparse() -> Result<Layer> {
    let mut archive = Archive::default();
    archive.file("before", &noise(7, 1234))?;
    for (name, length) in [("one", 3_000_000_u64), ("two", 70_000_000)] {
        let data = noise(length, 9000);
        let last = length - 4000;
        let mut body = format!("2\n{}\n5000\n{last}\n4000\n", 1 << 16).into_bytes();
        body.resize(body.len().next_multiple_of(512), 0);
        body.extend(&data);
        archive.pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", name.as_bytes()),
            ("GNU.sparse.realsize", length.to_string().as_bytes()),
        ])?;
        archive.file(&format!("GNUSparseFile.0/{name}"), &body)?;
    }
    archive.file("after", &noise(8, 4321))?;
    archive.layer(Form::Members)
}

fn header(kind: EntryType, size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000_000);
    header
}

/// Bytes that do not compress, the same for a seed.
fn noise(seed: u64, len: u64) -> Vec<u8> {
    Content::Generated { seed, len }.to_vec()
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).context("gzip")?;
    encoder.finish().context("gzip")
}

fn frame(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).context("zstd")?;
    encoder.include_checksum(true).context("zstd")?;
    encoder.write_all(bytes).context("zstd")?;
    encoder.finish().context("zstd")
}

/// A frame that decoders pass over (RFC 8878, 3.1.2).
fn skippable(len: usize) -> Vec<u8> {
    let mut frame = vec![0x57, 0x2a, 0x4d, 0x18];
    frame.extend(u32::try_from(len).unwrap_or_default().to_le_bytes());
    frame.resize(frame.len() + len, b'!');
    frame
}
