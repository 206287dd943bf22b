//! One connection: which of its streams may be pulls, which are, and how they end.

use std::collections::BTreeMap;

use crate::frame::{Frame, Kind, Settings};
use crate::message::Message;
use crate::request::No;
use crate::snoop::Out;
use crate::track::{Arrival, Step, Track};
use crate::{CallEnd, Direction, MAX_CALLS, MAX_REQUESTS};

pub(crate) struct Connection {
    client: Track,
    server: Track,
    client_settings: Settings,
    server_settings: Settings,
    /// Only streams that may be pulls, or are.
    streams: BTreeMap<u32, Stream>,
    /// The first and the newest stream whose beginning was seen, since the client's frames are known.
    first: Option<u32>,
    newest: u32,
}

enum Stream {
    /// The request is not there as a whole.
    Asking(Box<Message>),
    /// The call began.
    Running {
        /// Something of an answer was seen.
        answered: bool,
    },
}

impl Connection {
    /// A connection of which nothing passed before `since` that could have been seen.
    pub(crate) fn new(since: u64) -> Self {
        Self {
            client: Track::new(Direction::FromClient, since),
            server: Track::new(Direction::ToClient, since),
            client_settings: Settings::default(),
            server_settings: Settings::default(),
            streams: BTreeMap::new(),
            first: None,
            newest: 0,
        }
    }

    /// When anything passed last.
    pub(crate) fn last(&self) -> u64 {
        self.client.last().max(self.server.last())
    }

    /// Whether a piece at `offset` belongs to a later connection of the same name.
    pub(crate) fn is_replaced(&self, direction: Direction, offset: u64) -> bool {
        let track = match direction {
            Direction::FromClient => &self.client,
            Direction::ToClient => &self.server,
        };
        offset == 0 && track.next() > 0
    }

    /// The client said something.
    pub(crate) fn asked(&mut self, offset: u64, mut bytes: &[u8], out: &mut Out<'_>) {
        let since = self.client.last();
        match self.client.arrive(offset, out.at, &mut bytes) {
            Arrival::Continues => {}
            Arrival::Found => out.counters.found += 1,
            Arrival::Hole(frame) => {
                if let Some(Stream::Asking(_)) = self.streams.get(&frame.stream) {
                    self.streams.remove(&frame.stream);
                    out.missed(since);
                }
            }
            Arrival::Broken { found } => {
                self.lose_client(since, out);
                out.counters.found += u64::from(found);
            }
            Arrival::StillSeeking => {
                out.counters.passed_over += 1;
                out.missed(since);
            }
        }
        while let Some(step) = self.client.step(&mut bytes) {
            let fine = match step {
                Step::Start(frame) => self.client_frame(frame, since, out),
                Step::Payload(frame, data) => {
                    self.client_payload(frame, data, out);
                    true
                }
                Step::End(frame) => {
                    if frame.ends_stream()
                        && matches!(self.streams.get(&frame.stream), Some(Stream::Asking(_)))
                    {
                        self.streams.remove(&frame.stream);
                        out.counters.other_calls += 1;
                    }
                    true
                }
                Step::Broken => false,
            };
            if !fine {
                self.client.seek();
                self.lose_client(since, out);
            }
        }
    }

    /// Whether the frame makes sense after those before it.
    fn client_frame(&mut self, frame: Frame, since: u64, out: &mut Out<'_>) -> bool {
        let stream = frame.stream;
        let began_unseen = self.first.is_none_or(|first| stream < first);
        match frame.kind {
            Kind::Headers if stream > self.newest => {
                self.newest = stream;
                self.first.get_or_insert(stream);
                if !frame.ends_stream() {
                    if self.asking() < MAX_REQUESTS {
                        self.streams
                            .insert(stream, Stream::Asking(Box::new(Message::new())));
                    } else {
                        out.counters.cut += 1;
                        out.missed(out.at);
                    }
                }
                true
            }
            // Clients of gRPC send no trailers, so this would be a stream that opens out of turn.
            Kind::Headers => !began_unseen,
            Kind::Data if began_unseen => {
                if frame.length > 0 {
                    out.missed(since);
                }
                true
            }
            Kind::Data => stream <= self.newest,
            Kind::Reset => {
                self.end(stream, CallEnd::Cancelled, out);
                true
            }
            Kind::Settings => {
                self.client_settings = Settings::default();
                true
            }
            Kind::Priority | Kind::Ping | Kind::GoAway | Kind::WindowUpdate | Kind::Continuation => true,
        }
    }

    fn client_payload(&mut self, frame: Frame, data: &[u8], out: &mut Out<'_>) {
        if frame.kind == Kind::Settings {
            if let Some(length) = self.client_settings.push(data) {
                self.server.allow_payload(length);
            }
            return;
        }
        let Some(Stream::Asking(message)) = self
            .streams
            .get_mut(&frame.stream)
            .filter(|_| frame.kind == Kind::Data)
        else {
            return;
        };
        match message.push(data) {
            Ok(None) => {}
            Ok(Some(request)) => {
                if self.streams.len() - self.asking() < MAX_CALLS {
                    self.streams
                        .insert(frame.stream, Stream::Running { answered: false });
                    out.began(frame.stream, request);
                } else {
                    self.streams.remove(&frame.stream);
                    out.counters.cut += 1;
                    out.missed(out.at);
                }
            }
            Err(No::OtherCall) => {
                self.streams.remove(&frame.stream);
                out.counters.other_calls += 1;
            }
            Err(No::Unreadable) => {
                self.streams.remove(&frame.stream);
                out.counters.unreadable += 1;
                out.missed(out.at);
            }
        }
    }

    /// containerd said something.
    pub(crate) fn answered(&mut self, offset: u64, mut bytes: &[u8], out: &mut Out<'_>) {
        match self.server.arrive(offset, out.at, &mut bytes) {
            Arrival::Continues | Arrival::Hole(_) => {}
            Arrival::Found => out.counters.found += 1,
            Arrival::Broken { found } => {
                self.lose_server(out);
                out.counters.found += u64::from(found);
            }
            Arrival::StillSeeking => {
                out.counters.passed_over += 1;
                self.lose_calls(out);
            }
        }
        while let Some(step) = self.server.step(&mut bytes) {
            match step {
                Step::Start(frame) => self.server_frame(frame, out),
                Step::Payload(frame, data) if frame.kind == Kind::Settings => {
                    if let Some(length) = self.server_settings.push(data) {
                        self.client.allow_payload(length);
                    }
                }
                Step::Payload(..) | Step::End(_) => {}
                Step::Broken => self.lose_server(out),
            }
        }
    }

    fn server_frame(&mut self, frame: Frame, out: &mut Out<'_>) {
        if let Some(Stream::Running { answered }) = self.streams.get_mut(&frame.stream) {
            *answered |= frame.kind == Kind::Data && frame.length > 0;
            let how = if !self.server.is_proven() {
                // No header block vouches for this frame.
                CallEnd::Lost
            } else if *answered && frame.kind != Kind::Reset {
                CallEnd::Answered
            } else {
                CallEnd::Refused
            };
            if frame.kind == Kind::Reset || frame.ends_stream() {
                self.end(frame.stream, how, out);
            }
        } else if frame.kind == Kind::Reset || frame.ends_stream() {
            self.streams.remove(&frame.stream);
        }
        if frame.kind == Kind::Settings {
            self.server_settings = Settings::default();
        }
    }

    /// A stream is over; if a call ran on it, that ended.
    fn end(&mut self, stream: u32, how: CallEnd, out: &mut Out<'_>) {
        if let Some(Stream::Running { .. }) = self.streams.remove(&stream) {
            out.ended(stream, how);
        }
    }

    /// The client's bytes make no sense since then.
    fn lose_client(&mut self, since: u64, out: &mut Out<'_>) {
        out.counters.broken += 1;
        out.missed(since);
        self.lose_calls(out);
        self.streams.clear();
        self.first = None;
        self.newest = 0;
    }

    fn lose_server(&mut self, out: &mut Out<'_>) {
        out.counters.broken += 1;
        self.lose_calls(out);
    }

    /// The ends of the calls that run may have passed unseen.
    pub(crate) fn lose_calls(&mut self, out: &mut Out<'_>) {
        self.end_calls(CallEnd::Lost, out);
    }

    /// All calls that run ended alike.
    pub(crate) fn end_calls(&mut self, how: CallEnd, out: &mut Out<'_>) {
        self.streams.retain(|stream, state| match state {
            Stream::Asking(_) => true,
            Stream::Running { .. } => {
                out.ended(*stream, how);
                false
            }
        });
    }

    /// Forgets the requests that are not there as a whole.
    pub(crate) fn forget_requests(&mut self) {
        self.streams
            .retain(|_, state| matches!(state, Stream::Running { .. }));
    }

    fn asking(&self) -> usize {
        self.streams
            .values()
            .filter(|state| matches!(state, Stream::Asking(_)))
            .count()
    }

    /// Bytes that are kept of unfinished requests.
    pub(crate) fn held(&self) -> usize {
        self.messages().map(Message::held).sum()
    }

    fn messages(&self) -> impl Iterator<Item = &Message> {
        self.streams.values().filter_map(|state| match state {
            Stream::Asking(message) => Some(message.as_ref()),
            Stream::Running { .. } => None,
        })
    }

    #[cfg(test)]
    pub(crate) fn held_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.messages().flat_map(Message::held_bytes).collect();
        bytes.extend(self.client.held());
        bytes.extend(self.server.held());
        bytes
    }
}
