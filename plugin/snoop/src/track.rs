//! One direction of a connection: where its frames begin and end, even when it was joined late or bytes were lost.
//!
//! A frame boundary is *found* at the beginning of a piece that follows a pause and reads as frames. It is *proven* if the
//! connection begins there, else by the first header block after it. What strangers write into a pod (annotations, commands) is text when the API server has
//! had it, and so valid UTF-8; HPACK is not. Without this, a request's annotations could pretend to be requests.

use zeroize::{Zeroize as _, Zeroizing};

use crate::frame::{DEFAULT_MAX_PAYLOAD, Frame, HEADER, Kind, PREFACE, are_frames};
use crate::{Direction, QUIET};

pub(crate) struct Track {
    speaker: Direction,
    /// Where the next piece should begin.
    next: u64,
    /// When the last piece passed; at first, since when pieces are seen at all.
    last: u64,
    state: State,
    proven: bool,
    /// The stream whose header block goes on in the next frame.
    open_block: Option<u32>,
    max_payload: u32,
}

enum State {
    /// No boundary is known.
    Seeking,
    /// Within a header, or before one.
    Header { have: [u8; HEADER], filled: usize },
    /// Within a payload.
    Payload {
        frame: Frame,
        /// Bytes missing, padding and all.
        rest: u32,
        padding: Padding,
    },
}

#[derive(Clone, Copy)]
enum Padding {
    /// Its length comes first.
    Announced,
    Known(u32),
}

/// How a piece continues those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It does.
    Continues,
    /// Bytes are missing, all of them within the payload of this frame.
    Hole(Frame),
    /// A boundary was found again, and nothing is missing before it.
    Found,
    /// Bytes were lost, or these make no sense. Whatever was known of the streams is void.
    Broken {
        /// Whether this piece is read all the same, as it begins with a frame.
        found: bool,
    },
    /// There still is no boundary; the piece is passed over.
    StillSeeking,
}

/// What a piece holds, one after the other.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step<'a> {
    /// A frame begins.
    Start(Frame),
    /// Some of its payload, without padding.
    Payload(Frame, &'a [u8]),
    /// It is there as a whole.
    End(Frame),
    /// These are no frames. Nothing more comes of this piece.
    Broken,
}

impl Track {
    pub(crate) fn new(speaker: Direction, since: u64) -> Self {
        Self {
            speaker,
            next: 0,
            last: since,
            state: State::Seeking,
            proven: false,
            open_block: None,
            max_payload: DEFAULT_MAX_PAYLOAD,
        }
    }

    /// When the last piece passed.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Where the next piece should begin.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Whether a header block has shown that the boundaries are the real ones.
    pub(crate) fn is_proven(&self) -> bool {
        self.proven
    }

    /// The other side said how long payloads may be.
    pub(crate) fn allow_payload(&mut self, length: u32) {
        self.max_payload = length.max(DEFAULT_MAX_PAYLOAD);
    }

    /// Forgets where frames begin.
    pub(crate) fn seek(&mut self) {
        if let State::Header { have, .. } = &mut self.state {
            have.zeroize();
        }
        self.state = State::Seeking;
        self.proven = false;
        self.open_block = None;
    }

    /// A piece comes; its steps are to be taken unless it is passed over.
    pub(crate) fn arrive(&mut self, offset: u64, at: u64, bytes: &mut &[u8]) -> Arrival {
        let quiet = at.saturating_sub(self.last) >= QUIET;
        let expected = std::mem::replace(
            &mut self.next,
            offset.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
        );
        self.last = self.last.max(at);
        let missing = offset.checked_sub(expected);
        match (&mut self.state, missing) {
            (State::Header { .. } | State::Payload { .. }, Some(0)) => return Arrival::Continues,
            (
                State::Payload {
                    frame,
                    rest,
                    padding: Padding::Known(_),
                },
                Some(missing),
            ) if missing <= u64::from(*rest) => {
                *rest -= u32::try_from(missing).unwrap_or(*rest);
                return Arrival::Hole(*frame);
            }
            (State::Seeking | State::Header { .. } | State::Payload { .. }, _) => {}
        }
        let was_seeking = matches!(self.state, State::Seeking);
        self.seek();
        let found = self.find(offset, quiet, bytes);
        match (was_seeking && missing == Some(0), found) {
            (true, true) => Arrival::Found,
            (true, false) => Arrival::StillSeeking,
            (false, found) => Arrival::Broken { found },
        }
    }

    /// Looks for a boundary at the beginning of `bytes`.
    fn find(&mut self, offset: u64, quiet: bool, bytes: &mut &[u8]) -> bool {
        let is_first = offset == 0;
        let (found, is_greeting) = match (self.speaker, bytes.strip_prefix(PREFACE)) {
            (Direction::FromClient, Some(rest)) if is_first => {
                *bytes = rest;
                (true, true)
            }
            (Direction::FromClient, _) => (quiet && are_frames(bytes, self.max_payload), false),
            (Direction::ToClient, _) => {
                let header = bytes.first_chunk::<HEADER>();
                let greeting = header.and_then(|header| Frame::read(header, self.max_payload));
                let found = quiet && are_frames(bytes, self.max_payload);
                (
                    found,
                    is_first && greeting.is_some_and(|frame| frame.is_settings()),
                )
            }
        };
        if found {
            self.state = State::header();
            self.proven = is_greeting && quiet;
        }
        found
    }

    /// The next step in `bytes`, from which it is cut off; none if they are used up.
    pub(crate) fn step<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<Step<'a>> {
        loop {
            match &mut self.state {
                State::Seeking => return None,
                State::Payload { frame, rest: 0, .. } => {
                    let frame = *frame;
                    self.state = State::header();
                    return Some(Step::End(frame));
                }
                State::Header { have, filled } => {
                    let (byte, rest) = bytes.split_first()?;
                    *bytes = rest;
                    if let Some(place) = have.get_mut(*filled) {
                        *place = *byte;
                    }
                    *filled += 1;
                    if *filled == HEADER {
                        let have = *have;
                        return Some(self.begin(&have, bytes));
                    }
                }
                State::Payload { frame, rest, padding } => {
                    let frame = *frame;
                    match padding {
                        Padding::Announced => {
                            let (length, after) = bytes.split_first()?;
                            *bytes = after;
                            *rest -= 1;
                            let length = u32::from(*length);
                            if length > *rest {
                                self.seek();
                                return Some(Step::Broken);
                            }
                            *padding = Padding::Known(length);
                        }
                        Padding::Known(padded) => {
                            if bytes.is_empty() {
                                return None;
                            }
                            let data_left = rest.saturating_sub(*padded);
                            let wanted = if data_left > 0 { data_left } else { *rest };
                            let here = bytes.len().min(usize::try_from(wanted).unwrap_or(usize::MAX));
                            let (taken, after) = bytes.split_at_checked(here)?;
                            *bytes = after;
                            *rest -= u32::try_from(here).unwrap_or(*rest);
                            if data_left > 0 {
                                return Some(Step::Payload(frame, taken));
                            }
                        }
                    }
                }
            }
        }
    }

    /// A header is there; `after` is what follows it in this piece.
    fn begin<'a>(&mut self, header: &[u8; HEADER], after: &[u8]) -> Step<'a> {
        let frame = Frame::read(header, self.max_payload)
            .filter(|frame| frame.may_follow(self.open_block))
            .filter(|frame| !frame.is_padded_data() || frame.length > 0)
            .filter(|frame| self.proven || frame.kind != Kind::Headers || is_no_text(header, *frame, after));
        let Some(frame) = frame else {
            self.seek();
            return Step::Broken;
        };
        self.proven |= frame.kind == Kind::Headers;
        self.open_block = frame.leaves_open();
        self.state = State::Payload {
            frame,
            rest: frame.length,
            padding: if frame.is_padded_data() {
                Padding::Announced
            } else {
                Padding::Known(0)
            },
        };
        Step::Start(frame)
    }

    /// Bytes that are kept for later.
    #[cfg(test)]
    pub(crate) fn held(&self) -> Vec<u8> {
        match &self.state {
            State::Header { have, filled } => have[..*filled].to_vec(),
            State::Seeking | State::Payload { .. } => Vec::new(),
        }
    }
}

impl State {
    fn header() -> Self {
        Self::Header {
            have: [0; HEADER],
            filled: 0,
        }
    }
}

impl Drop for Track {
    fn drop(&mut self) {
        self.seek();
    }
}

/// Whether header and block are there as a whole, and no stranger's text.
fn is_no_text(header: &[u8; HEADER], frame: Frame, after: &[u8]) -> bool {
    let block = usize::try_from(frame.length)
        .ok()
        .and_then(|length| after.get(..length));
    block.is_some_and(|block| {
        let mut whole = Zeroizing::new(Vec::with_capacity(HEADER + block.len()));
        whole.extend_from_slice(header);
        whole.extend_from_slice(block);
        // A text may go on after the block, and so be cut within a character.
        std::str::from_utf8(&whole).is_err_and(|error| error.error_len().is_some())
    })
}
