//! Children end with their guard: normally, by force, when a test panics; and what is left over is found.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use magi_integration::process::{Launch, Process};
use magi_integration::residue;
use magi_integration::{Containerd, Line};

const BOUND: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_millis(5);

fn sleeper(log: &Path) -> anyhow::Result<Process> {
    Launch::new("sleeper", "sh", log)
        .arg("-c")
        .arg("echo started; sleep 1000; true")
        .start()
}

#[tokio::test]
async fn a_child_ends_with_its_guard_and_its_children_too() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let child = Launch::new("parent", "sh", dir.path().join("log"))
        .arg("-c")
        .arg("sleep 600; true")
        .start()?;
    let grandchild = magi_integration::wait::until("its child", BOUND, STEP, async || {
        let pid = child.pid();
        let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        list.split_whitespace().next()?.parse::<u32>().ok()
    })
    .await?;
    let pid = child.pid();
    drop(child);
    assert!(!running(pid));
    magi_integration::wait::until("the end of its child", BOUND, STEP, async || {
        (!running(grandchild)).then_some(())
    })
    .await
}

#[test]
fn a_child_that_ignores_sigterm_is_killed() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let child = Launch::new("stubborn", "sh", dir.path().join("log"))
        .arg("-c")
        .arg("trap '' TERM; echo ready; while :; do sleep 0.05; done")
        .start()?;
    magi_integration::wait::until_blocking("its trap", BOUND, STEP, || {
        child.log_tail(1).contains("ready").then_some(())
    })?;
    let status = child.stop(Duration::from_millis(200))?;
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    Ok(())
}

#[test]
fn a_child_ends_when_its_test_panics() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let log = dir.path().join("log");
    let (send, pid) = std::sync::mpsc::channel();
    let panicked = std::thread::spawn(move || {
        let child = sleeper(&log).expect("a shell starts");
        send.send(child.pid()).expect("the test listens");
        panic!("on purpose");
    })
    .join();
    assert!(panicked.is_err());
    assert!(!running(pid.recv()?));
    Ok(())
}

/// The kernel ends the child when we are killed ourselves: shown by a copy of this test program that is killed.
#[test]
fn a_child_ends_when_its_test_is_killed() -> anyhow::Result<()> {
    const PID_FILE: &str = "MAGI_TEST_PID_FILE";
    if let Ok(file) = std::env::var(PID_FILE) {
        let child = sleeper(&Path::new(&file).with_extension("log"))?;
        std::fs::write(&file, child.pid().to_string())?;
        std::thread::sleep(Duration::from_secs(600));
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("pid");
    let mut copy = Command::new(std::env::current_exe()?)
        .args(["--exact", "a_child_ends_when_its_test_is_killed", "--nocapture"])
        .env(PID_FILE, &file)
        .spawn()?;
    let pid: u32 = magi_integration::wait::until_blocking("the pid of its child", BOUND, STEP, || {
        std::fs::read_to_string(&file).ok()?.parse().ok()
    })?;
    assert!(running(pid));
    copy.kill()?;
    copy.wait()?;
    magi_integration::wait::until_blocking("its end", BOUND, STEP, || (!running(pid)).then_some(()))
}

fn running(pid: u32) -> bool {
    // Nobody may reap an orphan in a container: a zombie has ended too.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| !rest.starts_with('Z'))
    })
}

#[tokio::test]
async fn a_containerd_leaves_no_process_mount_socket_or_file() -> anyhow::Result<()> {
    let node = Containerd::start(Line::V2).await?;
    let dir = node.dir().to_owned();
    let live = residue::under(&dir)?;
    assert_eq!(live.processes.len(), 1, "{live:?}");
    assert!(live.sockets.contains(&node.address()), "{live:?}");
    assert!(live.expect_none().is_err());
    // A mount that containerd forgot: found, and taken away.
    let forgotten = dir.join("state/forgotten");
    std::fs::create_dir_all(&forgotten)?;
    assert!(
        Command::new("mount")
            .args(["-t", "tmpfs", "none"])
            .arg(&forgotten)
            .status()?
            .success()
    );
    let left = node.shutdown()?;
    assert_eq!(left.mounts, [forgotten]);
    assert!(!dir.exists());
    assert!(residue::under(&dir)?.is_empty());
    Ok(())
}
