//! Which socket feeds which ingest, from every source that knows.
//!
//! Changed by: a feed or its end, a closed socket, lost records (all forgotten), a source that is gone, a look (that
//! shows an ingest given up), and a pairing by byte counts.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::bounds::{LOOKS_TO_CONFIRM, MAX_FEEDS};
use crate::event::{Feed, SocketStat};
use crate::evidence::{Evidence, TieMethod};
use crate::ids::{Cookie, IngestDir, IngestRef};
use crate::pairing::{Offsets, Pairing};
use crate::pull::{Ingest, Pull};
use crate::time::Time;

/// All ties known.
#[derive(Debug, Default)]
pub(crate) struct Ties {
    by_socket: BTreeMap<Cookie, Tie>,
    by_dir: BTreeMap<IngestDir, BTreeSet<Cookie>>,
    pairing: Pairing,
}

/// A tie that the probes told of.
#[derive(Clone, Copy, Debug)]
struct Tie {
    feed: Feed,
    /// Bytes come since then, at the latest.
    since: Time,
    /// Looks since it is known.
    looks: u8,
    /// No look has shown the ingest. Should one come to be there, it is another one, until bytes are seen again.
    is_stale: bool,
}

/// What became of a tie that was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fed {
    /// This socket was not known to feed this ingest.
    pub(crate) is_new: bool,
    /// Another tie had to be forgotten for it.
    pub(crate) evicted: bool,
}

/// A socket that may be closed for a pull.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) feed: Feed,
    pub(crate) ingest: IngestRef,
    /// Enough looks have come since the tie is known to be sure whose the ingest is.
    pub(crate) confirmed: bool,
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
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_socket.len() + self.pairing.len()
    }

    /// Takes over a tie.
    pub(crate) fn fed(&mut self, now: Time, feed: Feed) -> Fed {
        let cookie = feed.socket.cookie;
        let since = now.before(feed.lasts);
        if let Some(tie) = self
            .by_socket
            .get_mut(&cookie)
            .filter(|tie| tie.feed.dir == feed.dir)
        {
            tie.feed = feed;
            if std::mem::take(&mut tie.is_stale) {
                tie.looks = 0;
                tie.since = since;
            }
            return Fed {
                is_new: false,
                evicted: false,
            };
        }
        self.unfed(cookie);
        let evicted = self.by_socket.len() >= MAX_FEEDS;
        // Cookies grow with time: the smallest is the oldest socket.
        if evicted && let Some(oldest) = self.by_socket.keys().next().copied() {
            self.unfed(oldest);
        }
        let tie = Tie {
            feed,
            since,
            looks: 0,
            is_stale: false,
        };
        self.by_socket.insert(cookie, tie);
        self.by_dir.entry(feed.dir).or_default().insert(cookie);
        Fed {
            is_new: true,
            evicted,
        }
    }

    /// Forgets the tie of one socket.
    pub(crate) fn unfed(&mut self, cookie: Cookie) {
        let Some(tie) = self.by_socket.remove(&cookie) else {
            return;
        };
        if let Some(cookies) = self.by_dir.get_mut(&tie.feed.dir) {
            cookies.remove(&cookie);
            if cookies.is_empty() {
                self.by_dir.remove(&tie.feed.dir);
            }
        }
    }

    /// Forgets a closed socket.
    pub(crate) fn closed(&mut self, cookie: Cookie) {
        self.unfed(cookie);
        self.pairing.closed(cookie);
    }

    /// Forgets what the probes said.
    pub(crate) fn lost(&mut self) {
        self.by_socket.clear();
        self.by_dir.clear();
    }

    /// Forgets what the socket table said.
    pub(crate) fn table_lost(&mut self) {
        self.pairing = Pairing::default();
    }

    /// Forgets who feeds an ingest that somebody has given up.
    pub(crate) fn given_up(&mut self, dir: IngestDir) {
        for cookie in self.by_dir.remove(&dir).into_iter().flatten() {
            self.by_socket.remove(&cookie);
        }
        self.pairing.forget(dir);
    }

    /// A listing is asked for; `offsets` are those known by now.
    pub(crate) fn listing_asked(&mut self, offsets: Offsets) {
        self.pairing.asked(offsets);
    }

    /// A listing of sockets.
    pub(crate) fn listed(&mut self, sockets: &[SocketStat]) {
        self.pairing.listed(sockets);
        // A socket that the table no longer has cannot be fed, whatever record was lost.
        let alive: BTreeSet<Cookie> = sockets.iter().map(|stat| stat.socket.cookie).collect();
        let dead: Vec<Cookie> = self
            .by_socket
            .keys()
            .filter(|cookie| !alive.contains(cookie))
            .copied()
            .collect();
        for cookie in dead {
            self.unfed(cookie);
        }
    }

    /// A look came, with the offsets of all ingests; `is_held` tells whether a lease lists an ingest.
    pub(crate) fn looked(&mut self, offsets: &Offsets, is_held: impl Fn(IngestDir) -> bool) {
        for tie in self.by_socket.values_mut() {
            tie.looks = tie.looks.saturating_add(1);
            tie.is_stale |= tie.looks >= LOOKS_TO_CONFIRM && !offsets.contains_key(&tie.feed.dir);
        }
        self.pairing.looked(offsets);
        self.pairing.retain(is_held);
    }

    /// Whether a look is awaited to conclude from a listing.
    pub(crate) fn awaits_look(&self) -> bool {
        self.pairing.awaits_look()
    }

    /// The directories that the probes say are fed.
    pub(crate) fn fed_dirs(&self) -> impl Iterator<Item = IngestDir> {
        self.by_dir.keys().copied()
    }

    fn told_of(&self, dir: IngestDir) -> impl Iterator<Item = &Tie> {
        let cookies = self.by_dir.get(&dir).into_iter().flatten();
        let ties = cookies.filter_map(|cookie| self.by_socket.get(cookie));
        ties.filter(|tie| !tie.is_stale)
    }

    /// Bytes that the probes have counted for an ingest, on the socket with most of them.
    pub(crate) fn bytes_for(&self, dir: IngestDir) -> u64 {
        self.told_of(dir).map(|tie| tie.feed.bytes).max().unwrap_or(0)
    }

    /// Since when a goroutine of containerd has fetched this ingest, if one was seen to.
    pub(crate) fn fetched_since(&self, dir: IngestDir) -> Option<Time> {
        let sure = self
            .told_of(dir)
            .filter(|tie| tie.feed.method == TieMethod::Goroutine);
        sure.map(|tie| tie.since).min()
    }

    /// The socket that feeds `dir`, the surest way first.
    pub(crate) fn feed_of(&self, dir: IngestDir) -> Option<Feed> {
        self.told_of(dir)
            .map(|tie| tie.feed)
            .min_by_key(|feed| (feed.method, Reverse(feed.bytes)))
            .or_else(|| self.pairing.sole_feed_of(dir))
    }

    /// The sockets that may be closed for `pull`, the surest first. An ingest counts only if all pulls that hold it are
    /// `condemned`, and a socket with several explanations only if each of them is.
    pub(crate) fn targets(&self, pull: &Pull, condemned: impl Fn(IngestDir) -> bool) -> Vec<Target> {
        let mut targets: Vec<Target> = Vec::new();
        let counted = self.pairing.dirs();
        for (reference, ingest) in pull.live_ingests().filter(|(_, ingest)| condemned(ingest.dir)) {
            let target = |feed, confirmed| Target {
                feed,
                ingest: reference.clone(),
                confirmed,
            };
            targets.extend(
                self.told_of(ingest.dir)
                    .map(|tie| target(tie.feed, tie.looks >= LOOKS_TO_CONFIRM)),
            );
            if counted.contains(&ingest.dir) {
                targets.extend(self.counted(ingest, &condemned).map(|feed| target(feed, true)));
            }
        }
        targets.sort_by_key(|target| (target.feed.method, Reverse(target.feed.bytes)));
        let mut seen = BTreeSet::new();
        targets.retain(|target| seen.insert(target.feed.socket.cookie));
        targets
    }

    /// Sockets that feed an ingest by their byte counts, and that no probe says to feed another one.
    fn counted(&self, ingest: &Ingest, condemned: impl Fn(IngestDir) -> bool) -> impl Iterator<Item = Feed> {
        let dir = ingest.dir;
        let (feeds, explanations) = self.pairing.feeds_of(dir);
        let clear = explanations.into_iter().all(condemned);
        feeds.into_iter().filter(move |feed| {
            let known = self.by_socket.get(&feed.socket.cookie);
            clear && known.is_none_or(|known| known.is_stale || known.feed.dir == dir)
        })
    }
}
