//! Each rule on its own; `model` runs them all against an imitation of containerd.

use super::{Attribution, Change, Feed, Method, RUN_BYTES, RUN_NS, VOTE_BYTES};
use crate::record::{Caller, FileId, IngestDirectory, IngestPart, Record, TcpState};

mod model;

const DATA: FileId = FileId { dev: 1, inode: 100 };
const MIB: u64 = 1024 * 1024;

fn directory(number: u8) -> IngestDirectory {
    IngestDirectory::new([b'0' + number; 64]).unwrap()
}

fn by(goroutine: u64) -> Caller {
    Caller {
        tgid: 1,
        thread: 2,
        goroutine,
    }
}

fn touched(goroutine: u64, number: u8, part: IngestPart) -> Record {
    Record::FileTouched {
        at_ns: 0,
        by: by(goroutine),
        file: DATA,
        directory: directory(number),
        part,
    }
}

fn left(goroutine: u64) -> Record {
    Record::FileLeft {
        at_ns: 0,
        by: by(goroutine),
        file: DATA,
    }
}

fn read_at(at_ns: u64, goroutine: u64, cookie: u64, bytes: u64) -> Record {
    let address = ([127, 0, 0, 1], 1).into();
    Record::SocketRead {
        at_ns,
        by: by(goroutine),
        cookie,
        local: address,
        remote: address,
        bytes_by_goroutine: bytes,
        bytes_total: bytes,
    }
}

fn read(goroutine: u64, cookie: u64, bytes: u64) -> Record {
    read_at(0, goroutine, cookie, bytes)
}

fn sent(cookie: u64) -> Record {
    Record::SocketSent {
        at_ns: 0,
        by: by(77),
        cookie,
    }
}

fn closed(cookie: u64) -> Record {
    let address = ([127, 0, 0, 1], 0).into();
    Record::SocketState {
        at_ns: 0,
        cookie,
        local: address,
        remote: address,
        state: TcpState::Close,
        owned: true,
    }
}

fn vote(goroutine: u64, cookie: u64, number: u8, bytes: u64) -> Record {
    Record::ThreadVote {
        at_ns: 0,
        by: by(goroutine),
        cookie,
        file: DATA,
        directory: directory(number),
        bytes,
    }
}

/// What is known at the end, as (cookie, directory, method) by cookie, and everything told on the way.
fn outcome(attribution: &mut Attribution, records: &[Record]) -> (Vec<(u64, u8, Method)>, Vec<Change>) {
    let mut told = Vec::new();
    for record in records {
        attribution.observe(record, &mut |change| told.push(change));
    }
    let mut known: Vec<_> = attribution
        .feeds()
        .map(|feed| {
            (
                feed.cookie,
                feed.directory.as_str().as_bytes()[0] - b'0',
                feed.method,
            )
        })
        .collect();
    known.sort_by_key(|feed| feed.0);
    (known, told)
}

fn known(records: &[Record]) -> Vec<(u64, u8, Method)> {
    outcome(&mut Attribution::new(), records).0
}

fn opened(goroutine: u64, number: u8) -> Vec<Record> {
    [
        IngestPart::Ref,
        IngestPart::StartedAt,
        IngestPart::UpdatedAt,
        IngestPart::Total,
    ]
    .map(|part| touched(goroutine, number, part))
    .to_vec()
}

fn fed(goroutine: u64, number: u8, cookie: u64) -> Vec<Record> {
    let mut records = opened(goroutine, number);
    records.extend([
        read(99, cookie, 4096),
        read(goroutine, cookie, 61_440),
        read(goroutine, cookie, RUN_BYTES),
    ]);
    records
}

fn then(mut records: Vec<Record>, more: impl IntoIterator<Item = Record>) -> Vec<Record> {
    records.extend(more);
    records
}

const FED: (u64, u8, Method) = (10, 0, Method::Goroutine);

#[test]
fn a_layer_is_tied_before_its_first_write_and_named_again_with_its_file() {
    let records = then(
        fed(5, 0, 10),
        [touched(5, 0, IngestPart::Data), read(5, 10, 2 * MIB)],
    );
    let (known, told) = outcome(&mut Attribution::new(), &records);
    assert_eq!(known, [FED]);
    let feed = |file| {
        let (cookie, tgid, method) = (10, 1, Method::Goroutine);
        Change::Feed(Feed {
            cookie,
            tgid,
            directory: directory(0),
            file,
            method,
            bytes: RUN_BYTES,
            lasts_ns: 0,
        })
    };
    assert_eq!(told, [feed(None), feed(Some(DATA))]);
}

#[test]
fn evidence_grows_without_being_told_again() {
    let mut attribution = Attribution::new();
    outcome(&mut attribution, &fed(5, 0, 10));
    let (_, told) = outcome(&mut attribution, &[read(5, 10, 3 * MIB)]);
    assert_eq!(told, []);
    assert_eq!(attribution.feed_of(10).unwrap().bytes, 3 * MIB);
    assert_eq!(attribution.feed_of(11), None);
}

#[test]
fn a_short_run_says_nothing_as_the_transport_reads_ahead() {
    assert_eq!(known(&then(opened(5, 0), [read(5, 10, RUN_BYTES - 1)])), []);
}

#[test]
fn a_slow_sender_counts_after_a_while() {
    let second = |at_ns| then(opened(5, 0), [read_at(7, 5, 10, 100), read_at(at_ns, 5, 10, 900)]);
    assert_eq!(known(&second(6 + RUN_NS)), []);
    assert_eq!(known(&second(7 + RUN_NS)), [FED]);
}

#[test]
fn reads_before_the_ingest_was_taken_do_not_count() {
    assert_eq!(known(&then(vec![read(5, 10, 9 * MIB)], opened(5, 0))), []);
}

#[test]
fn a_committed_blob_ends_it() {
    assert_eq!(known(&then(fed(5, 0, 10), [left(5)])), []);
    assert_eq!(
        known(&then(fed(5, 0, 10), [left(5), read(5, 11, MIB)])),
        [],
        "a recycled goroutine"
    );
}

#[test]
fn a_writer_that_gives_up_ends_it_also_when_another_goroutine_closes() {
    for closer in [5, 6] {
        let records = then(
            fed(5, 0, 10),
            [touched(closer, 0, IngestPart::UpdatedAt), read(5, 11, MIB)],
        );
        assert_eq!(known(&records), []);
    }
}

#[test]
fn the_next_request_ends_it_until_the_goroutine_reads_on() {
    let records = then(fed(5, 0, 10), [sent(10)]);
    assert_eq!(known(&records), []);
    assert_eq!(
        known(&then(records, [read(5, 10, RUN_BYTES)])),
        [FED],
        "a range of the same layer"
    );
}

#[test]
fn a_closed_socket_ends_it_and_a_resumed_body_ties_the_next() {
    let records = then(fed(5, 0, 10), [closed(10)]);
    assert_eq!(known(&records), []);
    assert_eq!(
        known(&then(records, [read(5, 11, RUN_BYTES)])),
        [(11, 0, Method::Goroutine)]
    );
}

#[test]
fn a_goroutine_feeds_from_the_socket_it_reads_now() {
    let records = then(fed(5, 0, 10), [read(5, 11, 300)]);
    assert_eq!(known(&records), [], "neither the old one nor, yet, the new one");
    assert_eq!(
        known(&then(records, [read(5, 11, RUN_BYTES)])),
        [(11, 0, Method::Goroutine)]
    );
}

#[test]
fn a_socket_that_another_goroutine_reads_feeds_nothing_of_the_first() {
    assert_eq!(known(&then(fed(5, 0, 10), [read(99, 10, 200)])), []);
    assert_eq!(
        known(&then(fed(5, 0, 10), fed(6, 1, 10))),
        [(10, 1, Method::Goroutine)]
    );
}

#[test]
fn an_ingest_belongs_to_whoever_took_it_last() {
    let records = then(fed(5, 0, 10), fed(6, 0, 11));
    assert_eq!(known(&records), [(11, 0, Method::Goroutine)]);
    assert_eq!(
        known(&then(records, [read(5, 10, MIB)])),
        [(11, 0, Method::Goroutine)]
    );
    let resumed = then(fed(5, 0, 10), [touched(6, 0, IngestPart::Data), read(5, 10, MIB)]);
    assert_eq!(known(&resumed), [], "taken without a new ref");
}

#[test]
fn processes_with_the_same_goroutine_addresses_are_kept_apart() {
    let mut attribution = Attribution::new();
    outcome(&mut attribution, &fed(5, 0, 10));
    let mut other = fed(5, 1, 11);
    for record in &mut other {
        if let Record::FileTouched { by, .. } | Record::SocketRead { by, .. } = record {
            by.tgid = 2;
        }
    }
    let (known, _) = outcome(&mut attribution, &other);
    assert_eq!(known, [FED, (11, 1, Method::Goroutine)]);
    let mut told = Vec::new();
    attribution.forget_process(1, &mut |change| told.push(change));
    assert_eq!(told, [Change::Unfed { cookie: 10 }]);
    assert_eq!(attribution.feeds().count(), 1);
}

#[test]
fn a_gap_forgets_everything_and_what_is_said_again_is_learnt_again() {
    let mut attribution = Attribution::new();
    outcome(&mut attribution, &fed(5, 0, 10));
    let (known, told) = outcome(&mut attribution, &[Record::Gap]);
    assert_eq!((known, told), (vec![], vec![Change::Unfed { cookie: 10 }]));
    let again = [
        read(5, 10, 9 * MIB),
        touched(5, 0, IngestPart::Data),
        read(5, 10, RUN_BYTES),
    ];
    assert_eq!(outcome(&mut attribution, &again).0, [FED]);
}

#[test]
fn after_a_gap_updatedat_opens_nothing() {
    let records = [
        Record::Gap,
        touched(5, 0, IngestPart::UpdatedAt),
        read(5, 10, MIB),
    ];
    assert_eq!(known(&records), []);
}

const VOTED: (u64, u8, Method) = (10, 0, Method::Thread);

#[test]
fn threads_decide_by_majority_where_goroutines_are_silent() {
    let votes = |first, second| {
        let opened = then(opened(5, 0), opened(6, 1));
        then(opened, [vote(5, 10, 0, first), vote(6, 10, 1, second)])
    };
    assert_eq!(known(&votes(VOTE_BYTES - 1, 0)), [], "too little");
    assert_eq!(known(&votes(VOTE_BYTES, 0)), [VOTED]);
    assert_eq!(known(&votes(8 * MIB, 2 * MIB)), [VOTED], "80 %");
    assert_eq!(known(&votes(8 * MIB, 2 * MIB + 1)), [], "less than 80 %");
    assert_eq!(
        known(&then(votes(8 * MIB, 0), [left(5)])),
        [],
        "the ingest is done"
    );
    assert_eq!(known(&then(votes(8 * MIB, 0), [sent(10)])), []);
    assert_eq!(
        known(&then(votes(8 * MIB, 0), [read(9, 10, 1)])),
        [],
        "another response"
    );
    assert_eq!(known(&then(votes(8 * MIB, 0), [closed(10)])), []);
}

#[test]
fn votes_for_an_ingest_that_nobody_opened_are_ignored() {
    assert_eq!(known(&[vote(5, 10, 0, 8 * MIB)]), []);
}

#[test]
fn a_goroutine_silences_the_threads() {
    let voted = then(opened(5, 0), [vote(5, 12, 0, 8 * MIB)]);
    let spoken = then(voted, [read(5, 10, RUN_BYTES)]);
    assert_eq!(known(&spoken), [FED], "the earlier vote is void");
    assert_eq!(
        known(&then(spoken, [vote(5, 12, 0, 99 * MIB)])),
        [FED],
        "and a later one too"
    );
}

#[test]
fn candidates_are_bounded() {
    let mut attribution = Attribution::new();
    for number in 1..10 {
        outcome(
            &mut attribution,
            &then(
                opened(number.into(), number),
                [vote(number.into(), 10, number, 1 + u64::from(number))],
            ),
        );
    }
    assert_eq!(attribution.evictions(), 1);
}

#[test]
fn full_maps_forget_the_oldest_and_say_so() {
    let mut attribution = Attribution::with_bounds(2, 2, 2);
    let records: Vec<_> = (0..3)
        .flat_map(|n| fed(5 + u64::from(n), n, 10 + u64::from(n)))
        .collect();
    let (known, told) = outcome(&mut attribution, &records);
    assert_eq!(known, [(11, 1, Method::Goroutine), (12, 2, Method::Goroutine)]);
    assert!(told.contains(&Change::Unfed { cookie: 10 }));
    assert!(
        attribution.evictions() >= 3,
        "a goroutine, an ingest and a socket"
    );
}
