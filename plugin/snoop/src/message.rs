//! The one gRPC message of a request, across DATA frames.
//!
//! Source: gRPC over HTTP/2, "Length-Prefixed-Message": one byte that says whether it is compressed, four of length.

use crate::request::{No, Request};
use crate::{MAX_MESSAGE, PullRequest};

pub(crate) struct Message {
    prefix: [u8; 5],
    filled: usize,
    body: Option<(Request, u32)>,
}

impl Message {
    pub(crate) fn new() -> Self {
        Self {
            prefix: [0; 5],
            filled: 0,
            body: None,
        }
    }

    /// Takes the next bytes of the stream; the request, once it is there as a whole.
    ///
    /// # Errors
    /// It is none, or cannot be read; then nothing more need be said of this stream.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> Result<Option<PullRequest>, No> {
        while self.body.is_none() {
            let Some((byte, rest)) = bytes.split_first() else {
                return Ok(None);
            };
            bytes = rest;
            if let Some(place) = self.prefix.get_mut(self.filled) {
                *place = *byte;
            }
            self.filled += 1;
            if self.filled == self.prefix.len() {
                let [compressed, l0, l1, l2, l3] = self.prefix;
                let length = u32::from_be_bytes([l0, l1, l2, l3]);
                match compressed {
                    0 if length <= MAX_MESSAGE => self.body = Some((Request::new(length), length)),
                    1 => return Err(No::Unreadable),
                    _ => return Err(No::OtherCall),
                }
            }
        }
        let Some((request, missing)) = &mut self.body else {
            return Ok(None);
        };
        let here = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        if here > *missing {
            // A second message: no unary call.
            return Err(No::OtherCall);
        }
        request.push(bytes)?;
        *missing -= here;
        if *missing > 0 {
            return Ok(None);
        }
        request.finish().map(Some)
    }

    /// Bytes that are kept for the answer.
    pub(crate) fn held(&self) -> usize {
        self.body.as_ref().map_or(0, |(request, _)| request.held())
    }

    #[cfg(test)]
    pub(crate) fn held_bytes(&self) -> Vec<u8> {
        self.body
            .as_ref()
            .map_or_else(Vec::new, |(request, _)| request.held_bytes())
    }
}
