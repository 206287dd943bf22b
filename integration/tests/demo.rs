//! The demo's verdict: a figure that is not as promised makes it fail, and the report has the keys that were promised.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use magi_integration::demo::check::{LYING_DECLARED, LYING_OVER, check};
use magi_integration::demo::report::{LeftBehind, Name, Outcome, Report, Run, Scenario};
use magi_integration::demo::screen::Screen;
use magi_integration::demo::summary;
use serde_json::{Value, json};

fn scenario(name: Name) -> Scenario {
    let stopped = name != Name::Healthy;
    Scenario {
        name,
        outcome: if stopped {
            Outcome::Aborted
        } else {
            Outcome::Completed
        },
        pull_error: if stopped {
            "failed to copy: read tcp 127.0.0.1:1->127.0.0.1:2: read: software caused connection abort"
                .to_owned()
        } else {
            String::new()
        },
        received_layer_bytes: 2 << 20,
        abort_ms: if stopped { 12 } else { 0 },
        left_behind: LeftBehind::default(),
        sockets_closed: u64::from(stopped),
        collateral: 0,
    }
}

fn good() -> Report {
    let run = |containerd: &str| Run {
        containerd: containerd.to_owned(),
        scenarios: Name::ALL.map(scenario).into(),
    };
    Report {
        runs: vec![run("1.7.24"), run("2.1.9")],
    }
}

/// The report with one scenario of the second run changed.
fn with(name: Name, change: impl Fn(&mut Scenario)) -> Report {
    let mut report = good();
    let run = report.runs.last_mut();
    for scenario in run.into_iter().flat_map(|run| &mut run.scenarios) {
        if scenario.name == name {
            change(scenario);
        }
    }
    report
}

#[test]
fn a_report_as_promised_has_no_miss() {
    assert_eq!(check(&good()), []);
}

#[test]
fn every_figure_that_misses_is_named_with_what_was_expected() {
    type Change = fn(&mut Scenario);
    let mut cases: Vec<(Name, &str, Change)> = Vec::new();
    for name in Name::ALL {
        cases.push((name, "outcome", |one| one.outcome = Outcome::NotStopped));
        cases.push((name, "left_behind.ingests", |one| one.left_behind.ingests = 1));
        cases.push((name, "left_behind.leases", |one| one.left_behind.leases = 1));
        cases.push((name, "left_behind.snapshots", |one| one.left_behind.snapshots = 1));
        cases.push((name, "left_behind.blobs", |one| one.left_behind.blobs = 1));
        cases.push((name, "collateral", |one| one.collateral = 1));
    }
    for name in [Name::Oversize, Name::Lying, Name::Again] {
        cases.push((name, "outcome", |one| one.outcome = Outcome::Completed));
        cases.push((name, "sockets_closed", |one| one.sockets_closed = 0));
        cases.push((name, "abort_ms", |one| one.abort_ms = 60_000));
        cases.push((name, "pull_error", |one| one.pull_error.clear()));
        cases.push((name, "pull_error", |one| {
            one.pull_error = "no space left on device".to_owned()
        }));
        cases.push((name, "received_layer_bytes", |one| {
            one.received_layer_bytes = (8 << 20) + 1
        }));
    }
    cases.push((Name::Lying, "received_layer_bytes", |one| {
        one.received_layer_bytes = LYING_DECLARED + LYING_OVER + 1;
    }));
    cases.push((Name::Healthy, "outcome", |one| one.outcome = Outcome::Aborted));
    cases.push((Name::Healthy, "sockets_closed", |one| one.sockets_closed = 1));
    cases.push((Name::Healthy, "received_layer_bytes", |one| {
        one.received_layer_bytes = 0
    }));
    for (name, what, change) in cases {
        let misses = check(&with(name, change));
        let [miss] = &misses[..] else {
            panic!("{name} {what}: {misses:?}")
        };
        assert_eq!((miss.scenario, miss.what.as_str()), (Some(name), what));
        assert_eq!(miss.containerd, "2.1.9");
        assert!(!miss.expected.is_empty() && !miss.measured.is_empty(), "{miss}");
    }
}

#[test]
fn the_limits_themselves_are_within() {
    let report = with(Name::Lying, |one| {
        one.received_layer_bytes = LYING_DECLARED + LYING_OVER
    });
    assert_eq!(check(&report), []);
    let report = with(Name::Oversize, |one| one.received_layer_bytes = 8 << 20);
    let misses = check(&report);
    assert_eq!(misses.len(), 1, "below 8 MiB was promised: {misses:?}");
}

#[test]
fn a_pull_that_lost_its_lease_needs_no_closed_connection() {
    let report = with(Name::Again, |one| {
        one.pull_error = "failed to prepare extraction snapshot: lease does not exist: not found".to_owned();
        one.received_layer_bytes = 0;
        one.abort_ms = 0;
        one.sockets_closed = 0;
    });
    assert_eq!(check(&report), []);
}

#[test]
fn what_is_absent_is_missed() {
    assert!(!check(&Report::default()).is_empty());
    let mut one_run = good();
    one_run.runs.pop();
    assert_eq!(check(&one_run).len(), 1);
    for gone in 0..Name::ALL.len() {
        let mut report = good();
        report.runs[0].scenarios.remove(gone);
        let misses = check(&report);
        assert_eq!(misses.len(), 1, "{misses:?}");
        assert_eq!(misses[0].scenario, Some(Name::ALL[gone]));
    }
    let mut twice = good();
    let again = twice.runs[0].scenarios[0].clone();
    twice.runs[0].scenarios.push(again);
    assert_eq!(check(&twice).len(), 1);
}

#[test]
fn the_file_has_exactly_the_promised_keys() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("demo/report.json");
    good().write(&path).expect("written");
    good().write(&path).expect("written over");
    let text = std::fs::read_to_string(&path).expect("there");
    let value: Value = serde_json::from_str(&text).expect("JSON");
    let stopped = |name: &str| {
        json!({
            "name": name, "outcome": "aborted",
            "pull_error": "failed to copy: read tcp 127.0.0.1:1->127.0.0.1:2: read: software caused connection abort",
            "received_layer_bytes": 2 << 20, "abort_ms": 12,
            "left_behind": { "ingests": 0, "leases": 0, "snapshots": 0, "blobs": 0 },
            "sockets_closed": 1, "collateral": 0
        })
    };
    let mut healthy = stopped("healthy");
    healthy["outcome"] = "completed".into();
    healthy["pull_error"] = "".into();
    healthy["abort_ms"] = 0.into();
    healthy["sockets_closed"] = 0.into();
    let scenarios = json!([stopped("oversize"), healthy, stopped("lying"), stopped("again")]);
    let expected = json!({ "runs": [
        { "containerd": "1.7.24", "scenarios": scenarios },
        { "containerd": "2.1.9", "scenarios": scenarios }
    ] });
    assert_eq!(value, expected);
    assert_eq!(serde_json::from_str::<Report>(&text).expect("reads back"), good());
    let left = std::fs::read_dir(dir.path().join("demo"))
        .expect("a folder")
        .count();
    assert_eq!(left, 1, "a draft was left");
}

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut all = self.0.lock().map_err(|_| io::Error::other("poisoned"))?;
        all.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_summary_says_what_was_missed_and_gives_the_verdict() {
    let shown = |report: &Report| {
        let sink = Sink::default();
        let mut screen = Screen::plain(sink.clone());
        let verdict = summary::write(&mut screen, report, &check(report));
        let text = String::from_utf8(sink.0.lock().expect("not poisoned").clone()).expect("text");
        assert!(!text.contains('\u{1b}'), "colours in a pipe");
        (verdict, text)
    };
    let (verdict, text) = shown(&good());
    assert!(verdict);
    assert_eq!(text.matches("as expected").count(), 8);
    let (verdict, text) = shown(&with(Name::Again, |one| one.left_behind.leases = 2));
    assert!(!verdict);
    assert!(
        text.contains("missed: 2.1.9 again · left_behind.leases: expected 0, measured 2"),
        "{text}"
    );
    assert_eq!(text.matches("not as expected").count(), 1);
}
