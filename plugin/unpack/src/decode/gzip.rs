//! gzip (RFC 1952), member after member, as Go's `compress/gzip` reads it, which containerd decodes with: what follows the
//! last member is a mistake, even zeros; a name or comment has a limit; each member's checksum and length are compared.

use zlib_rs::{Inflate, InflateFlush, Status};

use super::{Failure, GZIP};
use crate::input::Input;
use crate::sink::Sink;

/// The window of deflate, as a power of two, in bytes.
const WINDOW_BITS: u8 = 15;
/// Longest name or comment that Go takes, in bytes with its closing zero.
const LONGEST_TEXT: usize = 512;

const HEADER_CHECKSUM: u8 = 1 << 1;
const EXTRA: u8 = 1 << 2;
const NAME: u8 = 1 << 3;
const COMMENT: u8 = 1 << 4;

pub(super) fn decode(input: &mut Input, sink: &mut Sink) -> Result<(), Failure> {
    let mut inflate = Inflate::new(false, WINDOW_BITS);
    while header(input)? {
        inflate.reset(false);
        member(&mut inflate, input, sink)?;
    }
    Ok(())
}

/// Inflates one member and compares it with its trailer.
fn member(inflate: &mut Inflate, input: &mut Input, sink: &mut Sink) -> Result<(), Failure> {
    let mut checksum = 0;
    loop {
        let fresh = input.fill().map_err(Failure::Read)?;
        let at_end = fresh.is_empty();
        let room = sink.room();
        let (read, written) = (inflate.total_in(), inflate.total_out());
        let status = inflate.decompress(fresh, room, InflateFlush::NoFlush);
        // Both are at most the lengths of the slices given.
        let used = usize::try_from(inflate.total_in() - read).unwrap_or(usize::MAX);
        let made = usize::try_from(inflate.total_out() - written).unwrap_or(usize::MAX);
        checksum = zlib_rs::crc32::crc32(checksum, room.get(..made).unwrap_or_default());
        input.consume(used);
        sink.commit(made, input)?;
        match status {
            Ok(Status::StreamEnd) => break,
            Ok(Status::Ok | Status::BufError) if at_end && made == 0 => {
                return Err(Failure::Truncated("gzip"));
            }
            Ok(Status::Ok | Status::BufError) => {}
            Err(error) => return Err(Failure::Deflate(error.as_str())),
        }
    }
    let expected = u32::from_le_bytes(bytes(input)?);
    // The length is kept modulo 2^32.
    let length = u32::from_le_bytes(bytes(input)?);
    if expected == checksum && u64::from(length) == inflate.total_out() & u64::from(u32::MAX) {
        Ok(())
    } else {
        Err(Failure::GzipChecksum)
    }
}

/// Reads a member's header; whether there is one. No byte at all is the end.
fn header(input: &mut Input) -> Result<bool, Failure> {
    let Some(first) = input.byte().map_err(Failure::Read)? else {
        return Ok(false);
    };
    let mut checksum = 0;
    let fixed: [u8; 9] = summed(input, &mut checksum, Some(first))?;
    let [second, third, flags, ..] = fixed;
    if [first, second, third] != GZIP {
        return Err(Failure::GzipHeader);
    }
    if flags & EXTRA != 0 {
        let length = u16::from_le_bytes(summed(input, &mut checksum, None)?);
        for _ in 0..length {
            let [_] = summed(input, &mut checksum, None)?;
        }
    }
    for flag in [NAME, COMMENT] {
        if flags & flag != 0 {
            text(input, &mut checksum)?;
        }
    }
    if flags & HEADER_CHECKSUM != 0 {
        let [low, high, ..] = checksum.to_le_bytes();
        if bytes(input)? != [low, high] {
            return Err(Failure::GzipHeader);
        }
    }
    Ok(true)
}

fn text(input: &mut Input, checksum: &mut u32) -> Result<(), Failure> {
    for _ in 0..LONGEST_TEXT {
        if summed(input, checksum, None)? == [0] {
            return Ok(());
        }
    }
    Err(Failure::GzipHeader)
}

/// Bytes that the header's checksum covers, `before` among them.
fn summed<const N: usize>(
    input: &mut Input,
    checksum: &mut u32,
    before: Option<u8>,
) -> Result<[u8; N], Failure> {
    let bytes = bytes(input)?;
    *checksum = zlib_rs::crc32::crc32(*checksum, before.as_slice());
    *checksum = zlib_rs::crc32::crc32(*checksum, &bytes);
    Ok(bytes)
}

fn bytes<const N: usize>(input: &mut Input) -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    for byte in &mut bytes {
        *byte = input
            .byte()
            .map_err(Failure::Read)?
            .ok_or(Failure::Truncated("gzip"))?;
    }
    Ok(bytes)
}
