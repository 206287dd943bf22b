//! Which blobs of a lease are manifests or indexes, and what they say. Each is read once per lease.
//!
//! Changed by: a look (new leases, new blobs, leases gone) and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::try_join_all;
use magi_engine::Event;
use magi_engine::event::LeaseView;
use magi_engine::ids::{Digest, LeaseKey, RepositoryName, SnapshotterName};
use magi_engine::manifest::{Manifest, ManifestBody};
use magi_wire::containerd::services::content::v1::{Info, InfoRequest, ReadContentRequest};

use super::decode;
use crate::containerd::{Api, ApiError, Scope};
use crate::manifest::{self, Parsed, Unreadable};

/// Largest document that is read. containerd refuses top manifests over 4 MiB (containerd.md §9); children may be
/// larger, and an honest one never is.
const MAX_DOCUMENT: u64 = 8 << 20;
/// Labels by which containerd itself says that a blob refers to others (2.1.9 core/images/handlers.go, `ChildGCLabels`).
const REFERENCE_LABEL: &str = "containerd.io/gc.ref.content.";
/// Looks in which the origin of a manifest may still be missing before it counts as unknown: the label is written
/// shortly after the blob.
const ORIGIN_LOOKS: u8 = 20;
/// Requests under way at once.
const AT_ONCE: usize = 16;
/// Snapshotters that are remembered.
const MAX_SNAPSHOTTERS: usize = 8;

pub(super) struct Documents {
    api: Api,
    leases: BTreeMap<LeaseKey, Known>,
    snapshotters: BTreeSet<SnapshotterName>,
}

/// What is known of one lease's blobs.
#[derive(Default)]
struct Known {
    /// Layers, configs, and whatever else needs no second look.
    settled: BTreeSet<Digest>,
    manifests: BTreeMap<Digest, Told>,
}

/// A manifest that the engine has heard of.
struct Told {
    manifest: Manifest,
    /// Looks left for its origin to appear.
    origin_looks: u8,
}

impl Documents {
    pub(super) fn new(api: Api) -> Self {
        Self {
            api,
            leases: BTreeMap::new(),
            snapshotters: BTreeSet::new(),
        }
    }

    pub(super) fn remember_snapshotters(&mut self, leases: &[LeaseView]) {
        for name in leases.iter().flat_map(|lease| &lease.snapshots) {
            if self.snapshotters.len() < MAX_SNAPSHOTTERS {
                self.snapshotters.insert(name.snapshotter.clone());
            }
        }
    }

    pub(super) fn snapshotters(&self) -> impl Iterator<Item = &SnapshotterName> {
        self.snapshotters.iter()
    }

    /// Reads what `leases` hold and was not read before; forgets leases that are gone.
    pub(super) async fn unread(
        &mut self,
        scopes: &[Scope],
        leases: &[LeaseView],
    ) -> Result<Vec<Event>, ApiError> {
        self.remember_snapshotters(leases);
        let present: BTreeSet<&LeaseKey> = leases.iter().map(|lease| &lease.key).collect();
        self.leases.retain(|key, _| present.contains(key));
        let mut events = Vec::new();
        for lease in leases {
            let Some(scope) = scopes.iter().find(|scope| scope.name == lease.key.namespace) else {
                continue;
            };
            let known = self.leases.entry(lease.key.clone()).or_default();
            let mut reader = Reader {
                api: &self.api,
                scope,
                lease: &lease.key,
                known,
                events: &mut events,
            };
            reader.origins().await?;
            reader.documents(&lease.content).await?;
        }
        Ok(events)
    }
}

struct Reader<'a> {
    api: &'a Api,
    scope: &'a Scope,
    lease: &'a LeaseKey,
    known: &'a mut Known,
    events: &'a mut Vec<Event>,
}

impl Reader<'_> {
    /// Asks again where a manifest came from, if that was not written yet.
    async fn origins(&mut self) -> Result<(), ApiError> {
        for (digest, told) in &mut self.known.manifests {
            if told.origin_looks == 0 || !told.manifest.repositories.is_empty() {
                continue;
            }
            told.origin_looks -= 1;
            let Some(info) = info(self.api, self.scope, digest).await? else {
                continue;
            };
            told.manifest.repositories = origin(&info);
            if !told.manifest.repositories.is_empty() {
                let manifest = told.manifest.clone();
                self.events.push(Event::ManifestRead {
                    lease: self.lease.clone(),
                    manifest,
                });
            }
        }
        Ok(())
    }

    async fn documents(&mut self, content: &[Digest]) -> Result<(), ApiError> {
        self.settle(content);
        let new: Vec<&Digest> = content.iter().filter(|digest| !self.is_known(digest)).collect();
        let mut infos: Vec<Info> = Vec::new();
        for some in new.chunks(AT_ONCE) {
            let asked: Vec<_> = some
                .iter()
                .map(|digest| info(self.api, self.scope, digest))
                .collect();
            infos.extend(try_join_all(asked).await?.into_iter().flatten());
        }
        // What refers to others comes first: it names the layers, which then need not be read at all.
        infos.sort_by_key(|info| (!refers(info), info.size));
        for info in infos {
            let Ok(digest) = Digest::parse(&info.digest) else {
                continue;
            };
            if !self.is_known(&digest) {
                self.document(digest, &info).await?;
            }
        }
        Ok(())
    }

    /// Files what a known manifest names as its layer or config.
    fn settle(&mut self, content: &[Digest]) {
        let used: Vec<Digest> = content
            .iter()
            .filter(|digest| {
                !self.known.settled.contains(*digest)
                    && self
                        .known
                        .manifests
                        .values()
                        .any(|told| told.manifest.uses_as_blob(digest))
            })
            .cloned()
            .collect();
        self.known.settled.extend(used);
    }

    fn is_known(&self, digest: &Digest) -> bool {
        self.known.settled.contains(digest) || self.known.manifests.contains_key(digest)
    }

    async fn document(&mut self, digest: Digest, info: &Info) -> Result<(), ApiError> {
        let size = u64::try_from(info.size).unwrap_or(0);
        let read = if size > MAX_DOCUMENT {
            Err(Unreadable::TooLarge {
                size,
                limit: MAX_DOCUMENT,
            })
        } else {
            match self.read(&digest, size).await? {
                Some(bytes) => manifest::parse(&bytes),
                None => return Ok(()),
            }
        };
        match read {
            Ok(Parsed {
                body,
                names_ingests,
                names_places,
            }) => {
                let blobs: Vec<Digest> = match &body {
                    ManifestBody::Image { config, layers } => layers
                        .iter()
                        .map(|layer| layer.digest.clone())
                        .chain([config.clone()])
                        .collect(),
                    ManifestBody::Index { .. } => Vec::new(),
                };
                self.known.settled.extend(blobs);
                let foreseen = if names_ingests {
                    Vec::new()
                } else {
                    decode::foreseen(&self.scope.name, &body)
                };
                let manifest = Manifest {
                    digest: digest.clone(),
                    body,
                    repositories: origin(info),
                    foreseen,
                    names_places,
                };
                self.events.push(Event::ManifestRead {
                    lease: self.lease.clone(),
                    manifest: manifest.clone(),
                });
                self.known.manifests.insert(
                    digest,
                    Told {
                        manifest,
                        origin_looks: ORIGIN_LOOKS,
                    },
                );
            }
            Err(problem) => {
                if refers(info) && problem != Unreadable::OtherDocument {
                    let problem = problem.to_string();
                    let lease = self.lease.clone();
                    self.events.push(Event::ManifestUnreadable {
                        lease,
                        digest: digest.clone(),
                        problem,
                    });
                }
                self.known.settled.insert(digest);
            }
        }
        Ok(())
    }

    /// The bytes of a small blob; empty if it does not begin like a JSON object, `None` if it is gone.
    async fn read(&self, digest: &Digest, size: u64) -> Result<Option<Vec<u8>>, ApiError> {
        let request = self.scope.request(ReadContentRequest {
            digest: digest.to_string(),
            offset: 0,
            size: 0,
        });
        let mut stream = match self
            .api
            .content()
            .read(request)
            .await
            .map_err(ApiError::call("Content.Read"))
        {
            Ok(answer) => answer.into_inner(),
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        loop {
            let part = match stream.message().await.map_err(ApiError::call("Content.Read")) {
                Ok(Some(part)) => part.data,
                Ok(None) => return Ok(Some(bytes)),
                Err(error) if error.is_not_found() => return Ok(None),
                Err(error) => return Err(error),
            };
            if bytes.is_empty() && !manifest::looks_like_json(&part) {
                return Ok(Some(Vec::new()));
            }
            bytes.extend_from_slice(&part);
            if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > size.min(MAX_DOCUMENT) {
                return Ok(Some(Vec::new()));
            }
        }
    }
}

async fn info(api: &Api, scope: &Scope, digest: &Digest) -> Result<Option<Info>, ApiError> {
    let request = scope.request(InfoRequest {
        digest: digest.to_string(),
    });
    match api
        .content()
        .info(request)
        .await
        .map_err(ApiError::call("Content.Info"))
    {
        Ok(answer) => Ok(answer.into_inner().info),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

fn refers(info: &Info) -> bool {
    info.labels.keys().any(|key| key.starts_with(REFERENCE_LABEL))
}

fn origin(info: &Info) -> Vec<RepositoryName> {
    decode::repositories(info.labels.iter())
}
