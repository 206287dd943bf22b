//! HTTP/2 frame headers, and whether nine bytes can be one.
//!
//! Source: RFC 9113, sections 4.1 and 6.

/// Length of a frame header.
pub(crate) const HEADER: usize = 9;
/// Longest payload unless SETTINGS say otherwise.
pub(crate) const DEFAULT_MAX_PAYLOAD: u32 = 16 << 10;
/// What a client says first.
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// `SETTINGS_MAX_FRAME_SIZE`
const MAX_FRAME_SIZE: u16 = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Data,
    Headers,
    Priority,
    Reset,
    Settings,
    Ping,
    GoAway,
    WindowUpdate,
    Continuation,
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) stream: u32,
    pub(crate) length: u32,
    flags: u8,
}

impl Frame {
    /// The header in `bytes`, if a gRPC peer can have sent it. Stricter than the RFC, which has unknown kinds and flags
    /// ignored: neither peer sends such, and strictness is what tells a header from other bytes.
    pub(crate) fn read(bytes: &[u8; HEADER], max_payload: u32) -> Option<Self> {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *bytes;
        let length = u32::from_be_bytes([0, l0, l1, l2]);
        let stream = u32::from_be_bytes([s0, s1, s2, s3]);
        // Streams of even number, and the promises that open them, are a server's pushes; gRPC has none.
        let (kind, known_flags, length_ok, of_stream) = match kind {
            0 => (Kind::Data, END_STREAM | PADDED, true, Some(true)),
            1 => (
                Kind::Headers,
                END_STREAM | END_HEADERS | PADDED | PRIORITY,
                true,
                Some(true),
            ),
            2 => (Kind::Priority, 0, length == 5, Some(true)),
            3 => (Kind::Reset, 0, length == 4, Some(true)),
            4 => {
                let length_ok = length.is_multiple_of(6) && (flags & ACK == 0 || length == 0);
                (Kind::Settings, ACK, length_ok, Some(false))
            }
            6 => (Kind::Ping, ACK, length == 8, Some(false)),
            7 => (Kind::GoAway, 0, length >= 8, Some(false)),
            8 => (Kind::WindowUpdate, 0, length == 4, None),
            9 => (Kind::Continuation, END_HEADERS, true, Some(true)),
            _ => return None,
        };
        let stream_ok = stream >> 31 == 0
            && (stream == 0 || stream % 2 == 1)
            && of_stream.is_none_or(|wanted| wanted == (stream != 0));
        let fits = flags & !known_flags == 0 && length_ok && length <= max_payload && stream_ok;
        fits.then_some(Self {
            kind,
            stream,
            length,
            flags,
        })
    }

    /// Whether its sender says no more on this stream.
    pub(crate) fn ends_stream(&self) -> bool {
        matches!(self.kind, Kind::Data | Kind::Headers) && self.flags & END_STREAM != 0
    }

    /// Whether this says, and does not confirm, how its sender wants to be spoken to.
    pub(crate) fn is_settings(&self) -> bool {
        self.kind == Kind::Settings && self.flags & ACK == 0
    }

    pub(crate) fn is_padded_data(&self) -> bool {
        self.kind == Kind::Data && self.flags & PADDED != 0
    }

    /// Whether this may follow a frame that left a header block open on the stream `open`.
    pub(crate) fn may_follow(&self, open: Option<u32>) -> bool {
        match open {
            Some(stream) => self.kind == Kind::Continuation && self.stream == stream,
            None => self.kind != Kind::Continuation,
        }
    }

    /// The stream whose header block this leaves open.
    pub(crate) fn leaves_open(&self) -> Option<u32> {
        let has_block = matches!(self.kind, Kind::Headers | Kind::Continuation);
        (has_block && self.flags & END_HEADERS == 0).then_some(self.stream)
    }
}

/// Whether `bytes` can be frames from their first byte on. The last may be cut, but not within its header.
pub(crate) fn are_frames(mut bytes: &[u8], max_payload: u32) -> bool {
    let mut open = None;
    loop {
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else {
            return false;
        };
        let Some(frame) = Frame::read(header, max_payload).filter(|frame| frame.may_follow(open)) else {
            return false;
        };
        open = frame.leaves_open();
        let length = usize::try_from(frame.length).unwrap_or(usize::MAX);
        match rest.get(length..) {
            None | Some([]) => return true,
            Some(next) => bytes = next,
        }
    }
}

/// Picks out of SETTINGS what its sender takes for a payload.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    entry: [u8; 6],
    filled: usize,
}

impl Settings {
    /// Takes the next bytes of a SETTINGS frame; the longest payload that its sender takes, if that is said in them.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Option<u32> {
        let mut max_payload = None;
        for byte in bytes {
            if let Some(place) = self.entry.get_mut(self.filled) {
                *place = *byte;
            }
            self.filled += 1;
            if self.filled == self.entry.len() {
                self.filled = 0;
                let [i0, i1, v0, v1, v2, v3] = self.entry;
                if u16::from_be_bytes([i0, i1]) == MAX_FRAME_SIZE {
                    max_payload = Some(u32::from_be_bytes([v0, v1, v2, v3]));
                }
            }
        }
        max_payload
    }
}
