//! What comes back: an answer, the node's status, or a typed refusal.

use magi_engine::Time;
use magi_engine::action::Answer;
use serde::{Deserialize, Serialize};

use crate::status::NodeStatus;

/// A request was heard and this came of it; that a pull could not be stopped is such an answer too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// From the engine.
    Answer {
        /// The node's time, so that ages need no second clock.
        now: Time,
        /// The answer.
        answer: Answer,
    },
    /// From the node itself.
    Status(Box<NodeStatus>),
}

/// The contract itself was not met; nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message} ({code})")]
pub struct Refusal {
    /// For programs.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

/// Why a request got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The request speaks another version of this contract.
    WrongVersion,
    /// The request is no JSON object, or none that this version knows.
    Malformed,
    /// The request is longer than [`crate::MAX_REQUEST`].
    RequestTooLong,
    /// The answer would be longer than [`crate::MAX_ANSWER`].
    AnswerTooLong,
    /// The asker is neither root nor the user that the node runs as.
    Forbidden,
    /// Too many connections are open already.
    Busy,
    /// No answer was found in time; what was asked for may still happen.
    Late,
    /// The node is shutting down or its engine is gone.
    Unavailable,
    /// A code that this version does not know.
    #[serde(other)]
    Unknown,
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::WrongVersion => "wrong-version",
            Self::Malformed => "malformed",
            Self::RequestTooLong => "request-too-long",
            Self::AnswerTooLong => "answer-too-long",
            Self::Forbidden => "forbidden",
            Self::Busy => "busy",
            Self::Late => "late",
            Self::Unavailable => "unavailable",
            Self::Unknown => "unknown",
        })
    }
}
