//! How full the file system is that holds containerd's blobs.
//!
//! Triggers: time, and containerd that is found. Told when it is known first, and when it has changed by a hundredth.

use std::io;
use std::path::Path;
use std::time::Duration;

use magi_engine::Event;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::{error, warn};

use super::containerd::Attached;
use crate::inbox::Inbox;

const LOOK_EVERY: Duration = Duration::from_secs(10);
/// What is too little to be told, as a share of all.
const STEP_SHARE: u64 = 100;

/// Bytes of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    free: u64,
    total: u64,
}

impl Room {
    /// What is free but for the kernel's reserve. A folder that containerd has yet to make lies where its parent does.
    fn of(root: &Path) -> io::Result<Self> {
        let there = root.ancestors().find(|folder| folder.exists()).unwrap_or(root);
        let found = rustix::fs::statvfs(there)?;
        Ok(Self {
            free: found.f_bavail.saturating_mul(found.f_frsize),
            total: found.f_blocks.saturating_mul(found.f_frsize),
        })
    }

    fn differs(self, other: Self) -> bool {
        self.total != other.total || self.free.abs_diff(other.free) >= self.total / STEP_SHARE
    }
}

/// Looks until the agent stops.
pub(crate) async fn run(inbox: Inbox, mut attached: watch::Receiver<Option<Attached>>) {
    let mut told: Option<Room> = None;
    let mut fails = false;
    loop {
        let root = attached
            .borrow_and_update()
            .as_ref()
            .map(|found| found.content_root.clone());
        if let Some(root) = root {
            match spawn_blocking(move || Room::of(&root)).await {
                Ok(Ok(room)) => {
                    fails = false;
                    if told.is_none_or(|told| room.differs(told)) {
                        told = Some(room);
                        let Room { free, total } = room;
                        if inbox.send(Event::DiskSeen { free, total }).await.is_err() {
                            return;
                        }
                    }
                }
                Ok(Err(failed)) => {
                    if !std::mem::replace(&mut fails, true) {
                        warn!(error = %failed, "the file system of containerd's blobs tells nothing of its room");
                    }
                }
                Err(failed) => {
                    error!(error = %failed, "the disk is no longer looked at");
                    return;
                }
            }
        }
        if let Ok(Err(_)) = timeout(LOOK_EVERY, attached.changed()).await {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundredth_is_worth_telling() {
        let room = |free| Room { free, total: 1_000 };
        assert!(!room(500).differs(room(509)));
        assert!(room(500).differs(room(510)) && room(510).differs(room(500)));
        assert!(room(500).differs(Room {
            free: 500,
            total: 900
        }));
        let here = Room::of(Path::new("/not/there")).unwrap();
        assert!(here.total > 0 && here.free <= here.total);
    }
}
