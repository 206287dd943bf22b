//! Removes what an ended pull left behind, through containerd's API and never by hand (containerd.md §15).

use std::path::PathBuf;

use magi_engine::action::LeverOutcome;
use magi_engine::ids::{IngestKey, SnapshotName};
use magi_wire::containerd::services::content::v1::AbortRequest;
use magi_wire::containerd::services::snapshots::v1::RemoveSnapshotRequest;

use crate::causes;
use crate::containerd::{Api, ApiError, Scope};

/// What is to be removed.
#[derive(Clone, Debug)]
pub(crate) enum Leftover {
    /// An ingest that no lease holds.
    Ingest(IngestKey),
    /// An extract snapshot that no lease holds.
    Snapshot(SnapshotName),
}

/// Removes one leftover, on a connection of its own.
pub(crate) async fn clean_up(address: PathBuf, leftover: Leftover) -> LeverOutcome {
    match remove(&address, leftover).await {
        Ok(()) => LeverOutcome::Done { count: 1 },
        Err(error) if error.is_not_found() => LeverOutcome::AlreadyGone,
        Err(error) => LeverOutcome::Failed {
            why: causes::in_one_line(&error),
        },
    }
}

async fn remove(address: &std::path::Path, leftover: Leftover) -> Result<(), ApiError> {
    let api = Api::connect(address).await?;
    match leftover {
        Leftover::Ingest(ingest) => {
            let scope = Scope::new(ingest.namespace)?;
            let request = scope.request(AbortRequest {
                r#ref: ingest.reference.to_string(),
            });
            api.content()
                .abort(request)
                .await
                .map_err(ApiError::call("Content.Abort"))?;
        }
        Leftover::Snapshot(snapshot) => {
            let scope = Scope::new(snapshot.namespace)?;
            let request = scope.request(RemoveSnapshotRequest {
                snapshotter: snapshot.snapshotter.to_string(),
                key: snapshot.key.to_string(),
            });
            api.snapshots()
                .remove(request)
                .await
                .map_err(ApiError::call("Snapshots.Remove"))?;
        }
    }
    Ok(())
}
