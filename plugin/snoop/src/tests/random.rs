//! Random conversations: whatever happens to the bytes on their way, nothing wrong is told of them.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::conversation::{field, forged, number, text};
use super::*;

/// What a client does on one stream.
#[derive(Debug, Clone)]
enum Act {
    Pull(Asked),
    Other(Vec<u8>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Answer,
    Refusal,
    Cancel,
    Never,
}

/// One connection: calls, and the frames of both sides in an order that keeps that of each stream.
#[derive(Debug, Clone)]
struct Talk {
    calls: Vec<(Act, End)>,
    order: Vec<u8>,
}

/// A word from one side.
type Word = (Direction, Vec<u8>);

impl Talk {
    fn stream(number: usize) -> u32 {
        u32::try_from(2 * number + 1).unwrap()
    }

    fn words(&self) -> Vec<Word> {
        use Direction::{FromClient, ToClient};
        let mut words = vec![(FromClient, Client::hello()), (ToClient, Server::hello())];
        let mut begun = 0;
        let mut open: Vec<std::collections::VecDeque<Word>> = Vec::new();
        let mut order = self.order.iter().cycle();
        while begun < self.calls.len() || !open.is_empty() {
            let choice = usize::from(*order.next().unwrap_or(&0));
            if begun < self.calls.len() && (open.is_empty() || choice.is_multiple_of(3)) {
                let (act, end) = &self.calls[begun];
                let stream = Self::stream(begun);
                let message = match act {
                    Act::Pull(asked) => asked.message(),
                    Act::Other(message) => message.clone(),
                };
                let mut frames: std::collections::VecDeque<Word> =
                    vec![(FromClient, headers(stream, 0))].into();
                frames.extend(
                    data(stream, &grpc(&message), 16384)
                        .into_iter()
                        .map(|frame| (FromClient, frame)),
                );
                match end {
                    End::Answer => frames.push_back((ToClient, Server::answer(stream))),
                    End::Refusal => frames.push_back((ToClient, Server::refusal(stream))),
                    End::Cancel => frames.push_back((FromClient, reset(stream))),
                    End::Never => {}
                }
                begun += 1;
                // Streams open in the order of their numbers.
                words.extend(frames.pop_front());
                open.push(frames);
                continue;
            }
            let which = choice % open.len();
            match open[which].pop_front() {
                Some(word) => words.push(word),
                None => drop(open.swap_remove(which)),
            }
        }
        words
    }

    fn pulls(&self) -> impl Iterator<Item = (u32, &Asked, End)> {
        self.calls
            .iter()
            .enumerate()
            .filter_map(|(number, (act, end))| match act {
                Act::Pull(asked) => Some((Self::stream(number), asked, *end)),
                Act::Other(_) => None,
            })
    }
}

fn asked() -> impl Strategy<Value = Asked> {
    let annotations = prop_oneof![
        4 => Just(Vec::new()),
        1 => (1..40_000_usize).prop_map(|length| vec![("flood".to_owned(), "x".repeat(length))]),
        1 => Just(vec![("forged".to_owned(), forged())]),
    ];
    (0..1000_u32, any::<bool>(), any::<bool>(), annotations).prop_map(|(number, pod, auth, annotations)| {
        let image = format!("registry.example/app-{number}");
        let mut asked = if pod {
            Asked::for_pod(&image, &format!("pod-{number}"))
        } else {
            Asked::of(&image)
        };
        asked.password = auth.then(|| "hunter2".to_owned());
        asked.annotations = annotations;
        asked
    })
}

fn other() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(text(1, &"0123456789abcdef".repeat(4))),
        Just(field(1, &number(2, 1))),
        Just(Vec::new()),
        Just([field(1, &text(1, "a")), number(2, 1)].concat()),
        prop::collection::vec(any::<u8>(), 0..300)
            .prop_filter("may be a pull", |bytes| bytes.first() != Some(&0x0a)),
    ]
}

fn talk() -> impl Strategy<Value = Talk> {
    let act = prop_oneof![asked().prop_map(Act::Pull), other().prop_map(Act::Other)];
    let end = prop_oneof![
        Just(End::Answer),
        Just(End::Refusal),
        Just(End::Cancel),
        Just(End::Never)
    ];
    let calls = prop::collection::vec((act, end), 0..8);
    (calls, prop::collection::vec(any::<u8>(), 1..20)).prop_map(|(calls, order)| Talk { calls, order })
}

/// What happens on the way to a piece.
#[derive(Debug, Clone, Copy)]
struct Way {
    length: usize,
    pause: bool,
    lost: bool,
    turn: u8,
}

fn ways(lossy: bool) -> impl Strategy<Value = Vec<Way>> {
    let lengths = prop_oneof![1..40_usize, 40..2000_usize, Just(32 << 10)];
    let lost = if lossy {
        prop::bool::weighted(0.1).boxed()
    } else {
        Just(false).boxed()
    };
    let way = (lengths, prop::bool::weighted(0.3), lost, any::<u8>());
    prop::collection::vec(
        way.prop_map(|(length, pause, lost, turn)| Way {
            length,
            pause,
            lost,
            turn,
        }),
        1..60,
    )
}

/// Plays the talks side by side, cut and lost as `ways` have it.
fn play(ear: &mut Ear, talks: &[Talk], ways: &[Way]) {
    let mut queues: Vec<Vec<Word>> = talks
        .iter()
        .map(|talk| talk.words().into_iter().rev().collect())
        .collect();
    let mut ways = ways.iter().cycle();
    while queues.iter().any(|queue| !queue.is_empty()) {
        let Some(way) = ways.next() else { return };
        let open: Vec<usize> = (0..queues.len())
            .filter(|number| !queues[*number].is_empty())
            .collect();
        let number = open[usize::from(way.turn) % open.len()];
        let queue = &mut queues[number];
        let connection = u64::try_from(number).unwrap();
        // Greetings are said in one breath, and are short.
        if queue.len() == talks[number].words().len() {
            for (direction, bytes) in queue.split_off(queue.len() - 2).into_iter().rev() {
                ear.hear(connection, direction, &bytes);
            }
            continue;
        }
        // One side's words run together until the other speaks.
        let Some((direction, mut bytes)) = queue.pop() else {
            return;
        };
        while bytes.len() < way.length && queue.last().is_some_and(|(next, _)| *next == direction) {
            bytes.extend(queue.pop().map(|(_, more)| more).unwrap_or_default());
        }
        if bytes.len() > way.length {
            queue.push((direction, bytes.split_off(way.length)));
        }
        ear.at += if way.pause { PAUSE } else { 1000 };
        if way.lost {
            ear.miss(connection, direction, &bytes);
        } else {
            ear.hear(connection, direction, &bytes);
        }
    }
}

/// Nothing was told that is not so; gives the calls that were told, and their ends.
fn check(ear: &Ear, talks: &[Talk]) -> (BTreeSet<Call>, BTreeMap<Call, CallEnd>) {
    let truth: BTreeMap<Call, (&Asked, End)> = talks
        .iter()
        .enumerate()
        .flat_map(|(number, talk)| {
            let connection = u64::try_from(number).unwrap();
            talk.pulls()
                .map(move |(stream, asked, end)| (Call { connection, stream }, (asked, end)))
        })
        .collect();
    let (mut begun, mut ended) = (BTreeSet::new(), BTreeMap::new());
    for seen in &ear.seen {
        match seen {
            Seen::Began { call, request, .. } => {
                let (asked, _) = truth
                    .get(call)
                    .unwrap_or_else(|| panic!("nobody asked {request:?}"));
                assert_eq!(*request, asked.request());
                assert!(begun.insert(*call), "told twice");
            }
            Seen::Ended { call, how, .. } => {
                assert!(begun.contains(call), "an end without a beginning");
                assert_eq!(ended.insert(*call, *how), None, "ended twice");
                let possible = match truth[call].1 {
                    End::Answer => *how == CallEnd::Answered,
                    End::Refusal => *how == CallEnd::Refused,
                    End::Cancel => *how == CallEnd::Cancelled,
                    End::Never => false,
                };
                assert!(
                    possible || *how == CallEnd::Lost,
                    "{:?} became {how:?}",
                    truth[call].1
                );
            }
            Seen::Missed { since, until } => assert!(since <= until && *until <= ear.at),
        }
    }
    assert!(!format!("{:?}", ear.seen).contains("hunter2"));
    (begun, ended)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn all_is_seen_if_nothing_is_lost(talks in prop::collection::vec(talk(), 1..4), ways in ways(false)) {
        let mut ear = Ear::new();
        ear.pause();
        play(&mut ear, &talks, &ways);
        let (begun, ended) = check(&ear, &talks);
        prop_assert!(!ear.has_missed());
        for (number, talk) in talks.iter().enumerate() {
            for (stream, _, end) in talk.pulls() {
                let call = Call { connection: u64::try_from(number).unwrap(), stream };
                prop_assert!(begun.contains(&call));
                let how = match end {
                    End::Answer => Some(CallEnd::Answered),
                    End::Refusal => Some(CallEnd::Refused),
                    End::Cancel => Some(CallEnd::Cancelled),
                    End::Never => None,
                };
                prop_assert_eq!(ended.get(&call).copied(), how);
            }
        }
    }

    #[test]
    fn nothing_wrong_is_told_if_something_is_lost(
        talks in prop::collection::vec(talk(), 1..4),
        ways in ways(true),
    ) {
        let mut ear = Ear::new();
        ear.pause();
        play(&mut ear, &talks, &ways);
        let (begun, _) = check(&ear, &talks);
        let asked: usize = talks.iter().map(|talk| talk.pulls().count()).sum();
        let lost_client = ear.snoop.counters().broken > 0 || ear.has_missed();
        // What is lost at the very end shows in nothing any more; the caller is told of that by the kernel's counters.
        let lost_some = ways.iter().any(|way| way.lost);
        prop_assert!(begun.len() == asked || lost_client || lost_some);
        prop_assert!(ear.snoop.held() <= MAX_HELD);
    }

    #[test]
    fn nothing_wrong_is_told_to_who_joins_late(
        talks in prop::collection::vec(talk(), 1..4),
        ways in ways(false),
        skipped in prop::collection::vec(any::<prop::sample::Index>(), 3),
    ) {
        let mut ear = Ear::new();
        ear.pause();
        // What passed before is not counted.
        let late: Vec<Vec<Word>> = talks.iter().zip(&skipped).map(|(talk, skipped)| {
            let words = talk.words();
            let from = skipped.index(words.len());
            words[from..].to_vec()
        }).collect();
        for (number, words) in late.iter().enumerate() {
            for (direction, bytes) in words {
                for (piece, way) in bytes.chunks(ways[0].length.max(1)).zip(ways.iter().cycle()) {
                    ear.at += if way.pause { PAUSE } else { 1000 };
                    ear.hear(u64::try_from(number).unwrap(), *direction, piece);
                }
            }
        }
        check(&ear, &talks);
    }

    #[test]
    fn nothing_panics_whatever_passes(
        pieces in prop::collection::vec((0..3_u64, any::<bool>(), 0..200_u64, any::<bool>(), prop::collection::vec(any::<u8>(), 0..200)), 0..60)
    ) {
        let mut ear = connected();
        for (connection, from_client, jump, pause, bytes) in pieces {
            let direction = if from_client { Direction::FromClient } else { Direction::ToClient };
            ear.at += if pause { PAUSE } else { 1 };
            *ear.offsets.entry((connection, direction)).or_default() += if jump > 150 { jump } else { 0 };
            ear.hear(connection, direction, &bytes);
            if jump == 7 {
                ear.snoop.closed(connection, ear.at, &mut ear.seen);
            }
            if jump == 9 {
                ear.snoop.lost(ear.at, &mut ear.seen);
            }
        }
        prop_assert!(ear.requests().is_empty());
        prop_assert!(ear.snoop.held() <= MAX_HELD);
    }
}
