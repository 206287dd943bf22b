//! An imitation of containerd and of the kernel side, run with random interleavings: goroutines are recycled,
//! connections reused, bodies cut, ingests given up, records lost. Whatever is said must be true.

use std::collections::HashMap;

use proptest::prelude::*;

use super::{Attribution, by, directory};
use crate::record::{FileId, IngestDirectory, IngestPart, Record};

const KIB: u64 = 1024;
const GOROUTINES: u64 = 6;
const FETCHES: usize = 4;

#[derive(Debug, Clone, Copy)]
enum Step {
    /// A goroutine opens an ingest and, after reading this much from a token server, sends its request.
    Start {
        layer: u8,
        fresh_connection: bool,
        token_bytes: u64,
    },
    /// The head of the response arrives: the transport's own goroutine reads it.
    Answer {
        fetch: usize,
    },
    /// A body arrives.
    Read {
        fetch: usize,
        bytes: u64,
    },
    Write {
        fetch: usize,
    },
    /// The body is complete: the connection is idle, the ingest not yet a blob.
    Drain {
        fetch: usize,
    },
    Commit {
        fetch: usize,
    },
    GiveUp {
        fetch: usize,
    },
    /// The server ends the body; containerd goes on with a range on another connection.
    Resume {
        fetch: usize,
    },
    /// A small answer that the transport's own goroutine reads whole, on a recycled goroutine.
    Small {
        bytes: u64,
    },
    /// The next record does not fit into the ring.
    Lose,
}

fn step() -> impl Strategy<Value = Step> {
    let fetch = 0..FETCHES;
    let small = 1_u64..16 * KIB;
    prop_oneof![
        4 => (0_u8..6, any::<bool>(), 0_u64..16 * KIB).prop_map(|(layer, fresh_connection, token_bytes)| {
            Step::Start { layer, fresh_connection, token_bytes }
        }),
        6 => fetch.clone().prop_map(|fetch| Step::Answer { fetch }),
        12 => (fetch.clone(), 1_u64..300 * KIB).prop_map(|(fetch, bytes)| Step::Read { fetch, bytes }),
        6 => fetch.clone().prop_map(|fetch| Step::Write { fetch }),
        3 => fetch.clone().prop_map(|fetch| Step::Drain { fetch }),
        3 => fetch.clone().prop_map(|fetch| Step::Commit { fetch }),
        2 => fetch.clone().prop_map(|fetch| Step::GiveUp { fetch }),
        2 => fetch.prop_map(|fetch| Step::Resume { fetch }),
        3 => small.prop_map(|bytes| Step::Small { bytes }),
        1 => Just(Step::Lose),
    ]
}

/// What `bpf/follow.h` keeps of a goroutine.
#[derive(Debug, Default, Clone)]
struct Seen {
    epoch: u32,
    directory: Option<u8>,
    file: u64,
    part: Option<IngestPart>,
    data: Option<u64>,
    cookie: u64,
    run: u64,
    mark: u64,
    confirm: bool,
}

#[derive(Debug, Default)]
struct Kernel {
    epoch: u32,
    told_epoch: u32,
    lose_next: bool,
    goroutines: HashMap<u64, Seen>,
    readers: HashMap<u64, u64>,
    records: Vec<Record>,
}

impl Kernel {
    fn seen(&mut self, goroutine: u64) -> &mut Seen {
        let epoch = self.epoch;
        let seen = self.goroutines.entry(goroutine).or_default();
        if seen.epoch != epoch {
            *seen = Seen {
                epoch,
                ..Seen::default()
            };
        }
        seen
    }

    fn say(&mut self, record: Record) {
        if std::mem::take(&mut self.lose_next) {
            self.epoch += 1;
            return;
        }
        if self.told_epoch != self.epoch {
            self.told_epoch = self.epoch;
            self.records.push(Record::Gap);
        }
        self.records.push(record);
    }

    fn touch(&mut self, goroutine: u64, layer: u8, part: IngestPart, inode: u64) {
        let seen = self.seen(goroutine);
        let is_data = part == IngestPart::Data;
        if seen.file == inode {
            if !(is_data && std::mem::take(&mut seen.confirm)) {
                return;
            }
        } else {
            seen.file = inode;
            if part == IngestPart::Ref || seen.directory != Some(layer) {
                seen.directory = Some(layer);
                seen.data = None;
                seen.cookie = 0;
            }
            if part == IngestPart::UpdatedAt && seen.part != Some(IngestPart::StartedAt) {
                seen.directory = None;
            }
            seen.part = Some(part);
            if is_data {
                seen.data = Some(inode);
                seen.confirm = false;
            }
        }
        let file = FileId { dev: 1, inode };
        self.say(Record::FileTouched {
            at_ns: 0,
            by: by(goroutine),
            file,
            directory: directory(layer),
            part,
        });
    }

    fn touch_elsewhere(&mut self, goroutine: u64, inode: u64) {
        let seen = self.seen(goroutine);
        seen.file = inode;
        if let Some(data) = seen.data.take() {
            seen.directory = None;
            let file = FileId { dev: 1, inode: data };
            self.say(Record::FileLeft {
                at_ns: 0,
                by: by(goroutine),
                file,
            });
        }
    }

    fn read(&mut self, goroutine: u64, cookie: u64, bytes: u64) {
        let new_reader = self.readers.insert(cookie, goroutine) != Some(goroutine);
        let seen = self.seen(goroutine);
        if seen.cookie != cookie || new_reader {
            seen.confirm |= seen.cookie != cookie;
            (seen.cookie, seen.run, seen.mark) = (cookie, 0, 0);
        }
        seen.run += bytes;
        if seen.run < seen.mark {
            return;
        }
        seen.mark = if seen.run < 64 * KIB {
            64 * KIB
        } else {
            seen.run + 256 * KIB
        };
        let run = seen.run;
        self.say(super::read(goroutine, cookie, run));
    }

    fn send(&mut self, cookie: u64) {
        let Some(reader) = self.readers.get(&cookie).copied() else {
            return;
        };
        if self
            .goroutines
            .get(&reader)
            .is_some_and(|seen| seen.directory.is_some() && seen.cookie == cookie)
        {
            self.readers.remove(&cookie);
            self.say(super::sent(cookie));
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Fetch {
    goroutine: u64,
    layer: u8,
    data: u64,
    cookie: Option<u64>,
    answered: bool,
}

#[derive(Debug, Default)]
struct World {
    kernel: Kernel,
    fetches: Vec<Fetch>,
    idle: Vec<u64>,
    next: u64,
    /// Which layer's body each connection carries, or carried last.
    truth: HashMap<u64, IngestDirectory>,
}

impl World {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Go hands out freed goroutines again; the lowest free one shows that best.
    fn goroutine(&self) -> u64 {
        (1..=GOROUTINES)
            .find(|g| self.fetches.iter().all(|fetch| fetch.goroutine != *g))
            .unwrap()
    }

    /// The transport's goroutine of a connection: sometimes a recycled one.
    fn transport(&self, cookie: u64) -> u64 {
        if cookie.is_multiple_of(2) {
            self.goroutine()
        } else {
            1000 + cookie
        }
    }

    fn request(&mut self, fetch: &mut Fetch, fresh: bool) {
        let cookie = if fresh { None } else { self.idle.pop() }.unwrap_or_else(|| self.number());
        fetch.cookie = Some(cookie);
        self.kernel.send(cookie);
        self.truth.insert(cookie, directory(fetch.layer));
        fetch.answered = false;
    }

    fn close(&mut self, cookie: u64) {
        self.truth.remove(&cookie);
        self.kernel.readers.remove(&cookie);
        self.kernel.say(super::closed(cookie));
    }

    fn start(&mut self, layer: u8, fresh: bool, token_bytes: u64) {
        // containerd locks an ingest's name: one writer each.
        if self.fetches.len() == FETCHES || self.fetches.iter().any(|fetch| fetch.layer == layer) {
            return;
        }
        let mut fetch = Fetch {
            goroutine: self.goroutine(),
            layer,
            data: self.number(),
            cookie: None,
            answered: false,
        };
        for part in [
            IngestPart::Ref,
            IngestPart::StartedAt,
            IngestPart::UpdatedAt,
            IngestPart::Total,
        ] {
            let inode = self.number();
            self.kernel.touch(fetch.goroutine, layer, part, inode);
        }
        self.fetches.push(fetch);
        if token_bytes > 0 {
            let token = self.number();
            self.kernel.read(fetch.goroutine, token, token_bytes);
            self.idle.insert(0, token);
        }
        self.request(&mut fetch, fresh);
        if let Some(last) = self.fetches.last_mut() {
            *last = fetch;
        }
    }

    fn end(&mut self, index: usize, commit: bool) {
        let fetch = self.fetches[index];
        if commit {
            self.kernel
                .touch(fetch.goroutine, fetch.layer, IngestPart::Data, fetch.data);
            if fetch.answered {
                self.idle.extend(fetch.cookie);
            }
            let database = self.number();
            self.kernel.touch_elsewhere(fetch.goroutine, database);
        } else {
            if let Some(cookie) = fetch.cookie {
                self.close(cookie);
            }
            let inode = self.number();
            self.kernel
                .touch(fetch.goroutine, fetch.layer, IngestPart::UpdatedAt, inode);
        }
        self.fetches.remove(index);
    }

    fn act(&mut self, step: Step) {
        let fetch = |index: usize| self.fetches.get(index).copied();
        match step {
            Step::Start {
                layer,
                fresh_connection,
                token_bytes,
            } => {
                self.start(layer, fresh_connection, token_bytes);
            }
            Step::Answer { fetch: index } => {
                if let Some(Fetch {
                    cookie: Some(cookie),
                    answered: false,
                    ..
                }) = fetch(index)
                {
                    self.fetches[index].answered = true;
                    let transport = self.transport(cookie);
                    self.kernel.read(transport, cookie, 4 * KIB);
                }
            }
            Step::Read { fetch: index, bytes } => {
                if let Some(Fetch {
                    goroutine,
                    cookie: Some(cookie),
                    answered: true,
                    ..
                }) = fetch(index)
                {
                    self.kernel.read(goroutine, cookie, bytes);
                }
            }
            Step::Write { fetch: index } => {
                if let Some(Fetch {
                    goroutine,
                    layer,
                    data,
                    ..
                }) = fetch(index)
                {
                    self.kernel.touch(goroutine, layer, IngestPart::Data, data);
                }
            }
            Step::Drain { fetch: index } => {
                if let Some(fetch) = self.fetches.get_mut(index).filter(|fetch| fetch.answered) {
                    self.idle.extend(fetch.cookie.take());
                }
            }
            Step::Commit { fetch: index } if fetch(index).is_some() => self.end(index, true),
            Step::GiveUp { fetch: index } if fetch(index).is_some() => self.end(index, false),
            Step::Resume { fetch: index } => {
                if let Some(mut fetch) = fetch(index) {
                    if let Some(cookie) = fetch.cookie {
                        self.close(cookie);
                    }
                    self.request(&mut fetch, true);
                    self.fetches[index] = fetch;
                }
            }
            Step::Small { bytes } => {
                let cookie = self.idle.pop().unwrap_or_else(|| self.number());
                self.kernel.send(cookie);
                self.truth.remove(&cookie);
                let transport = self.transport(cookie);
                self.kernel.read(transport, cookie, bytes);
                self.idle.push(cookie);
            }
            Step::Lose => self.kernel.lose_next = true,
            Step::Commit { .. } | Step::GiveUp { .. } => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_wrong_is_ever_said(steps in proptest::collection::vec(step(), 1..120)) {
        let (mut world, mut attribution) = (World::default(), Attribution::new());
        let mut told = HashMap::new();
        for step in steps {
            world.act(step);
            for record in world.kernel.records.drain(..) {
                attribution.observe(&record, &mut |change| match change {
                    super::Change::Feed(feed) => drop(told.insert(feed.cookie, feed.directory)),
                    super::Change::Unfed { cookie } => drop(told.remove(&cookie)),
                });
            }
            let known: HashMap<_, _> =
                attribution.feeds().map(|feed| (feed.cookie, feed.directory)).collect();
            prop_assert_eq!(&known, &told, "what is told and what is known differ");
            // While a loss is not told yet, nobody can know better.
            if world.kernel.told_epoch == world.kernel.epoch {
                for (cookie, directory) in &known {
                    prop_assert_eq!(world.truth.get(cookie), Some(directory), "cookie {}", cookie);
                }
            }
        }
    }

    #[test]
    fn a_body_that_is_read_and_written_on_is_tied(
        steps in proptest::collection::vec(step(), 0..60),
        layer in 0_u8..6,
    ) {
        let (mut world, mut attribution) = (World::default(), Attribution::new());
        steps.into_iter().for_each(|step| world.act(step));
        world.kernel.lose_next = false;
        while !world.fetches.is_empty() {
            world.end(0, true);
        }
        world.start(layer, true, 0);
        world.act(Step::Answer { fetch: 0 });
        for _ in 0..3 {
            world.act(Step::Read { fetch: 0, bytes: 300 * KIB });
            world.act(Step::Write { fetch: 0 });
        }
        for record in world.kernel.records.drain(..) {
            attribution.observe(&record, &mut |_| {});
        }
        let cookie = world.fetches[0].cookie.unwrap();
        let feed = attribution.feed_of(cookie);
        prop_assert_eq!(feed.map(|feed| feed.directory), Some(directory(layer)));
    }
}
