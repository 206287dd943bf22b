//! Streams: requests across frames, side by side, and how they end.

use super::*;

#[test]
fn a_pull_is_seen_with_its_pod_and_its_end() {
    let mut ear = connected();
    let asked = Asked::for_pod("registry.example:5000/team/app:v1", "web-0");
    ear.at += 5;
    ear.client(&Client::pull(1, &asked));
    ear.at += 70;
    ear.server(&Server::answer(1));
    let call = Call {
        connection: CONNECTION,
        stream: 1,
    };
    assert_eq!(
        ear.take(),
        [
            Seen::Began {
                call,
                at: PAUSE + 5,
                request: asked.request()
            },
            Seen::Ended {
                call,
                at: PAUSE + 75,
                how: CallEnd::Answered
            },
        ]
    );
    assert_eq!(ear.snoop.counters().pulls, 1);
    assert_eq!(ear.snoop.held(), 0);
}

#[test]
fn every_end_is_told_apart() {
    let asked = Asked::for_pod("a", "b");
    type Happens<'a> = &'a dyn Fn(&mut Ear);
    let ends: [(Happens<'_>, CallEnd); 6] = [
        (&|ear| ear.server(&Server::answer(1)), CallEnd::Answered),
        (&|ear| ear.server(&Server::refusal(1)), CallEnd::Refused),
        (&|ear| ear.server(&reset(1)), CallEnd::Refused),
        (
            &|ear| ear.server(&[headers(1, 0), reset(1)].concat()),
            CallEnd::Refused,
        ),
        (&|ear| ear.client(&reset(1)), CallEnd::Cancelled),
        (
            &|ear| ear.snoop.closed(CONNECTION, 99, &mut ear.seen),
            CallEnd::ConnectionClosed,
        ),
    ];
    for (end, how) in ends {
        let mut ear = connected();
        ear.client(&Client::pull(1, &asked));
        end(&mut ear);
        assert_eq!(ear.ends(), [(1, how)]);
        assert!(!ear.has_missed());
        // And only once.
        ear.server(&Server::answer(1));
        ear.client(&reset(1));
        ear.snoop.closed(CONNECTION, 100, &mut ear.seen);
        assert_eq!(ear.ends(), [(1, how)]);
    }
}

#[test]
fn going_away_ends_no_stream() {
    let mut ear = connected();
    ear.client(&Client::pull(1, &Asked::for_pod("a", "b")));
    ear.server(&frame(7, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]));
    assert_eq!(ear.ends(), []);
    ear.server(&Server::answer(1));
    assert_eq!(ear.ends(), [(1, CallEnd::Answered)]);
}

#[test]
fn a_big_request_lies_across_frames_and_reads_between_those_of_others() {
    let mut big = Asked::for_pod("registry.example/big", "big");
    big.annotations = (0..8)
        .map(|n| (format!("flood-{n}"), "x".repeat(32 << 10)))
        .collect();
    big.password = Some("hunter2".to_owned());
    let small = Asked::for_pod("registry.example/small", "small");
    let frames = Client::call(1, &big.message());
    assert!(frames.len() > 16);
    let mut bytes = Vec::new();
    for (number, frame) in frames.into_iter().enumerate() {
        bytes.extend(frame);
        bytes.extend(Client::pull(3 + 2 * u32::try_from(number).unwrap(), &small));
    }
    for read in [1, 9, 1000, 16384, 32768] {
        let mut ear = connected();
        for piece in bytes.chunks(read) {
            ear.client(piece);
            assert!(ear.snoop.held() < 2000, "annotations are not kept");
        }
        let requests = ear.requests();
        assert_eq!(requests.iter().filter(|seen| ***seen == big.request()).count(), 1);
        assert!(
            requests
                .iter()
                .all(|seen| **seen == big.request() || **seen == small.request())
        );
        assert!(!ear.has_missed());
        assert_eq!(ear.snoop.held(), 0);
    }
}

#[test]
fn padding_is_no_part_of_the_message() {
    let asked = Asked::for_pod("a", "b");
    let message = grpc(&asked.message());
    let (front, back) = message.split_at(30);
    for padding in [0_u8, 1, 255] {
        let pad = |part: &[u8]| [&[padding][..], part, &vec![0; padding.into()]].concat();
        let bytes = [
            headers(1, 0),
            frame(0, 8, 1, &pad(front)),
            frame(0, 9, 1, &pad(back)),
        ]
        .concat();
        for read in [1, 7, 1000] {
            let mut ear = connected();
            bytes.chunks(read).for_each(|piece| ear.client(piece));
            assert_eq!(ear.requests(), [&asked.request()]);
        }
    }
    let mut ear = connected();
    ear.client(&[headers(1, 0), frame(0, 8, 1, &[9, 1, 2])].concat());
    assert!(ear.has_missed(), "more padding than payload");
}

#[test]
fn a_header_block_may_go_on_in_continuations() {
    let asked = Asked::for_pod("a", "b");
    let mut ear = connected();
    ear.client(
        &[
            frame(1, 0, 1, &[0x83, 0x86]),
            frame(9, 0, 1, &[0xc4; 3000]),
            frame(9, 4, 1, &[]),
            data(1, &grpc(&asked.message()), 50).concat(),
        ]
        .concat(),
    );
    assert_eq!(ear.requests(), [&asked.request()]);
    ear.server(&[frame(1, 0, 1, &[0x88]), frame(9, 4, 1, &[0xc4])].concat());
    ear.server(
        &[
            frame(0, 0, 1, &grpc(b"")),
            frame(1, 1, 1, &[0xbf]),
            frame(9, 4, 1, &[]),
        ]
        .concat(),
    );
    assert_eq!(ear.ends(), [(1, CallEnd::Answered)]);
    // Nothing else may come between.
    ear.client(&[frame(1, 0, 3, &[0x83, 0x86]), frame(6, 0, 0, &[0; 8])].concat());
    assert!(ear.has_missed());
}

#[test]
fn frames_may_be_as_long_as_the_other_side_allows() {
    let mut asked = Asked::for_pod("a", "b");
    asked.annotations = vec![("k".to_owned(), "v".repeat(60_000))];
    let bytes = [headers(1, 0), frame(0, 1, 1, &grpc(&asked.message()))].concat();
    let mut ear = connected();
    ear.client(&bytes);
    assert_eq!(ear.requests().len(), 0);
    assert!(ear.has_missed());

    let mut ear = connected();
    for byte in settings(&[(4, 1 << 20), (5, 1 << 17)]) {
        ear.server(&[byte]);
    }
    ear.client(&bytes);
    assert_eq!(ear.requests(), [&asked.request()]);
    assert!(!ear.has_missed());
}

#[test]
fn compressed_requests_are_missed_and_framing_lives_on() {
    let mut ear = connected();
    let mut message = grpc(&Asked::of("a").message());
    message[0] = 1;
    ear.client(&[headers(1, 0), frame(0, 1, 1, &message)].concat());
    assert_eq!(
        ear.take(),
        [Seen::Missed {
            since: ear.at,
            until: ear.at
        }]
    );
    assert_eq!(ear.snoop.counters().unreadable, 1);
    ear.client(&Client::pull(3, &Asked::for_pod("a", "b")));
    assert_eq!(ear.requests().len(), 1);
}

#[test]
fn a_stream_that_ends_early_or_goes_on_is_no_pull() {
    let message = grpc(&Asked::for_pod("a", "b").message());
    let short = [headers(1, 0), frame(0, 1, 1, &message[..message.len() - 1])].concat();
    let long = [
        headers(1, 0),
        frame(0, 1, 1, &[message.as_slice(), &[0]].concat()),
    ]
    .concat();
    let none = headers(1, 1);
    let empty = [headers(1, 0), frame(0, 1, 1, &[])].concat();
    for bytes in [short, long, none, empty] {
        let mut ear = connected();
        ear.client(&bytes);
        assert_eq!(ear.take(), []);
        assert_eq!(ear.snoop.held(), 0);
        ear.client(&Client::pull(3, &Asked::for_pod("a", "b")));
        assert_eq!(ear.requests().len(), 1);
    }
    // A body that ends with a frame of its own.
    let mut ear = connected();
    ear.client(&[headers(1, 0), frame(0, 0, 1, &message), frame(0, 1, 1, &[])].concat());
    assert_eq!(ear.requests().len(), 1);
    assert_eq!(ear.ends(), []);
}

#[test]
fn streams_open_in_turn() {
    let mut ear = connected();
    ear.client(&Client::pull(5, &Asked::for_pod("a", "b")));
    ear.client(&headers(5, 1));
    assert!(!ear.has_missed(), "trailers");
    ear.client(&headers(3, 0));
    assert_eq!(ear.ends(), [(5, CallEnd::Lost)]);
    assert!(ear.has_missed());
    // Whichever of the two numbers was no real one: from the next boundary on, others are believed.
    ear.pause();
    ear.client(&Client::pull(3, &Asked::for_pod("a", "b")));
    assert_eq!(ear.requests().len(), 2);
    let mut ear = connected();
    ear.client(&headers(3, 0));
    ear.client(&frame(0, 0, 5, &[1]));
    assert!(ear.has_missed(), "a body without a beginning");
}

#[test]
fn what_is_too_much_is_told() {
    let mut ear = connected();
    let streams = |from: u32| (0..).map(move |n| from + 2 * n);
    for stream in streams(1).take(MAX_REQUESTS) {
        ear.client(&headers(stream, 0));
    }
    assert!(!ear.has_missed());
    ear.client(&Client::pull(1001, &Asked::for_pod("a", "b")));
    assert!(ear.has_missed());
    assert_eq!(ear.requests().len(), 0);
    assert_eq!(ear.snoop.counters().cut, 1);
    // The server ends one that never asked, and there is room again.
    ear.server(&Server::refusal(1));
    ear.client(&Client::pull(1003, &Asked::for_pod("a", "b")));
    assert_eq!(ear.requests().len(), 1);

    let mut ear = connected();
    for stream in streams(1).take(MAX_CALLS + 1) {
        ear.client(&Client::pull(stream, &Asked::for_pod("a", "b")));
    }
    assert_eq!(ear.requests().len(), MAX_CALLS);
    assert!(ear.has_missed());
}

#[test]
fn the_stillest_connection_is_forgotten_first() {
    let mut ear = Ear::new();
    let most = u64::try_from(MAX_CONNECTIONS).unwrap();
    for connection in 0..=most {
        ear.pause();
        ear.hear(connection, Direction::FromClient, &Client::hello());
        ear.hear(
            connection,
            Direction::FromClient,
            &Client::pull(1, &Asked::for_pod("a", "b")),
        );
    }
    assert_eq!(ear.snoop.connections(), MAX_CONNECTIONS);
    let call = Call {
        connection: 0,
        stream: 1,
    };
    let forgotten: Vec<_> = ear
        .seen
        .iter()
        .filter(|seen| !matches!(seen, Seen::Began { .. }))
        .collect();
    assert_eq!(
        forgotten,
        [
            &Seen::Ended {
                call,
                at: ear.at,
                how: CallEnd::Lost
            },
            &Seen::Missed {
                since: PAUSE,
                until: ear.at
            }
        ]
    );
}

#[test]
fn unfinished_requests_are_bounded_in_all() {
    let mut ear = Ear::new();
    ear.pause();
    let mut asked = Asked::for_pod(&"i".repeat(MAX_IMAGE), "b");
    let labels = (0..100).map(|n| (format!("{n}"), "v".repeat(300)));
    asked.pod.as_mut().unwrap().labels = Some(labels.collect());
    let message = grpc(&asked.message());
    let part = &message[..message.len() - 1];
    for connection in 0..8 {
        ear.hear(connection, Direction::FromClient, &Client::hello());
        for stream in (1..).step_by(2).take(MAX_REQUESTS) {
            let frames = data(stream, part, 16384);
            ear.hear(connection, Direction::FromClient, &headers(stream, 0));
            for mut frame in frames {
                frame[4] = 0;
                ear.hear(connection, Direction::FromClient, &frame);
            }
            assert!(ear.snoop.held() <= MAX_HELD);
        }
    }
    assert!(ear.has_missed());
    assert!(ear.snoop.counters().cut > 0);
}
