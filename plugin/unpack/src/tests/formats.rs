//! What is decoded, and what is refused: as containerd's own decoder does it.

use super::{archive, gzip, noise, unpack, unpack_by, zstd};

/// A skippable frame of zstd.
fn skippable(number: u8, len: usize) -> Vec<u8> {
    let mut frame = vec![0x50 + number, 0x2a, 0x4d, 0x18];
    frame.extend(u32::try_from(len).unwrap().to_le_bytes());
    frame.extend(noise(len));
    frame
}

/// A gzip member with everything that its header can hold.
fn adorned(bytes: &[u8]) -> Vec<u8> {
    let plain = gzip(bytes);
    let mut member = plain[..10].to_vec();
    member[3] = 0b1_1110;
    member.extend([3, 0, 1, 2, 3]);
    member.extend(b"name\0comment\0");
    let sum = zlib_rs::crc32::crc32(0, &member).to_le_bytes();
    member.extend([sum[0], sum[1]]);
    member.extend(&plain[10..]);
    member
}

fn problem(layer: &[u8], expected_output: &[u8]) -> String {
    let (output, result) = unpack(layer, None);
    assert!(output == expected_output, "{} bytes came out", output.len());
    result.unwrap_err().to_string()
}

#[test]
fn every_form_gives_the_bytes_that_went_in() {
    let mut bytes = noise(50_000);
    bytes.extend(vec![7; 900_000]);
    let (one, two) = bytes.split_at(30_001);
    let forms = [
        bytes.clone(),
        gzip(&bytes),
        [gzip(one), gzip(two)].concat(),
        [gzip(b""), adorned(one), gzip(b""), gzip(two), gzip(b"")].concat(),
        zstd(&bytes),
        [zstd(one), zstd(two)].concat(),
        [
            skippable(0, 0),
            zstd(one),
            skippable(15, 70_000),
            zstd(two),
            skippable(3, 9),
        ]
        .concat(),
    ];
    for (number, layer) in forms.iter().enumerate() {
        for most in [1, 7, 4096, usize::MAX] {
            let (output, result) = unpack_by(layer, None, most);
            assert!(result.is_ok(), "form {number} by {most}: {result:?}");
            assert!(output == bytes, "form {number} by {most}");
        }
    }
}

#[test]
fn what_is_short_or_unknown_passes_as_it_is() {
    for layer in [&b""[..], b"\x1f", b"\x1f\x8b", b"\x50\x2a\x4d\x18", b"PK\x03\x04"] {
        let (output, result) = unpack(layer, None);
        assert!(result.is_ok() && output == layer, "{layer:?}");
    }
}

#[test]
fn what_follows_the_last_gzip_member_is_a_mistake_and_everything_before_it_comes_out() {
    let tar = archive(&[("a", noise(5000))]);
    for rest in [vec![0; 512], b"0123456789".to_vec()] {
        let said = problem(&[gzip(&tar), rest].concat(), &tar);
        assert!(said.contains("invalid header"), "{said}");
    }
    // Go wants ten bytes of a header before it looks at them.
    for rest in [&b"\0"[..], b"\x1f\x8b\x08", b"012345678"] {
        let said = problem(&[&gzip(&tar), rest].concat(), &tar);
        assert!(said.contains("unexpected end"), "{said}");
    }
}

#[test]
fn a_gzip_member_that_lies_or_ends_early_is_refused() {
    let tar = archive(&[("a", noise(5000))]);
    let good = gzip(&tar);
    for (from_end, what) in [(8, "checksum"), (4, "checksum")] {
        let mut bad = good.clone();
        let at = bad.len() - from_end;
        bad[at] ^= 1;
        assert!(problem(&bad, &tar).contains(what));
    }
    for left in [8, 4, 1] {
        assert!(problem(&good[..good.len() - left], &tar).contains("unexpected end"));
    }
    let (output, result) = unpack(&good[..good.len() / 2], None);
    assert!(result.is_err() && tar.starts_with(&output) && output.len() < tar.len());
    let mut adorned = adorned(&tar);
    adorned[16] ^= 1;
    assert!(problem(&adorned, b"").contains("invalid header"));
    let mut endless = gzip(&tar);
    endless[3] = 8;
    endless.splice(10..10, vec![b'x'; 512]);
    assert!(problem(&endless, b"").contains("invalid header"));
}

#[test]
fn zstd_frames_that_lie_or_end_early_are_refused() {
    let tar = archive(&[("a", noise(5000))]);
    let good = zstd(&tar);
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    let (_, result) = unpack(&bad, None);
    assert!(result.unwrap_err().to_string().starts_with("zstd: "));
    for left in [1, good.len() / 2] {
        let (_, result) = unpack(&good[..good.len() - left], None);
        assert!(result.unwrap_err().to_string().contains("unexpected end"));
    }
    for rest in [&b"\0"[..], b"0123456789"] {
        let said = problem(&[&good, rest].concat(), &tar);
        assert!(said.starts_with("zstd: "), "{said}");
    }
}
