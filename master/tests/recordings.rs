//! Recorded audit logs of a real control plane, and the verdicts that follow from them.
//!
//! `fixtures/audit/*.verdicts.tsv` were derived by hand from what was done (each recording came with the list of commands
//! that made it) and from the lines themselves: line, verdict, and why. A row of kind `none` says that a line which looks
//! as if something ended gives no verdict. What stands in no row must not come out. The verdict's time is the line's.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use magi_master::intake::audit::{Kind, MAX_LINE, Unusable};
use magi_master::intake::lines::{Line, Lines};
use magi_master::ledger::Bounds;
use magi_master::replay::{Replay, Summary};
use magi_master::verdict::Verdict;

/// A verdict as a table has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    line: u64,
    kind: String,
    cause: String,
    namespace: String,
    name: String,
    uid: String,
    node: String,
    images: Vec<String>,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/audit")
        .join(name)
}

fn recording(name: &str) -> Vec<u8> {
    let packed = fs::read(fixture(&format!("{name}.zst"))).unwrap_or_else(|e| panic!("{name}: {e}"));
    zstd::decode_all(&packed[..]).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The rows of a table, and those of kind `none`.
fn table(name: &str) -> (BTreeSet<Row>, Vec<Row>) {
    let text = fs::read_to_string(fixture(&format!("{name}.verdicts.tsv"))).expect("a table");
    let rows = text.lines().skip(1).map(|line| {
        let cells: Vec<&str> = line.split('\t').collect();
        let [line, kind, cause, namespace, name, uid, node, images, why] = cells[..] else {
            panic!("a row of nine cells was expected: {line}");
        };
        assert!(!why.is_empty(), "no reason: {line}");
        let mut images: Vec<String> = images
            .split(" | ")
            .filter(|i| !i.is_empty())
            .map(Into::into)
            .collect();
        images.sort();
        Row {
            line: line.parse().expect("a line number"),
            kind: kind.into(),
            cause: cause.into(),
            namespace: namespace.into(),
            name: name.into(),
            uid: uid.into(),
            node: node.into(),
            images,
        }
    });
    let (none, some): (Vec<Row>, Vec<Row>) = rows.partition(|row| row.kind == "none");
    (some.into_iter().collect(), none)
}

fn row(line: u64, verdict: &Verdict) -> Row {
    let json = serde_json::to_value(verdict).expect("JSON");
    let text = |key: &str| json[key].as_str().expect("a text").to_owned();
    let mut images: Vec<String> = verdict.images.iter().map(ToString::to_string).collect();
    images.sort();
    Row {
        line,
        kind: text("kind"),
        cause: text("cause"),
        namespace: text("namespace"),
        name: text("name"),
        uid: text("uid"),
        node: text("node"),
        images,
    }
}

fn stage_time(line: &[u8]) -> Option<Timestamp> {
    let event: serde_json::Value = serde_json::from_slice(line).ok()?;
    event["stageTimestamp"].as_str()?.parse().ok()
}

/// Replays a log and gives each verdict with the number of its line, counted from one.
fn replay(replay: &mut Replay, log: &[u8]) -> Vec<(u64, Verdict)> {
    let mut lines = Lines::new(log, MAX_LINE);
    let (mut all, mut verdicts, mut number) = (Vec::new(), Vec::new(), 0);
    while let Some(line) = lines.next_line().expect("a slice can be read") {
        number += 1;
        replay.line(&line, &mut verdicts);
        for verdict in verdicts.drain(..) {
            if let Line::Whole(bytes) = line
                && let Some(time) = stage_time(bytes)
            {
                assert_eq!(verdict.at, time, "line {number}: {verdict:?}");
            }
            all.push((number, verdict));
        }
    }
    all
}

fn new() -> Replay {
    Replay::new(Bounds::default())
}

fn compare(name: &str, found: &[(u64, Verdict)]) {
    let (expected, none) = table(name);
    let found: Vec<Row> = found.iter().map(|(line, verdict)| row(*line, verdict)).collect();
    let set: BTreeSet<Row> = found.iter().cloned().collect();
    assert_eq!(set.len(), found.len(), "{name}: something was said twice");
    let missing: Vec<&Row> = expected.difference(&set).collect();
    let wrong: Vec<&Row> = set.difference(&expected).collect();
    assert!(
        missing.is_empty() && wrong.is_empty(),
        "{name}\nmissing: {missing:#?}\nnot in the table: {wrong:#?}"
    );
    for row in none {
        let said = set
            .iter()
            .find(|found| found.line == row.line && (row.uid.is_empty() || found.uid == row.uid));
        assert_eq!(said, None, "{name}");
    }
}

fn check(name: &str) -> Summary {
    let mut run = new();
    let found = replay(&mut run, &recording(&format!("{name}.jsonl")));
    compare(name, &found);
    run.summary(std::time::Duration::from_secs(1))
}

#[test]
fn control_plane_at_request_response() {
    let summary = check("01-controlplane-rr");
    assert_eq!(
        summary.read.unusable.get(&Unusable::NoNode),
        Some(&1),
        "{summary}"
    );
    assert_eq!(summary.read.unusable.len(), 1, "{summary}");
    assert_eq!(
        (summary.no_verdict.never_bound, summary.no_verdict.no_uid),
        (2, 0),
        "{summary}"
    );
    assert_eq!(summary.live_pods, 10, "{summary}");
    assert!(summary.read.kinds[&Kind::Refused] > 10, "{summary}");
}

#[test]
fn a_real_kubelet_at_request_response() {
    let summary = check("03-kubelet-rr");
    assert_eq!(summary.no_verdict.mirror, 2, "{summary}");
    assert_eq!(summary.still_wanted.said_later, 2, "{summary}");
    assert!(summary.read.unusable.is_empty(), "{summary}");
}

#[test]
fn metadata_tells_no_verdict() {
    let summary = check("02-metadata");
    assert!(summary.read.unusable[&Unusable::BodyNotRecorded] > 0, "{summary}");
    assert_eq!(summary.read.unusable[&Unusable::DryRunInDoubt], 4, "{summary}");
}

#[test]
fn request_tells_no_uid() {
    let summary = check("02-request");
    assert_eq!(
        summary.read.unusable[&Unusable::NoName],
        1,
        "generateName: {summary}"
    );
    assert!(summary.no_verdict.no_uid >= 3, "{summary}");
}

#[test]
fn pods_without_subresources() {
    check("02-podsonly");
}

#[test]
fn truncated_events() {
    let summary = check("02-truncated");
    assert!(summary.read.unusable[&Unusable::BodyTruncated] >= 2, "{summary}");
    assert_eq!(summary.read.unusable[&Unusable::DryRunInDoubt], 1, "{summary}");
}

#[test]
fn batch_mode() {
    check("02-batch");
}

#[test]
fn rotated_files_are_one_stream() {
    let log: Vec<u8> = (1..=5)
        .flat_map(|part| recording(&format!("rotated-{part}.jsonl")))
        .collect();
    let mut run = new();
    let found = replay(&mut run, &log);
    compare("rotated", &found);
    let summary = run.summary(std::time::Duration::from_secs(1));
    assert_eq!(summary.no_verdict.never_bound, 4, "{summary}");
}

#[test]
fn webhook_bodies_are_lists() {
    let mut run = new();
    for part in ["00495", "00496", "00497", "00498"] {
        let found = replay(&mut run, &recording(&format!("webhook-{part}.json")));
        assert_eq!(found, vec![], "a mirror pod is deleted, nothing else");
    }
    let summary = run.summary(std::time::Duration::from_secs(1));
    assert_eq!(
        (summary.read.lists, summary.read.of_no_interest > 2),
        (2, true),
        "two are about no pods"
    );
    assert_eq!(summary.read.kinds[&Kind::Deleted], 2);
    assert_eq!(summary.read.kinds[&Kind::Created], 1);
    assert!(summary.read.unusable.is_empty(), "{summary}");
}

#[test]
fn a_second_replay_says_nothing_new() {
    for name in [
        "01-controlplane-rr",
        "02-podsonly",
        "02-batch",
        "02-truncated",
        "03-kubelet-rr",
    ] {
        let log = recording(&format!("{name}.jsonl"));
        let mut run = new();
        replay(&mut run, &log);
        assert_eq!(replay(&mut run, &log), vec![], "{name}");
    }
}

/// Batch mode and several API servers mix lines up. What is said may come at another line, with another cause; but it is
/// about pods and images that are really gone, and nearly all of it comes.
#[test]
fn lines_out_of_order_make_no_wrong_verdict() {
    let log = recording("01-controlplane-rr.jsonl");
    let (expected, _) = table("01-controlplane-rr");
    let gone: BTreeSet<&str> = expected
        .iter()
        .filter(|row| row.kind == "pod-gone")
        .map(|row| row.uid.as_str())
        .collect();
    let withheld_in_order = ["979eccbe", "b1d958d3"];
    for distance in [2, 7, 40] {
        let mut lines: Vec<&[u8]> = log.split_inclusive(|b| *b == b'\n').collect();
        for piece in lines.chunks_mut(distance) {
            piece.reverse();
        }
        let mut run = new();
        let mut verdicts = Vec::new();
        for line in lines {
            run.line(&Line::Whole(line.trim_ascii_end()), &mut verdicts);
        }
        let said: BTreeSet<&str> = verdicts
            .iter()
            .filter(|verdict| serde_json::to_value(verdict.kind).is_ok_and(|kind| kind == "pod-gone"))
            .map(|verdict| verdict.uid.as_str())
            .collect();
        for uid in &said {
            let is_marked_too = withheld_in_order.iter().any(|start| uid.starts_with(start));
            assert!(
                gone.contains(uid) || is_marked_too,
                "{distance}: {uid} is not gone"
            );
        }
        let missed: Vec<_> = gone.difference(&said).collect();
        assert!(missed.is_empty(), "{distance}: {missed:?}");
    }
}

/// Whatever becomes of bytes on their way: every line is counted, none ends the master, most of them are found out.
#[test]
fn mangled_lines_end_nothing() {
    let log = recording("01-controlplane-rr.jsonl");
    let lines: Vec<&[u8]> = log
        .split(|b| *b == b'\n')
        .filter(|line| line.len() < 20_000)
        .collect();
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed % below as u64).expect("it is below")
    };
    let mut run = new();
    let mut verdicts = Vec::new();
    for _ in 0..30_000 {
        let mut line = lines[random(lines.len())].to_vec();
        for _ in 0..=random(4) {
            if line.is_empty() {
                break;
            }
            let at = random(line.len());
            match random(4) {
                0 => line.truncate(at),
                1 => line[at] = u8::try_from(random(256)).expect("a byte"),
                2 => drop(line.drain(at..(at + random(200)).min(line.len()))),
                _ => {
                    let piece = line[..at.min(random(300))].to_vec();
                    line.splice(at..at, piece);
                }
            }
        }
        run.line(&Line::Whole(&line), &mut verdicts);
    }
    let summary = run.summary(std::time::Duration::from_secs(1));
    assert_eq!(summary.read.lines, 30_000);
    assert!(summary.read.unusable[&Unusable::NotJson] > 100, "{summary}");
}
