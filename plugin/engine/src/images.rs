//! What is remembered of images beyond their pulls: what their manifests declare, and which were stopped lately.
//!
//! Changed by: a manifest that was read or resolved, a pull that was stopped, and time.

use std::collections::BTreeMap;

use crate::bounds::{MAX_DENIALS, MAX_DENIED_ENTRIES, MAX_KNOWN_MANIFESTS};
use crate::evidence::Reason;
use crate::ids::{Digest, RepositoryName};
use crate::manifest::{Manifest, ManifestBody};
use crate::pull::DeclaredImage;
use crate::time::Time;

/// A digest that was stopped, and is not let in again for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Denial {
    pub(crate) reason: Reason,
    pub(crate) until: Time,
    /// The one repository that it came from, as containerd's label has it; none: not known for sure.
    pub(crate) from: Option<RepositoryName>,
}

#[derive(Debug)]
enum Known {
    Image(DeclaredImage),
    Index(Vec<Digest>),
}

/// Manifests and denials, by digest.
#[derive(Debug, Default)]
pub(crate) struct Images {
    known: BTreeMap<Digest, (Known, u64)>,
    counted: u64,
    denials: BTreeMap<Digest, Denial>,
    /// What the denied digests are, so that another pull of one is recognised before its documents are read again.
    denied: BTreeMap<Digest, Manifest>,
}

impl Images {
    /// Remembers what a manifest declares; the one that was learnt first makes room.
    pub(crate) fn learn(&mut self, manifest: &Manifest) {
        let known = match &manifest.body {
            ManifestBody::Image { .. } => Known::Image(DeclaredImage::of(manifest)),
            ManifestBody::Index { manifests } => Known::Index(manifests.clone()),
        };
        if self.known.len() >= MAX_KNOWN_MANIFESTS
            && !self.known.contains_key(&manifest.digest)
            && let Some(oldest) = self.known.iter().min_by_key(|(_, (_, order))| *order)
        {
            let oldest = oldest.0.clone();
            self.known.remove(&oldest);
        }
        self.counted = self.counted.saturating_add(1);
        self.known.insert(manifest.digest.clone(), (known, self.counted));
    }

    /// The images behind a digest, as far as they are known: itself, or what an index lists.
    pub(crate) fn declared(&self, digest: &Digest) -> Vec<&DeclaredImage> {
        let image = |digest: &Digest| match self.known.get(digest) {
            Some((Known::Image(image), _)) => Some(image),
            Some((Known::Index(_), _)) | None => None,
        };
        match self.known.get(digest) {
            Some((Known::Image(image), _)) => vec![image],
            Some((Known::Index(manifests), _)) => manifests.iter().filter_map(image).collect(),
            None => Vec::new(),
        }
    }

    /// Denies a digest; one that is denied already stays so for as long as was said first, or retrying would deny it
    /// for ever. `false` if another one had to be let in for it.
    pub(crate) fn deny(&mut self, digest: Digest, denial: Denial) -> bool {
        let mut had_room = true;
        if self.denials.len() >= MAX_DENIALS
            && !self.denials.contains_key(&digest)
            && let Some(next) = self.denials.iter().min_by_key(|(_, one)| one.until)
        {
            let next = next.0.clone();
            self.denials.remove(&next);
            self.denied.remove(&next);
            had_room = false;
        }
        self.denials.entry(digest).or_insert(denial);
        had_room
    }

    /// Remembers what a denied digest is, without where it came from: it may come from elsewhere next time.
    pub(crate) fn remember_denied(&mut self, manifest: &Manifest) {
        if self.denials.contains_key(&manifest.digest) && manifest.entries() <= MAX_DENIED_ENTRIES {
            let manifest = Manifest {
                repositories: Vec::new(),
                ..manifest.clone()
            };
            self.denied.insert(manifest.digest.clone(), manifest);
        }
    }

    /// What a denied digest is.
    pub(crate) fn denied_manifest(&self, digest: &Digest) -> Option<&Manifest> {
        self.denied.get(digest)
    }

    /// Those of `digests` that are denied now.
    pub(crate) fn denied<'a>(
        &'a self,
        now: Time,
        digests: impl Iterator<Item = &'a Digest>,
    ) -> Vec<(&'a Digest, &'a Denial)> {
        digests
            .filter_map(|digest| Some((digest, self.denials.get(digest)?)))
            .filter(|(_, denial)| denial.until > now)
            .collect()
    }

    /// Lets in again whose time is over.
    pub(crate) fn forget_old(&mut self, now: Time) {
        self.denials.retain(|_, denial| denial.until > now);
        self.denied.retain(|digest, _| self.denials.contains_key(digest));
    }

    /// Whether this digest is denied.
    pub(crate) fn denies(&self, digest: &Digest) -> bool {
        self.denials.contains_key(digest)
    }

    /// Whether any digest is denied.
    pub(crate) fn denies_any(&self) -> bool {
        !self.denials.is_empty()
    }

    /// When the next denial ends.
    pub(crate) fn next_expiry(&self) -> Option<Time> {
        self.denials.values().map(|denial| denial.until).min()
    }

    /// Nobody is denied any more: the policy has no deny time.
    pub(crate) fn let_all_in(&mut self) {
        self.denials.clear();
        self.denied.clear();
    }

    #[cfg(test)]
    pub(crate) fn denials(&self) -> usize {
        self.denials.len()
    }
}
