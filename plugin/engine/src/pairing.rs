//! Ties sockets to ingests by byte counts alone, where no probe can see them.
//!
//! A blob socket has received what its ingest holds, plus HTTP and TLS overhead, plus at most one copy buffer that is
//! not written yet (containerd 2.1.9 core/content/helpers.go: 1 MiB). Offsets are read before and after the sockets
//! are listed, so each socket's count must lie between the two. One round proves nothing; a pair must hold in two
//! rounds with progress in between. Several explanations stay several.

use std::collections::{BTreeMap, BTreeSet};

use crate::bounds::MAX_FEEDS;
use crate::event::{Feed, SocketStat};
use crate::evidence::TieMethod;
use crate::ids::{Cookie, IngestDir, SocketName};

/// Bytes stored per ingest at one time.
pub(crate) type Offsets = BTreeMap<IngestDir, u64>;

/// containerd's copy buffer.
const BUFFER: u64 = 1 << 20;
/// Response headers and a TLS handshake.
const HEADERS: u64 = 64 << 10;
/// Share of TLS record overhead: 22 bytes per record; records of 4 KiB and more.
const TLS_SHARE: u64 = 180;
/// Progress of a socket between two rounds below which the second one proves nothing new.
const PROGRESS: u64 = 256 << 10;

#[derive(Debug, Default)]
pub(crate) struct Pairing {
    /// A listing that waits for the offsets after it.
    open: Option<(Vec<SocketStat>, Offsets)>,
    pairs: BTreeMap<Cookie, Pair>,
}

#[derive(Debug)]
struct Pair {
    socket: SocketName,
    /// Bytes read at the last round that counted.
    read: u64,
    /// What the last round that counted left possible.
    candidates: BTreeSet<IngestDir>,
    /// Rounds with progress in which at least one candidate held.
    rounds: u8,
}

impl Pairing {
    pub(crate) fn listed(&mut self, sockets: &[SocketStat], offsets: Offsets) {
        self.pairs
            .retain(|cookie, _| sockets.iter().any(|stat| stat.socket.cookie == *cookie));
        let established = sockets
            .iter()
            .filter(|stat| stat.established)
            .take(MAX_FEEDS)
            .copied()
            .collect();
        self.open = Some((established, offsets));
    }

    pub(crate) fn looked(&mut self, after: &Offsets) {
        let Some((sockets, before)) = self.open.take() else {
            return;
        };
        for stat in sockets {
            let read = stat.received.saturating_sub(stat.unread);
            let fits: BTreeSet<IngestDir> = after
                .iter()
                .filter(|(dir, high)| before.get(*dir).is_some_and(|low| fits(read, *low, **high)))
                .map(|(dir, _)| *dir)
                .collect();
            self.round(stat.socket, read, fits);
        }
    }

    fn round(&mut self, socket: SocketName, read: u64, fits: BTreeSet<IngestDir>) {
        if fits.is_empty() {
            self.pairs.remove(&socket.cookie);
            return;
        }
        let Some(pair) = self.pairs.get_mut(&socket.cookie) else {
            self.pairs.insert(
                socket.cookie,
                Pair {
                    socket,
                    read,
                    candidates: fits,
                    rounds: 1,
                },
            );
            return;
        };
        if read.saturating_sub(pair.read) < PROGRESS {
            return;
        }
        let both: BTreeSet<IngestDir> = pair.candidates.intersection(&fits).copied().collect();
        if both.is_empty() {
            *pair = Pair {
                socket,
                read,
                candidates: fits,
                rounds: 1,
            };
        } else {
            pair.rounds = pair.rounds.saturating_add(1);
            pair.candidates = both;
            pair.read = read;
        }
    }

    pub(crate) fn closed(&mut self, cookie: Cookie) {
        self.pairs.remove(&cookie);
    }

    /// Sockets that may feed `dir`, each with all its explanations.
    pub(crate) fn feeds_of(&self, dir: IngestDir) -> impl Iterator<Item = (Feed, &BTreeSet<IngestDir>)> {
        self.pairs
            .values()
            .filter(move |pair| pair.rounds >= 2 && pair.candidates.contains(&dir))
            .map(move |pair| {
                let feed = Feed {
                    socket: pair.socket,
                    dir,
                    method: TieMethod::ByteCount,
                    bytes: pair.read,
                };
                (feed, &pair.candidates)
            })
    }

    /// The socket that feeds `dir`, if that is its only explanation and no other socket's.
    pub(crate) fn sole_feed_of(&self, dir: IngestDir) -> Option<Feed> {
        let mut feeds = self.feeds_of(dir);
        let (feed, explanations) = feeds.next()?;
        (explanations.len() == 1 && feeds.next().is_none()).then_some(feed)
    }
}

/// Whether a socket that has read `read` bytes may feed an ingest that held `low` before and `high` after.
fn fits(read: u64, low: u64, high: u64) -> bool {
    let most = high
        .saturating_add(high / TLS_SHARE)
        .saturating_add(BUFFER + HEADERS);
    high >= BUFFER && read >= low && read <= most
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn dir(n: u8) -> IngestDir {
        IngestDir::from_hash([n; 32])
    }

    fn stat(cookie: u64, received: u64) -> SocketStat {
        let address = |port| std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let socket = SocketName {
            cookie: Cookie(cookie),
            local: address(40_000),
            remote: address(5000),
        };
        SocketStat {
            socket,
            established: true,
            received,
            unread: 0,
        }
    }

    fn round(pairing: &mut Pairing, sockets: &[SocketStat], low: &[(u8, u64)], high: &[(u8, u64)]) {
        let offsets = |of: &[(u8, u64)]| of.iter().map(|(n, bytes)| (dir(*n), *bytes)).collect::<Offsets>();
        pairing.listed(sockets, offsets(low));
        pairing.looked(&offsets(high));
    }

    #[test]
    fn two_rounds_with_progress_make_a_pair() {
        let mut pairing = Pairing::default();
        round(
            &mut pairing,
            &[stat(7, 5 * MIB + 700)],
            &[(1, 5 * MIB)],
            &[(1, 5 * MIB)],
        );
        assert!(pairing.sole_feed_of(dir(1)).is_none(), "one round proves nothing");
        round(
            &mut pairing,
            &[stat(7, 5 * MIB + 800)],
            &[(1, 5 * MIB)],
            &[(1, 5 * MIB)],
        );
        assert!(
            pairing.sole_feed_of(dir(1)).is_none(),
            "no progress proves nothing"
        );
        round(
            &mut pairing,
            &[stat(7, 9 * MIB + 700)],
            &[(1, 9 * MIB)],
            &[(1, 9 * MIB)],
        );
        assert_eq!(
            pairing.sole_feed_of(dir(1)).map(|feed| feed.socket.cookie),
            Some(Cookie(7))
        );
    }

    #[test]
    fn equal_counts_stay_ambiguous() {
        let mut pairing = Pairing::default();
        for bytes in [5 * MIB, 9 * MIB] {
            let both = [(1, bytes), (2, bytes)];
            round(
                &mut pairing,
                &[stat(7, bytes + 500), stat(8, bytes + 600)],
                &both,
                &both,
            );
        }
        assert!(pairing.sole_feed_of(dir(1)).is_none());
        assert!(
            pairing
                .feeds_of(dir(1))
                .all(|(_, explanations)| explanations.len() == 2)
        );
    }

    #[test]
    fn a_socket_behind_the_ingest_is_no_pair() {
        let mut pairing = Pairing::default();
        for bytes in [5 * MIB, 9 * MIB] {
            round(
                &mut pairing,
                &[stat(7, bytes - 2 * MIB)],
                &[(1, bytes)],
                &[(1, bytes)],
            );
        }
        assert_eq!(pairing.feeds_of(dir(1)).count(), 0);
    }
}
