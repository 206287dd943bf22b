//! What is done through containerd's API, and never by hand (containerd.md §15): the lease of a pull that is to fetch no
//! layer is deleted, and what an ended pull left behind is removed.

use std::path::PathBuf;
use std::sync::Arc;

use magi_engine::action::LeverOutcome;
use magi_engine::ids::{IngestKey, LeaseKey, SnapshotName};
use magi_wire::containerd::services::content::v1::AbortRequest;
use magi_wire::containerd::services::leases::v1::DeleteRequest;
use magi_wire::containerd::services::snapshots::v1::RemoveSnapshotRequest;

use tokio::sync::OnceCell;

use crate::causes;
use crate::containerd::{Api, ApiError, Scope};

/// What is to be removed.
#[derive(Clone, Debug)]
pub(crate) enum Removal {
    /// The lease of a pull none of whose layers has begun.
    Lease(LeaseKey),
    /// An ingest that no lease holds.
    Ingest(IngestKey),
    /// An extract snapshot that no lease holds.
    Snapshot(SnapshotName),
}

/// Removes through containerd's API, on a connection of its own that stays open: what is to be removed is removed in time
/// or in vain.
#[derive(Clone, Debug)]
pub(crate) struct Remover {
    address: PathBuf,
    api: Arc<OnceCell<Api>>,
}

impl Remover {
    pub(crate) fn new(address: PathBuf) -> Self {
        Self {
            address,
            api: Arc::default(),
        }
    }

    /// Removes one thing.
    pub(crate) async fn remove(&self, removal: Removal) -> LeverOutcome {
        match self.try_to_remove(removal).await {
            Ok(()) => LeverOutcome::Done { count: 1 },
            Err(error) if error.is_not_found() => LeverOutcome::AlreadyGone,
            Err(error) => LeverOutcome::Failed {
                why: causes::in_one_line(&error),
            },
        }
    }

    async fn try_to_remove(&self, removal: Removal) -> Result<(), ApiError> {
        // Once it is there it connects anew by itself when containerd was restarted.
        let api = self.api.get_or_try_init(|| Api::connect(&self.address)).await?;
        remove(api, removal).await
    }
}

async fn remove(api: &Api, removal: Removal) -> Result<(), ApiError> {
    match removal {
        Removal::Lease(lease) => {
            let scope = Scope::new(lease.namespace)?;
            // With the collection that would follow anyway: whoever asks again must fetch its manifest again, and is seen
            // in time.
            let request = scope.request(DeleteRequest {
                id: lease.id.to_string(),
                sync: true,
            });
            api.leases()
                .delete(request)
                .await
                .map_err(ApiError::call("Leases.Delete"))?;
        }
        Removal::Ingest(ingest) => {
            let scope = Scope::new(ingest.namespace)?;
            let request = scope.request(AbortRequest {
                r#ref: ingest.reference.to_string(),
            });
            api.content()
                .abort(request)
                .await
                .map_err(ApiError::call("Content.Abort"))?;
        }
        Removal::Snapshot(snapshot) => {
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
