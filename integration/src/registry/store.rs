//! What a registry holds: repositories with manifests, blobs and the behaviour of each.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::behaviour::Behaviour;
use super::content::Content;

/// A manifest or index as served.
#[derive(Debug, Clone)]
pub(super) struct Manifest {
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) bytes: Bytes,
}

#[derive(Debug, Clone)]
pub(super) struct Blob {
    pub(super) content: Content,
    pub(super) is_layer: bool,
    pub(super) behaviour: Option<Behaviour>,
}

#[derive(Debug, Default)]
struct Repository {
    /// By tag and by digest.
    manifests: HashMap<String, Manifest>,
    /// Sent in place of these, when they are fetched.
    swapped: HashMap<String, Manifest>,
    blobs: HashMap<String, Blob>,
    behaviour: Behaviour,
}

#[derive(Debug, Default)]
pub(super) struct Store(Mutex<HashMap<String, Repository>>);

impl Store {
    fn with<T>(&self, name: &str, work: impl FnOnce(&mut Repository) -> T) -> T {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        work(all.entry(name.to_owned()).or_default())
    }

    pub(super) fn put_manifest(&self, name: &str, tag: Option<&str>, manifest: Manifest) {
        self.with(name, |repository| {
            if let Some(tag) = tag {
                repository.manifests.insert(tag.to_owned(), manifest.clone());
            }
            repository.manifests.insert(manifest.digest.clone(), manifest);
        });
    }

    pub(super) fn put_blob(&self, name: &str, digest: &str, blob: Blob) {
        self.with(name, |repository| {
            repository.blobs.insert(digest.to_owned(), blob)
        });
    }

    pub(super) fn behave(&self, name: &str, behaviour: Behaviour) {
        self.with(name, |repository| repository.behaviour = behaviour);
    }

    pub(super) fn behave_blob(&self, name: &str, digest: &str, behaviour: Behaviour) -> bool {
        self.with(name, |repository| match repository.blobs.get_mut(digest) {
            Some(blob) => {
                blob.behaviour = Some(behaviour);
                true
            }
            None => false,
        })
    }

    /// The behaviour of a repository; good if it is unknown.
    pub(super) fn behaviour(&self, name: &str) -> Behaviour {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(name)
            .map(|repository| repository.behaviour.clone())
            .unwrap_or_default()
    }

    pub(super) fn manifest(&self, name: &str, reference: &str) -> Option<Manifest> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(name)?.manifests.get(reference).cloned()
    }

    pub(super) fn swap(&self, name: &str, reference: &str, manifest: Manifest) {
        self.with(name, |repository| {
            repository.swapped.insert(reference.to_owned(), manifest)
        });
    }

    /// What is sent in place of a manifest that is fetched.
    pub(super) fn swapped(&self, name: &str, reference: &str) -> Option<Manifest> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(name)?.swapped.get(reference).cloned()
    }

    pub(super) fn blob(&self, name: &str, digest: &str) -> Option<Blob> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(name)?.blobs.get(digest).cloned()
    }
}
