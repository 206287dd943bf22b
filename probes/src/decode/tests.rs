//! The layout of every record kind, and that no bytes can do harm.

use proptest::prelude::*;

use super::{DecodeError, decode};
use crate::record::{Caller, FileId, IngestDirectory, IngestPart, Record, TcpState, plain_ipv4};

const NAME: &[u8; 64] = b"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const BY: Caller = Caller {
    tgid: 7,
    thread: 8,
    goroutine: 0xc000,
};

fn header(kind: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(3_u32.to_ne_bytes());
    bytes.extend(11_u64.to_ne_bytes());
    bytes.extend(BY.goroutine.to_ne_bytes());
    bytes.extend(BY.tgid.to_ne_bytes());
    bytes.extend(BY.thread.to_ne_bytes());
    bytes
}

fn with_u64(mut bytes: Vec<u8>, values: &[u64]) -> Vec<u8> {
    values.iter().for_each(|value| bytes.extend(value.to_ne_bytes()));
    bytes
}

fn with_u32(mut bytes: Vec<u8>, values: &[u32]) -> Vec<u8> {
    values.iter().for_each(|value| bytes.extend(value.to_ne_bytes()));
    bytes
}

fn with_endpoints(mut bytes: Vec<u8>, family: u16, local: [u8; 16], remote: [u8; 16]) -> Vec<u8> {
    bytes.extend(local);
    bytes.extend(remote);
    [40_000_u16, 443, family, 0]
        .iter()
        .for_each(|value| bytes.extend(value.to_ne_bytes()));
    bytes
}

fn with_name(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.extend(NAME);
    bytes
}

fn samples() -> Vec<(Vec<u8>, Record)> {
    let directory = IngestDirectory::new(*NAME).unwrap();
    // Major 8, minor 300: beyond eight bits, the two encodings differ.
    let (dev, file) = (
        8 << 20 | 300,
        FileId {
            dev: libc::makedev(8, 300),
            inode: 99,
        },
    );
    let mut mapped = [0; 16];
    mapped[10..].copy_from_slice(&[255, 255, 10, 0, 0, 1]);
    let mut v4 = [0; 16];
    v4[..4].copy_from_slice(&[10, 0, 0, 2]);
    vec![
        (
            with_name(with_u32(with_u64(header(1), &[99]), &[dev, 5])),
            Record::FileTouched {
                at_ns: 11,
                by: BY,
                file,
                directory,
                part: IngestPart::Data,
            },
        ),
        (
            with_u32(with_u64(header(2), &[99]), &[dev, 0]),
            Record::FileLeft {
                at_ns: 11,
                by: BY,
                file,
            },
        ),
        (
            with_endpoints(with_u64(header(3), &[5, 6, 7]), 2, v4, v4),
            Record::SocketRead {
                at_ns: 11,
                by: BY,
                cookie: 5,
                local: "10.0.0.2:40000".parse().unwrap(),
                remote: "10.0.0.2:443".parse().unwrap(),
                bytes_by_goroutine: 6,
                bytes_total: 7,
            },
        ),
        (
            with_u32(
                with_endpoints(with_u64(header(4), &[5]), 10, mapped, mapped),
                &[7, 1],
            ),
            Record::SocketState {
                at_ns: 11,
                cookie: 5,
                local: "[::ffff:10.0.0.1]:40000".parse().unwrap(),
                remote: "[::ffff:10.0.0.1]:443".parse().unwrap(),
                state: TcpState::Close,
                owned: true,
            },
        ),
        (
            with_name(with_u32(with_u64(header(5), &[5, 6, 99]), &[dev, 0])),
            Record::ThreadVote {
                at_ns: 11,
                by: BY,
                cookie: 5,
                file,
                directory,
                bytes: 6,
            },
        ),
        (
            with_u64(header(6), &[5]),
            Record::SocketSent {
                at_ns: 11,
                by: BY,
                cookie: 5,
            },
        ),
    ]
}

#[test]
fn every_kind_is_read_as_the_kernel_side_wrote_it() {
    for (bytes, record) in samples() {
        assert_eq!(decode(&bytes), Ok((3, record)));
    }
}

#[test]
fn a_record_cut_anywhere_is_truncated() {
    for (bytes, _) in samples() {
        for length in 0..bytes.len() {
            assert_eq!(
                decode(&bytes[..length]),
                Err(DecodeError::Truncated),
                "at {length}"
            );
        }
    }
}

#[test]
fn what_is_not_known_is_named() {
    assert_eq!(decode(&header(0)), Err(DecodeError::Kind(0)));
    assert_eq!(decode(&header(7)), Err(DecodeError::Kind(7)));
    let unix = with_endpoints(with_u64(header(3), &[5, 6, 7]), 1, [0; 16], [0; 16]);
    assert_eq!(decode(&unix), Err(DecodeError::Family(1)));
    let listening = with_u32(
        with_endpoints(with_u64(header(4), &[5]), 2, [0; 16], [0; 16]),
        &[10, 0],
    );
    assert_eq!(decode(&listening), Err(DecodeError::State(10)));
    let mut named = with_u32(with_u64(header(1), &[99]), &[0, 5]);
    named.extend([b'g'; 64]);
    assert_eq!(decode(&named), Err(DecodeError::Directory));
}

#[test]
fn mapped_addresses_are_plain_for_people() {
    let mapped = "[::ffff:10.0.0.1]:443".parse().unwrap();
    assert_eq!(plain_ipv4(mapped), "10.0.0.1:443".parse().unwrap());
    let six = "[fd00::1]:443".parse().unwrap();
    assert_eq!(plain_ipv4(six), six);
}

proptest! {
    #[test]
    fn no_bytes_can_do_harm(kind in 0_u32..8, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
        let mut framed = kind.to_ne_bytes().to_vec();
        framed.extend(&bytes);
        if let Ok((_, record)) = decode(&framed) {
            prop_assert!((1..=6).contains(&kind));
            if let Record::FileTouched { directory, .. } | Record::ThreadVote { directory, .. } = record {
                prop_assert_eq!(directory.as_str().len(), 64);
            }
        }
    }
}
