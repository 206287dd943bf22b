//! The scalars that a document may hold, each with its bounds.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use magi_engine::ids::ContainerdNamespace;

use crate::problem::{Problem, Sink, quoted};
use crate::schema::{Accepts, Path, Read, closest, list};
use crate::size::{human_bytes, parse_size};
use crate::span::{parse_duration, write_milliseconds};
use crate::tree::{Node, Value};

/// Bytes that the path of a unix socket may have: `sun_path` of Linux holds 108, one of them the final zero.
const MAX_SOCKET_PATH: usize = 107;
/// Bytes that any path may have.
const MAX_PATH: usize = 4096;
/// Bytes that containerd allows in the name of a namespace.
const MAX_CONTAINERD_NAMESPACE: usize = 76;

/// Why a scalar's text is refused, and what to write instead.
pub(crate) struct Refused {
    message: String,
    hint: String,
}

/// Words a refusal.
pub(crate) fn refuse<T>(message: impl Into<String>, hint: impl Into<String>) -> Result<T, Refused> {
    Err(Refused {
        message: message.into(),
        hint: hint.into(),
    })
}

/// A type that is written as one scalar.
pub(crate) trait Scalar: Sized {
    /// What the reference says may be written.
    fn words() -> String;

    /// Reads the text.
    fn parse(text: &str) -> Result<Self, Refused>;

    /// What an empty value means.
    fn absent() -> Option<Self> {
        None
    }
}

impl<T: Scalar> Read for T {
    fn accepts() -> Accepts {
        Accepts::Scalar(T::words())
    }

    fn read(node: &Node, path: &Path<'_>, sink: &mut Sink) -> Option<Self> {
        let refused = match &node.value {
            Value::Text(text) => match T::parse(text) {
                Ok(value) => return Some(value),
                Err(refused) => refused,
            },
            Value::Broken => return None,
            Value::Null => match T::absent() {
                Some(value) => return Some(value),
                None => Refused {
                    message: "the value is missing".to_owned(),
                    hint: format!("write {}, or leave the key out", T::words()),
                },
            },
            Value::List(_) | Value::Map(_) => Refused {
                message: format!("expected one value, found {}", node.value.kind()),
                hint: format!("write {}", T::words()),
            },
        };
        sink.report(
            &node.mark,
            Problem::new(path.text(), refused.message).hint(refused.hint),
        );
        None
    }
}

/// The number of a document's format.
#[derive(Debug)]
pub(crate) struct Version;

/// The only format that there is.
pub(crate) const VERSION: &str = "1";

impl Scalar for Version {
    fn words() -> String {
        format!("`{VERSION}`")
    }

    fn parse(text: &str) -> Result<Self, Refused> {
        if text == VERSION {
            return Ok(Self);
        }
        refuse(
            format!("version {} is not known to this release", quoted(text)),
            format!("write `version: {VERSION}`, or run a release that knows it"),
        )
    }
}

/// A limit in bytes, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit(pub(crate) Option<u64>);

impl Scalar for Limit {
    fn words() -> String {
        "a size such as `10GiB`, or `none`".to_owned()
    }

    fn parse(text: &str) -> Result<Self, Refused> {
        if text == "none" {
            return Ok(Self(None));
        }
        size(text).map(|bytes| Self(Some(bytes)))
    }
}

/// A size of `LEAST` to `MOST` bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size<const LEAST: u64, const MOST: u64>(pub(crate) u64);

impl<const LEAST: u64, const MOST: u64> Scalar for Size<LEAST, MOST> {
    fn words() -> String {
        format!("a size from `{}` to `{}`", human_bytes(LEAST), human_bytes(MOST))
    }

    fn parse(text: &str) -> Result<Self, Refused> {
        let bytes = size(text)?;
        if (LEAST..=MOST).contains(&bytes) {
            return Ok(Self(bytes));
        }
        refuse(
            format!("{} is out of bounds", quoted(text)),
            format!("write {}", Self::words()),
        )
    }
}

fn size(text: &str) -> Result<u64, Refused> {
    parse_size(text).or_else(|error| refuse(format!("{error}: {}", quoted(text)), error.hint()))
}

/// A duration of `LEAST` to `MOST` milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span<const LEAST: u64, const MOST: u64>(pub(crate) Duration);

impl<const LEAST: u64, const MOST: u64> Scalar for Span<LEAST, MOST> {
    fn words() -> String {
        format!(
            "a duration from `{}` to `{}`",
            write_milliseconds(LEAST),
            write_milliseconds(MOST)
        )
    }

    fn parse(text: &str) -> Result<Self, Refused> {
        let hint = || format!("write {}; units are ms, s, m, h", Self::words());
        let duration = match parse_duration(text) {
            Ok(duration) => duration,
            Err(error) => return refuse(format!("{error}: {}", quoted(text)), hint()),
        };
        if (Duration::from_millis(LEAST)..=Duration::from_millis(MOST)).contains(&duration) {
            return Ok(Self(duration));
        }
        refuse(format!("{} is out of bounds", quoted(text)), hint())
    }
}

/// A whole number of `LEAST` to `MOST`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Count<const LEAST: u32, const MOST: u32>(pub(crate) u32);

impl<const LEAST: u32, const MOST: u32> Scalar for Count<LEAST, MOST> {
    fn words() -> String {
        format!("a whole number from {LEAST} to {MOST}")
    }

    fn parse(text: &str) -> Result<Self, Refused> {
        match text.parse::<u32>() {
            Ok(number) if (LEAST..=MOST).contains(&number) => Ok(Self(number)),
            Ok(_) => refuse(
                format!("{} is out of bounds", quoted(text)),
                format!("write {}", Self::words()),
            ),
            Err(_) => refuse(
                format!("{} is no such number", quoted(text)),
                format!("write {}", Self::words()),
            ),
        }
    }
}

/// Yes or no.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flag(pub(crate) bool);

impl Scalar for Flag {
    fn words() -> String {
        "`true` or `false`".to_owned()
    }

    fn parse(text: &str) -> Result<Self, Refused> {
        match text {
            "true" => Ok(Self(true)),
            "false" => Ok(Self(false)),
            _ => refuse(
                format!("{} is neither true nor false", quoted(text)),
                "write `true` or `false`",
            ),
        }
    }
}

/// A type with few values, each with its word.
pub(crate) trait Choice: Copy + 'static {
    /// The words and what they stand for.
    const WORDS: &'static [(&'static str, Self)];
}

/// One of the words of a [`Choice`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct OneOf<T>(pub(crate) T);

impl<T: Choice> Scalar for OneOf<T> {
    fn words() -> String {
        format!(
            "one of {}",
            list(&T::WORDS.iter().map(|(word, _)| *word).collect::<Vec<_>>())
        )
    }

    fn parse(text: &str) -> Result<Self, Refused> {
        if let Some((_, value)) = T::WORDS.iter().find(|(word, _)| *word == text) {
            return Ok(Self(*value));
        }
        let words: Vec<&str> = T::WORDS.iter().map(|(word, _)| *word).collect();
        let hint = closest(text, &words).map_or_else(
            || format!("write {}", Self::words()),
            |meant| format!("did you mean `{meant}`?"),
        );
        refuse(format!("{} is not known", quoted(text)), hint)
    }
}

/// An address of this machine, and a port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address(pub(crate) SocketAddr);

impl Scalar for Address {
    fn words() -> String {
        "an address and a port, such as `0.0.0.0:7443` or `[::1]:7443`".to_owned()
    }

    fn parse(text: &str) -> Result<Self, Refused> {
        match text.parse() {
            Ok(address) => Ok(Self(address)),
            Err(_) => refuse(
                format!("{} is no address with a port", quoted(text)),
                format!("write {}", Self::words()),
            ),
        }
    }
}

/// An address of this machine and a port, or nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MaybeAddress(pub(crate) Option<SocketAddr>);

impl Scalar for MaybeAddress {
    fn words() -> String {
        format!("{}, or `null`", Address::words())
    }

    fn parse(text: &str) -> Result<Self, Refused> {
        Address::parse(text).map(|address| Self(Some(address.0)))
    }

    fn absent() -> Option<Self> {
        Some(Self(None))
    }
}

/// The absolute path of a file.
#[derive(Clone, Debug)]
pub(crate) struct FilePath(pub(crate) PathBuf);

impl Scalar for FilePath {
    fn words() -> String {
        "an absolute path".to_owned()
    }

    fn parse(text: &str) -> Result<Self, Refused> {
        path(text, MAX_PATH).map(Self)
    }
}

/// The absolute path of a file, or nothing.
#[derive(Clone, Debug)]
pub(crate) struct MaybeFilePath(pub(crate) Option<PathBuf>);

impl Scalar for MaybeFilePath {
    fn words() -> String {
        "an absolute path, or `null`".to_owned()
    }

    fn parse(text: &str) -> Result<Self, Refused> {
        path(text, MAX_PATH).map(|path| Self(Some(path)))
    }

    fn absent() -> Option<Self> {
        Some(Self(None))
    }
}

/// The absolute path of a unix socket.
#[derive(Clone, Debug)]
pub(crate) struct SocketPath(pub(crate) PathBuf);

impl Scalar for SocketPath {
    fn words() -> String {
        format!("the absolute path of a unix socket, at most {MAX_SOCKET_PATH} bytes")
    }

    fn parse(text: &str) -> Result<Self, Refused> {
        if let Some(rest) = text.strip_prefix("unix://") {
            return refuse(
                format!("{} is no path", quoted(text)),
                format!("write {}", quoted(rest)),
            );
        }
        path(text, MAX_SOCKET_PATH).map(Self)
    }
}

fn path(text: &str, most: usize) -> Result<PathBuf, Refused> {
    if text.len() > most {
        let message = format!("the path has {} bytes, {most} are allowed", text.len());
        return refuse(message, "choose a shorter one");
    }
    if text.contains(char::is_control) {
        return refuse(format!("{} has a control character", quoted(text)), "remove it");
    }
    if !text.starts_with('/') {
        let hint = "write the whole path, beginning with `/`";
        return refuse(format!("{} is not an absolute path", quoted(text)), hint);
    }
    if text.ends_with('/') {
        return refuse(format!("{} names a directory", quoted(text)), "name a file in it");
    }
    Ok(PathBuf::from(text))
}

impl Scalar for ContainerdNamespace {
    fn words() -> String {
        "the name of a containerd namespace".to_owned()
    }

    fn parse(text: &str) -> Result<Self, Refused> {
        // The grammar of containerd's `identifiers` package: alphanumeric runs, one separator between two.
        let allowed = text.len() <= MAX_CONTAINERD_NAMESPACE
            && text
                .split(['.', '_', '-'])
                .all(|run| !run.is_empty() && run.chars().all(|c| c.is_ascii_alphanumeric()));
        match Self::new(text) {
            Ok(name) if allowed => Ok(name),
            _ => refuse(
                format!("{} is no name of a containerd namespace", quoted(text)),
                "Kubernetes uses `k8s.io`; `ctr namespaces ls` lists those of this node",
            ),
        }
    }
}
