//! What containerd holds, by name, so that what a stopped pull left can be told from what its neighbour owns.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::report::LeftBehind;
use crate::api::Api;
use crate::image::Image;
use crate::registry::content::digest_of;

const STEP: Duration = Duration::from_millis(25);

/// Names of everything that a pull makes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Inventory {
    leases: BTreeSet<String>,
    ingests: BTreeSet<String>,
    snapshots: BTreeSet<String>,
    blobs: BTreeSet<String>,
}

/// What belongs to an image that may be there.
#[derive(Debug, Clone, Default)]
pub(super) struct Belongings {
    digests: BTreeSet<String>,
    chains: BTreeSet<String>,
    leases: usize,
}

impl Belongings {
    /// The blobs and snapshots of `image`, and the lease of its pull while that is in flight.
    pub(super) fn of(image: &Image, in_flight: bool) -> Self {
        let mut digests: BTreeSet<String> = image.layers.iter().map(|layer| layer.digest.clone()).collect();
        digests.extend([image.config.digest.clone(), image.manifest.digest.clone()]);
        // Grammar: OCI image-spec, config.md, "Layer ChainID".
        let mut chains = BTreeSet::new();
        let mut below: Option<String> = None;
        for layer in &image.layers {
            let chain = match below {
                None => layer.diff_id.clone(),
                Some(below) => digest_of(format!("{below} {}", layer.diff_id).as_bytes()),
            };
            chains.insert(chain.clone());
            below = Some(chain);
        }
        Self {
            digests,
            chains,
            leases: usize::from(in_flight),
        }
    }
}

impl Inventory {
    /// Asks containerd. The calls are not one transaction.
    pub(super) async fn look(api: &Api) -> Result<Self> {
        Ok(Self {
            leases: api.leases().await?.into_iter().collect(),
            ingests: api
                .ingests()
                .await?
                .into_iter()
                .map(|ingest| ingest.reference)
                .collect(),
            snapshots: api.snapshots().await?.into_iter().collect(),
            blobs: api.blobs().await?.into_iter().map(|(digest, _)| digest).collect(),
        })
    }

    /// What is there beyond `baseline` and the belongings of another pull.
    #[must_use]
    pub(super) fn beyond(&self, baseline: &Self, except: &Belongings) -> Self {
        let new = |now: &BTreeSet<String>, before: &BTreeSet<String>| -> BTreeSet<String> {
            now.difference(before).cloned().collect()
        };
        let mut left = Self {
            leases: new(&self.leases, &baseline.leases),
            ingests: new(&self.ingests, &baseline.ingests),
            snapshots: new(&self.snapshots, &baseline.snapshots),
            blobs: new(&self.blobs, &baseline.blobs),
        };
        // The key of an ingest ends in its digest; that of an extract snapshot in its chain id.
        let owned = |key: &String, names: &BTreeSet<String>| names.iter().any(|name| key.ends_with(name));
        left.ingests.retain(|key| !owned(key, &except.digests));
        left.snapshots.retain(|key| !owned(key, &except.chains));
        left.blobs.retain(|digest| !except.digests.contains(digest));
        // A lease does not name its pull: so many may be the other one's.
        if left.leases.len() <= except.leases {
            left.leases.clear();
        }
        left
    }

    /// Whether nothing is in it.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// How many there are of each kind.
    pub(super) fn counts(&self) -> LeftBehind {
        LeftBehind {
            ingests: self.ingests.len(),
            leases: self.leases.len(),
            snapshots: self.snapshots.len(),
            blobs: self.blobs.len(),
        }
    }
}

impl fmt::Display for Inventory {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, names) in [
            ("leases", &self.leases),
            ("ingests", &self.ingests),
            ("snapshots", &self.snapshots),
            ("blobs", &self.blobs),
        ] {
            if !names.is_empty() {
                write!(out, "{kind} {names:?} ")?;
            }
        }
        Ok(())
    }
}

/// Looks until nothing is there beyond `baseline` and `except`, at most `bound`; gives what was left, and when it looked.
pub(super) async fn settle(
    api: &Api,
    baseline: &Inventory,
    except: &Belongings,
    bound: Duration,
) -> Result<(Inventory, Instant)> {
    let start = Instant::now();
    loop {
        let left = Inventory::look(api).await?.beyond(baseline, except);
        let now = Instant::now();
        if left.is_empty() || start.elapsed() >= bound {
            return Ok((left, now));
        }
        tokio::time::sleep(STEP).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Compression, ImageBuilder, Layer};

    fn names<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
        names.map(str::to_owned).into()
    }

    #[test]
    fn what_the_neighbour_owns_is_not_left_behind() {
        let image = ImageBuilder::oci()
            .layer(Layer::random(1, 4096, Compression::Gzip).unwrap())
            .layer(Layer::random(2, 4096, Compression::Gzip).unwrap())
            .build()
            .unwrap();
        let [base, top] = &image.layers[..] else {
            panic!("two layers")
        };
        let chain = digest_of(format!("{} {}", base.diff_id, top.diff_id).as_bytes());
        let now = Inventory {
            leases: names(["old", "its"]),
            ingests: names([&format!("layer-{}", top.digest), "layer-sha256:bad"]),
            snapshots: names([
                &base.diff_id,
                &format!("extract-1-x {chain}"),
                "extract-2-y sha256:bad",
            ]),
            blobs: names([&base.digest, image.id(), image.digest(), "sha256:bad"]),
        };
        let baseline = Inventory {
            leases: names(["old"]),
            ..Inventory::default()
        };
        let left = now.beyond(&baseline, &Belongings::of(&image, true));
        assert_eq!(
            left.counts(),
            LeftBehind {
                ingests: 1,
                leases: 0,
                snapshots: 1,
                blobs: 1
            }
        );
        let ended = now.beyond(&baseline, &Belongings::of(&image, false));
        assert_eq!(ended.counts().leases, 1, "a lease after the end of its pull");
        assert_eq!(now.beyond(&now, &Belongings::default()), Inventory::default());
    }
}
