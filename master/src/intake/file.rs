//! The audit log as a file: followed across rename, copy-truncate, partial lines, appearance later, and restarts.
//!
//! A thread of its own reads ([`Follower`]) and waits: for inotify, and, where that tells nothing (another machine's file
//! system, a folder that is not there yet), for [`LOOK_AT_LEAST`]. It hands batches of whole lines to a bounded channel; if
//! that is full, the file waits, not the API server. What was handled is kept by [`Progress::save`], which the consumer
//! calls: after a crash, lines come again rather than not at all, and the ledger takes them twice without harm.

mod follower;
mod past;
mod progress;
mod siblings;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use tokio::sync::mpsc;

use crate::files::FileError;

pub use follower::{Batch, Counts, Follower, Step};
pub use past::rotated_before;
pub use progress::{Position, Progress};

/// The longest that nobody looks at the file.
pub const LOOK_AT_LEAST: Duration = Duration::from_secs(1);
/// How many batches wait at most. One has up to a megabyte, or one line.
pub const MAX_BATCHES: usize = 8;
/// How long to pause after an error: the disk's troubles seldom end at once.
const AFTER_AN_ERROR: Duration = Duration::from_millis(500);

/// Why a log could not be followed, for now.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// It could not be opened, for another reason than that it is not there.
    #[error("cannot open {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its folder could not be listed, so what was rotated away meanwhile is not known.
    #[error("cannot list {folder}")]
    List {
        /// The folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// How far it was read could not be read, or is none.
    #[error("cannot read how far the log was read from {path}")]
    LoadProgress {
        /// The state file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// How far it was read could not be written.
    #[error("cannot keep how far the log was read")]
    SaveProgress(#[source] FileError),
    /// No thread for it.
    #[error("cannot start a thread to follow {path}")]
    Thread {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Something that the following thread tells.
#[derive(Debug)]
pub enum Told {
    /// Whole lines, and how far that is.
    Batch(Batch),
    /// It could not go on just now, and will try again.
    Trouble(FollowError),
}

/// Follows the log at `path` on a thread of its own, until the receiver is dropped.
///
/// # Errors
/// No thread.
pub fn follow(path: &Path, from: Option<Position>) -> Result<mpsc::Receiver<Told>, FollowError> {
    let (tell, told) = mpsc::channel(MAX_BATCHES);
    let path = path.to_owned();
    let follower = Follower::new(path.clone(), from);
    thread::Builder::new()
        .name("audit-log".into())
        .spawn(move || run(follower, &tell))
        .map_err(|source| FollowError::Thread { path, source })?;
    Ok(told)
}

fn run(mut follower: Follower, tell: &mpsc::Sender<Told>) {
    let mut watch = None;
    while !tell.is_closed() {
        // Before the last look: what is written after it wakes the wait.
        watch = watch.or_else(|| watch_folder(follower.path()));
        match follower.step() {
            Ok(Step::Batch(batch)) => {
                if tell.blocking_send(Told::Batch(batch)).is_err() {
                    return;
                }
            }
            Ok(Step::AtEnd) => wait(watch.as_ref(), LOOK_AT_LEAST),
            Err(problem) => {
                if tell.blocking_send(Told::Trouble(problem)).is_err() {
                    return;
                }
                wait(None, AFTER_AN_ERROR);
            }
        }
    }
}

/// A watch of the folder: of what is written to its files, and of files that come, go and are renamed.
fn watch_folder(path: &Path) -> Option<File> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    };
    let watch: OwnedFd =
        inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).ok()?;
    let what = inotify::WatchFlags::MODIFY
        | inotify::WatchFlags::CREATE
        | inotify::WatchFlags::DELETE
        | inotify::WatchFlags::MOVE;
    inotify::add_watch(&watch, folder, what).ok()?;
    Some(File::from(watch))
}

/// Waits for the watch, and takes what it told: that it did is all that matters.
fn wait(watch: Option<&File>, at_most: Duration) {
    let Some(watch) = watch else {
        return thread::sleep(at_most);
    };
    let timeout = Timespec {
        tv_sec: i64::try_from(at_most.as_secs()).unwrap_or(1),
        tv_nsec: i64::from(at_most.subsec_nanos()),
    };
    if poll(&mut [PollFd::new(watch, PollFlags::IN)], Some(&timeout)).is_err() {
        return thread::sleep(Duration::from_millis(10));
    }
    let mut events = [0; 4096];
    while rustix::io::read(watch, &mut events).is_ok_and(|read| read > 0) {}
}

#[cfg(test)]
mod tests;
