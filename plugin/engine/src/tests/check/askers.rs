//! Who asked for what, as the checker was told: every owner that the engine names must have asked.

use std::time::Duration;

use super::{Broken, Checker, Invariant};
use crate::bounds::ORPHANS_REMEMBERED;
use crate::evidence::Source;
use crate::ids::{CallId, ImageName, LeaseKey};
use crate::owner::{LostPod, Owner, PullRequest};
use crate::reference::Reference;
use crate::report::{PullReport, Report};
use crate::time::Time;

/// How far the clocks of the kernel and of containerd may differ.
const CLOCKS_DIFFER: Duration = Duration::from_micros(500);

/// How long after a span of unseen requests those in flight may not be all.
const OTHERS_WITHIN: Duration = Duration::from_secs(1);

/// A request as it was told.
#[derive(Clone, Debug)]
pub(super) struct Told {
    at: Time,
    ended: Option<Time>,
    pub(super) request: PullRequest,
}

/// What the engine says of a pull's owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) owner: Option<Owner>,
    pub(super) candidates: Vec<Owner>,
}

impl Checker {
    pub(super) fn call_began(&mut self, call: CallId, at: Time, request: &PullRequest) {
        if self.up.contains(&Source::Requests) {
            let (ended, request) = (None, request.clone());
            self.calls.insert(call, Told { at, ended, request });
        }
    }

    pub(super) fn call_ended(&mut self, call: CallId, at: Time) {
        if let Some(told) = self.calls.get_mut(&call) {
            told.ended.get_or_insert(at);
        }
    }

    pub(super) fn pod_lost(&mut self, lost: &LostPod) {
        if !self.up.contains(&Source::Master) {
            return;
        }
        let known = self.lost.entry(lost.pod.uid.clone()).or_default();
        if self.now.since(known.heard) >= ORPHANS_REMEMBERED {
            known.since.clear();
        }
        known.heard = self.now;
        for image in &lost.images {
            known.since.entry(image.clone()).or_insert(self.now);
        }
    }

    /// Whether the pod of this request is gone, or wants this image no longer, for longer than the grace.
    pub(super) fn is_lost(&self, request: &PullRequest) -> bool {
        let Some(known) = request.pod.as_ref().and_then(|pod| self.lost.get(&pod.uid)) else {
            return false;
        };
        let is_due = |since: &Time| self.now.since(*since) >= self.policy.orphan_grace;
        self.now.since(known.heard) < ORPHANS_REMEMBERED
            && known.since.get(&request.image).is_some_and(is_due)
    }

    /// What the engine now says of the owners, and whether it may.
    pub(super) fn hear_owners(&mut self, report: &Report) {
        let claim = |pull: &PullReport| Claim {
            owner: pull.owner.clone(),
            candidates: pull.owner_candidates.clone(),
        };
        self.claims = report
            .pulls
            .iter()
            .map(|pull| (pull.lease.clone(), claim(pull)))
            .collect();
    }

    pub(super) fn owners_have_asked(&self) -> Result<(), Broken> {
        for (lease, claim) in &self.claims {
            for owner in claim.owner.iter().chain(&claim.candidates) {
                self.ensure(self.may_own(lease, owner), Invariant::RightOwner, || {
                    format!("{lease} is said to be {owner:?}'s")
                })?;
            }
            let clear = claim.owner.is_none() || claim.candidates.is_empty();
            self.ensure(clear, Invariant::RightOwner, || {
                format!("{lease} has an owner and others as well: {claim:?}")
            })?;
        }
        Ok(())
    }

    /// Whether this owner was told to have asked for that image before the lease was made.
    fn may_own(&self, lease: &LeaseKey, owner: &Owner) -> bool {
        let mut calls = self.calls.values();
        let asked = calls.any(|told| {
            self.is_before(told, lease) && told.request.image == owner.image && told.request.pod == owner.pod
        });
        let is_here = owner
            .pod
            .as_ref()
            .is_some_and(|pod| self.pods.values().any(|one| one.pod == *pod));
        let proof: &[Source] = if is_here {
            &[Source::Requests, Source::Nri]
        } else {
            &[Source::Requests]
        };
        self.up.contains(&Source::Requests)
            && asked
            && owner.proof == proof
            && self.is_from(lease, &owner.image)
    }

    /// Whether the lease may hold this image: what is known of its repositories does not speak against it.
    fn is_from(&self, lease: &LeaseKey, image: &ImageName) -> bool {
        let (Some(seen), Ok(reference)) = (self.leases.get(lease), Reference::parse(image.as_str())) else {
            return false;
        };
        let name = format!("{}/{}", reference.domain_without_port(), reference.path());
        let repositories = seen.repositories();
        repositories.is_empty() || repositories.iter().any(|one| one.as_str() == name)
    }

    fn is_before(&self, told: &Told, lease: &LeaseKey) -> bool {
        let created = self.leases.get(lease).and_then(|seen| seen.created);
        created.is_some_and(|created| created.after(CLOCKS_DIFFER) >= told.at)
    }

    /// The requests in flight that may have led to this lease, and surely ask for a pull.
    pub(super) fn requests_for<'a>(&'a self, lease: &'a LeaseKey) -> impl Iterator<Item = &'a PullRequest> {
        let told = self.calls.values().filter(move |told| {
            told.ended.is_none()
                && told.request.certain
                && self.is_before(told, lease)
                && self.is_from(lease, &told.request.image)
        });
        told.map(|told| &told.request)
    }

    /// Those who may have asked for a pull; `None` among them: somebody unknown.
    pub(super) fn hypotheses(&self, lease: &LeaseKey) -> Vec<Option<&PullRequest>> {
        let Some(claim) = self.claims.get(lease) else {
            return vec![None];
        };
        let told = |owner: &Owner| {
            let mut calls = self.calls.values().map(|told| &told.request);
            calls.find(|request| request.image == owner.image && request.pod == owner.pod)
        };
        let named: Vec<_> = claim.owner.iter().chain(&claim.candidates).map(told).collect();
        if named.is_empty() { vec![None] } else { named }
    }

    /// Those who have a request for an image in flight; somebody unknown, if there may be others.
    pub(super) fn may_verify(&self, image: &ImageName) -> Vec<Option<&PullRequest>> {
        let same = |one: &ImageName| match (Reference::parse(one.as_str()), Reference::parse(image.as_str()))
        {
            (Ok(one), Ok(other)) => one == other,
            (Ok(_) | Err(_), _) => one == image,
        };
        let named: Vec<_> = self
            .calls
            .values()
            .filter(|told| told.ended.is_none() && same(&told.request.image))
            .map(|told| Some(&told.request))
            .collect();
        let missed = self
            .missed_until
            .is_some_and(|until| self.now.since(until) <= OTHERS_WITHIN);
        if named.is_empty() || missed || !self.up.contains(&Source::Requests) {
            vec![None]
        } else {
            named
        }
    }
}
