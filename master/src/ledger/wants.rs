//! Who wants which image on which node.
//!
//! Changed by: [`Wants::update`], which the ledger calls for each pod that changed.

use std::collections::{BTreeSet, HashMap};

use magi_engine::ids::ImageName;
use magi_engine::reference::Reference;

use super::Id;
use crate::names::NodeName;

/// An image that somebody wants on a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Want {
    /// Where.
    pub node: NodeName,
    /// The full form of the image's reference, so that `nginx` and `docker.io/library/nginx:latest` are one; or the text,
    /// if it is none.
    image: Box<str>,
}

impl Want {
    /// Of this image as a pod names it.
    #[must_use]
    pub fn new(node: NodeName, image: &ImageName) -> Self {
        Self {
            node,
            image: image_key(image),
        }
    }
}

/// What two spellings of one image have in common.
pub(super) fn image_key(image: &ImageName) -> Box<str> {
    Reference::parse(image.as_str()).map_or_else(
        |_| image.as_str().into(),
        |reference| reference.to_string().into_boxed_str(),
    )
}

#[derive(Debug, Default)]
pub(super) struct Wants {
    by_want: HashMap<Want, BTreeSet<Id>>,
}

impl Wants {
    pub(super) fn is_wanted(&self, want: &Want) -> bool {
        self.by_want.contains_key(want)
    }

    /// Makes `wanted` what this pod wants instead of `held`; returns what nobody wants now and somebody did.
    pub(super) fn update(&mut self, pod: Id, held: &mut Vec<Want>, mut wanted: Vec<Want>) -> Vec<Want> {
        wanted.sort();
        wanted.dedup();
        if *held == wanted {
            return Vec::new();
        }
        for want in &wanted {
            self.by_want.entry(want.clone()).or_default().insert(pod);
        }
        let mut unwanted = Vec::new();
        for want in std::mem::replace(held, wanted) {
            if held.binary_search(&want).is_ok() {
                continue;
            }
            if let Some(pods) = self.by_want.get_mut(&want) {
                pods.remove(&pod);
                if pods.is_empty() {
                    self.by_want.remove(&want);
                    unwanted.push(want);
                }
            }
        }
        unwanted
    }
}
