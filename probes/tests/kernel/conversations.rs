//! What is heard of a server's conversations, and what is not.

use std::io::{IoSliceMut, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use magi_probes::{ConversationOptions, Direction, Hooks, Lost, MAX_CONVERSATIONS, Passed};
use rustix::net::{RecvFlags, SendFlags};
use rustix::time::{ClockId, clock_gettime};

use crate::listening::{BUFFER, Ear, HOOKS, Link, Server, fd, id, is_listed, pattern, read_all};
use crate::scene::alone;

const KIB: usize = 1024;
/// What is copied of one call at most.
const OF_ONE_CALL: usize = 64 * KIB;

fn on_both(test: fn(Hooks, Server, Ear)) {
    on_both_with(&ConversationOptions::default(), test);
}

fn on_both_with(options: &ConversationOptions, test: fn(Hooks, Server, Ear)) {
    for hooks in HOOKS {
        let _alone = alone();
        let server = Server::new();
        if let Some(ear) = Ear::with(hooks, &server.path(), options.clone()) {
            test(hooks, server, ear);
        }
    }
}

fn nothing_lost(ear: &Ear) {
    assert_eq!(ear.conversations.lost().unwrap(), Lost::default());
    assert_eq!(ear.conversations.undecodable(), 0);
}

#[test]
fn both_directions_are_heard() {
    on_both(|hooks, server, mut ear| {
        let before = now_ns();
        let mut link = server.connect();
        let connection = link.id(hooks);
        link.ask(b"PullImage");
        link.answer(b"in use");
        link.ask(b", please");
        link.answer(b" already");
        ear.until_said(connection, Direction::ToServer, b"PullImage, please");
        ear.until_said(connection, Direction::FromServer, b"in use already");
        let offsets: Vec<u64> = ear.streams[&(connection, Direction::ToServer)]
            .pieces
            .iter()
            .map(|(offset, _)| *offset)
            .collect();
        assert_eq!(offsets, [0, 9]);
        assert_eq!(ear.streams.len(), 2, "the client's own end is not heard");
        assert!(ear.tgids.iter().all(|tgid| *tgid == std::process::id()));
        let after = now_ns();
        assert!(ear.times.is_sorted() && ear.times[0] > before && ear.times[3] < after);
        nothing_lost(&ear);
    });
}

fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    (now.tv_sec * 1_000_000_000 + now.tv_nsec).cast_unsigned()
}

#[test]
fn a_connection_is_joined_in_its_middle() {
    for hooks in HOOKS {
        let _alone = alone();
        let server = Server::new();
        let mut link = server.connect();
        link.ask(b"before");
        link.answer(b"before");
        // What waits in the socket already is heard when it is read.
        link.client.write_all(b"waiting").unwrap();
        let Some(mut ear) = Ear::new(hooks, &server.path()) else {
            continue;
        };
        read_all(&link.server, 7);
        link.answer(b"after");
        ear.until_said(link.id(hooks), Direction::ToServer, b"waiting");
        ear.until_said(link.id(hooks), Direction::FromServer, b"after");
    }
}

#[test]
fn many_connections_are_kept_apart() {
    on_both(|hooks, server, mut ear| {
        let mut links: Vec<Link> = (0..50).map(|_| server.connect()).collect();
        let mut sent = vec![(Vec::new(), Vec::new()); links.len()];
        for round in 0..8_u32 {
            // In threads, so that calls of several processors meet.
            thread::scope(|scope| {
                for (n, (link, (asked, answered))) in (0_u32..).zip(links.iter_mut().zip(&mut sent)) {
                    scope.spawn(move || {
                        let length = 1 + (n * 131 + round * 977) as usize % 3000;
                        let bytes = pattern(length, n * 100 + round);
                        link.ask(&bytes);
                        link.answer(&bytes[..length / 2 + 1]);
                        asked.extend(&bytes);
                        answered.extend(&bytes[..length / 2 + 1]);
                    });
                }
            });
        }
        for (link, (asked, answered)) in links.iter().zip(&sent) {
            ear.until_said(link.id(hooks), Direction::ToServer, asked);
            ear.until_said(link.id(hooks), Direction::FromServer, answered);
        }
        assert_eq!(ear.streams.len(), 100);
        nothing_lost(&ear);
    });
}

#[test]
fn big_messages_are_heard_in_pieces() {
    on_both(|hooks, server, mut ear| {
        // All edges of the sizes in which pieces are made, and of what is copied of a call.
        let edges = [
            1,
            255,
            256,
            257,
            2047,
            2048,
            2049,
            16 * KIB,
            16 * KIB + 1,
            18 * KIB + 257,
        ];
        for length in edges.into_iter().chain([256 * KIB]) {
            let mut link = server.connect();
            let bytes = pattern(length, 1 + length as u32);
            let mut writer = link.client.try_clone().unwrap();
            thread::scope(|scope| {
                scope.spawn(|| writer.write_all(&bytes).unwrap());
                read_all(&link.server, length);
            });
            for chunk in bytes.chunks(BUFFER) {
                link.answer(chunk);
            }
            ear.until_said(link.id(hooks), Direction::ToServer, &bytes);
            ear.until_said(link.id(hooks), Direction::FromServer, &bytes);
        }
        nothing_lost(&ear);
    });
}

#[test]
fn what_is_beyond_the_bound_of_one_call_is_a_jump() {
    on_both(|hooks, server, mut ear| {
        let link = server.connect();
        let bytes = pattern(256 * KIB, 3);
        let mut reader = link.client.try_clone().unwrap();
        let (written, rest) = thread::scope(|scope| {
            let reading = scope.spawn(move || reader.read_exact(&mut vec![0; 256 * KIB]));
            let written = rustix::io::write(&link.server, &bytes).unwrap();
            // A signal may have cut it short.
            rustix::io::write(&link.server, &bytes[written..]).unwrap();
            reading.join().unwrap().unwrap();
            (written, bytes.len() - written)
        });
        assert_eq!(rest, 0, "one call wrote {written}");
        rustix::io::write(&link.server, b"after").unwrap();
        let key = (link.id(hooks), Direction::FromServer);
        ear.until("what comes after", |ear| {
            ear.streams
                .get(&key)
                .and_then(|stream| stream.pieces.last())
                .is_some_and(|(_, last)| last == b"after")
        });
        let (last, first) = ear.streams[&key].pieces.split_last().unwrap();
        let copied: Vec<u8> = first.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        assert_eq!(copied, bytes[..OF_ONE_CALL]);
        assert_eq!(last.0, bytes.len() as u64);
        let missing = (bytes.len() - OF_ONE_CALL) as u64;
        assert_eq!(ear.streams[&key].came_and_missing().1, missing);
        assert_eq!(ear.conversations.lost().unwrap().not_copied, missing);
    });
}

#[test]
fn other_calls_are_heard_or_show_as_a_jump() {
    on_both(|hooks, server, mut ear| {
        let mut link = server.connect();
        let mut buffer = [0; 64];
        link.client.write_all(b"0123456789abcdefghij").unwrap();
        let socket = fd(&link.server).try_clone_to_owned().unwrap();
        rustix::net::recv(&socket, &mut buffer[..2], RecvFlags::empty()).unwrap();
        // Looking is not taking.
        rustix::net::recv(&socket, &mut buffer[..5], RecvFlags::PEEK).unwrap();
        // Nothing asked for, nothing heard, and not the end.
        rustix::io::read(&socket, &mut buffer[..0]).unwrap();
        rustix::io::read(&socket, &mut buffer[..2]).unwrap();
        let (one, two) = buffer.split_at_mut(3);
        let mut vector = [IoSliceMut::new(one), IoSliceMut::new(&mut two[..3])];
        assert_eq!(rustix::io::readv(&socket, &mut vector).unwrap(), 6);
        rustix::io::read(&socket, &mut buffer[..10]).unwrap();
        rustix::net::send(&socket, b"sent", SendFlags::NOSIGNAL).unwrap();
        link.answer(b"written");

        let asked = [
            (0, b"01".to_vec()),
            (2, b"23".to_vec()),
            (10, b"abcdefghij".to_vec()),
        ];
        let key = (link.id(hooks), Direction::ToServer);
        ear.until("the last of it", |ear| {
            ear.streams.get(&key).is_some_and(|stream| stream.pieces == asked)
        });
        ear.until_said(link.id(hooks), Direction::FromServer, b"sentwritten");
        let expected = Lost {
            not_copied: 6,
            ..Lost::default()
        };
        assert_eq!(ear.conversations.lost().unwrap(), expected);
        assert_eq!(ear.closed, []);
    });
}

#[test]
fn nothing_else_is_heard() {
    on_both(|hooks, server, mut ear| {
        let path = server.path();
        let abstract_name = SocketAddr::from_abstract_name(path.as_os_str().as_bytes()).unwrap();
        let others = [
            server.beside("c.sock.ttrpc"),
            server.beside("c.soc"),
            server.beside("d.sock"),
            UnixListener::bind_addr(&abstract_name).unwrap(),
        ];
        let mut links: Vec<Link> = others.iter().map(Link::to).collect();
        let (client, pair) = UnixStream::pair().unwrap();
        links.push(Link { client, server: pair });
        for link in &mut links {
            link.ask(b"not for you");
            link.answer(b"nor this");
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        client.write_all(b"over TCP").unwrap();
        read_all(&accepted, 8);

        let mut link = server.connect();
        link.ask(b"for you");
        ear.until_said(link.id(hooks), Direction::ToServer, b"for you");
        assert_eq!(ear.streams.len(), 1);
        assert_eq!(ear.conversations.held().unwrap(), 1);
        nothing_lost(&ear);
    });
}

/// `cat`, whose output goes over a connection to `path` of its own.
#[expect(
    unsafe_code,
    reason = "the child itself must connect, as the kernel notes who did"
)]
fn other_process(path: &Path) -> Child {
    let path = path.to_owned();
    let mut command = Command::new("cat");
    command.stdin(Stdio::piped());
    // SAFETY: between fork and exec this makes a few system calls, allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(move || {
            let stream = UnixStream::connect(&path)?;
            match libc::dup2(stream.as_raw_fd(), 1) {
                -1 => Err(std::io::Error::last_os_error()),
                _ => Ok(()),
            }
        });
    }
    command.spawn().unwrap()
}

#[test]
fn connections_of_the_observer_itself_are_left_out() {
    let options = ConversationOptions {
        own_tgid: std::process::id(),
        ..ConversationOptions::default()
    };
    on_both_with(&options, |hooks, server, mut ear| {
        let mut own = server.connect();
        own.ask(b"own");
        own.answer(b"own");
        let mut child = other_process(&server.path());
        let accepted = server.accept();
        let connection = id(&accepted, hooks);
        let mut input = child.stdin.take().unwrap();
        input.write_all(b"another's").unwrap();
        read_all(&accepted, 9);
        rustix::io::write(&accepted, b"yes").unwrap();
        ear.until_said(connection, Direction::ToServer, b"another's");
        ear.until_said(connection, Direction::FromServer, b"yes");
        // Its own is held, so that it need not be looked at again, but not heard, nor told as closed.
        assert_eq!((ear.streams.len(), ear.conversations.held().unwrap()), (2, 2));
        drop((own, input));
        child.wait().unwrap();
        drop(accepted);
        ear.sweep();
        assert_eq!(ear.closed, [connection]);
        assert_eq!(ear.conversations.held().unwrap(), 0);
        nothing_lost(&ear);
    });
}

#[test]
fn the_end_is_told_once() {
    on_both(|hooks, server, mut ear| {
        // The client leaves, and the server reads that.
        let mut link = server.connect();
        let connection = link.id(hooks);
        link.ask(b"bye");
        drop(link.client);
        assert_eq!(rustix::io::read(&link.server, &mut [0; 8]).unwrap(), 0);
        ear.until("the end of file", |ear| ear.closed == [connection]);
        // What comes after is not heard any more.
        rustix::net::send(&link.server, b"x", SendFlags::NOSIGNAL).unwrap_err();
        drop(link.server);
        ear.sweep();
        assert_eq!(ear.closed, [connection]);
        assert_eq!(ear.conversations.held().unwrap(), 0);

        // The client leaves with an answer unread: a reset.
        let mut link = server.connect();
        let connection = link.id(hooks);
        link.ask(b"bye");
        rustix::io::write(&link.server, b"unread").unwrap();
        drop(link.client);
        rustix::io::read(&link.server, &mut [0; 8]).unwrap_err();
        ear.until("the reset", |ear| ear.closed.last() == Some(&connection));
        drop(link.server);

        // The client leaves, and only a write shows it.
        let mut link = server.connect();
        let connection = link.id(hooks);
        link.ask(b"bye");
        drop(link.client);
        rustix::net::send(&link.server, b"x", SendFlags::NOSIGNAL).unwrap_err();
        ear.until("the broken pipe", |ear| ear.closed.last() == Some(&connection));
        drop(link.server);
        ear.sweep();
        assert_eq!(ear.closed.len(), 3);
    });
}

#[test]
fn a_connection_that_the_server_closes_is_missed_by_looking() {
    on_both(|hooks, server, mut ear| {
        let (mut staying, mut going) = (server.connect(), server.connect());
        let (connection, inode) = (going.id(hooks), going.id(Hooks::SyscallTracepoints));
        staying.ask(b"here");
        going.ask(b"here");
        ear.sweep();
        assert_eq!(ear.closed, []);
        assert!(is_listed(inode));
        going.answer(b"last words");
        drop(going.server);
        assert!(!is_listed(inode));
        // One look is not trusted; the last words come before the end.
        ear.conversations.sweep().unwrap();
        assert_eq!(ear.conversations.held().unwrap(), 2);
        ear.conversations.sweep().unwrap();
        let mut last = None;
        while ear.conversations.drain(1, &mut |passed| match passed {
            Passed::Piece(piece) => last = Some((piece.connection, piece.bytes.to_vec())),
            Passed::Closed { connection, .. } => last = Some((connection, b"the end".to_vec())),
        }) == 1
        {}
        assert_eq!(last, Some((connection, b"the end".to_vec())));
        assert_eq!(ear.conversations.held().unwrap(), 1);
        staying.ask(b", still");
        ear.drain();
        let key = (staying.id(hooks), Direction::ToServer);
        assert_eq!(
            ear.streams[&key].pieces.last().unwrap(),
            &(4, b", still".to_vec())
        );
    });
}

#[test]
fn who_is_not_watched_is_forgotten() {
    on_both(|hooks, server, mut ear| {
        let mut link = server.connect();
        let connection = link.id(hooks);
        link.ask(b"one");
        ear.conversations.watch(&[]).unwrap();
        ear.until("its end", |ear| ear.closed == [connection]);
        assert_eq!(
            ear.said(connection, Direction::ToServer).as_deref(),
            Some(&b"one"[..])
        );
        link.ask(b"unseen");
        ear.streams.clear();
        ear.conversations.watch(&[std::process::id()]).unwrap();
        link.ask(b"two");
        ear.until_said(connection, Direction::ToServer, b"two");
        // Watching the same again changes nothing.
        ear.conversations.watch(&[1, std::process::id()]).unwrap();
        link.ask(b"three");
        ear.until_said(connection, Direction::ToServer, b"twothree");
        assert_eq!(ear.closed, [connection]);
    });
}

#[test]
fn a_full_ring_shows_as_jumps_and_in_the_count() {
    let options = ConversationOptions {
        ring_bytes: Some(1024 * KIB as u32),
        ..ConversationOptions::default()
    };
    on_both_with(&options, |hooks, server, mut ear| {
        let (mut flood, mut quiet) = (server.connect(), server.connect());
        quiet.ask(b"one");
        let chunk = pattern(BUFFER, 9);
        let total = 2 * 1024 * KIB;
        for _ in 0..total / BUFFER {
            flood.ask(&chunk);
        }
        quiet.ask(b"lost");
        // The whole is bounded by the ring, and the rest is counted.
        ear.drain();
        let key = (flood.id(hooks), Direction::ToServer);
        let (came, missing) = ear.streams[&key].came_and_missing();
        assert!((900 * KIB..1024 * KIB).contains(&(came as usize)), "{came}");
        assert_eq!(missing, 0, "what is missing is at the end until more comes");
        flood.ask(b"and on");
        quiet.ask(b"two");
        ear.drain();
        let (came, missing) = ear.streams[&key].came_and_missing();
        assert_eq!(came + missing, total as u64 + 6);
        let (last_at, last) = ear.streams[&key].pieces.last().unwrap();
        assert_eq!((*last_at, last.as_slice()), (total as u64, &b"and on"[..]));
        let key = (quiet.id(hooks), Direction::ToServer);
        let pieces = &ear.streams[&key].pieces;
        assert_eq!(pieces.first(), Some(&(0, b"one".to_vec())));
        assert_eq!(pieces.last(), Some(&(7, b"two".to_vec())));
        // A small piece may still have found room where a large one had none.
        let lost_here = ear.streams[&key].came_and_missing().1;
        let lost = ear.conversations.lost().unwrap();
        assert_eq!((lost.ring_full, lost.not_copied), (missing + lost_here, 0));
        // Each piece is right, wherever it stands.
        for (offset, bytes) in &ear.streams[&(flood.id(hooks), Direction::ToServer)].pieces {
            let at = *offset as usize % BUFFER;
            assert!(*offset == total as u64 || chunk[at..at + bytes.len()] == *bytes);
        }
    });
}

#[test]
fn a_full_table_is_counted_and_swept() {
    on_both(|hooks, server, mut ear| {
        for _ in 0..MAX_CONVERSATIONS {
            let mut link = server.connect();
            link.ask(b"x");
            link.client.shutdown(Shutdown::Both).unwrap();
            rustix::io::read(&link.server, &mut [0; 8]).unwrap();
        }
        ear.drain();
        assert_eq!(
            (ear.streams.len(), ear.closed.len()),
            (MAX_CONVERSATIONS, MAX_CONVERSATIONS)
        );
        nothing_lost(&ear);
        let mut link = server.connect();
        link.ask(b"no room");
        link.answer(b"no room");
        ear.drain();
        assert_eq!(ear.streams.len(), MAX_CONVERSATIONS);
        assert_eq!(ear.conversations.lost().unwrap().no_room, 2);
        ear.sweep();
        assert_eq!(ear.closed.len(), MAX_CONVERSATIONS, "each is told once");
        link.ask(b"room");
        ear.until_said(link.id(hooks), Direction::ToServer, b"room");
    });
}
