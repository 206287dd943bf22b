//! What is remembered of images beyond their pulls: what their manifests declare, and which were stopped lately.
//!
//! Changed by: a manifest that was read or resolved, a pull that was stopped, and time.

use std::collections::BTreeMap;

use crate::bounds::{MAX_DENIALS, MAX_KNOWN_MANIFESTS};
use crate::evidence::Reason;
use crate::ids::Digest;
use crate::manifest::{Manifest, ManifestBody};
use crate::pull::DeclaredImage;
use crate::time::Time;

/// A digest that was stopped, and is not let in again for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Denial {
    pub(crate) reason: Reason,
    pub(crate) until: Time,
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
            had_room = false;
        }
        self.denials.entry(digest).or_insert(denial);
        had_room
    }

    /// The denial of the first of `digests` that is denied now.
    pub(crate) fn denied<'a>(
        &self,
        now: Time,
        digests: impl Iterator<Item = &'a Digest>,
    ) -> Option<(&'a Digest, Denial)> {
        digests
            .filter_map(|digest| Some((digest, *self.denials.get(digest)?)))
            .find(|(_, denial)| denial.until > now)
    }

    /// Lets in again whose time is over.
    pub(crate) fn forget_old(&mut self, now: Time) {
        self.denials.retain(|_, denial| denial.until > now);
    }

    /// When the next denial ends.
    pub(crate) fn next_expiry(&self) -> Option<Time> {
        self.denials.values().map(|denial| denial.until).min()
    }

    /// Nobody is denied any more: the policy has no deny time.
    pub(crate) fn let_all_in(&mut self) {
        self.denials.clear();
    }

    #[cfg(test)]
    pub(crate) fn denials(&self) -> usize {
        self.denials.len()
    }
}
