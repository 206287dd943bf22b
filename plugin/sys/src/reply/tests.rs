//! Answers of the kernel, and what a stranger could send in their place.

use proptest::prelude::*;

use super::*;

const HEADER: usize = 16;

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap();
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(7_u32.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend(body);
    bytes
}

fn contents(datagram: &[u8]) -> Vec<Result<Content, String>> {
    replies(datagram)
        .map(|reply| reply.map(|reply| reply.content))
        .collect()
}

#[test]
fn a_negative_code_is_an_error_and_zero_is_the_end() {
    let mut datagram = message(2, 0, &[(-2_i32).to_ne_bytes().as_slice(), &[0; 16]].concat());
    datagram.extend(message(2, 0, &[0; 20]));
    datagram.extend(message(3, 2, &(-105_i32).to_ne_bytes()));
    datagram.extend(message(3, 2, &[]));
    datagram.extend(message(3, 2, &i32::MIN.to_ne_bytes()));
    assert_eq!(
        contents(&datagram),
        [
            Ok(Content::Refused(2)),
            Ok(Content::Finished),
            Ok(Content::Refused(105)),
            Ok(Content::Finished),
            Ok(Content::Finished),
        ]
    );
}

#[test]
fn an_interrupted_list_is_seen() {
    let datagram = message(3, 0x10 | 2, &[0; 4]);
    let reply = replies(&datagram).next().unwrap().unwrap();
    assert_eq!(
        reply,
        Reply {
            sequence: 7,
            interrupted: true,
            content: Content::Finished
        }
    );
}

#[test]
fn a_length_that_points_outside_or_nowhere_ends_the_reading() {
    for length in [0_u32, 15, 17, 1 << 20, u32::MAX] {
        let mut datagram = message(1, 0, &[]);
        datagram.splice(..4, length.to_ne_bytes());
        let seen = contents(&datagram);
        assert!(matches!(seen.as_slice(), [Err(_)]), "{length}: {seen:?}");
    }
}

#[test]
fn a_short_socket_is_malformed() {
    let mut body = [0; 71];
    body[0] = 2;
    assert!(matches!(contents(&message(20, 2, &body)).as_slice(), [Err(_)]));
}

#[test]
fn a_unix_socket_is_not_taken_for_a_tcp_one() {
    let mut body = [0; 16];
    body[0] = 1;
    assert!(matches!(contents(&message(20, 2, &body)).as_slice(), [Err(_)]));
}

/// Bytes that get past the first checks: right lengths, plausible types, attributes of random length.
fn nearly_right() -> impl Strategy<Value = Vec<u8>> {
    let attribute = (
        any::<u16>(),
        0_u16..24,
        proptest::collection::vec(any::<u8>(), 0..260),
    );
    let body = (
        0_u8..12,
        proptest::collection::vec(any::<u8>(), 71),
        proptest::collection::vec(attribute, 0..4),
    );
    let one = (
        prop_oneof![Just(20_u16), 0_u16..24],
        any::<u16>(),
        body,
        any::<bool>(),
    )
        .prop_map(|(kind, flags, (family, rest, attributes), honest)| {
            let mut bytes = vec![family];
            bytes.extend(rest);
            for (wrong_length, kind, value) in attributes {
                let length = u16::try_from(value.len() + 4).unwrap();
                bytes.extend(if honest { length } else { wrong_length }.to_ne_bytes());
                bytes.extend(kind.to_ne_bytes());
                bytes.extend(&value);
                bytes.resize(bytes.len().next_multiple_of(4), 0);
            }
            message(kind, flags, &bytes)
        });
    proptest::collection::vec(one, 1..4).prop_map(|messages| messages.concat())
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic_or_run_on(datagram in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(replies(&datagram).count() <= datagram.len() / HEADER + 1);
    }

    #[test]
    fn no_nearly_right_bytes_do_either(datagram in nearly_right(), cut in any::<prop::sample::Index>()) {
        prop_assert!(replies(&datagram).count() <= datagram.len() / HEADER + 1);
        let cut = datagram.get(..cut.index(datagram.len() + 1)).unwrap();
        prop_assert!(replies(cut).count() <= cut.len() / HEADER + 1);
    }

    #[test]
    fn honest_sockets_come_through(
        ports in any::<[u16; 2]>(), cookie in any::<u64>(), inode in any::<u32>(), received in any::<u64>(),
    ) {
        let mut body = vec![2, 1, 0, 0];
        body.extend(ports[0].to_be_bytes());
        body.extend(ports[1].to_be_bytes());
        body.extend([&[127, 0, 0, 1][..], &[0; 12], &[127, 0, 0, 2], &[0; 12]].concat());
        body.extend(0_u32.to_ne_bytes());
        body.extend(cookie.to_ne_bytes());
        for field in [0, 5, 0, 1000, inode] {
            body.extend(field.to_ne_bytes());
        }
        body.extend((4_u16 + 136).to_ne_bytes());
        body.extend(2_u16.to_ne_bytes());
        body.extend([0; 128]);
        body.extend(received.to_ne_bytes());
        let seen = contents(&message(20, 2, &body));
        let [Ok(Content::Socket(socket))] = seen.as_slice() else { panic!("{seen:?}") };
        prop_assert_eq!(socket.local, ([127, 0, 0, 1], ports[0]).into());
        prop_assert_eq!(socket.remote, ([127, 0, 0, 2], ports[1]).into());
        prop_assert_eq!(
            (socket.cookie, socket.inode, socket.uid, socket.unread, socket.bytes_received),
            (cookie, u64::from(inode), 1000, 5, Some(received))
        );
    }
}
