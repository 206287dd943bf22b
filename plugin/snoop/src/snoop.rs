//! All connections together, and how much of them is remembered.

use std::collections::BTreeMap;
use std::fmt;

use zeroize::Zeroize as _;

use crate::connection::Connection;
use crate::{Call, CallEnd, Direction, MAX_CONNECTIONS, MAX_HELD, Piece, PullRequest, Seen};

/// What was counted since the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Pieces that were told.
    pub pieces: u64,
    /// Requests that are surely pulls.
    pub pulls: u64,
    /// Requests that may be pulls.
    pub hints: u64,
    /// Calls that are something else.
    pub other_calls: u64,
    /// Requests that may have been pulls but could not be read: compressed, or with a text beyond its bound.
    pub unreadable: u64,
    /// Requests, calls and connections that were forgotten as there were too many.
    pub cut: u64,
    /// Times at which bytes were missing, or were no frames.
    pub broken: u64,
    /// Times at which the frames of one direction of a connection were found, its beginning included.
    pub found: u64,
    /// Pieces that passed while no frame boundary was known.
    pub passed_over: u64,
    /// Times at which the caller said that records were lost.
    pub lost: u64,
}

/// Reads what passes on a CRI socket. Its [`Debug`] shows no bytes.
pub struct Snoop {
    connections: BTreeMap<u64, Connection>,
    /// Since when a connection that was never seen has said nothing.
    since: u64,
    /// When anything was heard last.
    last: u64,
    held: usize,
    counters: Counters,
}

impl Snoop {
    /// A snoop that is told everything that passes from `attached` on, in nanoseconds of the kernel's monotonic clock.
    #[must_use]
    pub fn new(attached: u64) -> Self {
        Self {
            connections: BTreeMap::new(),
            since: attached,
            last: attached,
            held: 0,
            counters: Counters::default(),
        }
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Connections that are remembered.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Bytes of unfinished requests that are kept; at most [`MAX_HELD`].
    #[must_use]
    pub fn held(&self) -> usize {
        self.held
    }

    /// Bytes passed. What they tell is added to `seen`; they themselves are overwritten with zeros.
    ///
    /// Pieces of one direction of one connection must come in their order.
    pub fn piece(&mut self, piece: Piece<'_>, seen: &mut Vec<Seen>) {
        let Piece {
            connection,
            direction,
            offset,
            at,
            bytes,
        } = piece;
        self.counters.pieces += 1;
        if !bytes.is_empty() {
            self.read(connection, direction, offset, at, bytes, seen);
            bytes.zeroize();
        }
        self.last = self.last.max(at);
    }

    fn read(
        &mut self,
        id: u64,
        direction: Direction,
        offset: u64,
        at: u64,
        bytes: &[u8],
        seen: &mut Vec<Seen>,
    ) {
        let replaced = self
            .connections
            .get(&id)
            .is_some_and(|known| known.is_replaced(direction, offset));
        if replaced {
            self.forget(id, at, seen);
        } else if self.connections.len() >= MAX_CONNECTIONS && !self.connections.contains_key(&id) {
            let stillest = self
                .connections
                .iter()
                .min_by_key(|(_, known)| known.last())
                .map(|(id, _)| *id);
            if let Some(stillest) = stillest {
                self.counters.cut += 1;
                self.forget(stillest, at, seen);
            }
        }
        let since = self.since;
        let connection = self
            .connections
            .entry(id)
            .or_insert_with(|| Connection::new(since));
        let held_before = connection.held();
        let mut out = Out {
            connection: id,
            at,
            seen,
            counters: &mut self.counters,
        };
        match direction {
            Direction::FromClient => connection.asked(offset, bytes, &mut out),
            Direction::ToClient => connection.answered(offset, bytes, &mut out),
        }
        self.held = (self.held + connection.held()).saturating_sub(held_before);
        if self.held > MAX_HELD {
            self.held = self.held.saturating_sub(connection.held());
            connection.forget_requests();
            out.counters.cut += 1;
            out.missed(at);
        }
    }

    /// A connection was closed.
    pub fn closed(&mut self, connection: u64, at: u64, seen: &mut Vec<Seen>) {
        self.remove(connection, at, CallEnd::ConnectionClosed, seen);
        self.last = self.last.max(at);
    }

    /// Records were lost before `at`, of whatever connection. Which ones, the next pieces tell.
    pub fn lost(&mut self, at: u64, seen: &mut Vec<Seen>) {
        self.counters.lost += 1;
        for (id, connection) in &mut self.connections {
            connection.lose_calls(&mut Out {
                connection: *id,
                at,
                seen,
                counters: &mut self.counters,
            });
        }
        missed(seen, self.last.min(at), at);
        self.since = self.since.max(at);
        self.last = self.last.max(at);
    }

    /// Lets go of a connection that may live on.
    fn forget(&mut self, id: u64, at: u64, seen: &mut Vec<Seen>) {
        if let Some(last) = self.connections.get(&id).map(Connection::last) {
            self.remove(id, at, CallEnd::Lost, seen);
            missed(seen, last.min(at), at);
        }
    }

    fn remove(&mut self, id: u64, at: u64, how: CallEnd, seen: &mut Vec<Seen>) {
        if let Some(mut connection) = self.connections.remove(&id) {
            self.held = self.held.saturating_sub(connection.held());
            connection.end_calls(
                how,
                &mut Out {
                    connection: id,
                    at,
                    seen,
                    counters: &mut self.counters,
                },
            );
        }
    }

    /// Every byte that is kept.
    #[cfg(test)]
    pub(crate) fn held_bytes(&self) -> Vec<u8> {
        self.connections
            .values()
            .flat_map(Connection::held_bytes)
            .collect()
    }
}

impl fmt::Debug for Snoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snoop")
            .field("connections", &self.connections.len())
            .field("held", &self.held)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

/// Where one connection tells what it saw.
pub(crate) struct Out<'a> {
    pub(crate) connection: u64,
    pub(crate) at: u64,
    pub(crate) seen: &'a mut Vec<Seen>,
    pub(crate) counters: &'a mut Counters,
}

impl Out<'_> {
    pub(crate) fn began(&mut self, stream: u32, request: PullRequest) {
        if request.certain {
            self.counters.pulls += 1;
        } else {
            self.counters.hints += 1;
        }
        self.seen.push(Seen::Began {
            call: self.call(stream),
            at: self.at,
            request,
        });
    }

    pub(crate) fn ended(&mut self, stream: u32, how: CallEnd) {
        self.seen.push(Seen::Ended {
            call: self.call(stream),
            at: self.at,
            how,
        });
    }

    pub(crate) fn missed(&mut self, since: u64) {
        missed(self.seen, since.min(self.at), self.at);
    }

    fn call(&self, stream: u32) -> Call {
        Call {
            connection: self.connection,
            stream,
        }
    }
}

/// Adds a span; one that touches the last is joined with it.
fn missed(seen: &mut Vec<Seen>, since: u64, until: u64) {
    if let Some(Seen::Missed {
        since: earlier,
        until: later,
    }) = seen.last_mut()
        && since <= *later
        && *earlier <= until
    {
        *earlier = since.min(*earlier);
        *later = until.max(*later);
        return;
    }
    seen.push(Seen::Missed { since, until });
}
