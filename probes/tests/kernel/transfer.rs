//! Bodies that go from a socket into an ingest, and what is seen of them.

use std::fs::{self, File, FileTimes};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::SystemTime;

use magi_probes::attribution::{Change, Method, RUN_BYTES};
use magi_probes::{FileId, IngestPart, Level, Record, TcpState, plain_ipv4};

use crate::goroutine::Goroutine;
use crate::scene::{Connection, MIB, Store, Watcher, alone};

const LEVELS: [Level; 2] = [Level::InodeTracepoints, Level::SyscallTracepoints];
const COPY: Goroutine = Goroutine(0xC000_1230_0040);
const TRANSPORT: Goroutine = Goroutine(0xC000_4560_0080);
const OTHER: Goroutine = Goroutine(0xC000_7890_00C0);

fn on_both_levels(connect: fn() -> Connection) {
    for level in LEVELS {
        transfer(level, connect);
    }
}

fn on_each_level(test: impl Fn(&mut Watcher)) {
    let _alone = alone();
    for level in LEVELS {
        if let Some(mut watcher) = Watcher::new(level) {
            test(&mut watcher);
        }
    }
}

fn transfer(level: Level, connect: fn() -> Connection) {
    let _alone = alone();
    let Some(mut watcher) = Watcher::new(level) else {
        return;
    };
    let (store, connection) = (Store::new(), connect());
    let cookie = connection.cookie();
    let mut buffer = vec![0; MIB];

    let (ingest, data) = store.open(COPY, b'a');
    connection.request(TRANSPORT);
    connection.fill(COPY, &mut buffer[..MIB / 4]);
    watcher.until("a feed before the first write", |seen| {
        seen.feed(cookie).is_some()
    });
    let feed = watcher.feed(cookie).unwrap();
    assert_eq!(
        (feed.directory, feed.method, feed.file),
        (ingest.directory, Method::Goroutine, None)
    );
    assert_eq!(feed.tgid, std::process::id());
    assert!(feed.bytes >= RUN_BYTES);

    for _ in 0..3 {
        connection.fill(COPY, &mut buffer);
        COPY.write(&data, &buffer);
    }
    let found = fs::metadata(ingest.path.join("data")).unwrap();
    let file = Some(FileId {
        dev: found.dev(),
        inode: found.ino(),
    });
    watcher.until("a feed with its file", |seen| {
        seen.feed(cookie).is_some_and(|feed| feed.file == file)
    });
    assert_eq!(watcher.feed(cookie).unwrap().directory, ingest.directory);

    store.commit(COPY, &ingest, data);
    watcher.until("the end of it", |seen| {
        seen.changes.last() == Some(&Change::Unfed { cookie })
    });

    check_ingest_records(&watcher);
    check_socket_records(&watcher, &connection, cookie);
    drop(connection);
    watcher.until("the socket's end", |seen| {
        seen.records.iter().any(|record| {
            matches!(record, Record::SocketState { cookie: c, state: TcpState::Close, owned: true, .. }
                if *c == cookie)
        })
    });
    assert_eq!(
        (watcher.probes.lost().unwrap(), watcher.probes.undecodable()),
        (0, 0)
    );
}

fn check_ingest_records(watcher: &Watcher) {
    let mut parts: Vec<_> = Vec::new();
    for record in watcher.of(COPY) {
        if let Record::FileTouched { part, .. } = record {
            parts.push(*part);
        }
    }
    let opening = [
        IngestPart::Ref,
        IngestPart::StartedAt,
        IngestPart::UpdatedAt,
        IngestPart::Total,
        IngestPart::Data,
    ];
    assert_eq!(parts, opening);
}

fn check_socket_records(watcher: &Watcher, connection: &Connection, cookie: u64) {
    let local = connection.client.local_addr().unwrap();
    let mut established = false;
    let mut bytes = 0;
    for record in &watcher.records {
        if let Record::SocketRead {
            by,
            cookie: seen,
            local: from,
            remote,
            bytes_total,
            ..
        } = record
            && *seen == cookie
        {
            // The standard library shows mapped addresses as such, and the records do too.
            assert_eq!((*from, *remote), (local, connection.server));
            assert!([COPY.0, TRANSPORT.0].contains(&by.goroutine));
            assert!(*bytes_total > bytes);
            bytes = *bytes_total;
        }
        if let Record::SocketState {
            cookie: seen,
            local: from,
            remote,
            state,
            owned,
            ..
        } = record
            && *seen == cookie
        {
            assert_eq!(
                (*from, *remote, *state),
                (local, connection.server, TcpState::Established)
            );
            assert!(owned);
            established = true;
        }
    }
    assert!(established);
    assert!(bytes > 2 * MIB as u64, "{bytes}");
    let reads = watcher.of(COPY).len();
    assert!(reads < 40, "{reads} records for 3 MiB");
}

#[test]
fn a_body_over_ipv4() {
    on_both_levels(Connection::plain);
}

#[test]
fn a_body_over_ipv6() {
    on_both_levels(|| Connection::open("::1", "::1"));
}

#[test]
fn a_body_over_mapped_ipv4() {
    on_both_levels(|| {
        let connection = Connection::open("127.0.0.1", "::ffff:127.0.0.1");
        let plain: SocketAddr = ([127, 0, 0, 1], connection.server.port()).into();
        assert_eq!(plain_ipv4(connection.server), plain);
        assert_ne!(connection.server, plain);
        connection
    });
}

#[test]
fn the_next_request_and_the_end_of_a_writer_are_seen() {
    on_each_level(|watcher| {
        let (store, connection) = (Store::new(), Connection::plain());
        let cookie = connection.cookie();
        let mut buffer = vec![0; MIB / 4];
        let (ingest, _data) = store.open(COPY, b'a');
        connection.request(TRANSPORT);
        connection.fill(COPY, &mut buffer);
        watcher.until("a feed", |seen| seen.feed(cookie).is_some());

        TRANSPORT.write(&connection.client, b"GET");
        watcher.until("the next request", |seen| {
            seen.changes.last() == Some(&Change::Unfed { cookie })
        });
        connection.fill(COPY, &mut buffer);
        watcher.until("the goroutine reads on", |seen| seen.feed(cookie).is_some());

        ingest.stamp(COPY, "updatedat");
        watcher.until("the writer gives up", |seen| {
            seen.changes.last() == Some(&Change::Unfed { cookie })
        });
        connection.fill(COPY, &mut buffer);
        connection.fill(OTHER, &mut buffer);
        watcher.until("a reader without ingest", |seen| !seen.of(OTHER).is_empty());
        assert_eq!(watcher.feed(cookie), None, "the goroutine is recycled");
    });
}

#[test]
fn a_body_handed_over_between_goroutines_of_a_thread_is_voted_on() {
    on_each_level(|watcher| {
        let (store, connection) = (Store::new(), Connection::plain());
        let cookie = connection.cookie();
        let (ingest, data) = store.open(COPY, b'b');
        connection.request(TRANSPORT);
        let mut buffer = vec![0; MIB / 16];
        // Each hand-over must be quick to count; on a busy machine some are not.
        for _ in 0..512 {
            connection.fill(OTHER, &mut buffer);
            COPY.write(&data, &buffer);
        }
        watcher.until("a vote", |seen| seen.feed(cookie).is_some());
        let feed = watcher.feed(cookie).unwrap();
        assert_eq!((feed.directory, feed.method), (ingest.directory, Method::Thread));
        assert!(
            watcher
                .of(COPY)
                .iter()
                .all(|record| !matches!(record, Record::SocketRead { .. }))
        );
    });
}

#[test]
fn a_transfer_that_began_before_is_learnt() {
    let _alone = alone();
    let (store, connection) = (Store::new(), Connection::plain());
    let (ingest, data) = store.open(COPY, b'c');
    connection.request(TRANSPORT);
    let mut buffer = vec![0; MIB];
    // No cookie was asked for yet: the probes must give it one.
    connection.fill(COPY, &mut buffer);
    COPY.write(&data, &buffer);
    let Some(mut watcher) = Watcher::new(Level::InodeTracepoints) else {
        return;
    };
    for _ in 0..2 {
        connection.fill(COPY, &mut buffer);
        COPY.write(&data, &buffer);
    }
    let cookie = connection.cookie();
    watcher.until("a feed", |seen| seen.feed(cookie).is_some());
    assert_eq!(watcher.feed(cookie).unwrap().directory, ingest.directory);
}

#[test]
fn bytes_into_an_ingest_that_was_removed_before_the_first_one_are_seen() {
    on_each_level(|watcher| {
        let (store, connection) = (Store::new(), Connection::plain());
        let cookie = connection.cookie();
        // Somebody left it behind, and this writer goes on with it: nothing is written until bytes have come.
        let (ingest, data) = store.open(OTHER, b'c');
        drop(data);
        let path = ingest.path.join("data");
        let data = File::options().write(true).open(&path).unwrap();
        fs::remove_dir_all(&ingest.path).unwrap();
        connection.request(TRANSPORT);
        let mut buffer = vec![0; MIB / 4];
        for _ in 0..3 {
            connection.fill(COPY, &mut buffer);
            COPY.write(&data, &buffer);
        }
        watcher.until("a feed", |seen| seen.feed(cookie).is_some());
        assert_eq!(watcher.feed(cookie).unwrap().directory, ingest.directory);
    });
}

#[test]
fn removing_an_ingest_is_no_writing() {
    on_each_level(|watcher| {
        let (store, connection) = (Store::new(), Connection::plain());
        let cookie = connection.cookie();
        let (ingest, data) = store.open(OTHER, b'd');
        let path = ingest.path.join("data");
        OTHER.write(&data, b"what was fetched");
        // Whoever removes an open file changes it, and may read a socket next.
        COPY.unlink(&path);
        connection.request(TRANSPORT);
        let mut buffer = vec![0; MIB / 4];
        connection.fill(COPY, &mut buffer);
        watcher.until("the reader", |seen| !seen.of(COPY).is_empty());
        assert_eq!(watcher.feed(cookie), None);
        assert!(
            watcher
                .of(COPY)
                .iter()
                .all(|record| !matches!(record, Record::FileTouched { .. }))
        );
        drop(data);
    });
}

#[test]
fn nobody_is_seen_who_is_not_watched() {
    on_each_level(|watcher| {
        for pids in [&[][..], &[1]] {
            watcher.probes.watch(pids).unwrap();
            watcher.drain();
            watcher.records.clear();
            let (store, connection) = (Store::new(), Connection::plain());
            let (_ingest, data) = store.open(COPY, b'd');
            connection.request(TRANSPORT);
            let mut buffer = vec![0; MIB];
            connection.fill(COPY, &mut buffer);
            COPY.write(&data, &buffer);
            watcher.drain();
            assert_eq!((watcher.of(COPY), watcher.of(TRANSPORT)), (vec![], vec![]));
        }
    });
}

#[test]
fn reading_the_files_of_an_ingest_is_no_writing() {
    on_each_level(|watcher| {
        let store = Store::new();
        let (ingest, _data) = store.open(COPY, b'e');
        for name in ["ref", "startedat", "updatedat", "total"] {
            let path = ingest.path.join(name);
            // Long unread, so that this read changes the time of access, which marks the inode.
            let file = File::options().read(true).write(true).open(&path).unwrap();
            let past = SystemTime::UNIX_EPOCH;
            file.set_times(FileTimes::new().set_accessed(past).set_modified(past))
                .unwrap();
            OTHER.read(&file, &mut [0; 64]);
        }
        COPY.write(&File::create(ingest.path.join("data")).unwrap(), b"end");
        watcher.until("the write after it", |seen| {
            seen.of(COPY).iter().any(|record| {
                matches!(
                    record,
                    Record::FileTouched {
                        part: IngestPart::Data,
                        ..
                    }
                )
            })
        });
        assert_eq!(watcher.of(OTHER), Vec::<&Record>::new());
    });
}

#[test]
fn lost_records_are_counted_and_then_said_again() {
    on_each_level(|watcher| {
        let store = Store::new();
        let (first, second) = (Connection::plain(), Connection::plain());
        let cookie = first.cookie();
        let (ingest, data) = store.open(COPY, b'f');
        first.request(TRANSPORT);
        second.request(TRANSPORT);
        let mut buffer = vec![0; MIB];
        first.fill(COPY, &mut buffer);
        watcher.until("a feed", |seen| seen.feed(cookie).is_some());

        // Each step to the other socket is a record, and nobody takes them out.
        for _ in 0..8000 {
            OTHER.read(&first.client, &mut [0; 1]);
            OTHER.read(&second.client, &mut [0; 1]);
        }
        assert!(watcher.probes.lost().unwrap() > 0);
        watcher.drain();
        assert_eq!(watcher.feed(cookie), None);
        for _ in 0..2 {
            first.fill(COPY, &mut buffer);
            COPY.write(&data, &buffer);
        }
        watcher.until("a feed after the loss", |seen| seen.feed(cookie).is_some());
        assert!(watcher.records.contains(&Record::Gap));
        assert_eq!(watcher.feed(cookie).unwrap().directory, ingest.directory);
        assert_eq!(watcher.probes.undecodable(), 0);
    });
}

#[test]
fn a_nested_pid_namespace_is_understood() {
    const INSIDE: &str = "MAGI_PROBES_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        assert_eq!(std::process::id(), 1, "the first process of its own namespace");
        on_both_levels(Connection::plain);
        return;
    }
    if Watcher::new(Level::SyscallTracepoints).is_none() {
        return;
    }
    let output = Command::new("unshare")
        .args(["--pid", "--fork", "--mount-proc", "--kill-child"])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "transfer::a_nested_pid_namespace_is_understood",
            "--nocapture",
        ])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(said.contains("1 passed"), "{said}");
}
