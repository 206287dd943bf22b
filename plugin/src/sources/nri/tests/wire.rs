//! Frames and messages, cut anywhere, and bytes that are neither.

use bytes::Bytes;
use proptest::prelude::*;

use super::super::fields::{Value, fields};
use super::super::mux::frames;
use super::*;

fn ttrpc_message(stream: u32, kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(&[kind, 0]);
    bytes.extend_from_slice(payload);
    bytes
}

fn frame(connection: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = connection.to_be_bytes().to_vec();
    bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Cuts `bytes` after every so many, in turn.
pub(super) fn cut<'a>(mut bytes: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for length in lengths.iter().cycle() {
        if bytes.is_empty() {
            break;
        }
        let (piece, rest) = bytes.split_at((*length).clamp(1, bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

#[test]
fn a_real_conversation_reads_the_same_wherever_it_is_cut() {
    for (_, captured) in CAPTURED {
        let whole = read([captured]).unwrap();
        assert_eq!(whole.len(), 8);
        for at in 0..captured.len() {
            let (before, after) = captured.split_at(at);
            assert_eq!(read([before, after]).unwrap(), whole, "cut at {at}");
        }
        assert_eq!(read(captured.chunks(1)).unwrap(), whole);
    }
}

#[test]
fn a_real_conversation_that_breaks_off_has_only_fewer_messages() {
    for (_, captured) in CAPTURED {
        let whole = read([captured]).unwrap();
        for end in 0..captured.len() {
            let part = read([&captured[..end]]).unwrap();
            assert_eq!(part, whole[..part.len()], "ends at {end}");
            assert!(part.len() < whole.len());
        }
    }
}

#[test]
fn what_announces_too_much_is_refused_before_it_comes() {
    let long = u32::try_from(ttrpc::MAX_MESSAGE + 1).unwrap();
    let mut message = long.to_be_bytes().to_vec();
    message.extend_from_slice(&[0, 0, 0, 1, 1, 0]);
    let refused = read([frame(1, &message).as_slice()]).unwrap_err();
    assert!(matches!(refused, TrunkError::Message(_)), "{refused}");

    let mut header = 1_u32.to_be_bytes().to_vec();
    header.extend_from_slice(&u32::MAX.to_be_bytes());
    let refused = read([header.as_slice()]).unwrap_err();
    assert_eq!(refused, TrunkError::Frame { length: u32::MAX });
}

#[test]
fn the_longest_message_is_taken_in_one_frame() {
    let payload = vec![7; ttrpc::MAX_MESSAGE];
    let bytes = frame(1, &ttrpc_message(3, 1, &payload));
    let messages = read(bytes.chunks(64 << 10)).unwrap();
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].1.payload, payload);
}

#[test]
fn what_is_sent_keeps_to_the_frames_that_the_runtime_can_take() {
    for length in [0, 1, 4095, 4096, 4097, 100_000] {
        let message = ttrpc_message(5, 2, &vec![1; length]);
        let bytes = frames(Connection::Runtime, &message);
        let mut rest = bytes.as_slice();
        let mut count = 0;
        while let Some((header, after)) = rest.split_first_chunk::<8>() {
            let size = u32::from_be_bytes(header[4..].try_into().unwrap());
            assert_eq!(header[..4], 2_u32.to_be_bytes());
            assert!((1..=4096).contains(&size), "{size}");
            rest = &after[usize::try_from(size).unwrap()..];
            count += 1;
        }
        assert_eq!(count, message.len().div_ceil(4096));
        let read = read([bytes.as_slice()]).unwrap();
        assert_eq!(read[0].1.payload.len(), length);
    }
}

#[test]
fn every_answer_fits_into_one_frame() {
    let call = ttrpc::Call {
        service: &"s".repeat(10_000),
        method: &"m\n".repeat(10_000),
        payload: &[],
    };
    assert!(ttrpc::unimplemented(1, &call).len() < 1000);
}

fn messages() -> impl Strategy<Value = Vec<(u32, u32, u8, Vec<u8>)>> {
    // Connection 3 is nobody's.
    let message = (
        1..=3_u32,
        any::<u32>(),
        1..=4_u8,
        prop::collection::vec(any::<u8>(), 0..300),
    );
    prop::collection::vec(message, 0..20)
}

proptest! {
    #[test]
    fn messages_arrive_whole_however_frames_and_reads_cut_them(
        messages in messages(),
        frame_lengths in prop::collection::vec(1..200_usize, 1..10),
        read_lengths in prop::collection::vec(1..500_usize, 1..10),
        turns in prop::collection::vec(1..=3_u32, 0..200),
    ) {
        let mut queues: Vec<Vec<Vec<u8>>> = (1..=3_u32).map(|connection| {
            let own = messages.iter().filter(|(id, ..)| *id == connection);
            let bytes: Vec<u8> = own.flat_map(|(_, stream, kind, payload)| ttrpc_message(*stream, *kind, payload)).collect();
            cut(&bytes, &frame_lengths).into_iter().rev().map(<[u8]>::to_vec).collect()
        }).collect();
        let mut bytes = Vec::new();
        for connection in turns.into_iter().chain([1, 2, 3].into_iter().cycle()) {
            if queues.iter().all(Vec::is_empty) {
                break;
            }
            if let Some(piece) = queues[connection as usize - 1].pop() {
                bytes.extend(frame(connection, &piece));
            }
        }
        let got = read(cut(&bytes, &read_lengths)).unwrap();
        for (id, connection) in [(1, Connection::Plugin), (2, Connection::Runtime)] {
            let wanted: Vec<_> = messages.iter().filter(|(of, ..)| *of == id).map(|(_, stream, kind, payload)| Message {
                stream: *stream,
                kind: match kind { 1 => Kind::Request, 2 => Kind::Response, _ => Kind::Other },
                payload: Bytes::from(payload.clone()),
            }).collect();
            let got: Vec<_> = got.iter().filter(|(of, _)| *of == connection).map(|(_, message)| message.clone()).collect();
            prop_assert_eq!(got, wanted);
        }
    }

    #[test]
    fn arbitrary_bytes_end_in_an_error_or_in_nothing(
        bytes in prop::collection::vec(any::<u8>(), 0..2000),
        lengths in prop::collection::vec(1..100_usize, 1..5),
    ) {
        if let Ok(messages) = read(cut(&bytes, &lengths)) {
            for (_, message) in messages {
                anything(&message.payload);
            }
        }
        anything(&bytes);
    }

    #[test]
    fn a_real_conversation_with_wrong_bytes_does_no_harm(
        which in 0..2_usize,
        wrong in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        let mut bytes = CAPTURED[which].1.to_vec();
        for (at, byte) in wrong {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(messages) = read([bytes.as_slice()]) {
            for (_, message) in messages {
                anything(&message.payload);
            }
        }
    }

    #[test]
    fn fields_never_reach_beyond_their_message(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut total = 0;
        let mut items = 0;
        for field in fields(&bytes) {
            items += 1;
            if let Ok((_, Value::Bytes(inner))) = field {
                total += inner.len();
            }
        }
        prop_assert!(total <= bytes.len());
        prop_assert!(items <= bytes.len());
    }
}

/// Reads `bytes` as everything that they might be.
pub(super) fn anything(bytes: &[u8]) {
    let _ = ttrpc::read_outcome(bytes);
    let mut listing = Listing::default();
    let _ = decode::part(bytes, &mut listing);
    let _ = decode::runtime(bytes);
    for happening in [Happening::Started, Happening::ContainerCreated] {
        if let Ok(Some(event)) = decode::event(happening, (2, 3), bytes) {
            Inventory::of(std::mem::take(&mut listing)).hear(event, &mut Vec::new());
        }
    }
    if let Ok(call) = ttrpc::read_call(bytes) {
        let asked = Asked::by(&call);
        assert_eq!(asked.answer().is_none(), asked == Asked::Unknown);
    }
}
