//! What is done through containerd's API, and never by hand (containerd.md §15): the lease of a pull that is to fetch no
//! layer is deleted, what an ended pull left behind is removed, and what it has finished is held for a while.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use magi_engine::Time;
use magi_engine::action::{Hold, LeverOutcome};
use magi_engine::ids::{ContainerdNamespace, Digest, IngestKey, KeepId, LeaseKey, SnapshotName};
use magi_wire::containerd::services::content::v1::AbortRequest;
use magi_wire::containerd::services::leases::v1::{
    AddResourceRequest, CreateRequest, DeleteRequest, Resource,
};
use magi_wire::containerd::services::snapshots::v1::RemoveSnapshotRequest;

use tokio::sync::OnceCell;

use crate::causes;
use crate::clock::rfc3339;
use crate::containerd::{Api, ApiError, OWN_LEASES, Scope};

/// Should magi be gone before it deletes a lease that holds nothing.
const EMPTY_LEASE_LASTS: Duration = Duration::from_secs(60);

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

/// The lease's id, with its end in it: numbers begin anew when magi-node does.
fn id_of(hold: &Hold) -> String {
    format!("{OWN_LEASES}{}-{}", hold.until.as_micros(), hold.keep.0)
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

    /// Has containerd hold this until then, by a lease of magi's own; nothing at all if not all of it can be held.
    pub(crate) async fn keep(&self, hold: &Hold, content: Vec<Digest>) -> Result<(), ApiError> {
        let api = self.api.get_or_try_init(|| Api::connect(&self.address)).await?;
        let held = hold_all(api, hold, content).await;
        if held.is_err() {
            // Else part of it would stay until it expires.
            let _error_is_told = release(api, hold).await;
        }
        held
    }

    /// Has containerd collect its garbage: it does with the deletion of a lease, and this one holds nothing.
    pub(crate) async fn collect(&self, namespace: ContainerdNamespace, now: Time) -> Result<(), ApiError> {
        let nothing = Hold {
            keep: KeepId(u64::MAX),
            namespace,
            until: now.after(EMPTY_LEASE_LASTS),
        };
        self.keep(&nothing, Vec::new()).await?;
        self.release(&nothing).await
    }

    /// Lets go of what is held.
    pub(crate) async fn release(&self, hold: &Hold) -> Result<(), ApiError> {
        let api = self.api.get_or_try_init(|| Api::connect(&self.address)).await?;
        match release(api, hold).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other,
        }
    }

    async fn try_to_remove(&self, removal: Removal) -> Result<(), ApiError> {
        // Once it is there it connects anew by itself when containerd was restarted.
        let api = self.api.get_or_try_init(|| Api::connect(&self.address)).await?;
        remove(api, removal).await
    }
}

async fn hold_all(api: &Api, hold: &Hold, content: Vec<Digest>) -> Result<(), ApiError> {
    let scope = Scope::new(hold.namespace.clone())?;
    // containerd's own collection ends it then (1.7.24 and 2.1.9 metadata/gc.go, `containerd.io/gc.expire`).
    let until = rfc3339(hold.until);
    let request = scope.request(CreateRequest {
        id: id_of(hold),
        labels: [("containerd.io/gc.expire".to_owned(), until)].into(),
    });
    api.leases()
        .create(request)
        .await
        .map_err(ApiError::call("Leases.Create"))?;
    for digest in content {
        let request = scope.request(AddResourceRequest {
            id: id_of(hold),
            resource: Some(Resource {
                id: digest.to_string(),
                r#type: "content".to_owned(),
            }),
        });
        api.leases()
            .add_resource(request)
            .await
            .map_err(ApiError::call("Leases.AddResource"))?;
    }
    Ok(())
}

async fn release(api: &Api, hold: &Hold) -> Result<(), ApiError> {
    let scope = Scope::new(hold.namespace.clone())?;
    // At once: whoever lets go wants the room.
    let request = scope.request(DeleteRequest {
        id: id_of(hold),
        sync: true,
    });
    api.leases()
        .delete(request)
        .await
        .map_err(ApiError::call("Leases.Delete"))?;
    Ok(())
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
