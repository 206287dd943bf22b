//! How full the file systems are that containerd writes to: that of the blobs, and that of the snapshots if it is another.
//!
//! Triggers: time, and containerd that is found. Told when it is known first, and when it has changed noticeably.

use std::io;
use std::path::Path;
use std::time::Duration;

use magi_engine::Event;
use magi_engine::event::Room;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::{error, warn};

use super::containerd::Attached;
use crate::inbox::Inbox;

/// A pull fills some hundred megabytes of a quick disk in that time.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What is too little to be told, as a share of all.
const STEP_SHARE: u64 = 500;

/// Both file systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rooms {
    content: Room,
    snapshots: Option<Room>,
}

impl Rooms {
    fn of(content: &Path, snapshots: Option<&Path>) -> io::Result<Self> {
        let content = there(content);
        let snapshots = snapshots.map(there);
        let device = rustix::fs::stat(content)?.st_dev;
        let other = match snapshots {
            Some(path) if rustix::fs::stat(path)?.st_dev != device => Some(room(path)?),
            Some(_) | None => None,
        };
        Ok(Self {
            content: room(content)?,
            snapshots: other,
        })
    }

    fn differs(self, other: Self) -> bool {
        let snapshots = match (self.snapshots, other.snapshots) {
            (Some(one), Some(other)) => differs(one, other),
            (None, None) => false,
            (Some(_), None) | (None, Some(_)) => true,
        };
        snapshots || differs(self.content, other.content)
    }
}

/// A folder that containerd has yet to make lies where its parent does.
fn there(folder: &Path) -> &Path {
    let exists = |folder: &&Path| folder.exists();
    folder.ancestors().find(exists).unwrap_or(folder)
}

/// What is free but for the kernel's reserve.
fn room(folder: &Path) -> io::Result<Room> {
    let found = rustix::fs::statvfs(folder)?;
    Ok(Room {
        free: found.f_bavail.saturating_mul(found.f_frsize),
        total: found.f_blocks.saturating_mul(found.f_frsize),
        free_inodes: found.f_favail,
        inodes: found.f_files,
    })
}

fn differs(one: Room, other: Room) -> bool {
    one.total != other.total
        || one.inodes != other.inodes
        || one.free.abs_diff(other.free) >= one.total / STEP_SHARE
        || one.free_inodes.abs_diff(other.free_inodes) > one.inodes / STEP_SHARE
}

/// Looks until the agent stops.
pub(crate) async fn run(inbox: Inbox, mut attached: watch::Receiver<Option<Attached>>) {
    let mut told: Option<Rooms> = None;
    let mut fails = false;
    loop {
        let roots = attached
            .borrow_and_update()
            .as_ref()
            .map(|found| (found.content_root.clone(), found.snapshot_root.clone()));
        if let Some((content, snapshots)) = roots {
            let look = move || Rooms::of(&content, snapshots.as_deref());
            match spawn_blocking(look).await {
                Ok(Ok(rooms)) => {
                    fails = false;
                    if told.is_none_or(|told| rooms.differs(told)) {
                        told = Some(rooms);
                        let Rooms { content, snapshots } = rooms;
                        if inbox.send(Event::DiskSeen { content, snapshots }).await.is_err() {
                            return;
                        }
                    }
                }
                Ok(Err(failed)) => {
                    if !std::mem::replace(&mut fails, true) {
                        warn!(error = %failed, "the file systems that containerd writes to tell nothing of their room");
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
    fn a_small_share_is_worth_telling() {
        let room = |free| Room {
            free,
            total: 5_000,
            free_inodes: 100,
            inodes: 200,
        };
        let rooms = |free, snapshots| Rooms {
            content: room(free),
            snapshots,
        };
        assert!(!rooms(500, None).differs(rooms(509, None)));
        assert!(rooms(500, None).differs(rooms(510, None)) && rooms(510, None).differs(rooms(500, None)));
        assert!(rooms(500, None).differs(rooms(500, Some(room(1)))));
        assert!(rooms(500, Some(room(20))).differs(rooms(500, Some(room(1)))));
        let fewer = Room {
            free_inodes: 90,
            ..room(500)
        };
        assert!(differs(room(500), fewer));
    }

    #[test]
    fn a_folder_that_is_not_there_yet_is_its_parents() {
        let here = Rooms::of(Path::new("/not/there"), Some(Path::new("/nor/here"))).unwrap();
        assert!(here.content.total > 0 && here.content.free <= here.content.total);
        assert_eq!(here.snapshots, None);
        let other = Rooms::of(Path::new("/not/there"), Some(Path::new("/proc/self"))).unwrap();
        assert!(other.snapshots.is_some());
    }
}
