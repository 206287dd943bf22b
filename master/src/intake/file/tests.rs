//! Real files, handled as log rotators, writers and restarts handle them.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Batch, Follower, Position, Progress, Step, Told, follow};
use crate::intake::audit::MAX_LINE;
use crate::intake::lines::Line;

struct Folder {
    folder: tempfile::TempDir,
}

impl Folder {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> PathBuf {
        self.at("audit.log")
    }

    fn append(&self, text: &str) {
        append(&self.log(), text);
    }

    /// As the API server's own rotation does it.
    fn rotate(&self, to: &str) {
        fs::rename(self.log(), self.at(to)).unwrap();
    }

    /// As logrotate does it with `copytruncate`.
    fn copy_truncate(&self, to: &str) {
        fs::copy(self.log(), self.at(to)).unwrap();
        OpenOptions::new()
            .write(true)
            .open(self.log())
            .unwrap()
            .set_len(0)
            .unwrap();
    }
}

fn append(path: &Path, text: &str) {
    let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

fn lines(batch: &Batch) -> Vec<String> {
    batch
        .lines()
        .map(|line| match line {
            Line::Whole(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            Line::TooLong(bytes) => format!("too long: {bytes}"),
        })
        .collect()
}

/// Everything that there is to read now: lines, with `past:` before those that were handled before.
fn drain(follower: &mut Follower) -> (Vec<String>, Option<Position>) {
    let (mut all, mut position) = (Vec::new(), None);
    for _ in 0..10_000 {
        match follower.step().unwrap() {
            Step::AtEnd => return (all, position),
            Step::Batch(batch) => {
                let mark = if batch.is_past { "past:" } else { "" };
                all.extend(lines(&batch).into_iter().map(|line| format!("{mark}{line}")));
                position = Some(batch.position);
            }
        }
    }
    panic!("no end");
}

fn read(follower: &mut Follower) -> Vec<String> {
    drain(follower).0
}

/// Lines that are as long as an event's, so that heads differ.
fn event(n: u32) -> String {
    format!("event {n} {}\n", "x".repeat(300))
}

fn events(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| event(n).trim_end().to_owned()).collect()
}

#[test]
fn a_log_that_appears_later_is_read_from_its_beginning() {
    let folder = Folder::new();
    let mut follower = Follower::new(folder.log(), None);
    assert_eq!(read(&mut follower), Vec::<String>::new());
    folder.append("one\ntwo\n");
    assert_eq!(read(&mut follower), ["one", "two"]);
    assert_eq!(read(&mut follower), Vec::<String>::new());
    let mut nowhere = Follower::new(folder.at("not/there/audit.log"), None);
    assert!(matches!(nowhere.step(), Ok(Step::AtEnd)));
}

#[test]
fn lines_written_in_pieces_are_whole() {
    let folder = Folder::new();
    let mut follower = Follower::new(folder.log(), None);
    let text: String = (0..50).map(event).collect();
    let mut found = Vec::new();
    for piece in text.as_bytes().chunks(37) {
        folder.append(std::str::from_utf8(piece).unwrap());
        found.extend(read(&mut follower));
    }
    assert_eq!(found, events(0..50));
}

#[test]
fn a_renamed_log_is_read_to_its_end_and_then_its_successor() {
    let folder = Folder::new();
    let mut follower = Follower::new(folder.log(), None);
    append(&folder.at("audit-2025-01-01.log"), "rotated long ago\n");
    folder.append(&event(0));
    assert_eq!(read(&mut follower), events(0..1));
    folder.append(&event(1));
    folder.rotate("audit-2026-01-01.log");
    assert_eq!(read(&mut follower), events(1..2), "there is no successor yet");
    append(&folder.at("audit-2026-01-01.log"), &event(2));
    folder.append(&event(3));
    assert_eq!(read(&mut follower), events(2..4));
    assert_eq!(follower.counts().renamed, 1);
}

#[test]
fn several_rotations_between_two_looks_lose_nothing() {
    let folder = Folder::new();
    let mut follower = Follower::new(folder.log(), None);
    folder.append(&event(0));
    assert_eq!(read(&mut follower), events(0..1));
    for n in 1..6 {
        folder.append(&event(n));
        folder.rotate(&format!("audit-2026-01-0{n}.log"));
    }
    folder.append(&event(6));
    append(&folder.at("audit.state"), "not a log\n");
    assert_eq!(read(&mut follower), events(1..7));
    assert_eq!(read(&mut follower), Vec::<String>::new());
}

#[test]
fn a_truncated_log_is_read_anew_and_its_rest_from_the_copy() {
    let folder = Folder::new();
    let mut follower = Follower::new(folder.log(), None);
    folder.append(&format!("{}{}", event(0), event(1)));
    assert_eq!(read(&mut follower), events(0..2));
    folder.append(&event(2));
    folder.copy_truncate("audit.log.1");
    folder.append(&event(3));
    assert_eq!(read(&mut follower), events(2..4));
    assert_eq!(
        (follower.counts().truncated, follower.counts().rest_not_found),
        (1, 0)
    );
    // Grown again beyond the place that was read, before anybody looked.
    folder.copy_truncate("audit.log.2");
    let long: String = (4..40).map(event).collect();
    folder.append(&long);
    let found = read(&mut follower);
    assert!(found.ends_with(&events(4..40)), "{found:?}");
    assert_eq!(follower.counts().truncated, 2);
    // Truncated without a copy.
    File::create(folder.log()).unwrap();
    assert_eq!(read(&mut follower), Vec::<String>::new());
    folder.append("new\n");
    assert_eq!(read(&mut follower), ["new"]);
    assert_eq!(follower.counts().rest_not_found, 1);
}

#[test]
fn a_restart_goes_on_where_it_was() {
    let folder = Folder::new();
    let progress = Progress::new(folder.at("audit.state"));
    assert_eq!(progress.load().unwrap(), None);
    folder.append(&format!("{}{}half", event(0), event(1)));
    let (found, position) = drain(&mut Follower::new(folder.log(), None));
    assert_eq!(found, events(0..2));
    progress.save(&position.unwrap()).unwrap();

    folder.append(" and half\n");
    let mut follower = Follower::new(folder.log(), progress.load().unwrap());
    let past: Vec<String> = events(0..2).iter().map(|line| format!("past:{line}")).collect();
    let mut expected = past.clone();
    expected.push("half and half".to_owned());
    let (found, position) = drain(&mut follower);
    assert_eq!(found, expected);
    progress.save(&position.unwrap()).unwrap();

    // Rotated twice while nobody looked.
    folder.append(&event(3));
    folder.rotate("audit-2026-01-01.log");
    folder.append(&event(4));
    folder.rotate("audit-2026-01-02.log");
    folder.append(&event(5));
    let (found, _) = drain(&mut Follower::new(folder.log(), progress.load().unwrap()));
    assert_eq!(found.iter().filter(|line| line.starts_with("past:")).count(), 3);
    assert_eq!(found[3..], events(3..6));
}

#[test]
fn a_position_in_a_file_that_is_gone_is_counted_and_all_there_is_is_new() {
    let folder = Folder::new();
    folder.append(&event(0));
    let (_, position) = drain(&mut Follower::new(folder.log(), None));
    // The same name, and perhaps the same inode; another content.
    fs::remove_file(folder.log()).unwrap();
    folder.append(&event(7));
    let mut follower = Follower::new(folder.log(), position);
    assert_eq!(read(&mut follower), events(7..8));
    assert_eq!(follower.counts().position_lost, 1);
}

#[test]
fn a_broken_state_file_is_an_error_and_not_a_position() {
    let folder = Folder::new();
    append(&folder.at("audit.state"), "{\"inode\":");
    let problem = Progress::new(folder.at("audit.state")).load().unwrap_err();
    assert!(problem.to_string().contains("audit.state"), "{problem}");
}

#[test]
fn a_line_that_is_too_long_is_skipped() {
    let folder = Folder::new();
    let mut follower = Follower::new(folder.log(), None);
    folder.append("before\n");
    let (long, huge) = ("x".repeat(MAX_LINE + 10), "x".repeat(3 * MAX_LINE));
    folder.append(&format!("{long}\nbetween\n{huge}"));
    folder.append("\nafter\n");
    let found = read(&mut follower);
    let too_long = |line: &str| format!("too long: {}", line.len() + 1);
    let mut expected = [
        "before".to_owned(),
        too_long(&long),
        "between".to_owned(),
        "after".to_owned(),
        too_long(&huge),
    ];
    expected.sort();
    let mut sorted = found.clone();
    sorted.sort();
    assert_eq!(sorted, expected);
    assert!(found.iter().position(|line| line == "between") < found.iter().position(|line| line == "after"));
}

#[test]
fn a_thread_tells_what_is_written_at_once_and_ends_with_its_receiver() {
    let folder = Folder::new();
    folder.append(&event(0));
    let mut told = follow(&folder.log(), None).unwrap();
    let next = |told: &mut tokio::sync::mpsc::Receiver<Told>| match told.blocking_recv().unwrap() {
        Told::Batch(batch) => lines(&batch),
        Told::Trouble(problem) => panic!("{problem}"),
    };
    assert_eq!(next(&mut told), events(0..1));
    let mut slowest = Duration::ZERO;
    for n in 1..30 {
        let written = Instant::now();
        folder.append(&event(n));
        if n == 10 {
            assert_eq!(next(&mut told), events(10..11));
            folder.rotate("audit-2026-01-01.log");
            continue;
        }
        assert_eq!(next(&mut told), events(n..n + 1));
        slowest = slowest.max(written.elapsed());
    }
    // Far below the slow look, which comes once a second: inotify woke it.
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    assert!(is_running(), "the thread has this name");
    drop(told);
    // It looks at least once a second whether anybody listens.
    let deadline = Instant::now() + Duration::from_secs(10);
    while is_running() {
        assert!(Instant::now() < deadline, "the thread goes on");
        std::thread::yield_now();
    }
}

fn is_running() -> bool {
    fs::read_dir("/proc/self/task")
        .unwrap()
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("comm")).ok())
        .any(|name| name.trim_end() == "audit-log")
}
