//! Fuzzing: real conversations, mutated. Two seconds each in the tests; `make fuzz` gives each target minutes.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRunner};

use super::captured::{CAPTURED, PASSWORD, Record, play, records};
use super::*;

/// Runs `test` on what `inputs` gives until the time is over, in seconds as the environment has it.
fn fuzz<S: Strategy>(inputs: S, test: impl Fn(S::Value) -> Result<(), TestCaseError>)
where
    S::Value: fmt::Debug,
{
    let seconds =
        std::env::var("FUZZ_SECONDS").map_or(2, |text| text.parse().expect("FUZZ_SECONDS is a number"));
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut config = Config::with_cases(50);
    // What it finds is printed; a file would be one more thing to keep.
    config.failure_persistence = None;
    let mut cases = 0_u64;
    while cases == 0 || Instant::now() < end {
        // One that ran is done for ever.
        match TestRunner::new(config.clone()).run(&inputs, &test) {
            Ok(()) => cases += 50,
            Err(TestError::Fail(why, input)) => panic!("{why}\nsmallest input that does it: {input:?}"),
            Err(TestError::Abort(why)) => panic!("{why}"),
        }
    }
    println!("{cases} cases in {seconds} s");
}

/// What may happen to a record.
#[derive(Debug, Clone)]
enum Change {
    /// It passes unheard.
    Lose,
    /// It comes in two.
    Cut(prop::sample::Index),
    /// The next one of its direction comes with it.
    Join,
    /// It comes at once, or late.
    Pause(u8),
    /// The kernel says that something was lost.
    SayLost,
    /// Some of its bytes are others.
    Bytes(Vec<(prop::sample::Index, u8)>),
    /// It is repeated.
    Repeat,
    /// Another's bytes follow.
    Splice(prop::sample::Index),
}

fn on_the_way() -> impl Strategy<Value = Change> {
    prop_oneof![
        2 => Just(Change::Lose),
        4 => any::<prop::sample::Index>().prop_map(Change::Cut),
        2 => Just(Change::Join),
        2 => any::<u8>().prop_map(Change::Pause),
        1 => Just(Change::SayLost),
    ]
}

fn of_any_kind() -> impl Strategy<Value = Change> {
    let byte = prop_oneof![
        any::<u8>(),
        Just(0),
        Just(1),
        Just(8),
        Just(0x0a),
        Just(0x12),
        Just(0x1a),
        Just(0x80),
        Just(0xff)
    ];
    prop_oneof![
        4 => on_the_way(),
        6 => prop::collection::vec((any::<prop::sample::Index>(), byte), 1..6).prop_map(Change::Bytes),
        1 => Just(Change::Repeat),
        2 => any::<prop::sample::Index>().prop_map(Change::Splice),
    ]
}

/// Which conversation, where it is joined if not at its beginning, and what happens to which records.
type Input = (
    usize,
    Option<prop::sample::Index>,
    Vec<(prop::sample::Index, Change)>,
);

fn inputs(change: impl Strategy<Value = Change>) -> impl Strategy<Value = Input> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), change), 0..12);
    (0..CAPTURED.len(), any::<Option<prop::sample::Index>>(), changes)
}

/// Plays a conversation as changed.
fn played(input: &Input, tapes: &[Vec<Record>]) -> Ear {
    let (which, from, changes) = input;
    let mut rest: Vec<(Record, bool)> = tapes[*which]
        .iter()
        .cloned()
        .map(|record| (record, true))
        .collect();
    for (place, change) in changes {
        let place = place.index(rest.len());
        match change {
            Change::Lose => rest[place].1 = false,
            Change::Cut(at) => {
                let (record, is_heard) = &mut rest[place];
                let at = at.index(record.bytes.len() + 1);
                let after = Record {
                    bytes: record.bytes.split_off(at),
                    pause: 0,
                    ..record.clone()
                };
                let is_heard = *is_heard;
                if !after.bytes.is_empty() {
                    rest.insert(place + 1, (after, is_heard));
                }
            }
            Change::Join => {
                if let [(one, _), (next, _), ..] = &mut rest[place..]
                    && (one.kind, one.connection) == (next.kind, next.connection)
                {
                    one.bytes.append(&mut next.bytes);
                }
            }
            Change::Pause(pause) => rest[place].0.pause = *pause,
            Change::SayLost => {
                let mut record = rest[place].0.clone();
                record.kind = 3;
                rest.insert(place, (record, true));
            }
            Change::Bytes(bytes) => {
                let record = &mut rest[place].0;
                for (at, byte) in bytes {
                    if !record.bytes.is_empty() {
                        let at = at.index(record.bytes.len());
                        record.bytes[at] = *byte;
                    }
                }
            }
            Change::Repeat => rest.insert(place, rest[place].clone()),
            Change::Splice(other) => {
                let other = rest[other.index(rest.len())].0.bytes.clone();
                rest[place].0.bytes.extend(other);
            }
        }
    }
    let mut ear = Ear::new();
    ear.pause();
    let from = from.map_or(0, |from| from.index(rest.len()));
    for (record, is_heard) in &rest[from..] {
        play(&mut ear, record, *is_heard);
        assert!(ear.snoop.held() <= MAX_HELD && ear.snoop.connections() <= MAX_CONNECTIONS);
    }
    ear
}

/// Every end has its beginning, and each comes once.
fn is_in_order(seen: &[Seen]) {
    let mut open = std::collections::BTreeSet::new();
    for seen in seen {
        match seen {
            Seen::Began { call, .. } => assert!(open.insert(*call), "{call:?} began twice"),
            Seen::Ended { call, .. } => assert!(open.remove(call), "{call:?} ended without a beginning"),
            Seen::Missed { since, until } => assert!(since <= until),
        }
    }
}

#[test]
fn fuzz_the_way_of_real_bytes() {
    let tapes: Vec<Vec<Record>> = CAPTURED.iter().map(|(_, tape)| records(tape)).collect();
    let truth: Vec<Vec<PullRequest>> = tapes
        .iter()
        .map(|tape| captured::heard(tape, 0).requests().into_iter().cloned().collect())
        .collect();
    fuzz(inputs(on_the_way()), |input| {
        let ear = played(&input, &tapes);
        is_in_order(&ear.seen);
        for request in ear.requests() {
            prop_assert!(truth[input.0].contains(request), "nobody asked {:?}", request);
        }
        let kept = ear.snoop.held_bytes();
        prop_assert!(
            !kept
                .windows(PASSWORD.len())
                .any(|window| window == PASSWORD.as_bytes())
        );
        let said = format!("{:?}{:?}", ear.snoop, ear.seen);
        prop_assert!(!said.contains(PASSWORD));
        Ok(())
    });
}

#[test]
fn fuzz_real_bytes() {
    let tapes: Vec<Vec<Record>> = CAPTURED.iter().map(|(_, tape)| records(tape)).collect();
    fuzz(inputs(of_any_kind()), |input| {
        is_in_order(&played(&input, &tapes).seen);
        Ok(())
    });
}
