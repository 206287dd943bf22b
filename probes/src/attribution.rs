//! "Socket C feeds ingest D", concluded from [`Record`]s: pure, without clocks or files, and bounded.
//!
//! containerd copies a layer with one goroutine that opens the ingest, then by turns reads the socket and
//! writes `data`. So C feeds D while all of these hold:
//! - the ingest that goroutine g took last is D, and nobody took D after g;
//! - the socket that g read last, after it took D, is C, and nobody read C after g, nor sent on it;
//! - that run of reads is too long for what the transport's own goroutine reads ahead of a body.
//!
//! Go recycles goroutines, so a goroutine counts only until it is seen leaving its ingest: by turning `data`
//! into a blob, or by writing `updatedat` when it gives up. Where writing goroutines read no socket (parallel
//! ranges, decoded bodies), the vote of threads decides, by a clear majority over enough bytes. Whatever is
//! unclear is left unsaid: an answer may be missing, it must never be wrong.

use crate::bounded::BoundedMap;
use crate::record::{Caller, FileId, IngestDirectory, IngestPart, Record, TcpState};

/// Goroutines that are in an ingest at once, before the oldest is forgotten.
pub const MAX_GOROUTINES: usize = 4096;
/// Ingests at once.
pub const MAX_DIRECTORIES: usize = 4096;
/// Sockets at once.
pub const MAX_SOCKETS: usize = 4096;
/// Bytes of one run of reads before it counts. The transport's own goroutine reads at most a few KiB of a
/// body (plain) or one TLS record (16 KiB) ahead; a token answer is small as well.
pub const RUN_BYTES: u64 = 64 * 1024;
/// A run that lasts so long counts also with fewer bytes: a slow sender. Nanoseconds.
pub const RUN_NS: u64 = 10_000_000_000;
/// Bytes that threads must have carried before their vote counts.
pub const VOTE_BYTES: u64 = 4 * 1024 * 1024;
/// Of these, the share in percent that the winning ingest needs.
pub const VOTE_PERCENT: u64 = 80;
/// Ingests that one socket's votes may name before the smallest is forgotten.
const MAX_CANDIDATES: usize = 8;

/// How a conclusion was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// The same goroutine reads the socket and writes the ingest: never seen wrong.
    Goroutine,
    /// The threads that wrote the ingest had mostly read this socket before: a majority, not a proof.
    Thread,
}

/// A socket and the ingest that it feeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feed {
    /// The socket.
    pub cookie: u64,
    /// The process that has both.
    pub tgid: u32,
    /// The ingest.
    pub directory: IngestDirectory,
    /// The ingest's `data` file, once it was written to: about 1 MiB after the first byte.
    pub file: Option<FileId>,
    /// How this is known.
    pub method: Method,
    /// Bytes of evidence so far.
    pub bytes: u64,
    /// Nanoseconds in which they came, from the first of them on; 0 where only threads tell.
    pub lasts_ns: u64,
}

/// What changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// This holds now, and replaces what was said of the same socket; said again when the file gets known.
    Feed(Feed),
    /// Nothing is known of this socket any more.
    Unfed {
        /// The socket.
        cookie: u64,
    },
}

type GoroutineKey = (u32, u64);
type DirectoryKey = (u32, IngestDirectory);

#[derive(Debug, Default)]
struct Goroutine {
    directory: Option<IngestDirectory>,
    last_part: Option<IngestPart>,
    run: Option<Run>,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    cookie: u64,
    since_ns: u64,
    until_ns: u64,
    bytes: u64,
}

impl Run {
    fn counts(&self) -> bool {
        self.bytes >= RUN_BYTES || self.until_ns.saturating_sub(self.since_ns) >= RUN_NS
    }
}

#[derive(Debug, Default)]
struct Directory {
    writer: u64,
    data: Option<FileId>,
    /// A goroutine was once seen feeding it, so the votes of threads have no say.
    has_spoken: bool,
}

#[derive(Debug, Default)]
struct Socket {
    reader: Option<GoroutineKey>,
    votes: Vec<(DirectoryKey, u64)>,
    feed: Option<Feed>,
}

/// The conclusions so far. Feed it every record in order.
#[derive(Debug)]
pub struct Attribution {
    goroutines: BoundedMap<GoroutineKey, Goroutine>,
    directories: BoundedMap<DirectoryKey, Directory>,
    sockets: BoundedMap<u64, Socket>,
    evictions: u64,
}

impl Default for Attribution {
    fn default() -> Self {
        Self::new()
    }
}

impl Attribution {
    /// Knows nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::with_bounds(MAX_GOROUTINES, MAX_DIRECTORIES, MAX_SOCKETS)
    }

    fn with_bounds(goroutines: usize, directories: usize, sockets: usize) -> Self {
        Self {
            goroutines: BoundedMap::new(goroutines),
            directories: BoundedMap::new(directories),
            sockets: BoundedMap::new(sockets),
            evictions: 0,
        }
    }

    /// Takes one record in, and tells what follows from it.
    pub fn observe(&mut self, record: &Record, tell: &mut dyn FnMut(Change)) {
        match *record {
            Record::FileTouched {
                by,
                file,
                directory,
                part,
                ..
            } => {
                self.file_touched(by, file, directory, part, tell);
            }
            Record::FileLeft { by, .. } => self.leave((by.tgid, by.goroutine), tell),
            Record::SocketRead {
                at_ns,
                by,
                cookie,
                bytes_by_goroutine,
                ..
            } => {
                self.socket_read(at_ns, by, cookie, bytes_by_goroutine, tell);
            }
            Record::SocketSent { cookie, .. } => self.socket_sent(cookie, tell),
            Record::SocketState {
                cookie,
                state: TcpState::Close,
                ..
            } => self.forget_socket(cookie, tell),
            Record::SocketState {
                state: TcpState::Established,
                ..
            } => {}
            Record::ThreadVote {
                by,
                cookie,
                directory,
                bytes,
                ..
            } => {
                self.thread_vote((by.tgid, directory), cookie, bytes, tell);
            }
            Record::Gap => self.resync(tell),
        }
    }

    /// Forgets everything, as records were missed. The probes say again what still holds.
    pub fn resync(&mut self, tell: &mut dyn FnMut(Change)) {
        for (cookie, socket) in self.sockets.iter() {
            if socket.feed.is_some() {
                tell(Change::Unfed { cookie: *cookie });
            }
        }
        self.goroutines.clear();
        self.directories.clear();
        self.sockets.clear();
    }

    /// Forgets a process that is gone.
    pub fn forget_process(&mut self, tgid: u32, tell: &mut dyn FnMut(Change)) {
        let gone: Vec<_> = self
            .goroutines
            .keys()
            .filter(|key| key.0 == tgid)
            .copied()
            .collect();
        for key in gone {
            self.leave(key, tell);
        }
        let gone: Vec<_> = self
            .directories
            .keys()
            .filter(|key| key.0 == tgid)
            .copied()
            .collect();
        for key in gone {
            self.close_directory(key, tell);
        }
    }

    /// What the socket feeds, if that is known.
    #[must_use]
    pub fn feed_of(&self, cookie: u64) -> Option<&Feed> {
        self.sockets.get(&cookie)?.feed.as_ref()
    }

    /// Everything that is known, in no order.
    pub fn feeds(&self) -> impl Iterator<Item = &Feed> {
        self.sockets.iter().filter_map(|(_, socket)| socket.feed.as_ref())
    }

    /// How many entries were forgotten for want of room.
    #[must_use]
    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    fn file_touched(
        &mut self,
        by: Caller,
        file: FileId,
        directory: IngestDirectory,
        part: IngestPart,
        tell: &mut dyn FnMut(Change),
    ) {
        let (key, goroutine) = ((by.tgid, directory), (by.tgid, by.goroutine));
        let known = self
            .goroutines
            .get(&goroutine)
            .filter(|known| known.directory == Some(directory));
        if part == IngestPart::UpdatedAt
            && known.and_then(|known| known.last_part) != Some(IngestPart::StartedAt)
        {
            // `updatedat` follows `startedat` when an ingest is opened; else it says that a writer gives up.
            self.close_directory(key, tell);
            return;
        }
        if part == IngestPart::Ref {
            self.close_directory(key, tell);
        }
        if self
            .goroutines
            .get(&goroutine)
            .is_none_or(|known| known.directory != Some(directory))
        {
            self.leave(goroutine, tell);
            self.make_room(goroutine, key, tell);
        }
        let entry = self.goroutines.entry(goroutine);
        entry.directory = Some(directory);
        entry.last_part = Some(part);
        let run = entry.run.map(|run| run.cookie);
        let entry = self.directories.entry(key);
        let before = std::mem::replace(&mut entry.writer, by.goroutine);
        if part == IngestPart::Data {
            entry.data = Some(file);
        }
        if before != by.goroutine && before != 0 {
            // The previous writer did not say goodbye; what it goes on to read is its own affair.
            self.drop_goroutine((by.tgid, before), tell);
        }
        if let Some(cookie) = run {
            self.conclude(cookie, tell);
        }
    }

    fn socket_read(&mut self, at_ns: u64, by: Caller, cookie: u64, bytes: u64, tell: &mut dyn FnMut(Change)) {
        let key = (by.tgid, by.goroutine);
        self.make_room_for_socket(cookie, tell);
        let socket = self.sockets.entry(cookie);
        let same_reader = socket.reader == Some(key);
        if !same_reader {
            // Another reader, another response: the kernel side counts votes anew as well.
            socket.reader = Some(key);
            socket.votes.clear();
        }
        let mut before = None;
        if let Some(goroutine) = self.goroutines.get_mut(&key) {
            let run = goroutine
                .run
                .filter(|run| same_reader && run.cookie == cookie && run.bytes <= bytes);
            before = goroutine
                .run
                .map(|run| run.cookie)
                .filter(|before| *before != cookie);
            let since_ns = run.map_or(at_ns, |run| run.since_ns);
            goroutine.run = Some(Run {
                cookie,
                since_ns,
                until_ns: at_ns,
                bytes,
            });
        }
        if let Some(before) = before {
            self.conclude(before, tell);
        }
        self.conclude(cookie, tell);
    }

    fn socket_sent(&mut self, cookie: u64, tell: &mut dyn FnMut(Change)) {
        if let Some(socket) = self.sockets.get_mut(&cookie) {
            socket.reader = None;
            socket.votes.clear();
        }
        self.conclude(cookie, tell);
    }

    fn thread_vote(&mut self, key: DirectoryKey, cookie: u64, bytes: u64, tell: &mut dyn FnMut(Change)) {
        if self.directories.get(&key).is_none_or(|known| known.has_spoken) {
            return;
        }
        self.make_room_for_socket(cookie, tell);
        let votes = &mut self.sockets.entry(cookie).votes;
        if let Some((_, sum)) = votes.iter_mut().find(|(candidate, _)| *candidate == key) {
            *sum = bytes;
        } else {
            votes.push((key, bytes));
            if votes.len() > MAX_CANDIDATES
                && let Some(smallest) =
                    (0..votes.len()).min_by_key(|index| votes.get(*index).map(|vote| vote.1))
            {
                votes.swap_remove(smallest);
                self.evictions = self.evictions.saturating_add(1);
            }
        }
        self.conclude(cookie, tell);
    }

    /// Compares what now follows for a socket with what was told.
    fn conclude(&mut self, cookie: u64, tell: &mut dyn FnMut(Change)) {
        let Some(socket) = self.sockets.get(&cookie) else {
            return;
        };
        let (before, after) = (
            socket.feed,
            self.by_goroutine(cookie).or_else(|| self.by_threads(cookie)),
        );
        if let Some(socket) = self.sockets.peek_mut(&cookie) {
            socket.feed = after;
        }
        match (before, after) {
            (Some(before), Some(after))
                if Feed {
                    bytes: before.bytes,
                    lasts_ns: before.lasts_ns,
                    ..after
                } == before => {}
            (_, Some(after)) => tell(Change::Feed(after)),
            (Some(_), None) => tell(Change::Unfed { cookie }),
            (None, None) => {}
        }
        if let Some(feed) = after.filter(|feed| feed.method == Method::Goroutine) {
            self.silence_threads((feed.tgid, feed.directory), tell);
        }
    }

    /// A goroutine feeds this ingest: from now on the votes of threads have no say in it.
    fn silence_threads(&mut self, key: DirectoryKey, tell: &mut dyn FnMut(Change)) {
        let Some(directory) = self.directories.peek_mut(&key) else {
            return;
        };
        if std::mem::replace(&mut directory.has_spoken, true) {
            return;
        }
        for cookie in self.take_votes(key) {
            self.conclude(cookie, tell);
        }
    }

    /// Drops the votes for an ingest, and names the sockets that were said to feed it.
    fn take_votes(&mut self, key: DirectoryKey) -> Vec<u64> {
        let mut fed = Vec::new();
        for socket in self.sockets.values_mut() {
            socket.votes.retain(|(candidate, _)| *candidate != key);
            fed.extend(
                socket
                    .feed
                    .filter(|feed| (feed.tgid, feed.directory) == key)
                    .map(|feed| feed.cookie),
            );
        }
        fed
    }

    fn by_goroutine(&self, cookie: u64) -> Option<Feed> {
        let (tgid, goroutine) = self.sockets.get(&cookie)?.reader?;
        let reader = self.goroutines.get(&(tgid, goroutine))?;
        let run = reader.run.filter(|run| run.cookie == cookie && run.counts())?;
        let directory = reader.directory?;
        let known = self
            .directories
            .get(&(tgid, directory))
            .filter(|known| known.writer == goroutine)?;
        let (file, bytes) = (known.data, run.bytes);
        Some(Feed {
            cookie,
            tgid,
            directory,
            file,
            method: Method::Goroutine,
            bytes,
            lasts_ns: run.until_ns.saturating_sub(run.since_ns),
        })
    }

    fn by_threads(&self, cookie: u64) -> Option<Feed> {
        let votes = &self.sockets.get(&cookie)?.votes;
        let sum = votes
            .iter()
            .fold(0_u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
        let ((tgid, directory), bytes) = *votes.iter().max_by_key(|(_, bytes)| *bytes)?;
        let known = self
            .directories
            .get(&(tgid, directory))
            .filter(|known| !known.has_spoken)?;
        let clear = u128::from(bytes) * 100 >= u128::from(sum) * u128::from(VOTE_PERCENT);
        (sum >= VOTE_BYTES && clear).then_some(Feed {
            cookie,
            tgid,
            directory,
            file: known.data,
            method: Method::Thread,
            bytes,
            lasts_ns: 0,
        })
    }

    /// The goroutine is done with its ingest, and so the ingest with its writer.
    fn leave(&mut self, goroutine: GoroutineKey, tell: &mut dyn FnMut(Change)) {
        let Some(directory) = self.goroutines.get(&goroutine).and_then(|known| known.directory) else {
            return;
        };
        let key = (goroutine.0, directory);
        if self
            .directories
            .get(&key)
            .is_some_and(|known| known.writer == goroutine.1)
        {
            self.close_directory(key, tell);
        } else {
            self.drop_goroutine(goroutine, tell);
        }
    }

    fn close_directory(&mut self, key: DirectoryKey, tell: &mut dyn FnMut(Change)) {
        if let Some(directory) = self.directories.remove(&key) {
            self.after_close(key, &directory, tell);
        }
    }

    fn after_close(&mut self, key: DirectoryKey, directory: &Directory, tell: &mut dyn FnMut(Change)) {
        self.drop_goroutine((key.0, directory.writer), tell);
        for cookie in self.take_votes(key) {
            self.conclude(cookie, tell);
        }
    }

    fn drop_goroutine(&mut self, key: GoroutineKey, tell: &mut dyn FnMut(Change)) {
        if let Some(run) = self.goroutines.remove(&key).and_then(|goroutine| goroutine.run) {
            self.conclude(run.cookie, tell);
        }
    }

    fn forget_socket(&mut self, cookie: u64, tell: &mut dyn FnMut(Change)) {
        let Some(socket) = self.sockets.remove(&cookie) else {
            return;
        };
        if let Some(reader) = socket.reader.and_then(|reader| self.goroutines.get_mut(&reader)) {
            reader.run = reader.run.filter(|run| run.cookie != cookie);
        }
        if socket.feed.is_some() {
            tell(Change::Unfed { cookie });
        }
    }

    fn make_room(&mut self, goroutine: GoroutineKey, directory: DirectoryKey, tell: &mut dyn FnMut(Change)) {
        if let Some((_, evicted)) = self.goroutines.make_room(&goroutine) {
            self.evictions = self.evictions.saturating_add(1);
            if let Some(run) = evicted.run {
                self.conclude(run.cookie, tell);
            }
        }
        if let Some((key, evicted)) = self.directories.make_room(&directory) {
            self.evictions = self.evictions.saturating_add(1);
            self.after_close(key, &evicted, tell);
        }
    }

    fn make_room_for_socket(&mut self, cookie: u64, tell: &mut dyn FnMut(Change)) {
        if let Some((evicted, socket)) = self.sockets.make_room(&cookie) {
            self.evictions = self.evictions.saturating_add(1);
            if socket.feed.is_some() {
                tell(Change::Unfed { cookie: evicted });
            }
        }
    }
}

#[cfg(test)]
mod tests;
