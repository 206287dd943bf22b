//! zstd (RFC 8878): frames one after another, skippable ones among them, each checksum compared.

use zstd::stream::raw::{DParameter, Decoder, Operation as _};

use super::Failure;
use crate::input::Input;
use crate::sink::Sink;

/// The largest window, as a power of two, in bytes: what containerd's decoder takes (klauspost/compress 1.18,
/// zstd/framedec.go, `MaxWindowSize`). The library's own limit is smaller.
const WINDOW_BITS: u32 = 29;

pub(super) fn decode(input: &mut Input, sink: &mut Sink) -> Result<(), Failure> {
    let mut decoder = Decoder::new().map_err(Failure::Zstd)?;
    decoder
        .set_parameter(DParameter::WindowLogMax(WINDOW_BITS))
        .map_err(Failure::Zstd)?;
    let mut is_between_frames = true;
    loop {
        let fresh = input.fill().map_err(Failure::Read)?;
        let at_end = fresh.is_empty();
        if at_end && is_between_frames {
            return Ok(());
        }
        let status = decoder
            .run_on_buffers(fresh, sink.room())
            .map_err(Failure::Zstd)?;
        is_between_frames = status.remaining == 0;
        input.consume(status.bytes_read);
        sink.commit(status.bytes_written, input)?;
        if at_end && status.bytes_written == 0 && !is_between_frames {
            return Err(Failure::Truncated("zstd"));
        }
    }
}
