//! Short names for the things that tests talk about.

use std::net::SocketAddr;
use std::time::Duration;

use proptest::test_runner::{Config, RngSeed};

use crate::event::{Event, Feed, IngestView, LeaseView, Room, SocketStat};
use crate::evidence::TieMethod;
use crate::ids::{
    ContainerdNamespace, Cookie, Digest, ImageName, IngestDir, IngestKey, IngestRef, LeaseId, LeaseKey,
    PodName, PodNamespace, PodUid, RepositoryName, SandboxId, SnapshotKey, SnapshotName, SnapshotterName,
    SocketName,
};
use crate::manifest::{Layer, Manifest, ManifestBody};
use crate::owner::{Labels, NodePod, PodIdentity, PullRequest};
use crate::policy::{
    Breaker, DiskOrder, Headroom, Limits, Mode, OrphanKeep, Pattern, Policy, Rule, RuleVerdict, Selector,
};

pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;

pub(super) fn digest(n: u64) -> Digest {
    Digest::parse(&format!("sha256:{n:064x}")).unwrap()
}

pub(super) fn namespace(name: &str) -> ContainerdNamespace {
    ContainerdNamespace::new(name).unwrap()
}

pub(super) fn lease_key(name: &str, id: &str) -> LeaseKey {
    LeaseKey {
        namespace: namespace(name),
        id: LeaseId::new(id).unwrap(),
    }
}

pub(super) fn ingest_ref(layer: u64) -> IngestRef {
    IngestRef::new(format!("layer-{}", digest(layer))).unwrap()
}

pub(super) fn ingest_key(name: &str, layer: u64) -> IngestKey {
    IngestKey {
        namespace: namespace(name),
        reference: ingest_ref(layer),
    }
}

/// As in containerd, the directory follows from namespace and reference, and so is the same for every generation.
pub(super) fn ingest_dir(name: &str, layer: u64) -> IngestDir {
    let mut hash = [0; 32];
    for (place, byte) in hash.iter_mut().zip(name.bytes()) {
        *place = byte;
    }
    hash[24..].copy_from_slice(&layer.to_be_bytes());
    IngestDir::from_hash(hash)
}

pub(super) fn snapshot(name: &str, key: &str) -> SnapshotName {
    SnapshotName {
        namespace: namespace(name),
        snapshotter: SnapshotterName::new("overlayfs").unwrap(),
        key: SnapshotKey::new(key).unwrap(),
    }
}

pub(super) fn repository(name: &str) -> RepositoryName {
    RepositoryName::new(name).unwrap()
}

pub(super) fn socket(cookie: u64) -> SocketName {
    let port = u16::try_from(10_000 + cookie % 50_000).unwrap();
    SocketName {
        cookie: Cookie(cookie),
        local: SocketAddr::from(([127, 0, 0, 1], port)),
        remote: SocketAddr::from(([127, 0, 0, 1], 5000)),
    }
}

pub(super) fn feed(cookie: u64, dir: IngestDir, bytes: u64) -> Feed {
    Feed {
        socket: socket(cookie),
        dir,
        method: TieMethod::Goroutine,
        bytes,
        lasts: Duration::ZERO,
    }
}

pub(super) fn stat(cookie: u64, received: u64) -> SocketStat {
    SocketStat {
        socket: socket(cookie),
        established: true,
        received,
        unread: 0,
    }
}

pub(super) fn image(document: u64, layers: &[(u64, u64)], repositories: &[&str]) -> Manifest {
    Manifest {
        digest: digest(document),
        body: ManifestBody::Image {
            config: digest(document + 1_000_000),
            layers: layers
                .iter()
                .map(|(layer, size)| Layer {
                    digest: digest(*layer),
                    size: *size,
                })
                .collect(),
        },
        repositories: repositories.iter().map(|name| repository(name)).collect(),
        foreseen: layers
            .iter()
            .map(|(layer, _)| (ingest_dir("k8s.io", *layer), digest(*layer)))
            .collect(),
        names_places: false,
    }
}

pub(super) fn index(document: u64, manifests: &[u64]) -> Manifest {
    Manifest {
        digest: digest(document),
        body: ManifestBody::Index {
            manifests: manifests.iter().map(|one| digest(*one)).collect(),
        },
        repositories: Vec::new(),
        foreseen: Vec::new(),
        names_places: false,
    }
}

pub(super) fn lease_view(key: LeaseKey, ingests: &[u64]) -> LeaseView {
    LeaseView {
        key,
        created: None,
        content: Vec::new(),
        ingests: ingests.iter().map(|layer| ingest_ref(*layer)).collect(),
        snapshots: Vec::new(),
    }
}

pub(super) fn ingest_view(name: &str, layer: u64, offset: u64, total: u64) -> IngestView {
    IngestView {
        key: ingest_key(name, layer),
        dir: ingest_dir(name, layer),
        digest: Some(digest(layer)),
        offset,
        total,
    }
}

/// One disk for blobs and snapshots.
pub(super) fn disk_seen(free: u64, total: u64) -> Event {
    Event::DiskSeen {
        content: Room {
            free,
            total,
            free_inodes: 0,
            inodes: 0,
        },
        snapshots: None,
    }
}

pub(super) fn limits(image: Option<u64>, layer: Option<u64>, overrun: Option<u64>) -> Limits {
    Limits {
        image,
        layer,
        overrun,
    }
}

pub(super) fn limit(mode: Mode, image: u64) -> RuleVerdict {
    RuleVerdict::Limit {
        mode,
        limits: limits(Some(image), None, Some(0)),
    }
}

/// What is kept of orphaned pulls.
pub(super) const KEEP: OrphanKeep = OrphanKeep {
    time: Duration::from_secs(5),
    bytes: 64 * MIB,
    free_percent: 20,
};

pub(super) fn policy(fallback: RuleVerdict) -> Policy {
    Policy {
        revision: "test".to_owned(),
        rules: Vec::new(),
        fallback,
        budgets: Vec::new(),
        deny_for: Duration::ZERO,
        orphan_grace: Duration::from_secs(1),
        orphan_keep: KEEP,
        headroom: None,
        breaker: Breaker::default(),
        starving: None,
    }
}

pub(super) fn rule(name: &str, namespaces: &[&str], images: &[&str], verdict: RuleVerdict) -> Rule {
    let patterns = |texts: &[&str]| texts.iter().map(|text| Pattern::new(text)).collect();
    Rule {
        name: name.to_owned(),
        selector: Selector {
            namespaces: patterns(namespaces),
            images: patterns(images),
            ..Selector::default()
        },
        verdict,
    }
}

/// Stops what is larger than `image`, and what overruns its manifest.
pub(super) fn enforce(image: u64) -> Policy {
    policy(limit(Mode::Enforce, image))
}

/// The same, but only reports.
/// A tenth of the disk stays free, and layers unpack to what they are.
pub(super) fn headroom(mode: Mode) -> Headroom {
    Headroom {
        free_percent: 10,
        inodes_percent: 10,
        unpack_percent: 100,
        least: 10 * MIB,
        first: DiskOrder::Largest,
        spare: Vec::new(),
        mode,
    }
}

pub(super) fn observe(image: u64) -> Policy {
    policy(limit(Mode::Observe, image))
}

/// A pod by `namespace/name`; its uid follows from that.
pub(super) fn pod(name: &str) -> PodIdentity {
    let (namespace, short) = name.split_once('/').unwrap();
    PodIdentity {
        uid: PodUid::new(format!("uid-{name}")).unwrap(),
        namespace: PodNamespace::new(namespace).unwrap(),
        name: PodName::new(short).unwrap(),
    }
}

/// A request for an image, for a pod or for nobody; the pod has its name as label `app`.
pub(super) fn request(image: &str, for_pod: Option<&str>) -> PullRequest {
    let labels = |name: &str| Labels::from([("app".to_owned(), pod(name).name.to_string())]);
    PullRequest {
        image: ImageName::new(image).unwrap(),
        pod: for_pod.map(pod),
        labels: for_pod.map(labels),
        certain: true,
    }
}

pub(super) fn node_pod(sandbox: &str, name: &str) -> NodePod {
    NodePod {
        sandbox: SandboxId::new(sandbox).unwrap(),
        pod: pod(name),
        labels: Labels::new(),
        images: Vec::new(),
        stopped: false,
    }
}

/// The number in a variable of the environment.
pub(super) fn asked_for(variable: &str) -> Option<u32> {
    std::env::var(variable).ok()?.parse().ok()
}

/// How random stories are drawn: anew if somebody asked for so many, else the same `usual` ones.
pub(super) fn stories(asked: Option<u32>, usual: u32) -> Config {
    Config {
        cases: asked.unwrap_or(usual),
        failure_persistence: None,
        rng_seed: if asked.is_some() {
            RngSeed::Random
        } else {
            RngSeed::Fixed(0x6d61_6769)
        },
        ..Config::default()
    }
}
