//! ttrpc: messages of a header and a protobuf envelope, requests one way and answers the other.
//!
//! Written here and not taken from the `ttrpc` crate: that one brings a second protobuf runtime, starts a task for
//! each request (so events could overtake one another, and an answer waits for the scheduler), refuses messages over
//! 4 MiB where NRI 0.6 allows 16, and would need two pipes and four pumps to run over the trunk.

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use magi_wire::google::rpc::Status;
use magi_wire::ttrpc::{Request, Response};
use prost::Message as _;

use super::fields::{Malformed, fields};

/// Length, stream, kind, flags.
pub(super) const HEADER: usize = 10;
/// Longest message that is taken: what NRI 0.6 lets into one frame. Later versions stop at 4 MiB.
pub(super) const MAX_MESSAGE: usize = 16 << 20;
/// A buffer that grew beyond this is given back as soon as it is empty.
const KEPT_BUFFER: usize = 64 << 10;
/// `google.rpc.Code.UNIMPLEMENTED`
const UNIMPLEMENTED: i32 = 12;
/// Longest part of foreign text that goes into an answer or a log line.
const QUOTED: usize = 100;

const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;

/// A message announces more than any honest peer sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a ttrpc message announces {length} bytes, {MAX_MESSAGE} are allowed")]
pub(super) struct TooLong {
    length: u32,
}

/// The other side answered a call with an error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("code {code}, {message}")]
pub(super) struct Refusal {
    code: i32,
    message: String,
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Somebody calls.
    Request,
    /// The answer to a call.
    Response,
    /// Data of a stream, or what a later version of the protocol may add; to be skipped.
    Other,
}

/// A whole message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) stream: u32,
    pub(super) kind: Kind,
    pub(super) payload: Bytes,
}

/// Puts the messages of one connection together, however they were cut.
#[derive(Debug, Default)]
pub(super) struct Messages {
    buffer: BytesMut,
}

impl Messages {
    /// Takes the next bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next message, if it is there as a whole.
    ///
    /// # Errors
    /// It announces too many bytes; then nothing after it can be read either.
    pub(super) fn next(&mut self) -> Result<Option<Message>, TooLong> {
        let Some(header) = self.buffer.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let [a, b, c, d, e, f, g, h, kind, _flags] = *header;
        let announced = u32::from_be_bytes([a, b, c, d]);
        let length = usize::try_from(announced).unwrap_or(usize::MAX);
        if length > MAX_MESSAGE {
            return Err(TooLong { length: announced });
        }
        if self.buffer.len() < HEADER + length {
            return Ok(None);
        }
        self.buffer.advance(HEADER);
        let payload = self.buffer.split_to(length).freeze();
        if self.buffer.is_empty() && length > KEPT_BUFFER {
            self.buffer = BytesMut::new();
        }
        let kind = match kind {
            REQUEST => Kind::Request,
            RESPONSE => Kind::Response,
            _ => Kind::Other,
        };
        Ok(Some(Message {
            stream: u32::from_be_bytes([e, f, g, h]),
            kind,
            payload,
        }))
    }
}

/// A call as it lies in its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Call<'a> {
    pub(super) service: &'a str,
    pub(super) method: &'a str,
    pub(super) payload: &'a [u8],
}

/// Reads the envelope of a request.
pub(super) fn read_call(envelope: &[u8]) -> Result<Call<'_>, Malformed> {
    let mut call = Call::default();
    for field in fields(envelope) {
        match field? {
            (1, value) => call.service = value.text()?,
            (2, value) => call.method = value.text()?,
            (3, value) => call.payload = value.bytes()?,
            _ => {}
        }
    }
    Ok(call)
}

/// Reads the envelope of a response whose payload does not matter.
pub(super) fn read_outcome(envelope: &[u8]) -> Result<Result<(), Refusal>, Malformed> {
    let (mut code, mut message) = (0, "");
    for field in fields(envelope) {
        if let (1, status) = field? {
            for field in fields(status.bytes()?) {
                match field? {
                    (1, value) => code = value.number()?,
                    (2, value) => message = value.text()?,
                    _ => {}
                }
            }
        }
    }
    if code == 0 {
        return Ok(Ok(()));
    }
    Ok(Err(Refusal {
        code: i32::try_from(code).unwrap_or(i32::MAX),
        message: quoted(message),
    }))
}

/// A call, as bytes.
pub(super) fn call(stream: u32, service: &str, method: &str, payload: Vec<u8>, timeout: Duration) -> Vec<u8> {
    let request = Request {
        service: service.to_owned(),
        method: method.to_owned(),
        payload,
        timeout_nano: i64::try_from(timeout.as_nanos()).unwrap_or(i64::MAX),
        metadata: Vec::new(),
    };
    message(stream, REQUEST, &request.encode_to_vec())
}

/// The answer to a call, as bytes.
pub(super) fn answer(stream: u32, payload: Vec<u8>) -> Vec<u8> {
    message(
        stream,
        RESPONSE,
        &Response {
            status: None,
            payload,
        }
        .encode_to_vec(),
    )
}

/// The answer to a call that is not known here, as bytes. It is what a caller of another version expects and copes with.
pub(super) fn unimplemented(stream: u32, call: &Call<'_>) -> Vec<u8> {
    let status = Status {
        code: UNIMPLEMENTED,
        message: format!(
            "magi does not know {}.{}",
            quoted(call.service),
            quoted(call.method)
        ),
        details: Vec::new(),
    };
    message(
        stream,
        RESPONSE,
        &Response {
            status: Some(status),
            payload: Vec::new(),
        }
        .encode_to_vec(),
    )
}

fn message(stream: u32, kind: u8, envelope: &[u8]) -> Vec<u8> {
    // Whatever is sent from here has a few hundred bytes.
    let length = u32::try_from(envelope.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEADER + envelope.len());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(&[kind, 0]);
    bytes.extend_from_slice(envelope);
    bytes
}

/// The beginning of a foreign text, free of control characters.
pub(super) fn quoted(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(QUOTED).collect()
}
