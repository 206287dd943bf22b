//! One pull in flight: what is known of it, and what follows from that alone.
//!
//! Changed by: a look at containerd (lease, ingests, snapshots), a manifest that was read, a person's wish, the judge's
//! verdict, and the pursuit of that verdict. Nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::audit::PullFacts;
use crate::bounds::{
    MAX_DECLARED_PER_PULL, MAX_LAYERS_REPORTED, MAX_MANIFESTS_PER_PULL, MAX_RESOURCES_PER_LEASE,
};
use crate::event::{Feed, IngestView, LeaseView, UnpackStop};
use crate::evidence::{Evidence, Reason, TieMethod};
use crate::ids::{Digest, IngestDir, IngestRef, LeaseKey, PullId, RepositoryName, SnapshotName, SocketName};
use crate::manifest::{Layer, Manifest, ManifestBody};
use crate::pods::Ownership;
use crate::policy::Mode;
use crate::pursuit::Pursuit;
use crate::report::{LayerReport, PullReport, Stage, VerdictReport};
use crate::requests::{Asker, Owners};
use crate::starvation::Pace;
use crate::time::Time;

/// A pull in flight.
#[derive(Clone, Debug)]
pub(crate) struct Pull {
    pub(crate) id: PullId,
    pub(crate) lease: LeaseKey,
    pub(crate) since: Time,
    /// When containerd made the lease, by the wall clock.
    pub(crate) created: Option<Time>,
    /// When the latest look began that showed it, by the wall clock.
    pub(crate) shown: Option<Time>,
    /// Who may have asked for it.
    pub(crate) owners: Owners,
    /// The only request that was seen and may be its own; somebody unseen may have made the lease all the same.
    pub(crate) likely: Option<Arc<Asker>>,
    /// The same for people.
    pub(crate) ownership: Ownership,
    pub(crate) declared: Declared,
    manifests: BTreeMap<Digest, Manifest>,
    pub(crate) content: BTreeSet<Digest>,
    pub(crate) ingests: BTreeMap<IngestRef, Ingest>,
    pub(crate) snapshots: BTreeSet<SnapshotName>,
    /// Where the pull stands, as far as containerd shows it.
    pub(crate) stage: Stage,
    /// Who asked for its end first. Never forgotten, whatever the policy says.
    pub(crate) asked: Option<String>,
    pub(crate) verdict: Option<Verdict>,
    pub(crate) pursuit: Pursuit,
    pub(crate) pace: Pace,
    /// magi-unpack has stopped a layer of it.
    pub(crate) unpack_stop: Option<UnpackStop>,
    /// Another pull was seen to fetch a layer of it: it goes on with what that one brings.
    pub(crate) has_waited: bool,
    /// Something that a verdict hangs on has changed since the last one.
    pub(crate) changed: bool,
}

/// An ingest that this pull owns.
#[derive(Clone, Debug)]
pub(crate) struct Ingest {
    pub(crate) dir: IngestDir,
    pub(crate) digest: Option<Digest>,
    pub(crate) offset: u64,
    /// The highest offset ever seen: what was stored once was stored, also if the ingest goes away.
    pub(crate) highest: u64,
    pub(crate) total: u64,
    /// No longer in containerd's list: committed or given up. Kept for the aftermath.
    pub(crate) gone: bool,
}

/// What was decided about a pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) reason: Reason,
    pub(crate) mode: Mode,
    pub(crate) rule: Option<String>,
    /// What condemned it; what the kernel adds is looked up when a lever is chosen.
    pub(crate) evidence: Vec<Evidence>,
}

impl Pull {
    /// Whose request it is, or most likely is: that one's end shows the end of the pull.
    pub(crate) fn asker(&self) -> Option<&Asker> {
        self.owners.known().or(self.likely.as_deref())
    }

    pub(crate) fn new(id: PullId, lease: LeaseKey, since: Time) -> Self {
        Self {
            id,
            lease,
            since,
            created: None,
            shown: None,
            owners: Owners::default(),
            likely: None,
            ownership: Ownership::default(),
            declared: Declared::default(),
            manifests: BTreeMap::new(),
            content: BTreeSet::new(),
            ingests: BTreeMap::new(),
            snapshots: BTreeSet::new(),
            stage: Stage::Resolving,
            asked: None,
            verdict: None,
            pursuit: Pursuit::default(),
            pace: Pace::default(),
            unpack_stop: None,
            has_waited: false,
            changed: false,
        }
    }

    /// Whether it is to be stopped, not only reported.
    pub(crate) fn is_pursued(&self) -> bool {
        self.verdict
            .as_ref()
            .is_some_and(|verdict| verdict.mode == Mode::Enforce)
    }

    /// Takes over what a look showed of the lease; `ingests` are those of its containerd namespace.
    pub(crate) fn seen(
        &mut self,
        begun: Option<Time>,
        lease: &LeaseView,
        ingests: &BTreeMap<&IngestRef, &IngestView>,
    ) {
        self.changed = true;
        self.created = lease.created;
        self.shown = begun;
        let same = self.content.len() == lease.content.len()
            && lease.content.iter().all(|digest| self.content.contains(digest));
        if !same {
            self.content = lease
                .content
                .iter()
                .take(MAX_RESOURCES_PER_LEASE)
                .cloned()
                .collect();
        }
        for name in &lease.snapshots {
            if self.snapshots.len() < MAX_RESOURCES_PER_LEASE && !self.snapshots.contains(name) {
                self.snapshots.insert(name.clone());
            }
        }
        for ingest in self.ingests.values_mut() {
            ingest.gone = true;
        }
        for view in lease
            .ingests
            .iter()
            .filter_map(|reference| ingests.get(reference))
        {
            self.ingest_seen(view);
        }
        self.stage = self.stage_now();
    }

    fn ingest_seen(&mut self, view: &IngestView) {
        let reference = &view.key.reference;
        if let Some(ingest) = self.ingests.get_mut(reference) {
            ingest.dir = view.dir;
            ingest.offset = view.offset;
            ingest.highest = ingest.highest.max(view.offset);
            ingest.total = view.total;
            ingest.gone = false;
        } else if self.ingests.len() < MAX_RESOURCES_PER_LEASE {
            let ingest = Ingest {
                dir: view.dir,
                digest: view.digest.clone(),
                offset: view.offset,
                highest: view.offset,
                total: view.total,
                gone: false,
            };
            self.ingests.insert(reference.clone(), ingest);
        }
    }

    /// Remembers a manifest; `false` if there are too many already, or it lists too much.
    pub(crate) fn learn(&mut self, manifest: Manifest) -> bool {
        let others = self
            .manifests
            .values()
            .filter(|one| one.digest != manifest.digest);
        let (count, entries) = others.fold((0_usize, manifest.entries()), |(count, sum), one| {
            (count.saturating_add(1), sum.saturating_add(one.entries()))
        });
        if count >= MAX_MANIFESTS_PER_PULL || entries > MAX_DECLARED_PER_PULL {
            return false;
        }
        self.changed = true;
        self.manifests.insert(manifest.digest.clone(), manifest);
        self.declared = Declared::of(&self.manifests);
        self.stage = self.stage_now();
        true
    }

    /// Manifests that it has learnt.
    pub(crate) fn manifests(&self) -> impl Iterator<Item = &Manifest> {
        self.manifests.values()
    }

    /// Manifests among what it holds that it has not learnt yet, if `known` has them.
    pub(crate) fn unlearnt<'a>(&self, known: impl Fn(&Digest) -> Option<&'a Manifest>) -> Vec<Manifest> {
        let new = self
            .content
            .iter()
            .filter(|digest| !self.manifests.contains_key(digest));
        new.filter_map(known).cloned().collect()
    }

    /// Whether this pull may want the blob: its manifest names it, or is not known yet.
    pub(crate) fn may_want(&self, digest: Option<&Digest>) -> bool {
        self.declared.images.is_empty()
            || digest.is_none_or(|digest| self.declared.layers.contains_key(digest))
            || self.has_unread()
    }

    /// Whether what it fetches may come over a connection that is another pull's as well.
    pub(crate) fn may_share_connections(&self) -> bool {
        let names_places = self.manifests.values().any(|one| one.names_places);
        names_places || self.declared.images.is_empty() || self.has_unread()
    }

    /// Whether it holds what no document of it names: perhaps one that is still to be read.
    fn has_unread(&self) -> bool {
        let read = self.manifests.values();
        let named: BTreeSet<&Digest> = read.flat_map(|one| one.blobs().chain([&one.digest])).collect();
        self.content.iter().any(|digest| !named.contains(digest))
    }

    /// Ingests that containerd still lists.
    pub(crate) fn live_ingests(&self) -> impl Iterator<Item = (&IngestRef, &Ingest)> {
        self.ingests.iter().filter(|(_, ingest)| !ingest.gone)
    }

    /// What was declared for an ingest: containerd's own figure, else the manifest's (containerd writes no total of
    /// zero: plugins/content/local/store.go, `writer`).
    pub(crate) fn declared_for(&self, ingest: &Ingest) -> Option<u64> {
        if ingest.total > 0 {
            return Some(ingest.total);
        }
        ingest
            .digest
            .as_ref()
            .and_then(|digest| self.declared.layers.get(digest))
            .copied()
    }

    /// Bytes stored for each layer: what its ingest holds, or all of it once it is committed.
    pub(crate) fn stored_by_layer(&self) -> impl Iterator<Item = (&Digest, u64, u64)> {
        let in_flight: BTreeMap<&Digest, u64> = self
            .live_ingests()
            .filter_map(|(_, ingest)| ingest.digest.as_ref().map(|digest| (digest, ingest.offset)))
            .collect();
        self.declared.layers.iter().map(move |(digest, size)| {
            let stored = match in_flight.get(digest) {
                Some(offset) => *offset,
                None if self.content.contains(digest) => *size,
                None => 0,
            };
            (digest, *size, stored)
        })
    }

    /// The layers of one of its manifests, in their order.
    pub(crate) fn layers_of(&self, manifest: &Digest) -> impl Iterator<Item = &Layer> {
        self.manifests
            .get(manifest)
            .into_iter()
            .flat_map(Manifest::layers)
    }

    /// Whether something of this blob is there, or was.
    pub(crate) fn has_begun(&self, digest: &Digest) -> bool {
        let is_its = |ingest: &Ingest| ingest.digest.as_ref() == Some(digest);
        self.content.contains(digest) || self.ingests.values().any(is_its)
    }

    /// Whether it has its manifest and nothing of its layers has begun, as far as containerd shows: no ingest and no blob.
    /// A snapshot to unpack into may be there: containerd prepares it before it asks for the first layer. Only if it can
    /// be foreseen where its layers' ingests will be.
    pub(crate) fn is_before_layers(&self) -> bool {
        let is_layer = |digest: &Digest| self.declared.layers.contains_key(digest);
        let may_be_layer = |ingest: &Ingest| ingest.digest.as_ref().is_none_or(is_layer);
        !self.declared.foreseen.is_empty()
            // What is not read yet may be the manifest, and what was read a layer that looks like one.
            && !self.has_unread()
            && !self.ingests.values().any(may_be_layer)
            && !self.content.iter().any(is_layer)
    }

    /// Bytes that this pull has fetched itself: what other pulls fetch for it is not in ingests of its own.
    pub(crate) fn fetched(&self) -> u64 {
        self.ingests
            .values()
            .fold(0, |sum, ingest| ingest.highest.saturating_add(sum))
    }

    /// Bytes stored for the layers of the image.
    pub(crate) fn stored(&self) -> u64 {
        self.stored_by_layer()
            .fold(0, |sum, (_, _, stored)| stored.saturating_add(sum))
    }

    fn stage_now(&self) -> Stage {
        if self.declared.images.is_empty() {
            return Stage::Resolving;
        }
        if self.live_ingests().next().is_some() {
            return Stage::Downloading;
        }
        let complete = self
            .declared
            .layers
            .keys()
            .all(|digest| self.content.contains(digest));
        if complete {
            Stage::Unpacking
        } else {
            Stage::Waiting
        }
    }

    /// What people see of it; `feed_of` knows the sockets.
    pub(crate) fn report(
        &self,
        ended: Option<Time>,
        feed_of: impl Fn(IngestDir) -> Option<Feed>,
    ) -> PullReport {
        let sockets: BTreeMap<&Digest, (SocketName, TieMethod)> = self
            .live_ingests()
            .filter_map(|(_, ingest)| {
                let feed = feed_of(ingest.dir)?;
                Some((ingest.digest.as_ref()?, (feed.socket, feed.method)))
            })
            .collect();
        let long = self.declared.layers.len() > MAX_LAYERS_REPORTED;
        let layers = self
            .stored_by_layer()
            .filter(|(digest, _, stored)| !long || (*stored > 0 && !self.content.contains(*digest)))
            .take(MAX_LAYERS_REPORTED)
            .map(|(digest, declared, stored)| LayerReport {
                digest: digest.clone(),
                declared,
                stored,
                socket: sockets.get(digest).copied(),
            })
            .collect();
        PullReport {
            id: self.id,
            lease: self.lease.clone(),
            repositories: self.declared.repositories.clone(),
            owner: self.ownership.owner.clone(),
            owner_candidates: self.ownership.candidates.clone(),
            manifest: self.declared.images.first().map(|image| image.manifest.clone()),
            stage: if ended.is_some() { Stage::Ended } else { self.stage },
            since: self.since,
            ended,
            declared: self.declared.bytes(),
            stored: self.stored(),
            layers,
            verdict: self.verdict.as_ref().map(|verdict| VerdictReport {
                reason: verdict.reason,
                mode: verdict.mode,
                rule: verdict.rule.clone(),
                attempts: self.pursuit.attempts,
                why: verdict
                    .evidence
                    .first()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
            }),
            unpack_stop: self.unpack_stop.clone(),
        }
    }

    /// The facts that every record of this pull carries.
    pub(crate) fn facts(&self) -> PullFacts {
        PullFacts {
            id: self.id,
            lease: self.lease.clone(),
            repositories: self.declared.repositories.clone(),
            owner: self.ownership.owner.clone(),
            owner_candidates: self.ownership.candidates.clone(),
            declared: self.declared.bytes(),
            stored: self.stored(),
        }
    }
}

/// What the pull's manifests declare, derived from them whenever one is learnt.
#[derive(Clone, Debug, Default)]
pub(crate) struct Declared {
    /// The image manifests; several only if an index led to several.
    pub(crate) images: Vec<DeclaredImage>,
    /// Size of each layer of these.
    pub(crate) layers: BTreeMap<Digest, u64>,
    /// Where the image may come from.
    pub(crate) repositories: Vec<RepositoryName>,
    /// Where ingests of these layers will be; empty: not all of that is known.
    pub(crate) foreseen: BTreeMap<IngestDir, Digest>,
    /// Its manifests and indexes, none of which another one uses as a layer or config.
    pub(crate) roots: Vec<Digest>,
}

/// One image manifest, summed up.
#[derive(Clone, Debug)]
pub(crate) struct DeclaredImage {
    pub(crate) manifest: Digest,
    pub(crate) bytes: u64,
    pub(crate) largest: Option<Layer>,
}

impl DeclaredImage {
    pub(crate) fn of(image: &Manifest) -> Self {
        Self {
            manifest: image.digest.clone(),
            bytes: image.declared_bytes(),
            largest: image.layers().iter().max_by_key(|layer| layer.size).cloned(),
        }
    }
}

impl Declared {
    /// Only documents that no other one uses as a layer or config count: a layer may look like a manifest, and then
    /// it is the image author's text, not what is being pulled.
    fn of(manifests: &BTreeMap<Digest, Manifest>) -> Self {
        let used: BTreeSet<&Digest> = manifests.values().flat_map(Manifest::blobs).collect();
        let roots: Vec<&Manifest> = manifests
            .values()
            .filter(|one| !used.contains(&one.digest))
            .collect();
        let repositories: BTreeSet<&RepositoryName> =
            roots.iter().flat_map(|root| &root.repositories).collect();
        let images: Vec<&Manifest> = roots
            .iter()
            .copied()
            .filter(|root| matches!(root.body, ManifestBody::Image { .. }))
            .collect();
        let mut layers: BTreeMap<Digest, u64> = BTreeMap::new();
        for layer in images.iter().flat_map(|image| image.layers()) {
            // Where two documents differ, the one that allows more counts.
            let size = layers.entry(layer.digest.clone()).or_default();
            *size = layer.size.max(*size);
        }
        let dirs = || images.iter().flat_map(|image| &image.foreseen).cloned();
        let is_foreseen = images
            .iter()
            .all(|image| !image.foreseen.is_empty() || image.layers().is_empty());
        Self {
            layers,
            foreseen: dirs().filter(|_| is_foreseen).collect(),
            roots: roots.iter().map(|root| root.digest.clone()).collect(),
            repositories: repositories.into_iter().cloned().collect(),
            images: images.into_iter().map(DeclaredImage::of).collect(),
        }
    }

    /// Declared bytes of the image; the largest, if there are several.
    pub(crate) fn bytes(&self) -> Option<u64> {
        self.images.iter().map(|image| image.bytes).max()
    }
}
