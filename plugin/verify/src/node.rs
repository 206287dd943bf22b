//! One question to magi-node and one answer, in the line protocol of its control socket (`magi-node-api`, version 1).
//!
//! The protocol is spoken here by hand so that this program needs no dependency; `integration/tests/verifier.rs` keeps
//! both ends together.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::call::Call;
use crate::json::{self, Malformed, Scalar};
use crate::verdict::Verdict;

/// Longest question, in bytes without its newline: what magi-node takes.
const MAX_QUESTION: usize = 64 << 10;

/// Longest answer that is read, in bytes with its newline.
const MAX_ANSWER: u64 = 64 << 10;

/// Why magi-node's opinion is not known.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// containerd's reference is longer than any.
    TooLongToAsk(usize),
    /// Nobody listens.
    Connect(io::Error),
    /// The connection broke.
    Speak(io::Error),
    /// It broke later.
    Hear(io::Error),
    /// The line had no end when the connection had.
    Truncated,
    /// The line had no end within [`MAX_ANSWER`].
    TooLong,
    /// Not JSON that can be read.
    Malformed(Malformed),
    /// JSON of another version of the contract, or another one altogether.
    Foreign,
    /// magi-node says that it has no answer.
    Error(String),
    /// An answer to another question.
    Other(String),
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLongToAsk(len) => write!(f, "the question would have {len} bytes"),
            Self::Connect(error) => write!(f, "magi-node cannot be reached: {error}"),
            Self::Speak(error) => write!(f, "magi-node does not listen: {error}"),
            Self::Hear(error) => write!(f, "magi-node does not answer: {error}"),
            Self::Truncated => f.write_str("magi-node's answer has no end"),
            Self::TooLong => write!(f, "magi-node's answer has more than {MAX_ANSWER} bytes"),
            Self::Malformed(problem) => write!(f, "magi-node's answer is {problem}"),
            Self::Foreign => f.write_str("the answer is not in the words of magi-node's contract, version 1"),
            Self::Error(code) => write!(f, "magi-node has no answer: {code}"),
            Self::Other(answer) => write!(f, "magi-node answers another question: {answer}"),
        }
    }
}

/// Asks; may block for ever, and is to be watched.
pub(crate) fn ask(socket: &Path, call: &Call) -> Result<Verdict, Unanswered> {
    let question = question(call);
    if question.len() > MAX_QUESTION {
        return Err(Unanswered::TooLongToAsk(question.len()));
    }
    let mut stream = UnixStream::connect(socket).map_err(Unanswered::Connect)?;
    stream
        .write_all(format!("{question}\n").as_bytes())
        .map_err(Unanswered::Speak)?;
    let mut line = Vec::new();
    BufReader::new(stream.take(MAX_ANSWER))
        .read_until(b'\n', &mut line)
        .map_err(Unanswered::Hear)?;
    match line.split_last() {
        Some((b'\n', answer)) => verdict(answer),
        Some(_) if u64::try_from(line.len()).is_ok_and(|len| len >= MAX_ANSWER) => Err(Unanswered::TooLong),
        Some(_) | None => Err(Unanswered::Truncated),
    }
}

fn question(call: &Call) -> String {
    format!(
        r#"{{"v":1,"ask":"verify","image":{},"digest":{},"media_type":{},"size":{}}}"#,
        json::quoted(&call.image),
        json::quoted(&call.digest),
        json::quoted(&call.media_type),
        call.size
    )
}

/// What `{"v":1,"reply":{"now":…,"answer":{"answer":"refused","why":"…"}}}` and its like mean.
fn verdict(line: &[u8]) -> Result<Verdict, Unanswered> {
    let [version, answer, why, error] = json::find(
        line,
        [
            &["v"],
            &["reply", "answer", "answer"],
            &["reply", "answer", "why"],
            &["error", "code"],
        ],
    )
    .map_err(Unanswered::Malformed)?;
    let text = |value: Option<Scalar>| value.as_ref().and_then(Scalar::text).map(str::to_owned);
    if version.as_ref().and_then(Scalar::whole) != Some(1) {
        return Err(Unanswered::Foreign);
    }
    match (text(answer), text(why), text(error)) {
        (Some(answer), _, None) if answer == "admitted" => Ok(Verdict::Allow),
        (Some(answer), Some(why), None) if answer == "refused" && !why.trim().is_empty() => {
            Ok(Verdict::Refuse(why))
        }
        (None, _, Some(code)) => Err(Unanswered::Error(code)),
        (Some(answer), _, None) => Err(Unanswered::Other(answer)),
        (None, _, None) | (Some(_), _, Some(_)) => Err(Unanswered::Foreign),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_is_the_contract_s() {
        let call = Call {
            image: "r/\"x\\\u{1}é".to_owned(),
            digest: "sha256:00".to_owned(),
            media_type: String::new(),
            size: u64::MAX,
        };
        assert_eq!(
            question(&call),
            r#"{"v":1,"ask":"verify","image":"r/\"x\\\u0001é","digest":"sha256:00","media_type":"","size":18446744073709551615}"#
        );
    }

    #[test]
    fn a_clear_answer_is_taken() {
        for (line, expected) in [
            (
                r#"{"v":1,"reply":{"now":12,"answer":{"answer":"admitted","known":true}}}"#,
                Verdict::Allow,
            ),
            (
                r#" { "reply" : { "answer" : { "why" : "too\nlarge", "answer" : "refused" }, "now" : 12, "more" : [1] }, "v" : 1 } "#,
                Verdict::Refuse("too\nlarge".to_owned()),
            ),
        ] {
            assert_eq!(verdict(line.as_bytes()).unwrap(), expected, "{line}");
        }
    }

    #[test]
    fn any_other_answer_is_a_doubt() {
        for (line, problem) in [
            (
                r#"{"v":2,"reply":{"answer":{"answer":"refused","why":"x"}}}"#,
                "contract",
            ),
            (
                r#"{"reply":{"answer":{"answer":"refused","why":"x"}}}"#,
                "contract",
            ),
            (
                r#"{"v":"1","reply":{"answer":{"answer":"refused","why":"x"}}}"#,
                "contract",
            ),
            (
                r#"{"v":1,"reply":{"answer":{"answer":"refused"}}}"#,
                "another question",
            ),
            (
                r#"{"v":1,"reply":{"answer":{"answer":"refused","why":" \n"}}}"#,
                "another question",
            ),
            (
                r#"{"v":1,"reply":{"answer":{"answer":"refused","why":7}}}"#,
                "another question",
            ),
            (r#"{"v":1,"reply":{"answer":{"answer":"busy"}}}"#, "busy"),
            (r#"{"v":1,"reply":{"answer":"refused","why":"x"}}"#, "contract"),
            (
                r#"{"v":1,"reply":[{"answer":{"answer":"refused","why":"x"}}]}"#,
                "contract",
            ),
            (
                r#"{"v":1,"error":{"code":"malformed","message":"x"}}"#,
                "malformed",
            ),
            (
                r#"{"v":1,"error":{"code":"late"},"reply":{"answer":{"answer":"refused","why":"x"}}}"#,
                "contract",
            ),
            (
                r#"{"v":1,"reply":{"answer":{"answer":"admitted","answer":"refused","why":"x"}}}"#,
                "twice",
            ),
            (
                r#"{"v":1,"reply":{"answer":{"answer":"refused","why":"x"}}"#,
                "not JSON",
            ),
            (
                r#"{"v":1,"reply":{"answer":{"answer":"refused","why":"x"}}}}"#,
                "not JSON",
            ),
            ("HTTP/1.1 400 Bad Request\r", "not JSON"),
            ("", "not JSON"),
        ] {
            let said = verdict(line.as_bytes()).unwrap_err().to_string();
            assert!(said.contains(problem), "{line}\n{said}");
        }
    }
}
