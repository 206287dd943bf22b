//! The conversation between magi-gateway and magi-node: calls that begin and end in the one direction, orders in the other.
//!
//! It begins on the control socket as every other, with the request `{"v":1,"ask":"gateway"}`. From then on each line is a
//! document of this file, in both directions, without any order between them; there is no answer to the request itself.
//! Each end hangs up on a line that it does not understand or that is longer than [`MAX_REQUEST`]: the gateway then connects
//! again and tells of every call that is still in flight, so that what was lost with the connection is lost to nobody.

use std::io;
use std::path::Path;

use futures_util::{SinkExt, StreamExt};
use magi_engine::Time;
use magi_engine::owner::PullRequest;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio_util::codec::{Framed, LinesCodec, LinesCodecError};

use crate::line::{MAX_REQUEST, write_request};
use crate::request::Ask;

/// A call through the gateway, numbered by it; no number is used twice by one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CallNumber(pub u64);

/// An order to the gateway, numbered by the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OrderNumber(pub u64);

/// What the gateway says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "tell", rename_all = "kebab-case")]
pub enum FromGateway {
    /// A `PullImage` call was read, or is still in flight when the conversation begins.
    Began {
        /// Names it.
        call: CallNumber,
        /// When its request was read, by the wall clock.
        at: Time,
        /// What it asks for.
        request: PullRequest,
        /// It waits, for a short time, for [`ToGateway::Admission`].
        asks: bool,
    },
    /// It is over, however.
    Ended {
        /// It.
        call: CallNumber,
    },
    /// What came of an order.
    Cancelled {
        /// The order.
        order: OrderNumber,
        /// Calls that were in flight and are cancelled.
        count: u64,
    },
}

/// What the node says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "tell", rename_all = "kebab-case")]
pub enum ToGateway {
    /// Cancel these calls; answered with [`FromGateway::Cancelled`].
    Cancel {
        /// Names the order.
        order: OrderNumber,
        /// The calls.
        calls: Vec<CallNumber>,
        /// What their callers are to hear.
        refusal: Refusal,
    },
    /// Whether a call may go on to containerd at all.
    Admission {
        /// The call.
        call: CallNumber,
        /// What its caller is to hear instead of an answer; none: it may.
        refusal: Option<Refusal>,
    },
}

pub use magi_engine::action::{Refusal, RefusalKind};

/// Why a conversation is over.
#[derive(Debug, thiserror::Error)]
pub enum TalkError {
    /// Nobody listens.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// The connection broke, or a line is too long.
    #[error("the connection broke")]
    Broken(#[source] LinesCodecError),
    /// A line says nothing that this version understands.
    #[error("a line that cannot be understood")]
    Nonsense(#[source] serde_json::Error),
    /// What is to be said cannot be written.
    #[error("a line that cannot be written")]
    Unspeakable(#[source] serde_json::Error),
}

/// One end of the conversation.
#[derive(Debug)]
pub struct Talk {
    lines: Framed<UnixStream, LinesCodec>,
}

impl Talk {
    /// The gateway's end: connects and asks for the conversation.
    ///
    /// # Errors
    /// Nobody listens on `socket`, or whoever does hangs up.
    pub async fn begin(socket: &Path) -> Result<Self, TalkError> {
        let stream = UnixStream::connect(socket).await.map_err(TalkError::Connect)?;
        let mut talk = Self::on(Framed::new(stream, LinesCodec::new_with_max_length(MAX_REQUEST)));
        let request = write_request(Ask::Gateway {}).map_err(TalkError::Unspeakable)?;
        talk.lines.send(request).await.map_err(TalkError::Broken)?;
        Ok(talk)
    }

    /// The node's end, once it was asked for.
    pub(crate) const fn on(lines: Framed<UnixStream, LinesCodec>) -> Self {
        Self { lines }
    }

    /// The next thing that the other end says; none: it hung up. May be dropped unfinished and called again.
    ///
    /// # Errors
    /// The connection broke, or the line cannot be understood.
    pub async fn hear<T: DeserializeOwned>(&mut self) -> Result<Option<T>, TalkError> {
        let Some(line) = self.lines.next().await else {
            return Ok(None);
        };
        let line = line.map_err(TalkError::Broken)?;
        serde_json::from_str(&line).map(Some).map_err(TalkError::Nonsense)
    }

    /// Says something. Dropped unfinished, it may have said part of it: then the conversation is over.
    ///
    /// # Errors
    /// The connection broke, or this cannot be written.
    pub async fn tell<T: Serialize>(&mut self, what: &T) -> Result<(), TalkError> {
        let line = serde_json::to_string(what).map_err(TalkError::Unspeakable)?;
        self.lines.send(line).await.map_err(TalkError::Broken)
    }
}
