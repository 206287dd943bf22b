//! `PullImageRequest`, told from every other message and read while it passes.
//!
//! Nothing is kept but the texts of [`PullRequest`]. Field 2, the credentials, is stepped over without a copy. There is no
//! recursion: a message within a message is a place where it ends, and there are at most three of those.
//!
//! Shapes: vendored cri-api runtime/v1 api.proto, `PullImageRequest`, `ImageSpec`, `PodSandboxConfig`. Fields 1 come first,
//! as every encoder in use writes them; what looks otherwise is another call.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use crate::{MAX_IMAGE, MAX_LABEL_BYTES, MAX_LABELS, MAX_POD_TEXT, Pod, PullRequest};

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

/// The texts that are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Text {
    Image,
    Name,
    Uid,
    Namespace,
    LabelKey,
    LabelValue,
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

type Buffer = Zeroizing<Vec<u8>>;

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
    image: Option<Buffer>,
    name: Option<Buffer>,
    uid: Option<Buffer>,
    namespace: Option<Buffer>,
    attempt: u32,
    label_key: Buffer,
    label_value: Buffer,
    labels: Option<BTreeMap<String, String>>,
    label_bytes: usize,
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
            image: None,
            name: None,
            uid: None,
            namespace: None,
            attempt: 0,
            label_key: Buffer::default(),
            label_value: Buffer::default(),
            labels: Some(BTreeMap::new()),
            label_bytes: 0,
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
                    self.take(text, taken)?;
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
        let image = self
            .image
            .take()
            .filter(|_| self.levels.is_empty())
            .ok_or(No::OtherCall)?;
        let image = text(&image)?;
        let mut take = |part: fn(&mut Self) -> &mut Option<Buffer>| match part(self).take() {
            Some(buffer) => text(&buffer),
            None => Ok(String::new()),
        };
        let (name, uid, namespace) = (
            take(|it| &mut it.name)?,
            take(|it| &mut it.uid)?,
            take(|it| &mut it.namespace)?,
        );
        let certain = !name.is_empty() && !uid.is_empty() && !namespace.is_empty();
        if !certain && self.has_unknown {
            return Err(No::OtherCall);
        }
        let labels = self.labels.take();
        let pod = Pod {
            uid,
            name,
            namespace,
            attempt: self.attempt,
            labels,
        };
        Ok(PullRequest {
            image,
            pod: certain.then_some(pod),
            certain,
        })
    }

    /// A field begins: what its number and its kind mean here.
    fn field(&mut self, key: u64) -> Result<Phase, No> {
        let (number, wire) = (key >> 3, key & 7);
        let level = self.levels.last().map(|(level, _)| *level);
        let has_image = self.image.is_some();
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

            (Some(Level::Metadata), 1, BYTES) if self.name.is_none() => Meaning::Take(Text::Name),
            (Some(Level::Metadata), 2, BYTES) if self.uid.is_none() => Meaning::Take(Text::Uid),
            (Some(Level::Metadata), 3, BYTES) if self.namespace.is_none() => Meaning::Take(Text::Namespace),
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
            Meaning::Take(text) => self.open_text(text, length),
            Meaning::Skip | Meaning::Attempt => Ok(Phase::skip(length)),
        }
    }

    fn open_text(&mut self, text: Text, length: u64) -> Result<Phase, No> {
        let bytes = usize::try_from(length).unwrap_or(usize::MAX);
        let place = match text {
            Text::Image => {
                if bytes == 0 || bytes > MAX_IMAGE {
                    return Err(No::OtherCall);
                }
                &mut self.image
            }
            Text::Name => &mut self.name,
            Text::Uid => &mut self.uid,
            Text::Namespace => &mut self.namespace,
            Text::LabelKey | Text::LabelValue => {
                self.label_bytes = self.label_bytes.saturating_add(bytes);
                if self.label_bytes > MAX_LABEL_BYTES {
                    self.labels = None;
                }
                if self.labels.is_none() {
                    return Ok(Phase::skip(length));
                }
                let place = if text == Text::LabelKey {
                    &mut self.label_key
                } else {
                    &mut self.label_value
                };
                *place = Buffer::new(Vec::with_capacity(bytes));
                return Ok(Phase::take(text, length));
            }
        };
        if text != Text::Image && bytes > MAX_POD_TEXT {
            return Err(No::Unreadable);
        }
        // At its full size at once: a buffer that grows would leave copies behind.
        *place = Some(Buffer::new(Vec::with_capacity(bytes)));
        Ok(Phase::take(text, length))
    }

    fn take(&mut self, text: Text, bytes: &[u8]) -> Result<(), No> {
        let place = match text {
            Text::Image if !bytes.iter().all(u8::is_ascii_graphic) => return Err(No::OtherCall),
            Text::Image => self.image.as_mut(),
            Text::Name => self.name.as_mut(),
            Text::Uid => self.uid.as_mut(),
            Text::Namespace => self.namespace.as_mut(),
            Text::LabelKey => Some(&mut self.label_key),
            Text::LabelValue => Some(&mut self.label_value),
        };
        if let Some(place) = place {
            place.extend_from_slice(bytes);
        }
        Ok(())
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
                Level::Image if self.image.is_none() => return Err(No::OtherCall),
                Level::Label => self.keep_label(),
                Level::Request | Level::Image | Level::Sandbox | Level::Metadata => {}
            }
            self.levels.pop();
        }
        Ok(())
    }

    fn keep_label(&mut self) {
        let (key, value) = (
            std::mem::take(&mut self.label_key),
            std::mem::take(&mut self.label_value),
        );
        let Some(labels) = &mut self.labels else {
            return;
        };
        match (std::str::from_utf8(&key), std::str::from_utf8(&value)) {
            (Ok(key), Ok(value)) if labels.len() < MAX_LABELS => {
                labels.insert(key.to_owned(), value.to_owned());
            }
            _ => self.labels = None,
        }
    }

    fn advance(&mut self, before: &[u8], after: &[u8]) {
        self.position += u64::try_from(before.len() - after.len()).unwrap_or(0);
    }

    /// Bytes that are kept.
    pub(crate) fn held(&self) -> usize {
        let texts = [&self.image, &self.name, &self.uid, &self.namespace];
        let labels = if self.labels.is_some() {
            self.label_bytes
        } else {
            0
        };
        texts
            .into_iter()
            .flatten()
            .map(|text| text.capacity())
            .sum::<usize>()
            + labels
    }

    #[cfg(test)]
    pub(crate) fn held_bytes(&self) -> Vec<u8> {
        let texts = [&self.image, &self.name, &self.uid, &self.namespace];
        let mut bytes: Vec<u8> = texts
            .into_iter()
            .flatten()
            .flat_map(|text| text.iter().copied())
            .collect();
        bytes.extend_from_slice(&self.label_key);
        bytes.extend_from_slice(&self.label_value);
        for (key, value) in self.labels.iter().flatten() {
            bytes.extend_from_slice(key.as_bytes());
            bytes.extend_from_slice(value.as_bytes());
        }
        bytes
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

/// A text without control characters.
fn text(bytes: &[u8]) -> Result<String, No> {
    let text = std::str::from_utf8(bytes).map_err(|_| No::OtherCall)?;
    if text.chars().any(char::is_control) {
        return Err(No::OtherCall);
    }
    Ok(text.to_owned())
}
