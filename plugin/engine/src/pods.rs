//! The pods of this node, and who owns a pull by the word of which sources.
//!
//! Changed by: NRI's list of pods, pods that start, change and go, and the loss of NRI.

use std::collections::BTreeMap;

use crate::bounds::{MAX_CANDIDATES_REPORTED, MAX_PODS};
use crate::evidence::Source;
use crate::ids::SandboxId;
use crate::owner::{NodePod, Owner, PodIdentity};
use crate::requests::{Asker, Owners};

/// Who owns a pull, as far as is known, for reports and records.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ownership {
    pub(crate) owner: Option<Owner>,
    pub(crate) candidates: Vec<Owner>,
}

/// The pods, by sandbox.
#[derive(Debug, Default)]
pub(crate) struct Pods {
    by_sandbox: BTreeMap<SandboxId, NodePod>,
}

impl Pods {
    /// Takes a whole list over; `false` if it was too long.
    pub(crate) fn listed(&mut self, pods: Vec<NodePod>) -> bool {
        let fits = pods.len() <= MAX_PODS;
        self.by_sandbox = pods
            .into_iter()
            .take(MAX_PODS)
            .map(|pod| (pod.sandbox.clone(), pod))
            .collect();
        fits
    }

    /// Takes one over; `false` if there are too many.
    pub(crate) fn seen(&mut self, pod: NodePod) -> bool {
        let fits = self.by_sandbox.len() < MAX_PODS || self.by_sandbox.contains_key(&pod.sandbox);
        if fits {
            self.by_sandbox.insert(pod.sandbox.clone(), pod);
        }
        fits
    }

    pub(crate) fn gone(&mut self, sandbox: &SandboxId) {
        self.by_sandbox.remove(sandbox);
    }

    pub(crate) fn lost(&mut self) {
        self.by_sandbox.clear();
    }

    pub(crate) fn all(&self) -> Vec<NodePod> {
        self.by_sandbox.values().cloned().collect()
    }

    /// What is known of a pull's owner, and which sources prove it.
    pub(crate) fn ownership(&self, owners: &Owners) -> Ownership {
        match owners {
            Owners::Unknown => Ownership::default(),
            Owners::Known(asker) => Ownership {
                owner: Some(self.owner(asker)),
                candidates: Vec::new(),
            },
            Owners::OneOf(askers) => Ownership {
                owner: None,
                candidates: askers
                    .iter()
                    .take(MAX_CANDIDATES_REPORTED)
                    .map(|asker| self.owner(asker))
                    .collect(),
            },
        }
    }

    fn owner(&self, asker: &Asker) -> Owner {
        let mut proof = vec![Source::Requests];
        let is_here = |pod: &PodIdentity| self.by_sandbox.values().any(|one| one.pod == *pod);
        if asker.request.pod.as_ref().is_some_and(is_here) {
            proof.push(Source::Nri);
        }
        Owner {
            image: asker.request.image.clone(),
            pod: asker.request.pod.clone(),
            proof,
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_sandbox.len()
    }
}
