//! Which socket feeds which ingest, from every source that knows.
//!
//! Changed by: a feed or its end, a closed socket, lost records (all forgotten), a source that is gone, and a pairing
//! by byte counts.

use std::collections::{BTreeMap, BTreeSet};

use crate::bounds::MAX_FEEDS;
use crate::event::{Feed, SocketStat};
use crate::evidence::Evidence;
use crate::ids::{Cookie, IngestDir, IngestRef};
use crate::pairing::{Offsets, Pairing};
use crate::pull::Pull;

/// All ties known.
#[derive(Debug, Default)]
pub(crate) struct Ties {
    feeds: BTreeMap<Cookie, Feed>,
    pairing: Pairing,
}

/// A socket that may be closed for a pull.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) feed: Feed,
    pub(crate) ingest: IngestRef,
}

impl Target {
    /// The tie, as a piece of evidence.
    pub(crate) fn evidence(&self) -> Evidence {
        Evidence::SocketFeeds {
            socket: self.feed.socket,
            ingest: self.ingest.clone(),
            method: self.feed.method,
            bytes: self.feed.bytes,
        }
    }
}

impl Ties {
    /// Takes over a tie; `false` if another one had to be forgotten for it.
    pub(crate) fn fed(&mut self, feed: Feed) -> bool {
        let room = self.feeds.len() < MAX_FEEDS || self.feeds.contains_key(&feed.socket.cookie);
        if !room {
            // Cookies grow with time: the smallest is the oldest socket.
            self.feeds.pop_first();
        }
        self.feeds.insert(feed.socket.cookie, feed);
        room
    }

    /// Forgets the tie of one socket.
    pub(crate) fn unfed(&mut self, cookie: Cookie) {
        self.feeds.remove(&cookie);
    }

    /// Forgets a closed socket.
    pub(crate) fn closed(&mut self, cookie: Cookie) {
        self.feeds.remove(&cookie);
        self.pairing.closed(cookie);
    }

    /// Forgets what the probes said.
    pub(crate) fn lost(&mut self) {
        self.feeds.clear();
    }

    /// Forgets what the socket table said.
    pub(crate) fn table_lost(&mut self) {
        self.pairing = Pairing::default();
    }

    /// A listing of sockets, taken after `offsets` were read.
    pub(crate) fn listed(&mut self, sockets: &[SocketStat], offsets: Offsets) {
        self.pairing.listed(sockets, offsets);
        // A socket that the table no longer has cannot be fed, whatever record was lost.
        let alive: BTreeSet<Cookie> = sockets.iter().map(|stat| stat.socket.cookie).collect();
        self.feeds.retain(|cookie, _| alive.contains(cookie));
    }

    /// Offsets read after the last listing; completes a round of the pairing.
    pub(crate) fn looked(&mut self, offsets: &Offsets) {
        self.pairing.looked(offsets);
    }

    /// The socket that feeds `dir`, the surest way first.
    pub(crate) fn feed_of(&self, dir: IngestDir) -> Option<Feed> {
        self.feeds
            .values()
            .filter(|feed| feed.dir == dir)
            .min_by_key(|feed| (feed.method, std::cmp::Reverse(feed.bytes)))
            .copied()
            .or_else(|| self.pairing.sole_feed_of(dir))
    }

    /// The sockets that may be closed for `pull`, the surest first. `condemned` holds the directories of all ingests
    /// whose pulls are to be stopped: a socket with several explanations is a target only if each is in there.
    pub(crate) fn targets(&self, pull: &Pull, condemned: &BTreeSet<IngestDir>) -> Vec<Target> {
        let mut targets: Vec<Target> = Vec::new();
        for (reference, ingest) in pull.live_ingests() {
            let by_probes = self.feeds.values().filter(|feed| feed.dir == ingest.dir).copied();
            let by_count = self
                .pairing
                .feeds_of(ingest.dir)
                .filter(|(feed, explanations)| {
                    explanations.is_subset(condemned)
                        && self
                            .feeds
                            .get(&feed.socket.cookie)
                            .is_none_or(|known| known.dir == ingest.dir)
                })
                .map(|(feed, _)| feed);
            targets.extend(by_probes.chain(by_count).map(|feed| Target {
                feed,
                ingest: reference.clone(),
            }));
        }
        targets.sort_by_key(|target| (target.feed.method, std::cmp::Reverse(target.feed.bytes)));
        let mut seen = BTreeSet::new();
        targets.retain(|target| seen.insert(target.feed.socket.cookie));
        targets
    }
}
