//! Levers whose outcome was never written, because the agent was killed meanwhile: found again at the end of the trail.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use magi_engine::Time;
use magi_engine::audit::{AuditRecord, Entry};
use magi_engine::ids::AttemptId;
use serde::Deserialize;

/// Of each file, so much of its end is read. A lever comes back within seconds, so what is further back is closed.
const END: u64 = 1 << 20;
const NOT_KNOWN: &str = "not-known: magi-node ended before it came back";

#[derive(Deserialize)]
struct Past {
    run: Time,
    #[serde(flatten)]
    record: AuditRecord,
}

/// An outcome for each intent without one, in the order in which they were intended.
pub(super) fn records(path: &Path, put_aside: &Path) -> io::Result<Vec<AuditRecord>> {
    let mut open = BTreeMap::<(Time, AttemptId), AuditRecord>::new();
    for part in [put_aside, path] {
        for line in end_of(part)?.split(|byte| *byte == b'\n') {
            // The first line may be cut, and the last one of a killed agent is.
            let Ok(past) = serde_json::from_slice::<Past>(line) else {
                continue;
            };
            match past.record.entry {
                Entry::Intent { attempt, .. } => {
                    open.insert((past.run, attempt), past.record);
                }
                Entry::Outcome { attempt, of_run, .. } => {
                    open.remove(&(of_run.unwrap_or(past.run), attempt));
                }
                Entry::Ended { .. }
                | Entry::Clean { .. }
                | Entry::TakenOver { .. }
                | Entry::WouldAbort { .. }
                | Entry::NotStopped { .. }
                | Entry::NotClean { .. }
                | Entry::Refused { .. }
                | Entry::ManifestUnreadable { .. }
                | Entry::Forgotten { .. }
                | Entry::SourceChanged { .. }
                | Entry::Kept { .. }
                | Entry::Released { .. }
                | Entry::UnpackStopped { .. }
                | Entry::KillSwitch { .. }
                | Entry::PolicyInForce { .. } => {}
            }
        }
    }
    let closed = open.into_iter().map(|((run, attempt), intent)| AuditRecord {
        entry: Entry::Outcome {
            attempt,
            outcome: NOT_KNOWN.to_owned(),
            of_run: Some(run),
        },
        ..intent
    });
    Ok(closed.collect())
}

/// The end of a file; nothing, if it is not there.
fn end_of(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let from = file.metadata()?.len().saturating_sub(END);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(END).read_to_end(&mut bytes)?;
    Ok(bytes)
}
