//! Fuzzing: what containerd really sent, mutated. Two seconds in the tests; `make fuzz` gives it minutes.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestError, TestRunner};

use super::*;

/// What may happen to the bytes of a conversation.
#[derive(Debug, Clone)]
enum Change {
    Set(Index, u8),
    Remove(Index, usize),
    Repeat(Index, usize),
    Move(Index, usize, Index),
    Splice(Index, usize, Index),
    End(Index),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let place = any::<Index>;
    // What lengths, keys and connections are made of.
    let byte = prop_oneof![
        any::<u8>(),
        Just(0),
        Just(1),
        Just(2),
        Just(8),
        Just(0x0a),
        Just(0x12),
        Just(0x80),
        Just(0xff)
    ];
    let length = || prop_oneof![1..12_usize, 1..300_usize];
    let change = prop_oneof![
        6 => (place(), byte).prop_map(|(at, byte)| Change::Set(at, byte)),
        1 => (place(), length()).prop_map(|(at, length)| Change::Remove(at, length)),
        1 => (place(), length()).prop_map(|(at, length)| Change::Repeat(at, length)),
        1 => (place(), length(), place()).prop_map(|(at, length, to)| Change::Move(at, length, to)),
        1 => (place(), length(), place()).prop_map(|(at, length, to)| Change::Splice(at, length, to)),
        1 => place().prop_map(Change::End),
    ];
    prop::collection::vec(change, 0..10)
}

fn changed(which: usize, changes: &[Change]) -> Vec<u8> {
    let (_, other) = CAPTURED[1 - which];
    let mut bytes = CAPTURED[which].1.to_vec();
    for change in changes {
        if bytes.is_empty() {
            break;
        }
        let range = |at: &Index, length: usize, of: &[u8]| {
            let at = at.index(of.len());
            at..of.len().min(at + length)
        };
        match change {
            Change::Set(at, byte) => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Change::Remove(at, length) => drop(bytes.drain(range(at, *length, &bytes))),
            Change::Repeat(at, length) => {
                let range = range(at, *length, &bytes);
                let part = bytes[range.clone()].to_vec();
                bytes.splice(range.start..range.start, part);
            }
            Change::Move(at, length, to) => {
                let part: Vec<u8> = bytes.drain(range(at, *length, &bytes)).collect();
                let to = to.index(bytes.len() + 1);
                bytes.splice(to..to, part);
            }
            Change::Splice(at, length, to) => {
                let part = other[range(at, *length, other)].to_vec();
                let to = to.index(bytes.len());
                bytes.splice(to..to, part);
            }
            Change::End(at) => bytes.truncate(at.index(bytes.len())),
        }
    }
    bytes
}

#[test]
fn fuzz_the_trunk() {
    let seconds =
        std::env::var("FUZZ_SECONDS").map_or(2, |text| text.parse().expect("FUZZ_SECONDS is a number"));
    let end = Instant::now() + Duration::from_secs(seconds);
    let inputs = (
        0..CAPTURED.len(),
        changes(),
        prop::collection::vec(1..9000_usize, 1..4),
    );
    let mut config = Config::with_cases(50);
    config.failure_persistence = None;
    let mut cases = 0_u64;
    while cases == 0 || Instant::now() < end {
        cases += 50;
        // One that ran is done for ever.
        let result = TestRunner::new(config.clone()).run(&inputs, |(which, changes, lengths)| {
            let bytes = changed(which, &changes);
            let whole = read([bytes.as_slice()]);
            // Where it is cut changes nothing; if it breaks off, what came before the break is the same.
            prop_assert_eq!(&read(wire::cut(&bytes, &lengths)), &whole);
            for (_, message) in whole.iter().flatten() {
                wire::anything(&message.payload);
            }
            Ok(())
        });
        match result {
            Ok(()) => {}
            Err(TestError::Fail(why, input)) => panic!("{why}\nsmallest input that does it: {input:?}"),
            Err(TestError::Abort(why)) => panic!("{why}"),
        }
    }
    println!("{cases} cases in {seconds} s");
}
