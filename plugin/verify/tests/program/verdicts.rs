//! What is known is said, and asked in the right words.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use crate::harness::{ADMITTED, DIGEST, IMAGE, Node, Program, REFUSED};

fn refusing(why: &str) -> Node {
    Node::saying(format!(
        "{{\"v\":1,\"reply\":{{\"now\":1,\"answer\":{{\"answer\":\"refused\",\"why\":\"{why}\"}}}}}}\n"
    ))
}

#[test]
fn an_admission_allows_and_says_nothing() {
    let node = Node::saying(ADMITTED);
    Program::new(&node.socket()).run().allowed_at_once("");
    assert_eq!(
        node.question(),
        format!(
            "{{\"v\":1,\"ask\":\"verify\",\"image\":\"{IMAGE}\",\"digest\":\"{DIGEST}\",\
             \"media_type\":\"application/vnd.oci.image.index.v1+json\",\"size\":423}}\n"
        )
    );
}

#[test]
fn a_refusal_blocks_with_its_reason_and_says_nothing_else() {
    let ended = Program::new(&Node::saying(REFUSED).socket()).run();
    ended.refused("too large\n");
    assert_eq!(ended.stderr, "");
}

#[test]
fn the_answer_counts_though_the_node_keeps_the_connection_open() {
    let (sender, kept) = std::sync::mpsc::channel::<UnixStream>();
    let node = Node::new(move |stream| {
        stream.write_all(REFUSED.as_bytes()).unwrap();
        sender.send(stream.try_clone().unwrap()).unwrap();
    });
    Program::new(&node.socket()).run().refused("too large\n");
    drop(kept);
}

#[test]
fn an_answer_in_pieces_is_one_answer() {
    let node = Node::new(|stream| {
        for byte in REFUSED.as_bytes() {
            stream.write_all(&[*byte]).unwrap();
        }
    });
    Program::new(&node.socket()).run().refused("too large\n");
}

#[test]
fn a_long_reason_is_cut_and_stays_one_line() {
    let ended = Program::new(&refusing(&format!("a\\nb\\u001b{}", "é".repeat(2000))).socket()).run();
    assert_eq!(ended.stdout.len(), 1024 - 1);
    ended.refused(&format!("a b {}\n", "é".repeat((1023 - 4) / 2)));
}

#[test]
fn a_hostile_descriptor_does_not_talk_its_way_past_the_question() {
    let long = format!(
        r#"{{"mediaType":"{}","digest":"{DIGEST}","size":1}}"#,
        "x".repeat(1 << 20)
    );
    for stdin in [
        "",
        "{",
        "not json",
        "{\"mediaType\":7,\"digest\":\"sha256:00\"}",
        &long,
    ] {
        let node = Node::saying(REFUSED);
        let ended = Program::new(&node.socket()).stdin(stdin).run();
        ended.refused("too large\n");
        assert!(
            ended.stderr.contains("size and media type are unknown"),
            "{ended:?}"
        );
        assert!(
            node.question().ends_with(",\"media_type\":\"\",\"size\":0}\n"),
            "{ended:?}"
        );
    }
}

#[test]
fn an_odd_reference_is_asked_about_as_it_is() {
    let node = Node::saying(REFUSED);
    let odd = "r/\"x\"\\\n\u{1}é";
    Program::called(&node.socket(), &["-name", odd, "-digest", DIGEST])
        .run()
        .refused("too large\n");
    assert!(node.question().contains(r#""image":"r/\"x\"\\\u000a\u0001é","#));
}

#[test]
fn the_file_says_where_and_how_long() {
    let node = Node::saying(REFUSED);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        file.path(),
        format!("socket = {}\ndeadline = 8s\n", node.socket()),
    )
    .unwrap();
    let conf = file.path().to_str().unwrap();
    let mut program = Program::new("").env("MAGI_VERIFY_CONF", conf);
    program.command.env_remove("MAGI_VERIFY_DEADLINE");
    program.run().refused("too large\n");
    // What the environment says comes first; what it says wrongly does not count.
    let other = Program::new("/no/such/socket").env("MAGI_VERIFY_CONF", conf);
    other.run().allowed_at_once("cannot be reached");
    let wrong = Program::new("relative").env("MAGI_VERIFY_CONF", conf).run();
    wrong.refused("too large\n");
    assert!(wrong.stderr.contains("MAGI_SOCKET"), "{wrong:?}");
}

#[test]
fn a_refusal_that_nobody_hears_is_none() {
    let node = Node::saying(REFUSED);
    let mut program = Program::new(&node.socket());
    let descriptor = std::mem::take(&mut program.stdin);
    let mut child = program
        .command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&descriptor).unwrap();
    drop(stdin);
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(String::from_utf8_lossy(&ended.stderr).contains("nobody hears"));
}
