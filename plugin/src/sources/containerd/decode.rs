//! containerd's answers, as the engine's vocabulary. Generated types end here.

use std::path::Path;

use magi_engine::Time;
use magi_engine::bounds::MAX_FORESEEN_LAYERS;
use magi_engine::event::{IngestView, LeaseView};
use magi_engine::ids::{
    ContainerdNamespace, Digest, IngestDir, IngestKey, IngestRef, RepositoryName, SnapshotKey, SnapshotName,
    SnapshotterName,
};
use magi_engine::manifest::ManifestBody;
use magi_wire::containerd::services::content::v1::Status;
use magi_wire::containerd::services::leases::v1::Resource;
use sha2::{Digest as _, Sha256};

use crate::containerd::Scope;

/// Label that names the repositories which a blob came from; the registry's host follows.
/// Source: containerd 2.1.9 core/remotes/docker/handler.go, `AppendDistributionSourceLabel`.
const SOURCE_LABEL: &str = "containerd.io/distribution.source.";
/// Repositories of one blob that are kept.
const MAX_REPOSITORIES: usize = 16;

/// An ingest; `None` if it has no usable reference.
pub(super) fn ingest(namespace: &ContainerdNamespace, dir: IngestDir, status: Status) -> Option<IngestView> {
    let digest = digest_in(&status.r#ref);
    let reference = IngestRef::new(status.r#ref).ok()?;
    Some(IngestView {
        key: IngestKey {
            namespace: namespace.clone(),
            reference,
        },
        dir,
        digest,
        offset: u64::try_from(status.offset).unwrap_or(0),
        total: u64::try_from(status.total).unwrap_or(0),
    })
}

/// A time stamp, unless it lies before 1970.
pub(super) fn time(stamp: &prost_types::Timestamp) -> Option<Time> {
    let seconds = u64::try_from(stamp.seconds).ok()?;
    let micros = u64::try_from(stamp.nanos).ok()? / 1000;
    Some(Time::from_micros(
        seconds.checked_mul(1_000_000)?.checked_add(micros)?,
    ))
}

/// The name of an ingest's directory: SHA-256 over `namespace/sequence/reference`.
///
/// Source: containerd 2.1.9 core/metadata/content.go (`createKey`) and plugins/content/local/store.go (`ingestRoot`).
/// The sequence is the bucket's, and 1 for whatever is pulled (measured on 1.7.24 and 2.1.9); where the directory is
/// not there under 1, the next few are tried.
pub(super) fn ingest_dir(namespace: &ContainerdNamespace, reference: &str, content_root: &Path) -> IngestDir {
    let hash = |sequence: u32| hashed(namespace, sequence, reference);
    let exists = |dir: &IngestDir| content_root.join("ingest").join(dir.to_string()).exists();
    (1..=4).map(hash).find(exists).unwrap_or_else(|| hash(1))
}

fn hashed(namespace: &ContainerdNamespace, sequence: u32, reference: &str) -> IngestDir {
    let key = format!("{namespace}/{sequence}/{reference}");
    IngestDir::from_hash(Sha256::digest(key.as_bytes()).into())
}

/// Prefixes of the references that containerd gives to ingests, by media type (2.1.9 core/remotes/handlers.go,
/// `MakeRefKey`). A layer's media type is its author's text, so it may get any of them.
const PREFIXES: [&str; 6] = ["layer", "unknown", "config", "manifest", "index", "attestation"];

/// The directories that the ingests of an image's layers will have; none if there are too many layers to tell.
pub(super) fn foreseen(namespace: &ContainerdNamespace, body: &ManifestBody) -> Vec<(IngestDir, Digest)> {
    let layers = match body {
        ManifestBody::Image { layers, .. } if layers.len() <= MAX_FORESEEN_LAYERS => layers.as_slice(),
        ManifestBody::Image { .. } | ManifestBody::Index { .. } => &[],
    };
    let of_layer = |digest: &Digest| {
        PREFIXES.map(|prefix| {
            (
                hashed(namespace, 1, &format!("{prefix}-{digest}")),
                digest.clone(),
            )
        })
    };
    layers.iter().flat_map(|layer| of_layer(&layer.digest)).collect()
}

/// The digest at the end of an ingest's reference. What stands before it is partly the image author's text
/// (containerd.md §8), so only the end counts.
fn digest_in(reference: &str) -> Option<Digest> {
    let (before, encoded) = reference.rsplit_once(':')?;
    let start = before
        .rfind(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit()))
        .map_or(0, |at| at + 1);
    let algorithm = before.get(start..)?;
    Digest::parse(&format!("{algorithm}:{encoded}")).ok()
}

/// Files what a lease holds.
pub(super) fn resource(view: &mut LeaseView, resource: Resource) {
    match resource.r#type.as_str() {
        "content" => view.content.extend(Digest::parse(&resource.id).ok()),
        "ingests" => view.ingests.extend(IngestRef::new(resource.id).ok()),
        other => {
            let Some(snapshotter) = other.strip_prefix("snapshots/") else {
                return;
            };
            let name = SnapshotterName::new(snapshotter)
                .ok()
                .zip(SnapshotKey::new(resource.id).ok());
            view.snapshots.extend(name.map(|(snapshotter, key)| SnapshotName {
                namespace: view.key.namespace.clone(),
                snapshotter,
                key,
            }));
        }
    }
}

/// An extract snapshot, by the name that containerd gives it while it unpacks.
pub(super) fn extract(scope: &Scope, snapshotter: &SnapshotterName, name: String) -> Option<SnapshotName> {
    // Over the API the key is the client's; lease resources may carry the backend's `namespace/sequence/key`.
    name.contains("extract-").then_some(())?;
    let key = SnapshotKey::new(name).ok()?;
    Some(SnapshotName {
        namespace: scope.name.clone(),
        snapshotter: snapshotter.clone(),
        key,
    })
}

/// The repositories named by a blob's labels.
pub(super) fn repositories<'a>(
    labels: impl Iterator<Item = (&'a String, &'a String)>,
) -> Vec<RepositoryName> {
    let mut names: Vec<RepositoryName> = labels
        .filter_map(|(key, value)| Some((key.strip_prefix(SOURCE_LABEL)?, value)))
        .flat_map(|(host, repositories)| repositories.split(',').map(move |path| format!("{host}/{path}")))
        .take(MAX_REPOSITORIES)
        .filter_map(|name| RepositoryName::new(name).ok())
        .collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b";

    #[test]
    fn only_the_end_of_a_reference_counts() {
        let digest = format!("sha256:{HEX}");
        for reference in [
            format!("layer-{digest}"),
            format!("layer-evil-sha256:00@{digest}"),
            format!("unknown-{digest}"),
        ] {
            assert_eq!(
                digest_in(&reference).map(|found| found.to_string()),
                Some(digest.clone()),
                "{reference}"
            );
        }
        assert_eq!(digest_in("layer-nothing"), None);
        assert_eq!(digest_in(&format!("{digest}-more")), None);
    }

    #[test]
    fn repositories_come_from_labels() {
        let labels = [
            (
                format!("{SOURCE_LABEL}127.0.0.1:5000"),
                "team/app,other".to_owned(),
            ),
            (
                "containerd.io/gc.ref.content.l.0".to_owned(),
                "sha256:00".to_owned(),
            ),
        ];
        let names = repositories(labels.iter().map(|(key, value)| (key, value)));
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["127.0.0.1:5000/other", "127.0.0.1:5000/team/app"]);
    }

    #[test]
    fn an_ingest_directory_is_the_hash_of_its_backend_reference() {
        let namespace = ContainerdNamespace::new("k8s.io").unwrap();
        let dir = ingest_dir(&namespace, "layer-sha256:00", Path::new("/nonexistent"));
        assert_eq!(
            dir.to_string(),
            format!("{:x}", Sha256::digest(b"k8s.io/1/layer-sha256:00"))
        );
    }
}
