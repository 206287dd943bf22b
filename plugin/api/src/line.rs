//! One line to one document and back, within bounds.

use magi_engine::Time;
use magi_engine::action::Answer;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::reply::{ErrorCode, Refusal, Reply};
use crate::request::Ask;
use crate::status::NodeStatus;

/// The version of this contract; a change that an older peer would misread raises it.
pub const VERSION: u64 = 1;

/// Longest request, in bytes without its newline.
pub const MAX_REQUEST: usize = 64 << 10;

/// Longest answer, in bytes without its newline.
pub const MAX_ANSWER: usize = 16 << 20;

#[derive(Serialize)]
struct RequestLine {
    v: u64,
    #[serde(flatten)]
    ask: Ask,
}

#[derive(Serialize)]
struct AnswerLine<'a> {
    v: u64,
    #[serde(flatten)]
    body: BodyRef<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum BodyRef<'a> {
    Reply { now: Time, answer: &'a Answer },
    Status(&'a NodeStatus),
    Error(&'a Refusal),
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Body {
    Reply { now: Time, answer: Answer },
    Status(Box<NodeStatus>),
    Error(Refusal),
}

/// What a line from the node says, or why it says nothing.
pub(crate) enum Heard {
    Reply(Reply),
    Refused(Refusal),
    OtherVersion(Option<u64>),
    Nonsense(serde_json::Error),
}

/// Writes a request, without its newline.
pub(crate) fn write_request(ask: Ask) -> Result<String, serde_json::Error> {
    serde_json::to_string(&RequestLine { v: VERSION, ask })
}

/// Reads a request.
pub(crate) fn read_request(line: &str) -> Result<Ask, Refusal> {
    let malformed = |error: serde_json::Error| Refusal::new(ErrorCode::Malformed, error.to_string());
    let mut value: Value = serde_json::from_str(line).map_err(malformed)?;
    let version = match take_version(&mut value) {
        Some(VERSION) => return serde_json::from_value(value).map_err(malformed),
        Some(version) => format!("the request speaks version {version}"),
        None => "the request has no version `v`".to_owned(),
    };
    Err(Refusal::new(
        ErrorCode::WrongVersion,
        format!("{version}, this magi-node speaks version {VERSION}"),
    ))
}

/// Writes what came of a request, without its newline; always short enough.
pub(crate) fn write_answer(result: &Result<Reply, Refusal>) -> Result<String, serde_json::Error> {
    let body = match result {
        Ok(Reply::Answer { now, answer }) => BodyRef::Reply { now: *now, answer },
        Ok(Reply::Status(status)) => BodyRef::Status(status),
        Err(refusal) => BodyRef::Error(refusal),
    };
    let line = serde_json::to_string(&AnswerLine { v: VERSION, body })?;
    if line.len() <= MAX_ANSWER {
        return Ok(line);
    }
    let refusal = Refusal::new(
        ErrorCode::AnswerTooLong,
        format!("the answer has {} bytes, {MAX_ANSWER} are allowed", line.len()),
    );
    serde_json::to_string(&AnswerLine {
        v: VERSION,
        body: BodyRef::Error(&refusal),
    })
}

/// Reads what came of a request. Unknown fields are passed over: a newer node may say more.
pub(crate) fn read_answer(line: &str) -> Heard {
    let mut value: Value = match serde_json::from_str(line) {
        Ok(value) => value,
        Err(error) => return Heard::Nonsense(error),
    };
    match take_version(&mut value) {
        Some(VERSION) => {}
        other => return Heard::OtherVersion(other),
    }
    match serde_json::from_value(value) {
        Ok(Body::Reply { now, answer }) => Heard::Reply(Reply::Answer { now, answer }),
        Ok(Body::Status(status)) => Heard::Reply(Reply::Status(status)),
        Ok(Body::Error(refusal)) => Heard::Refused(refusal),
        Err(error) => Heard::Nonsense(error),
    }
}

fn take_version(value: &mut Value) -> Option<u64> {
    value.as_object_mut()?.remove("v")?.as_u64()
}
