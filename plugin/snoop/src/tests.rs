//! Conversations made of frames by hand, and real ones; cut, interleaved, joined late, with holes.

mod captured;
mod conversation;
mod fuzz;
mod random;
mod requests;
mod resuming;
mod secrets;
mod streams;

use std::collections::BTreeMap;

use conversation::{Asked, Client, Server, data, frame, grpc, headers, reset, settings};

use super::*;

/// Long enough for a boundary to be believed.
const PAUSE: u64 = QUIET;
const CONNECTION: u64 = 7;

/// A snoop and what it said, with the offsets counted.
struct Ear {
    snoop: Snoop,
    seen: Vec<Seen>,
    at: u64,
    offsets: BTreeMap<(u64, Direction), u64>,
}

impl Ear {
    fn new() -> Self {
        Self {
            snoop: Snoop::new(0),
            seen: Vec::new(),
            at: 0,
            offsets: BTreeMap::new(),
        }
    }

    fn hear(&mut self, connection: u64, direction: Direction, bytes: &[u8]) {
        let offset = *self.offsets.entry((connection, direction)).or_default();
        let mut lent = bytes.to_vec();
        let piece = Piece {
            connection,
            direction,
            offset,
            at: self.at,
            bytes: &mut lent,
        };
        self.snoop.piece(piece, &mut self.seen);
        assert!(lent.iter().all(|byte| *byte == 0), "what was lent is not wiped");
        self.miss(connection, direction, bytes);
    }

    /// Bytes pass that nobody hears.
    fn miss(&mut self, connection: u64, direction: Direction, bytes: &[u8]) {
        *self.offsets.entry((connection, direction)).or_default() += bytes.len() as u64;
    }

    fn client(&mut self, bytes: &[u8]) {
        self.hear(CONNECTION, Direction::FromClient, bytes);
    }

    fn server(&mut self, bytes: &[u8]) {
        self.hear(CONNECTION, Direction::ToClient, bytes);
    }

    fn pause(&mut self) {
        self.at += PAUSE;
    }

    fn take(&mut self) -> Vec<Seen> {
        std::mem::take(&mut self.seen)
    }

    fn requests(&self) -> Vec<&PullRequest> {
        self.seen
            .iter()
            .filter_map(|seen| match seen {
                Seen::Began { request, .. } => Some(request),
                Seen::Ended { .. } | Seen::Missed { .. } => None,
            })
            .collect()
    }

    fn ends(&self) -> Vec<(u32, CallEnd)> {
        self.seen
            .iter()
            .filter_map(|seen| match seen {
                Seen::Ended { call, how, .. } => Some((call.stream, *how)),
                Seen::Began { .. } | Seen::Missed { .. } => None,
            })
            .collect()
    }

    fn has_missed(&self) -> bool {
        self.seen.iter().any(|seen| matches!(seen, Seen::Missed { .. }))
    }
}

/// A connection that is seen from its beginning.
fn connected() -> Ear {
    let mut ear = Ear::new();
    ear.pause();
    ear.client(&Client::hello());
    ear.server(&Server::hello());
    ear
}
