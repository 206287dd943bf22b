//! Decompression, chosen by the first bytes as containerd chooses it (2.1.9, pkg/archive/compression/compression.go): gzip,
//! zstd, or the bytes as they are.

mod gzip;
mod zstandard;

use std::io;

use crate::guard::Exceeded;
use crate::input::Input;
use crate::sink::Sink;

/// As many bytes as containerd looks at.
const LOOKED_AT: usize = 10;
const GZIP: [u8; 3] = [0x1f, 0x8b, 0x08];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// A skippable frame begins with one of sixteen numbers (RFC 8878, 3.1.2), and containerd wants to see its length too.
const SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];
const SKIPPABLE_HEAD: usize = 8;

/// Why a layer was not unpacked, or not all of it. What it says is the pull's error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// More than is allowed.
    #[error("{0}")]
    Bound(Exceeded),
    /// The layer cannot be read.
    #[error("cannot read the layer: {0}")]
    Read(#[source] io::Error),
    /// The tar cannot be written.
    #[error("cannot write the tar: {0}")]
    Write(#[source] io::Error),
    /// containerd has closed its end.
    #[error("nobody reads the tar")]
    Gone,
    /// The compressed data ends too early.
    #[error("{0}: unexpected end")]
    Truncated(&'static str),
    /// A gzip member begins with something else, which may be what follows the last one.
    #[error("gzip: invalid header, at the beginning or after a member")]
    GzipHeader,
    /// A member's checksum or length is another one.
    #[error("gzip: invalid checksum")]
    GzipChecksum,
    /// No deflate stream.
    #[error("gzip: corrupt data: {0}")]
    Deflate(&'static str),
    /// No zstd stream.
    #[error("zstd: {0}")]
    Zstd(#[source] io::Error),
}

/// Decodes everything.
pub(crate) fn decode(input: &mut Input, sink: &mut Sink) -> Result<(), Failure> {
    let first = input.peek(LOOKED_AT).map_err(Failure::Read)?;
    let skippable =
        first.get(1..4) == Some(&SKIPPABLE) && first.first().is_some_and(|byte| byte & 0xf0 == 0x50);
    if first.starts_with(&GZIP) {
        gzip::decode(input, sink)
    } else if first.starts_with(&ZSTD) || (skippable && first.len() >= SKIPPABLE_HEAD) {
        zstandard::decode(input, sink)
    } else {
        copy(input, sink)
    }
}

fn copy(input: &mut Input, sink: &mut Sink) -> Result<(), Failure> {
    loop {
        let fresh = input.fill().map_err(Failure::Read)?;
        if fresh.is_empty() {
            return Ok(());
        }
        let room = sink.room();
        let count = fresh.len().min(room.len());
        for (to, from) in room.chunks_mut(count).zip(fresh.chunks(count)).take(1) {
            to.copy_from_slice(from);
        }
        input.consume(count);
        sink.commit(count, input)?;
    }
}
