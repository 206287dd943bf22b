//! Joining late, losing bytes, and finding the frames again.

use super::conversation::forged;
use super::*;

fn pull(stream: u32) -> Vec<u8> {
    Client::pull(stream, &Asked::for_pod("registry.example/app", "web"))
}

/// A connection that began long ago.
fn joined() -> Ear {
    let mut ear = Ear::new();
    ear.pause();
    ear
}

#[test]
fn a_quiet_connection_is_understood_from_its_next_request_on() {
    let mut ear = joined();
    ear.client(&pull(301));
    ear.server(&Server::answer(301));
    assert_eq!(ear.requests().len(), 1);
    assert_eq!(ear.ends(), [(301, CallEnd::Answered)]);
    assert!(!ear.has_missed());
}

#[test]
fn without_a_pause_nothing_is_believed() {
    let mut ear = Ear::new();
    ear.at = QUIET - 1;
    ear.client(&pull(301));
    assert_eq!(
        ear.take(),
        [Seen::Missed {
            since: 0,
            until: QUIET - 1
        }]
    );
    ear.pause();
    ear.client(&pull(303));
    assert_eq!(ear.requests().len(), 1);
    assert!(!ear.has_missed());
}

#[test]
fn joined_within_a_request_nothing_is_told_of_it() {
    let whole = pull(301);
    for cut in 1..whole.len() {
        let mut ear = joined();
        ear.client(&whole[cut..]);
        assert_eq!(ear.requests().len(), 0, "cut at {cut}");
        assert!(ear.has_missed(), "cut at {cut}");
        ear.pause();
        ear.take();
        ear.client(&pull(303));
        assert_eq!(ear.requests().len(), 1, "cut at {cut}");
    }
}

#[test]
fn a_new_connection_needs_no_pause() {
    let mut ear = Ear::new();
    ear.client(&Client::hello());
    ear.client(&pull(1));
    assert_eq!(ear.requests().len(), 1);
    assert!(!ear.has_missed());
}

#[test]
fn the_end_may_be_seen_of_a_call_whose_server_side_is_joined_later() {
    let mut ear = joined();
    ear.client(&pull(301));
    ear.server(&[1, 2, 3]);
    assert_eq!(ear.ends(), [(301, CallEnd::Lost)]);
    ear.take();
    ear.client(&pull(303));
    ear.pause();
    ear.server(&Server::answer(303));
    assert_eq!(ear.ends(), [(303, CallEnd::Answered)]);
}

#[test]
fn text_cannot_pretend_to_be_a_request() {
    let forged = forged();
    let mut asked = Asked::for_pod("registry.example/app", "web");
    asked.annotations = vec![("note".to_owned(), forged.repeat(40))];
    let bytes = Client::pull(3, &asked);
    let at = bytes
        .windows(forged.len())
        .position(|window| window == forged.as_bytes())
        .unwrap();
    for begin in 0..=forged.len() {
        let mut ear = joined();
        let rest = &bytes[at + begin..];
        // Even after a pause, and even if the piece ends with a frame.
        ear.client(&rest[..forged.len()]);
        ear.pause();
        ear.client(&rest[forged.len()..]);
        assert_eq!(ear.requests().len(), 0, "{begin}");
        assert!(ear.has_missed());
    }
}

#[test]
fn an_end_that_no_header_block_vouches_for_is_no_knowledge() {
    let mut ear = joined();
    ear.client(&pull(301));
    ear.server(&reset(301));
    assert_eq!(ear.ends(), [(301, CallEnd::Lost)]);
}

#[test]
fn a_gap_ends_what_was_known_and_says_so() {
    let mut ear = connected();
    ear.client(&pull(1));
    ear.take();
    let before = ear.at;
    ear.at += 5;
    ear.miss(CONNECTION, Direction::FromClient, &pull(3));
    ear.client(&pull(5));
    assert_eq!(ear.ends(), [(1, CallEnd::Lost)]);
    assert!(ear.take().contains(&Seen::Missed {
        since: before,
        until: before + 5
    }));
    ear.pause();
    ear.client(&pull(7));
    assert_eq!(ear.requests().len(), 1);
}

#[test]
fn a_gap_before_a_pause_costs_only_what_was_in_it() {
    let mut ear = connected();
    ear.miss(CONNECTION, Direction::FromClient, &pull(1));
    ear.pause();
    ear.client(&pull(3));
    assert_eq!(ear.requests().len(), 1);
    assert!(ear.has_missed());
}

#[test]
fn a_gap_within_a_payload_costs_only_that_request() {
    let mut asked = Asked::for_pod("registry.example/app", "web");
    asked.annotations = vec![("k".to_owned(), "v".repeat(10_000))];
    let bytes = Client::pull(1, &asked);
    let mut ear = connected();
    ear.client(&bytes[..500]);
    ear.miss(CONNECTION, Direction::FromClient, &bytes[500..9000]);
    ear.client(&bytes[9000..9001]);
    assert_eq!(ear.snoop.held(), 0, "what has a hole is not read on");
    ear.client(&bytes[9001..]);
    ear.client(&pull(3));
    assert_eq!(ear.requests().len(), 1);
    assert!(ear.has_missed());
    assert_eq!(ear.snoop.counters().broken, 0);

    // In an answer it costs nothing.
    let answer = [
        frame(1, 4, 3, &[0x88]),
        frame(0, 0, 3, &[0; 9000]),
        frame(1, 5, 3, &[0x88]),
    ]
    .concat();
    ear.server(&answer[..300]);
    ear.miss(CONNECTION, Direction::ToClient, &answer[300..8000]);
    ear.server(&answer[8000..]);
    assert_eq!(ear.ends(), [(3, CallEnd::Answered)]);
}

#[test]
fn a_gap_in_the_answers_ends_the_calls_and_misses_no_request() {
    let mut ear = connected();
    ear.client(&pull(1));
    ear.miss(CONNECTION, Direction::ToClient, &[0; 20]);
    ear.server(&Server::answer(1));
    assert_eq!(ear.ends(), [(1, CallEnd::Lost)]);
    assert!(!ear.has_missed());
    ear.client(&pull(3));
    ear.pause();
    ear.server(&Server::answer(3));
    assert_eq!(ear.ends().last(), Some(&(3, CallEnd::Answered)));
}

#[test]
fn lost_records_end_every_call_but_keep_the_frames() {
    let mut ear = connected();
    ear.client(&pull(1));
    let before = ear.at;
    ear.at += 50;
    ear.snoop.lost(ear.at, &mut ear.seen);
    assert_eq!(ear.ends(), [(1, CallEnd::Lost)]);
    assert_eq!(
        ear.take().last(),
        Some(&Seen::Missed {
            since: before,
            until: before + 50
        })
    );
    ear.client(&pull(3));
    ear.server(&Server::answer(3));
    assert_eq!(ear.requests().len(), 1);
    assert_eq!(ear.ends(), [(3, CallEnd::Answered)]);
    assert!(!ear.has_missed());
}

#[test]
fn a_name_that_is_used_again_is_another_connection() {
    let mut ear = connected();
    ear.client(&pull(1));
    ear.offsets.clear();
    ear.client(&Client::hello());
    ear.client(&pull(1));
    assert_eq!(ear.ends(), [(1, CallEnd::Lost)]);
    assert_eq!(ear.requests().len(), 2);
    assert!(ear.has_missed());
}

#[test]
fn a_body_whose_beginning_was_not_seen_is_missed() {
    let mut ear = joined();
    let frames = Client::call(301, &Asked::for_pod("a", "b").message());
    ear.client(&frames[1]);
    assert_eq!(ear.requests().len(), 0);
    assert!(ear.has_missed());
    ear.take();
    // Framing was found all the same.
    ear.client(&pull(303));
    assert_eq!(ear.requests().len(), 1);
    assert!(!ear.has_missed());
}
