//! Keeps the tar's pipe open until containerd knows how this program ended.
//!
//! containerd looks for the exit code and the words on standard error once, when it has read the tar to its end, and does
//! not wait for them (2.1.9, core/diff/apply/apply.go, core/diff/stream_unix.go): a pipe that closes with the process
//! loses that race now and then, and the layer counts as whole. So a copy of this program holds the pipe, and nothing
//! else, a moment longer than the process that failed.

use std::ffi::OsString;
use std::os::unix::process::parent_id;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The argument that asks for it; the process to outlive follows.
const ARGUMENT: &str = "linger";
/// Where a process finds its own program, wherever it was started from.
const SELF: &str = "/proc/self/exe";

/// From the end of the process to the end of the pipe: containerd needs a fraction of it to hear of the former.
const GRACE: Duration = Duration::from_millis(150);
/// How often to look whether that process has ended.
const LOOK: Duration = Duration::from_millis(1);
/// Longest wait for its end, which is at hand.
const BOUND: Duration = Duration::from_secs(2);

/// Starts the copy. To be the last act of a process that fails.
pub(crate) fn after_us() {
    let copy = Command::new(SELF)
        .arg(ARGUMENT)
        .arg(std::process::id().to_string())
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    // Without it, containerd hears the reason in most cases still, and compares the layer's digest in all.
    let _started = copy;
}

/// The process to outlive, if that is what the arguments ask for.
pub(crate) fn asked(arguments: &[OsString]) -> Option<u32> {
    match arguments {
        [what, parent] if what == ARGUMENT => parent.to_str()?.parse().ok(),
        _ => None,
    }
}

/// Waits until `parent` is gone, and a little more.
pub(crate) fn outlive(parent: u32) {
    let started = Instant::now();
    while parent_id() == parent && started.elapsed() < BOUND {
        sleep(LOOK);
    }
    sleep(GRACE);
}
