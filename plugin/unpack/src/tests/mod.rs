//! Whole layers in, whole tars out.

mod bounds;
mod formats;

use std::io::{self, Read, Write};
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex};

use crate::decode::{Failure, decode};
use crate::input::Input;
use crate::settings::{Bounds, Ratio};
use crate::sink::Sink;

/// Keeps what is written, as the thread that writes keeps the writer.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Gives at most `most` bytes at once, as a pipe may.
struct Drip {
    bytes: io::Cursor<Vec<u8>>,
    most: usize,
}

impl Read for Drip {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = self.most.min(into.len());
        self.bytes.read(&mut into[..most])
    }
}

fn unpack_by(layer: &[u8], bounds: Option<Bounds>, most: usize) -> (Vec<u8>, Result<(), Failure>) {
    let kept = Kept::default();
    let mut input = Input::new(Box::new(Drip {
        bytes: io::Cursor::new(layer.to_vec()),
        most,
    }));
    let mut sink = Sink::start(bounds, kept.clone()).unwrap();
    let decoded = decode(&mut input, &mut sink);
    let result = decoded.and(sink.finish());
    let bytes = std::mem::take(&mut *kept.0.lock().unwrap());
    (bytes, result)
}

fn unpack(layer: &[u8], bounds: Option<Bounds>) -> (Vec<u8>, Result<(), Failure>) {
    unpack_by(layer, bounds, usize::MAX)
}

fn absolute(unpacked: u64) -> Option<Bounds> {
    Some(Bounds {
        unpacked: Some(unpacked),
        ratio: None,
        file: "/f".into(),
    })
}

fn ratio(times: u64, from: u64) -> Option<Bounds> {
    Some(Bounds {
        unpacked: None,
        ratio: Some(Ratio {
            times: NonZeroU64::new(times).unwrap(),
            from,
        }),
        file: "/f".into(),
    })
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Bytes that do not compress, the same for a seed.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(len).collect()
}

/// A file's header, as GNU's tar writes it.
fn header(name: &str, kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_path(name).unwrap();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    header
}

/// An archive of regular files.
fn archive(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let header = header(name, tar::EntryType::Regular, content.len() as u64);
        builder.append(&header, content.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

/// The names in an archive that is whole.
fn names(archive: &[u8]) -> io::Result<Vec<String>> {
    assert!(archive.ends_with(&[0; 1024]), "no end of archive");
    let mut names = Vec::new();
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        io::copy(&mut entry, &mut io::sink())?;
        names.push(String::from_utf8_lossy(&entry.path_bytes()).into_owned());
    }
    Ok(names)
}
