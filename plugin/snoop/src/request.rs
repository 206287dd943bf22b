//! `PullImageRequest`, told from every other message and read while it passes.
//!
//! Nothing is kept but the texts of [`PullRequest`]. Field 2, the credentials, is stepped over without a copy. There is no
//! recursion: a message within a message is a place where it ends, and there are at most three of those.
//!
//! Shapes: vendored cri-api runtime/v1 api.proto, `PullImageRequest`, `ImageSpec`, `PodSandboxConfig`. Fields 1 come first,
//! as every encoder in use writes them; what looks otherwise is another call.

mod texts;

use crate::PullRequest;
use texts::{Text, Texts};

/// Why no pull can be told of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum No {
    /// It is another call.
    OtherCall,
    /// It may be a pull, but cannot be read: compressed, or beyond a bound.
    Unreadable,
}

/// Numbers on the wire.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

/// The kinds of messages that are looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Request,
    Image,
    Sandbox,
    Metadata,
    Label,
}

/// What the next byte belongs to.
#[derive(Clone, Copy)]
enum Phase {
    Key(Varint),
    Number(Meaning, Varint),
    Length(Meaning, Varint),
    Skip(u64),
    Take(Text, u64),
}

/// What to do with a field.
#[derive(Clone, Copy)]
enum Meaning {
    Skip,
    Attempt,
    Enter(Level),
    Take(Text),
}

#[derive(Clone, Copy, Default)]
struct Varint {
    value: u64,
    shift: u32,
}

impl Varint {
    fn push(&mut self, byte: u8) -> Result<Option<u64>, No> {
        let bits = u64::from(byte & 0x7f);
        if self.shift > 63 || (self.shift == 63 && bits > 1) {
            return Err(No::OtherCall);
        }
        self.value |= bits << self.shift;
        self.shift += 7;
        Ok((byte & 0x80 == 0).then_some(self.value))
    }
}

/// A message that may be a request to pull.
pub(crate) struct Request {
    position: u64,
    /// The messages that the next byte is in, the innermost last, each with the position of its end.
    levels: Vec<(Level, u64)>,
    phase: Phase,
    /// Which of the top fields came.
    has_auth: bool,
    has_sandbox: bool,
    has_metadata: bool,
    has_unknown: bool,
    attempt: u32,
    texts: Texts,
}

impl Request {
    /// A message of `length` bytes.
    pub(crate) fn new(length: u32) -> Self {
        let mut levels = Vec::with_capacity(3);
        levels.push((Level::Request, u64::from(length)));
        Self {
            position: 0,
            levels,
            phase: Phase::Key(Varint::default()),
            has_auth: false,
            has_sandbox: false,
            has_metadata: false,
            has_unknown: false,
            attempt: 0,
            texts: Texts::default(),
        }
    }

    /// Takes the next bytes of the message.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> Result<(), No> {
        while let Some((first, after)) = bytes.split_first() {
            match self.phase {
                Phase::Skip(rest) => {
                    let (_, after, rest) = split(bytes, rest);
                    self.advance(bytes, after);
                    bytes = after;
                    self.phase = if rest == 0 {
                        Phase::key()
                    } else {
                        Phase::Skip(rest)
                    };
                }
                Phase::Take(text, rest) => {
                    let (taken, after, rest) = split(bytes, rest);
                    self.texts.push(text, taken)?;
                    self.advance(bytes, after);
                    bytes = after;
                    self.phase = if rest == 0 {
                        Phase::key()
                    } else {
                        Phase::Take(text, rest)
                    };
                }
                Phase::Key(mut varint) => {
                    self.position += 1;
                    bytes = after;
                    self.phase = match varint.push(*first)? {
                        None => Phase::Key(varint),
                        Some(key) => self.field(key)?,
                    };
                }
                Phase::Number(meaning, mut varint) => {
                    self.position += 1;
                    bytes = after;
                    self.phase = match varint.push(*first)? {
                        None => Phase::Number(meaning, varint),
                        Some(number) => {
                            if let Meaning::Attempt = meaning {
                                // As a decoder of uint32 does.
                                self.attempt = u32::try_from(number & u64::from(u32::MAX)).unwrap_or(0);
                            }
                            Phase::key()
                        }
                    };
                }
                Phase::Length(meaning, mut varint) => {
                    self.position += 1;
                    bytes = after;
                    self.phase = match varint.push(*first)? {
                        None => Phase::Length(meaning, varint),
                        Some(length) => self.open(meaning, length)?,
                    };
                }
            }
            self.leave()?;
        }
        Ok(())
    }

    /// What the message says, now that all of it was taken.
    pub(crate) fn finish(&mut self) -> Result<PullRequest, No> {
        // An empty message has nothing to leave.
        if !self.levels.is_empty() {
            return Err(No::OtherCall);
        }
        let request = self.texts.finish(self.attempt)?;
        if self.has_unknown && !request.certain {
            return Err(No::OtherCall);
        }
        Ok(request)
    }

    /// A field begins: what its number and its kind mean here.
    fn field(&mut self, key: u64) -> Result<Phase, No> {
        let (number, wire) = (key >> 3, key & 7);
        let level = self.levels.last().map(|(level, _)| *level);
        let has_image = self.texts.has(Text::Image);
        let meaning = match (level, number, wire) {
            (None, ..) | (_, 0, _) => return Err(No::OtherCall),
            (Some(Level::Request), 1, BYTES) if !has_image => Meaning::Enter(Level::Image),
            (Some(Level::Request), 2, BYTES) if has_image && !self.has_auth => {
                self.has_auth = true;
                Meaning::Skip
            }
            (Some(Level::Request), 3, BYTES) if has_image && !self.has_sandbox => {
                self.has_sandbox = true;
                Meaning::Enter(Level::Sandbox)
            }
            // Bool 2 is ImageStatus.
            (Some(Level::Request), 1..=3, _) => return Err(No::OtherCall),
            (Some(Level::Request), ..) if has_image => {
                self.has_unknown = true;
                Meaning::Skip
            }
            (Some(Level::Request), ..) => return Err(No::OtherCall),

            (Some(Level::Image), 1, BYTES) if !has_image => Meaning::Take(Text::Image),
            (Some(Level::Image), 2, BYTES) if has_image => Meaning::Skip,
            // Numbers from 18 on are what CRI adds to; the others belong to messages of containerd's own API.
            (Some(Level::Image), 18.., _) if has_image => Meaning::Skip,
            (Some(Level::Image), ..) => return Err(No::OtherCall),

            (Some(Level::Sandbox), 1, BYTES) if !self.has_metadata => {
                self.has_metadata = true;
                Meaning::Enter(Level::Metadata)
            }
            (Some(Level::Sandbox), 6, BYTES) => Meaning::Enter(Level::Label),
            (Some(Level::Sandbox), 1 | 6, _) => return Err(No::OtherCall),

            (Some(Level::Metadata), 1, BYTES) if !self.texts.has(Text::Name) => Meaning::Take(Text::Name),
            (Some(Level::Metadata), 2, BYTES) if !self.texts.has(Text::Uid) => Meaning::Take(Text::Uid),
            (Some(Level::Metadata), 3, BYTES) if !self.texts.has(Text::Namespace) => {
                Meaning::Take(Text::Namespace)
            }
            (Some(Level::Metadata), 4, VARINT) => Meaning::Attempt,
            (Some(Level::Metadata), 1..=4, _) => return Err(No::OtherCall),

            (Some(Level::Label), 1, BYTES) => Meaning::Take(Text::LabelKey),
            (Some(Level::Label), 2, BYTES) => Meaning::Take(Text::LabelValue),
            (Some(Level::Label), 1 | 2, _) => return Err(No::OtherCall),

            (Some(Level::Sandbox | Level::Metadata | Level::Label), ..) => Meaning::Skip,
        };
        match wire {
            VARINT => Ok(Phase::Number(meaning, Varint::default())),
            BYTES => Ok(Phase::Length(meaning, Varint::default())),
            FIXED64 => self.open(Meaning::Skip, 8),
            FIXED32 => self.open(Meaning::Skip, 4),
            _ => Err(No::OtherCall),
        }
    }

    /// A field's content of `length` bytes begins.
    fn open(&mut self, meaning: Meaning, length: u64) -> Result<Phase, No> {
        let end = self.position.checked_add(length).ok_or(No::OtherCall)?;
        if self.levels.last().is_none_or(|(_, outer)| end > *outer) {
            return Err(No::OtherCall);
        }
        match meaning {
            Meaning::Enter(level) => {
                self.levels.push((level, end));
                Ok(Phase::key())
            }
            Meaning::Take(text) if self.texts.begin(text, length)? => Ok(Phase::take(text, length)),
            Meaning::Take(_) | Meaning::Skip | Meaning::Attempt => Ok(Phase::skip(length)),
        }
    }

    /// Leaves the messages that end here; a field that reaches beyond its message makes it none.
    fn leave(&mut self) -> Result<(), No> {
        while let Some((level, end)) = self.levels.last().copied() {
            if self.position < end {
                return Ok(());
            }
            if !matches!(self.phase, Phase::Key(Varint { shift: 0, .. })) {
                // Of the messages that end here only an inner one may still expect bytes, and it expects none beyond.
                return Err(No::OtherCall);
            }
            match level {
                Level::Image if !self.texts.has(Text::Image) => return Err(No::OtherCall),
                Level::Label => self.texts.end_label(),
                Level::Request | Level::Image | Level::Sandbox | Level::Metadata => {}
            }
            self.levels.pop();
        }
        Ok(())
    }

    fn advance(&mut self, before: &[u8], after: &[u8]) {
        self.position += u64::try_from(before.len() - after.len()).unwrap_or(0);
    }

    /// Bytes that are kept.
    pub(crate) fn held(&self) -> usize {
        self.texts.held()
    }

    #[cfg(test)]
    pub(crate) fn held_bytes(&self) -> Vec<u8> {
        self.texts.held_bytes()
    }
}

impl Phase {
    fn key() -> Self {
        Self::Key(Varint::default())
    }

    fn skip(length: u64) -> Self {
        if length == 0 {
            Self::key()
        } else {
            Self::Skip(length)
        }
    }

    fn take(text: Text, length: u64) -> Self {
        if length == 0 {
            Self::key()
        } else {
            Self::Take(text, length)
        }
    }
}

/// As much of `bytes` as is `wanted`, what follows, and how much is still wanted then.
fn split(bytes: &[u8], wanted: u64) -> (&[u8], &[u8], u64) {
    let here = bytes.len().min(usize::try_from(wanted).unwrap_or(usize::MAX));
    let (taken, after) = bytes.split_at_checked(here).unwrap_or((bytes, &[]));
    (taken, after, wanted - u64::try_from(here).unwrap_or(wanted))
}
