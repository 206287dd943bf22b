//! The trunk: one socket that carries two connections, each frame naming the one that its bytes belong to.
//!
//! The runtime's side reads 4096 bytes at a time and gives up on a frame that is longer, so none is sent. What arrives
//! may be cut anywhere; a frame is handed on as its bytes come, and only a message is ever kept whole.

use bytes::{Buf as _, BytesMut};

use super::ttrpc::{HEADER as MESSAGE_HEADER, MAX_MESSAGE, Message, Messages, TooLong};

/// Connection and length.
const HEADER: usize = 8;
/// Longest frame that is taken.
const MAX_FRAME: usize = MAX_MESSAGE + MESSAGE_HEADER;
/// Most bytes in a frame that is sent.
/// Source: NRI 0.12.0 pkg/net/multiplex/mux.go (`conn.Read`), ttrpc channel.go (a `bufio.Reader` of the default size).
const MAX_SENT: usize = 4096;
/// Bytes asked of the socket at once.
const READ: usize = 64 << 10;

/// Why the trunk cannot be read any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum TrunkError {
    /// A frame is too long.
    #[error("a frame announces {length} bytes, {MAX_FRAME} are allowed")]
    Frame {
        /// What it announces.
        length: u32,
    },
    /// A message is too long.
    #[error(transparent)]
    Message(#[from] TooLong),
}

/// The connections in a trunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Connection {
    /// The runtime calls, and the plugin answers.
    Plugin = 1,
    /// The plugin calls, and the runtime answers.
    Runtime = 2,
}

/// The receiving end.
#[derive(Debug, Default)]
pub(super) struct Trunk {
    arrived: BytesMut,
    /// The frame whose bytes come next: where they go, if anywhere, and how many are missing.
    frame: Option<(Option<Connection>, usize)>,
    plugin: Messages,
    runtime: Messages,
}

impl Trunk {
    /// Where the next bytes from the socket are to be put.
    pub(super) fn room(&mut self) -> &mut BytesMut {
        self.arrived.reserve(READ);
        &mut self.arrived
    }

    /// The next message, if it is there as a whole. To be called until it is not, before more bytes are put in.
    ///
    /// # Errors
    /// Something announces more than is taken; then the trunk is of no more use.
    pub(super) fn next(&mut self) -> Result<Option<(Connection, Message)>, TrunkError> {
        loop {
            if let Some(message) = self.plugin.next()? {
                return Ok(Some((Connection::Plugin, message)));
            }
            if let Some(message) = self.runtime.next()? {
                return Ok(Some((Connection::Runtime, message)));
            }
            if !self.hand_on()? {
                return Ok(None);
            }
        }
    }

    /// Hands what has come of a frame to its connection; whether anything was there.
    fn hand_on(&mut self) -> Result<bool, TrunkError> {
        let Some((connection, missing)) = self.frame else {
            let Some([a, b, c, d, e, f, g, h]) = self.arrived.first_chunk::<HEADER>().copied() else {
                return Ok(false);
            };
            self.arrived.advance(HEADER);
            let announced = u32::from_be_bytes([e, f, g, h]);
            let length = usize::try_from(announced).unwrap_or(usize::MAX);
            if length > MAX_FRAME {
                return Err(TrunkError::Frame { length: announced });
            }
            let connection = match u32::from_be_bytes([a, b, c, d]) {
                1 => Some(Connection::Plugin),
                2 => Some(Connection::Runtime),
                // Nobody here opened it. The runtime skips such frames too.
                _ => None,
            };
            self.frame = (length > 0).then_some((connection, length));
            return Ok(true);
        };
        let here = missing.min(self.arrived.len());
        if here == 0 {
            return Ok(false);
        }
        let bytes = self.arrived.split_to(here);
        match connection {
            Some(Connection::Plugin) => self.plugin.push(&bytes),
            Some(Connection::Runtime) => self.runtime.push(&bytes),
            None => {}
        }
        self.frame = (here < missing).then(|| (connection, missing - here));
        Ok(true)
    }
}

/// `message` in as many frames as it takes.
pub(super) fn frames(connection: Connection, message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(message.len() + HEADER);
    for part in message.chunks(MAX_SENT) {
        let length = u32::try_from(part.len()).unwrap_or(0);
        bytes.extend_from_slice(&(connection as u32).to_be_bytes());
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}
