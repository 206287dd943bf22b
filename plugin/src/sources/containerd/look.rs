//! One look at containerd: ingests, leases, what the leases hold, and documents not read before.

use std::collections::BTreeMap;
use std::path::PathBuf;

use futures_util::future::try_join_all;
use magi_engine::Event;
use magi_engine::bounds::{MAX_PULLS, MAX_RESOURCES_PER_LEASE};
use magi_engine::event::{IngestView, LeaseView, View};
use magi_engine::ids::{ContainerdNamespace, IngestDir, LeaseId, LeaseKey, SnapshotName};
use magi_wire::containerd::services::content::v1::ListStatusesRequest;
use magi_wire::containerd::services::leases::v1::{Lease, ListRequest, ListResourcesRequest};
use magi_wire::containerd::services::snapshots::v1::ListSnapshotsRequest;
use tracing::debug;

use super::decode;
use super::documents::Documents;
use crate::clock;
use crate::containerd::{Api, ApiError, OWN_LEASES, Scope};
use crate::inbox::Inbox;

/// What came of a look.
pub(super) enum Looked {
    /// So many leases are in flight.
    InFlight(usize),
    /// The node is stopping.
    NobodyListens,
}

pub(super) struct Looker {
    api: Api,
    scopes: Vec<Scope>,
    content_root: PathBuf,
    documents: Documents,
    /// Directories of the ingests of the last look: each is searched for once.
    dirs: BTreeMap<(ContainerdNamespace, String), IngestDir>,
}

impl Looker {
    pub(super) fn new(api: Api, scopes: Vec<Scope>, content_root: PathBuf) -> Self {
        Self {
            documents: Documents::new(api.clone()),
            api,
            scopes,
            content_root,
            dirs: BTreeMap::new(),
        }
    }

    /// Looks, and tells the engine: first the picture, then the documents that it does not know yet.
    pub(super) async fn look(&mut self, extracts: bool, inbox: &Inbox) -> Result<Looked, ApiError> {
        let mut view = View {
            begun: Some(clock::wall()),
            ..View::default()
        };
        for scope in self.scopes.clone() {
            view.ingests.extend(self.ingests(&scope).await?);
        }
        for scope in &self.scopes {
            view.leases.extend(self.leases(scope).await?);
        }
        view.leases.truncate(MAX_PULLS);
        if extracts {
            view.extracts = Some(self.extracts(&view.leases).await?);
        }
        let leases = view.leases.clone();
        if inbox.send(Event::Looked { view }).await.is_err() {
            return Ok(Looked::NobodyListens);
        }
        for event in self.documents.unread(&self.scopes, &leases).await? {
            if inbox.send(event).await.is_err() {
                return Ok(Looked::NobodyListens);
            }
        }
        Ok(Looked::InFlight(leases.len()))
    }

    async fn ingests(&mut self, scope: &Scope) -> Result<Vec<IngestView>, ApiError> {
        let request = scope.request(ListStatusesRequest { filters: Vec::new() });
        let answer = self
            .api
            .content()
            .list_statuses(request)
            .await
            .map_err(ApiError::call("ListStatuses"))?;
        let statuses = answer.into_inner().statuses;
        let mut dirs = BTreeMap::new();
        let mut views = Vec::with_capacity(statuses.len());
        for status in statuses {
            let known = self.dirs.remove(&(scope.name.clone(), status.r#ref.clone()));
            let dir =
                known.unwrap_or_else(|| decode::ingest_dir(&scope.name, &status.r#ref, &self.content_root));
            dirs.insert((scope.name.clone(), status.r#ref.clone()), dir);
            views.extend(decode::ingest(&scope.name, dir, status));
        }
        self.dirs.retain(|(namespace, _), _| *namespace != scope.name);
        self.dirs.append(&mut dirs);
        Ok(views)
    }

    async fn leases(&self, scope: &Scope) -> Result<Vec<LeaseView>, ApiError> {
        let request = scope.request(ListRequest { filters: Vec::new() });
        let leases = self
            .api
            .leases()
            .list(request)
            .await
            .map_err(ApiError::call("Leases.List"))?
            .into_inner()
            .leases;
        let views = try_join_all(
            leases
                .into_iter()
                .filter(|lease| !lease.id.starts_with(OWN_LEASES))
                .take(MAX_PULLS)
                .map(|lease| self.lease(scope, lease)),
        )
        .await?;
        Ok(views.into_iter().flatten().collect())
    }

    /// One lease and what it holds; `None` if it is gone by now.
    async fn lease(&self, scope: &Scope, lease: Lease) -> Result<Option<LeaseView>, ApiError> {
        let Ok(id) = LeaseId::new(lease.id.clone()) else {
            debug!("a lease without a usable id is left out");
            return Ok(None);
        };
        let created = lease.created_at.as_ref().and_then(decode::time);
        let request = scope.request(ListResourcesRequest { id: lease.id });
        let answer = self
            .api
            .leases()
            .list_resources(request)
            .await
            .map_err(ApiError::call("Leases.ListResources"));
        let resources = match answer {
            Ok(answer) => answer.into_inner().resources,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        let key = LeaseKey {
            namespace: scope.name.clone(),
            id,
        };
        let mut view = LeaseView {
            key,
            created,
            content: Vec::new(),
            ingests: Vec::new(),
            snapshots: Vec::new(),
        };
        for resource in resources.into_iter().take(MAX_RESOURCES_PER_LEASE) {
            decode::resource(&mut view, resource);
        }
        Ok(Some(view))
    }

    /// The extract snapshots of the snapshotters that pulls have used.
    async fn extracts(&mut self, leases: &[LeaseView]) -> Result<Vec<SnapshotName>, ApiError> {
        self.documents.remember_snapshotters(leases);
        let mut found = Vec::new();
        for scope in &self.scopes {
            for snapshotter in self.documents.snapshotters() {
                let request = scope.request(ListSnapshotsRequest {
                    snapshotter: snapshotter.to_string(),
                    filters: vec!["name~=extract-".to_owned()],
                });
                let answer = self
                    .api
                    .snapshots()
                    .list(request)
                    .await
                    .map_err(ApiError::call("Snapshots.List"))?;
                let mut pages = answer.into_inner();
                while let Some(page) = pages.message().await.map_err(ApiError::call("Snapshots.List"))? {
                    let names = page
                        .info
                        .into_iter()
                        .filter_map(|info| decode::extract(scope, snapshotter, info.name));
                    found.extend(names.take(MAX_RESOURCES_PER_LEASE.saturating_sub(found.len())));
                }
            }
        }
        Ok(found)
    }
}
