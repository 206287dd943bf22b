//! Every doubt lets the pull go on, and none takes longer than the deadline.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::harness::{ADMITTED, DIGEST, IMAGE, Node, Place, Program, REFUSED};

/// A deadline that a hanging run has to sit out.
const DEADLINE: Duration = Duration::from_millis(250);

fn hanging(socket: &str) -> Program {
    Program::new(socket).env("MAGI_VERIFY_DEADLINE", "250")
}

#[test]
fn nobody_there() {
    Program::new("/no/such/folder/node.sock")
        .run()
        .allowed_at_once("cannot be reached");
    let file = tempfile::NamedTempFile::new().unwrap();
    Program::new(file.path().to_str().unwrap())
        .run()
        .allowed_at_once("cannot be reached");
    // A socket whose node was killed: its file is still there.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    Program::new(path.to_str().unwrap())
        .run()
        .allowed_at_once("cannot be reached");
}

#[test]
fn a_node_that_is_stopped() {
    // The kernel completes the connection and keeps the question; nobody reads it.
    let place = Place::new();
    hanging(&place.socket()).run().allowed_at(DEADLINE);
}

#[test]
fn a_stopped_node_whose_backlog_is_full() {
    let place = Place::new();
    rustix::net::listen(&place.listener, 0).unwrap();
    // With a backlog of 0 one connection waits, and the next connect blocks, which a socket that must not block shows.
    let _first = UnixStream::connect(place.path()).unwrap();
    let probe = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::NONBLOCK,
        None,
    );
    let address = SocketAddrUnix::new(place.path()).unwrap();
    assert_eq!(
        rustix::net::connect(probe.unwrap(), &address),
        Err(rustix::io::Errno::AGAIN)
    );
    hanging(&place.socket()).run().allowed_at(DEADLINE);
}

#[test]
fn a_node_that_thinks_for_ever() {
    let (sender, kept) = std::sync::mpsc::channel::<UnixStream>();
    let node = Node::new(move |stream| sender.send(stream.try_clone().unwrap()).unwrap());
    hanging(&node.socket()).run().allowed_at(DEADLINE);
    drop(kept);
}

#[test]
fn a_node_that_drips() {
    let node = Node::new(|stream| {
        // A blank a millisecond, until the program is gone: always alive, never done.
        while stream.write_all(b" ").is_ok() {
            thread::sleep(Duration::from_millis(1));
        }
    });
    hanging(&node.socket()).run().allowed_at(DEADLINE);
}

#[test]
fn a_node_that_is_killed_in_mid_question() {
    let node = Node::new(|stream| {
        let _gone = stream.shutdown(std::net::Shutdown::Both);
    });
    Program::new(&node.socket()).run().allowed_at_once("has no end");
    let place = Place::new();
    let listener = place.listener.try_clone().unwrap();
    // Closed unread: the program hears a reset, or cannot even ask.
    let closing = thread::spawn(move || drop(listener.accept().unwrap()));
    Program::new(&place.socket()).run().allowed_at_once("magi-node");
    closing.join().unwrap();
}

#[test]
fn answers_that_are_none() {
    let refusal = REFUSED.trim_end();
    let two_versions = REFUSED.replacen("\"v\":1", "\"v\":2", 1);
    for (answer, doubt) in [
        ("", "has no end"),
        ("\n", "not JSON"),
        (refusal, "has no end"),
        (&refusal[..refusal.len() - 1], "has no end"),
        ("{\"v\":1,\"reply\":{\"now\":1,\"answer\":\n", "not JSON"),
        (
            "{\"v\":1,\"error\":{\"code\":\"malformed\",\"message\":\"unknown variant `verify`\"}}\n",
            "no answer: malformed",
        ),
        (
            "{\"v\":1,\"error\":{\"code\":\"late\",\"message\":\"\"}}\n",
            "no answer: late",
        ),
        (
            "{\"v\":1,\"reply\":{\"now\":1,\"answer\":{\"answer\":\"busy\"}}}\n",
            "another question: busy",
        ),
        ("{\"v\":1,\"status\":{}}\n", "contract"),
        (&two_versions, "contract"),
        ("HTTP/1.1 400 Bad Request\r\n\r\n", "not JSON"),
        ("[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\n", "nested deeper"),
    ] {
        Program::new(&Node::saying(answer).socket())
            .run()
            .allowed_at_once(doubt);
    }
    Program::new(&Node::saying(&b"\"\xff\"\n"[..]).socket())
        .run()
        .allowed_at_once("not UTF-8");
}

#[test]
fn an_answer_without_an_end() {
    let node = Node::new(|stream| while stream.write_all(&[b' '; 4096]).is_ok() {});
    Program::new(&node.socket())
        .run()
        .allowed_at_once("more than 65536 bytes");
    let long = format!("{}{REFUSED}", " ".repeat((64 << 10) - REFUSED.len() + 1));
    Program::new(&Node::saying(long).socket())
        .run()
        .allowed_at_once("more than 65536 bytes");
}

#[test]
fn the_longest_answer_still_counts() {
    let long = format!("{}{REFUSED}", " ".repeat((64 << 10) - REFUSED.len()));
    Program::new(&Node::saying(long).socket())
        .run()
        .refused("too large\n");
}

#[test]
fn arguments_that_containerd_does_not_give() {
    let node = Node::saying(REFUSED);
    for args in [
        &[][..],
        &["--help"],
        &["-name", IMAGE],
        &["-digest", DIGEST],
        &["-name", IMAGE, "-digest"],
        &["-name", IMAGE, "-name", IMAGE, "-digest", DIGEST],
    ] {
        Program::called(&node.socket(), args)
            .run()
            .allowed_at_once("not called as containerd calls");
    }
    let long = "x".repeat(65 << 10);
    Program::called(&node.socket(), &["-name", &long, "-digest", DIGEST])
        .run()
        .allowed_at_once("the question would have");
}

#[test]
fn standard_input_that_never_ends() {
    let node = Node::saying(REFUSED);
    let (running, stdin) = hanging(&node.socket()).run_with_open_stdin();
    let ended = running.wait();
    // The question is asked all the same.
    ended.refused("too large\n");
    assert!(ended.stderr.contains("no end within 125 ms"), "{ended:?}");
    drop(stdin);
    let place = Place::new();
    let (running, stdin) = hanging(&place.socket()).run_with_open_stdin();
    running.wait().allowed_at(DEADLINE);
    drop(stdin);
}

#[test]
fn standard_input_that_floods() {
    let node = Node::saying(ADMITTED);
    let (running, mut stdin) = Program::new(&node.socket()).run_with_open_stdin();
    let flood = thread::spawn(move || while stdin.write_all(&[b'x'; 4096]).is_ok() {});
    running.wait().allowed_at_once("more than 65536 bytes");
    flood.join().unwrap();
}

#[test]
fn standard_streams_that_are_closed_or_stuck() {
    let node = Node::saying(ADMITTED);
    let mut program = Program::new(&node.socket());
    let ended = program
        .command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(ended.code(), Some(0));
    // A pipe that is full and that nobody reads, as both outputs; the node refuses, which cannot be said.
    let refusing = Node::saying(REFUSED);
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while writer.write(&[b'x'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    let mut program = hanging(&refusing.socket());
    let mut child = program
        .command
        .stdin(Stdio::null())
        .stdout(writer.try_clone().unwrap())
        .stderr(writer.try_clone().unwrap())
        .spawn()
        .unwrap();
    let started = std::time::Instant::now();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(started.elapsed() < DEADLINE + Duration::from_secs(4));
    drop((program, writer));
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
    assert!(rest.iter().all(|byte| *byte == b'x'));
}

#[test]
fn settings_that_are_wrong() {
    let node = Node::saying(REFUSED);
    let socket = node.socket();
    for deadline in ["0", "9", "9001", "soon", "-1", "1s"] {
        let ended = Program::new(&socket).env("MAGI_VERIFY_DEADLINE", deadline).run();
        ended.refused("too large\n");
        assert!(ended.stderr.contains("MAGI_VERIFY_DEADLINE"), "{ended:?}");
    }
    for file in ["/", "/dev/zero", "/proc/self/mem"] {
        let ended = Program::new(&socket).env("MAGI_VERIFY_CONF", file).run();
        ended.refused("too large\n");
        assert!(ended.stderr.contains(file), "{ended:?}");
    }
    // With nothing said at all the deadline is one second.
    let place = Place::new();
    let mut program = Program::new(&place.socket());
    program.command.env_remove("MAGI_VERIFY_DEADLINE");
    program.run().allowed_at(Duration::from_secs(1));
}
