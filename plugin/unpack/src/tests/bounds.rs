//! What is stopped, where, and what containerd reads of it.

use tar::EntryType;

use super::{absolute, archive, gzip, header, names, noise, ratio, unpack, unpack_by};

const MIB: usize = 1 << 20;

/// The names that a stopped layer still has, and what is said about it.
fn stopped(layer: &[u8], bounds: Option<crate::settings::Bounds>) -> (Vec<String>, String) {
    let (output, result) = unpack(layer, bounds.clone());
    let said = result.expect_err("it should have been stopped").to_string();
    let (again, _) = unpack_by(layer, bounds, 1000);
    assert!(again == output, "it depends on how the layer comes in");
    (names(&output).unwrap(), said)
}

/// An archive that begins with one small file, and goes on with these blocks.
fn then(blocks: &[&[u8]]) -> Vec<u8> {
    let mut bytes = archive(&[("first", noise(100))]);
    bytes.truncate(bytes.len() - 1024);
    bytes.extend(blocks.concat());
    bytes
}

fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn pax(records: &str) -> Vec<u8> {
    let header = header("pax", EntryType::XHeader, records.len() as u64);
    [header.as_bytes().as_slice(), &padded(records.as_bytes())].concat()
}

fn record(key: &str, value: &str) -> String {
    let rest = format!(" {key}={value}\n");
    // The length counts its own digits.
    let length = (1..=4).map(|digits| rest.len() + digits).find(|length| {
        let digits = length.to_string().len();
        *length == rest.len() + digits
    });
    format!("{}{rest}", length.unwrap())
}

#[test]
fn a_file_that_would_cross_the_bound_is_withheld_and_the_archive_ends_before_it() {
    let tar = archive(&[
        ("small", noise(MIB)),
        ("large", vec![0; 8 * MIB]),
        ("after", noise(9)),
    ]);
    let (left, said) = stopped(&gzip(&tar), absolute(4 << 20));
    assert_eq!(left, ["small"]);
    let needed = 512 + MIB + 512 + 8 * MIB;
    assert_eq!(
        said,
        format!(
            "layer stopped: it unpacks to {needed} bytes or more, the limit is 4194304; {} bytes were let through; \
             to exempt it, raise `unpacked` in /f on this node",
            512 + MIB
        )
    );
}

#[test]
fn exactly_the_bound_is_within_it() {
    let content = noise(MIB);
    let tar = archive(&[("a", content.clone()), ("b", content)]);
    let whole = tar.len() as u64;
    let (output, result) = unpack(&gzip(&tar), absolute(whole));
    assert!(result.is_ok() && output == tar);
    let (left, _) = stopped(&gzip(&tar), absolute(whole - 1025));
    assert_eq!(left, ["a"]);
}

#[test]
fn many_small_files_are_counted_as_they_lie_on_a_disk() {
    let files: Vec<_> = (0..100).map(|number| (format!("f{number}"), vec![1])).collect();
    let files: Vec<_> = files
        .iter()
        .map(|(name, content)| (name.as_str(), content.clone()))
        .collect();
    let (left, _) = stopped(&gzip(&archive(&files)), absolute(10 * 4096));
    assert_eq!(left.len(), 10);
}

#[test]
fn folders_that_only_a_long_name_makes_are_counted() {
    let deep = "d/".repeat(1000);
    let empty = header("f", EntryType::Regular, 0);
    let tar = then(&[
        &pax(&record("path", &format!("{deep}f"))),
        empty.as_bytes(),
        &[0; 1024],
    ]);
    let (output, _) = unpack(&tar, absolute(2 << 20));
    assert!(output.ends_with(&[0; 1024]) && output.len() < tar.len());
}

#[test]
fn a_size_is_found_wherever_it_is_written() {
    const HUGE: u64 = 20 << 30;
    let plain = header("huge", EntryType::Regular, HUGE);
    let zero = header("huge", EntryType::Regular, 0);
    let mut old_sparse = header("huge", EntryType::GNUSparse, 0);
    old_sparse.as_gnu_mut().unwrap().set_real_size(HUGE);
    old_sparse.set_cksum();
    let size = pax(&record("size", &HUGE.to_string()));
    let sparse = [
        record("GNU.sparse.major", "1"),
        record("GNU.sparse.minor", "0"),
        record("GNU.sparse.realsize", &HUGE.to_string()),
    ];
    let sparse = pax(&sparse.concat());
    let long = [
        header("././@LongLink", EntryType::GNULongName, 200)
            .as_bytes()
            .as_slice(),
        &padded(&[b'n'; 200]),
    ]
    .concat();
    for (what, blocks) in [
        ("octal or base 256", vec![plain.as_bytes().as_slice()]),
        ("pax", vec![&size, zero.as_bytes()]),
        ("old sparse", vec![old_sparse.as_bytes()]),
        ("sparse", vec![&sparse, zero.as_bytes()]),
        ("long name", vec![&long, plain.as_bytes()]),
    ] {
        // More than either follows, so that a size that is overlooked shows.
        let tail = noise(4096);
        let tar = then(&[&blocks.concat(), &tail]);
        let (output, result) = unpack(&tar, absolute(1 << 30));
        let said = result.expect_err(what).to_string();
        assert!(said.contains("limit is 1073741824"), "{what}: {said}");
        assert!(output.ends_with(&[0; 1024]), "{what}");
        let withheld = output.len() - 1024;
        assert!(tar.starts_with(&output[..withheld]), "{what}");
        assert!(withheld < tar.len() - tail.len(), "{what}");
    }
}

#[test]
fn what_go_takes_for_no_data_is_none() {
    let mut link = header("link", EntryType::Symlink, 5 << 30);
    link.set_link_name("x").unwrap();
    link.set_cksum();
    let mut folder = header("x", EntryType::Regular, 5 << 30);
    folder.as_mut_bytes()[156] = 0;
    folder.as_mut_bytes()[1] = b'/';
    folder.set_cksum();
    let last = archive(&[("last", noise(600))]);
    let tar = then(&[link.as_bytes(), folder.as_bytes(), &last]);
    let (output, result) = unpack(&tar, absolute(1 << 20));
    assert!(result.is_ok(), "{result:?}");
    assert!(output == tar);
}

#[test]
fn the_map_of_an_old_sparse_file_is_no_header() {
    let mut sparse = header("s", EntryType::GNUSparse, 512);
    {
        let gnu = sparse.as_gnu_mut().unwrap();
        gnu.set_is_extended(true);
        gnu.set_real_size(9000);
    }
    sparse.set_cksum();
    let mut map = [0xff; 512];
    map[504] = 0;
    let big = header("big", EntryType::Regular, 5 << 30);
    let tar = then(&[sparse.as_bytes(), &map, &noise(512), big.as_bytes()]);
    let (output, result) = unpack(&tar, absolute(1 << 20));
    assert!(result.is_err());
    assert_eq!(output.len(), tar.len() - 512 + 1024);
}

#[test]
fn what_is_no_archive_is_cut_at_the_bound() {
    let mut lie = header("lie", EntryType::Regular, 100);
    lie.as_mut_bytes()[0] ^= 1;
    for tar in [noise(2 * MIB), then(&[lie.as_bytes(), &noise(2 * MIB)])] {
        let (output, result) = unpack(&gzip(&tar), absolute(1 << 20));
        assert!(result.is_err());
        assert_eq!(output, tar[..MIB]);
    }
}

#[test]
fn whatever_comes_in_no_more_than_the_bound_goes_out() {
    const BOUND: usize = 40_000;
    let files: Vec<_> = (0..12_usize)
        .map(|number| (format!("f{number}"), noise(number * 700)))
        .collect();
    let files: Vec<_> = files
        .iter()
        .map(|(name, content)| (name.as_str(), content.clone()))
        .collect();
    let whole = then(&[&pax(&record("size", "700")), &archive(&files)]);
    let places = noise(4000);
    let mut stopped = 0;
    for place in places.chunks_exact(4) {
        let mut tar = whole.clone();
        // Where sizes, kinds and sums stand, in one of the first headers.
        let at = usize::from(place[0]) % 24 * 512
            + [124, 135, 148, 156, 257, 345, 482, 511][usize::from(place[1]) % 8];
        tar[at] = place[2];
        let (output, result) = unpack_by(&tar, absolute(BOUND as u64), usize::from(place[3]) * 64 + 1);
        assert!(output.len() <= BOUND + 1024, "{at}: {}", output.len());
        if result.is_ok() {
            assert!(output == tar);
        } else {
            stopped += 1;
            let kept = output.len() - if output.len() <= BOUND { 0 } else { 1024 };
            let withheld = kept.saturating_sub(1024);
            assert!(tar.starts_with(&output[..withheld]), "{at}");
        }
    }
    assert!(stopped > 500, "{stopped}");
}

#[test]
fn what_follows_the_end_of_an_archive_is_cut_at_the_bound_and_the_archive_stays_whole() {
    let mut tar = archive(&[("a", noise(600))]);
    let end = tar.len();
    tar.resize(3 * MIB, 0);
    let (output, result) = unpack(&gzip(&tar), absolute(1 << 20));
    assert!(result.is_err() && output.len() <= MIB && output.len() >= end);
    assert_eq!(names(&output).unwrap(), ["a"]);
}

#[test]
fn a_ratio_is_judged_by_the_whole_layer_where_it_can_be_seen() {
    // Much that compresses well, before much that does not: fifty times until then, three times in all.
    let honest = archive(&[("zeros", vec![0; 8 * MIB]), ("noise", noise(3 * MIB))]);
    let (output, result) = unpack(&gzip(&honest), ratio(4, 1 << 20));
    assert!(result.is_ok() && output == honest);
    let hostile = archive(&[("noise", noise(1 << 20)), ("zeros", vec![0; 64 * MIB])]);
    let (left, said) = stopped(&gzip(&hostile), ratio(4, 1 << 20));
    assert_eq!(left, ["noise"]);
    assert!(said.contains("the limit is 4 times"), "{said}");
    let (output, result) = unpack(&gzip(&hostile), ratio(4, 1 << 30));
    assert!(result.is_ok() && output == hostile);
}

#[test]
fn a_ratio_ends_an_archive_of_many_files_between_two_of_them() {
    let names: Vec<_> = (0..80).map(|number| format!("f{number}")).collect();
    let files: Vec<_> = names.iter().map(|name| (name.as_str(), vec![0; MIB])).collect();
    let (left, _) = stopped(&gzip(&archive(&files)), ratio(10, 20 << 20));
    assert!((19..=20).contains(&left.len()), "{}", left.len());
}
