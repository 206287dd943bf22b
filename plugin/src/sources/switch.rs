//! The kill switch's local form: a file. While it is there, magi stops nothing.
//!
//! A file works when nothing else does: whoever makes one needs neither the control socket nor the master, and it holds
//! over restarts. It is looked at and not waited for, as it may come to be in a folder that is not there yet.
//!
//! Changed by: the file that comes, goes, or says something else.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use magi_engine::Event;
use magi_engine::switch::SwitchHolder;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{error, warn};

use crate::files::open_regular;
use crate::inbox::Inbox;

/// Whoever switches magi off wants that at once.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Bytes of the file that are told to people.
const MAX_SAID: u64 = 200;

/// Looks until the agent stops.
pub(crate) async fn run(path: PathBuf, inbox: Inbox) {
    let mut engaged: Option<String> = None;
    loop {
        let file = path.clone();
        let now = match spawn_blocking(move || look(&file)).await {
            Ok(now) => now,
            Err(failed) => {
                error!(error = %failed, "the kill switch cannot be looked at any more");
                return;
            }
        };
        if now != engaged {
            if let Some(by) = &now {
                warn!(by, "the kill switch is on: nothing is stopped");
            } else {
                warn!("the kill switch is off again");
            }
            let event = Event::KillSwitch {
                holder: SwitchHolder::Node,
                engaged: now.is_some(),
                by: now
                    .clone()
                    .unwrap_or_else(|| format!("the file {} is gone", path.display())),
            };
            engaged = now;
            if inbox.send(event).await.is_err() {
                return;
            }
        }
        sleep(LOOK_EVERY).await;
    }
}

/// What the file says; none: it is not there. One that cannot be looked at may be there.
fn look(path: &Path) -> Option<String> {
    let by = format!("the file {}", path.display());
    match said(path) {
        Ok(said) if said.is_empty() => Some(by),
        Ok(said) => Some(format!("{by}: {said}")),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            None
        }
        Err(error) => Some(format!("{by}, which cannot be read ({error})")),
    }
}

/// The first line, as far as it can be shown.
fn said(path: &Path) -> io::Result<String> {
    let Some(file) = open_regular(path)? else {
        return Ok(String::new());
    };
    let mut bytes = Vec::new();
    file.take(MAX_SAID).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().next().unwrap_or_default();
    Ok(line
        .chars()
        .filter(|c| !c.is_control())
        .collect::<String>()
        .trim()
        .to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use tokio::sync::mpsc::Receiver;

    use super::*;
    use crate::inbox::inbox;

    const SOON: Duration = Duration::from_secs(10);

    async fn next(events: &mut Receiver<Event>) -> (bool, String) {
        let event = tokio::time::timeout(SOON, events.recv()).await.unwrap().unwrap();
        let Event::KillSwitch {
            holder: SwitchHolder::Node,
            engaged,
            by,
        } = event
        else {
            panic!("{event:?}")
        };
        (engaged, by)
    }

    #[tokio::test]
    async fn the_file_switches_and_what_it_says_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("not-there-yet/kill-switch");
        let (inbox, mut events) = inbox();
        let task = tokio::spawn(run(path.clone(), inbox));
        fs::create_dir(path.parent().unwrap()).unwrap();
        fs::write(&path, "").unwrap();
        let (engaged, by) = next(&mut events).await;
        assert!(engaged && by.ends_with("kill-switch"), "{by}");
        fs::write(&path, "anna: too many alarms\nand more").unwrap();
        let (engaged, by) = next(&mut events).await;
        assert!(engaged && by.ends_with(": anna: too many alarms"), "{by}");
        fs::remove_file(&path).unwrap();
        assert!(!next(&mut events).await.0);
        task.abort();
    }

    #[test]
    fn whatever_is_there_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kill-switch");
        assert_eq!(look(&path), None);
        assert_eq!(look(&path.join("below")), None);
        fs::create_dir(&path).unwrap();
        assert!(look(&path).is_some());
        fs::remove_dir(&path).unwrap();
        symlink("/dev/zero", &path).unwrap();
        assert!(look(&path).is_some());
        fs::remove_file(&path).unwrap();
        fs::write(&path, b"\x1b[31m\xff\n").unwrap();
        assert!(look(&path).unwrap().ends_with(": [31m\u{fffd}"));
        fs::write(&path, [b'x'; 100_000]).unwrap();
        assert!(look(&path).unwrap().len() < 400);
    }
}
