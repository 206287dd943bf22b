//! Ties sockets to ingests by byte counts alone, where no probe can see them.
//!
//! A socket that carries its first blob has received what the ingest holds, plus HTTP and TLS overhead, plus at most
//! one copy buffer that is not written yet (containerd 2.1.9 core/content/helpers.go: 1 MiB). Offsets are read before
//! the sockets are listed and after it, so the count must lie between the two. One round proves nothing; a pair must
//! hold in two rounds with progress in between.
//!
//! A socket may have carried other blobs before, and then its count fits no ingest, or a wrong one by chance. So an
//! ingest that no socket's count fits, and that grew as the socket did, is an explanation of that socket as well.
//! Several explanations stay several, and more sockets than ingests to explain them explain nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::bounds::{MAX_FEEDS, MAX_PAIRED_INGESTS};
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
/// Progress of a socket between two rounds below which the second one proves nothing new: an ingest that stood still
/// meanwhile must not fit both times.
const PROGRESS: u64 = 2 * BUFFER;
/// Looks after a listing until its round is complete: the first may have been under way before the sockets were listed.
const LOOKS: u8 = 2;

#[derive(Debug, Default)]
pub(crate) struct Pairing {
    round: Round,
    pairs: BTreeMap<Cookie, Pair>,
    /// Bytes that each socket had read at the last round.
    reads: BTreeMap<Cookie, u64>,
}

/// How far the present round has come.
#[derive(Debug, Default)]
enum Round {
    #[default]
    None,
    /// A listing was asked for, with these offsets known before.
    Asked { before: Offsets },
    /// It came; looks are awaited.
    Listed {
        before: Offsets,
        sockets: Vec<SocketStat>,
        looks: u8,
    },
}

/// What each ingest held before and after the sockets of a round were listed.
type Window = BTreeMap<IngestDir, (u64, u64)>;

#[derive(Debug)]
struct Pair {
    socket: SocketName,
    /// Bytes read at the last round that counted, and the ingests then.
    read: u64,
    window: Arc<Window>,
    /// Ingests whose offsets fitted in all rounds that counted.
    candidates: BTreeSet<IngestDir>,
    /// Ingests that fit nobody, and grew like this socket between the last two rounds.
    besides: BTreeSet<IngestDir>,
    /// Rounds with progress in which at least one candidate held.
    rounds: u8,
}

impl Pairing {
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.pairs.len()
    }

    /// A listing is asked for; `before` are the offsets known by now.
    pub(crate) fn asked(&mut self, before: Offsets) {
        self.round = Round::Asked { before };
    }

    /// A listing came. One that was not asked for tells only which sockets are left.
    pub(crate) fn listed(&mut self, sockets: &[SocketStat]) {
        let alive: BTreeSet<Cookie> = sockets.iter().map(|stat| stat.socket.cookie).collect();
        self.pairs.retain(|cookie, _| alive.contains(cookie));
        if let Round::Asked { before } = &mut self.round {
            self.round = Round::Listed {
                before: std::mem::take(before),
                sockets: sockets
                    .iter()
                    .filter(|stat| stat.established)
                    .take(MAX_FEEDS)
                    .copied()
                    .collect(),
                looks: 0,
            };
        }
    }

    /// Whether a look is awaited to complete a round.
    pub(crate) fn awaits_look(&self) -> bool {
        matches!(self.round, Round::Listed { .. })
    }

    /// A look came.
    pub(crate) fn looked(&mut self, after: &Offsets) {
        let Round::Listed {
            before,
            sockets,
            looks,
        } = &mut self.round
        else {
            return;
        };
        *looks = looks.saturating_add(1);
        if *looks < LOOKS {
            return;
        }
        let window: Window = after
            .iter()
            .filter_map(|(dir, high)| Some((*dir, (*before.get(dir)?, *high))))
            .collect();
        let sockets = std::mem::take(sockets);
        self.round = Round::None;
        self.complete(&sockets, &Arc::new(window));
    }

    fn complete(&mut self, sockets: &[SocketStat], window: &Arc<Window>) {
        if window.len() > MAX_PAIRED_INGESTS {
            // Each would be explained by hundreds, which proves nothing and takes long to find out.
            self.pairs.clear();
            self.reads.clear();
            return;
        }
        let read = |stat: &SocketStat| stat.received.saturating_sub(stat.unread);
        let fitting: Vec<BTreeSet<IngestDir>> = sockets
            .iter()
            .map(|stat| {
                let fitting = window
                    .iter()
                    .filter(|(_, (low, high))| fits(read(stat), *low, *high));
                fitting.map(|(dir, _)| *dir).collect()
            })
            .collect();
        // A socket that stood still since the last round feeds nothing, and what fits it does so by chance.
        let stood_still = |stat: &SocketStat| self.reads.get(&stat.socket.cookie) == Some(&read(stat));
        let explained: BTreeSet<IngestDir> = sockets
            .iter()
            .zip(&fitting)
            .filter(|(stat, _)| !stood_still(stat))
            .flat_map(|(_, fitting)| fitting)
            .copied()
            .collect();
        self.reads = sockets
            .iter()
            .map(|stat| (stat.socket.cookie, read(stat)))
            .collect();
        for (stat, fitting) in sockets.iter().zip(fitting) {
            self.advance(stat.socket, read(stat), fitting, &explained, window);
        }
    }

    fn advance(
        &mut self,
        socket: SocketName,
        read: u64,
        fitting: BTreeSet<IngestDir>,
        explained: &BTreeSet<IngestDir>,
        window: &Arc<Window>,
    ) {
        let first = |candidates| Pair {
            socket,
            read,
            window: Arc::clone(window),
            candidates,
            besides: BTreeSet::new(),
            rounds: 1,
        };
        if fitting.is_empty() {
            self.pairs.remove(&socket.cookie);
            return;
        }
        let Some(pair) = self.pairs.get_mut(&socket.cookie) else {
            self.pairs.insert(socket.cookie, first(fitting));
            return;
        };
        let candidates: BTreeSet<IngestDir> = pair.candidates.intersection(&fitting).copied().collect();
        if candidates.is_empty() {
            *pair = first(fitting);
            return;
        }
        let progress = read.saturating_sub(pair.read);
        if progress < PROGRESS {
            pair.candidates = candidates;
            return;
        }
        pair.besides = window
            .iter()
            .filter(|(dir, _)| !explained.contains(*dir))
            .filter(|(dir, now)| grew_alike(progress, pair.window.get(*dir).copied(), **now))
            .map(|(dir, _)| *dir)
            .collect();
        pair.rounds = pair.rounds.saturating_add(1);
        pair.candidates = candidates;
        pair.read = read;
        pair.window = Arc::clone(window);
    }

    /// Forgets a closed socket.
    pub(crate) fn closed(&mut self, cookie: Cookie) {
        self.pairs.remove(&cookie);
        self.reads.remove(&cookie);
    }

    /// Forgets what was concluded about an ingest: another pull may have it now. A socket that it may explain is not
    /// explained by what else fitted, either.
    pub(crate) fn forget(&mut self, dir: IngestDir) {
        match &mut self.round {
            Round::Asked { before } | Round::Listed { before, .. } => {
                before.remove(&dir);
            }
            Round::None => {}
        }
        self.pairs
            .retain(|_, pair| !pair.candidates.contains(&dir) && !pair.besides.contains(&dir));
    }

    /// Forgets sockets that feed nothing which a pull holds.
    pub(crate) fn retain(&mut self, is_held: impl Fn(IngestDir) -> bool) {
        self.pairs
            .retain(|_, pair| pair.candidates.iter().any(|dir| is_held(*dir)));
    }

    /// The ingests that some socket may feed.
    pub(crate) fn dirs(&self) -> BTreeSet<IngestDir> {
        self.pairs
            .values()
            .flat_map(|pair| &pair.candidates)
            .copied()
            .collect()
    }

    /// Sockets that may feed `dir`, each with everything that may explain them.
    pub(crate) fn feeds_of(&self, dir: IngestDir) -> (Vec<Feed>, BTreeSet<IngestDir>) {
        let rivals: Vec<&Pair> = self
            .pairs
            .values()
            .filter(|pair| pair.candidates.contains(&dir))
            .collect();
        let explanations: BTreeSet<IngestDir> = rivals
            .iter()
            .flat_map(|pair| pair.candidates.iter().chain(&pair.besides))
            .copied()
            .collect();
        if rivals.len() > explanations.len() {
            return (Vec::new(), explanations);
        }
        let feeds = rivals.iter().filter(|pair| pair.rounds >= 2).map(|pair| Feed {
            socket: pair.socket,
            dir,
            method: TieMethod::ByteCount,
            bytes: pair.read,
            lasts: Duration::ZERO,
        });
        (feeds.collect(), explanations)
    }

    /// The socket that feeds `dir`, if that is its only explanation and no other socket's.
    pub(crate) fn sole_feed_of(&self, dir: IngestDir) -> Option<Feed> {
        let (feeds, explanations) = self.feeds_of(dir);
        feeds.first().filter(|_| explanations.len() == 1).copied()
    }
}

/// Whether a socket that has read `read` bytes may feed an ingest that held `low` before and `high` after.
fn fits(read: u64, low: u64, high: u64) -> bool {
    read >= low && read <= on_the_wire(high)
}

/// Whether an ingest may have grown by what a socket brought between two rounds; one that was not there before began
/// with nothing.
fn grew_alike(progress: u64, before: Option<(u64, u64)>, now: (u64, u64)) -> bool {
    let before = before.unwrap_or_default();
    let (least, most) = (now.0.saturating_sub(before.1), now.1.saturating_sub(before.0));
    progress <= on_the_wire(most) && least <= progress.saturating_add(BUFFER)
}

/// The most that a socket has read when `bytes` of it are stored.
fn on_the_wire(bytes: u64) -> u64 {
    bytes
        .saturating_add(bytes / TLS_SHARE)
        .saturating_add(BUFFER + HEADERS)
}

#[cfg(test)]
mod tests;
