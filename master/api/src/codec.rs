//! Protobuf over gRPC with buffers that suit thousands of mostly silent streams: tonic's own take 16 KiB each at once.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::ProstCodec;

/// Bytes that a stream's buffers begin with, and grow by. Most messages are pings and verdicts of a few hundred bytes.
const STEP: usize = 512;
/// Bytes of messages that are put together before they are handed on.
const HAND_ON_AT: usize = 8 << 10;

/// The codec that the generated code names.
#[derive(Debug)]
pub struct SmallCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SmallCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = <ProstCodec<T, U> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(STEP, HAND_ON_AT))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(STEP, HAND_ON_AT))
    }
}
