//! Who asks for what: requests, pods, and what follows for the pulls.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Engine;
use crate::action::Effects;
use crate::bounds::{LEASE_EXPECTED, LOOK_FIRST, LOOK_FOR_LEASE, MAX_LABELS, MAX_LOST_PODS, MAX_PODS};
use crate::budget::Charge;
use crate::evidence::Source;
use crate::ids::{CallId, PodNamespace, PullId};
use crate::owner::{LostPod, NodePod, PullRequest, RequestEnd};
use crate::pull::Pull;
use crate::requests::{Candidate, Joined, Owners};
use crate::time::Time;

impl Engine {
    pub(super) fn call_began(&mut self, now: Time, call: CallId, at: Time, mut request: PullRequest) {
        if !self.is_up(Source::Requests) {
            return;
        }
        // Some of the labels are as good as none: a rule that names another one would not cover this pod.
        request.labels = request.labels.filter(|labels| labels.len() <= MAX_LABELS);
        self.requests.began(call, at, request);
        // A pull that was stopped before may come to its layers at once: its documents may still be there.
        let pause = if self.images.denies_any() {
            Duration::ZERO
        } else {
            LOOK_FIRST
        };
        self.agenda.look_by(now.after(pause));
    }

    pub(super) fn call_ended(&mut self, now: Time, call: CallId, at: Time, end: RequestEnd) {
        if self.is_up(Source::Requests) && self.requests.ended(call, at, end) && !self.pulls.is_empty() {
            // Its lease is gone by now.
            self.agenda.look_by(now.after(LOOK_FIRST));
        }
    }

    pub(super) fn pods_listed(&mut self, pods: Vec<NodePod>, fx: &mut Effects) {
        if self.is_up(Source::Nri) && !self.pods.listed(pods) {
            self.too_many_pods(fx);
        }
    }

    pub(super) fn pod_seen(&mut self, pod: NodePod, fx: &mut Effects) {
        if self.is_up(Source::Nri) && !self.pods.seen(pod) {
            self.too_many_pods(fx);
        }
    }

    pub(super) fn pod_lost(&mut self, now: Time, lost: LostPod, fx: &mut Effects) {
        if self.is_up(Source::Master) && !self.orphans.lost(now, lost) && !self.said.too_many_lost {
            self.said.too_many_lost = true;
            let what = format!("what pods have lost, beyond the latest {MAX_LOST_PODS} of them");
            self.forgotten(fx, None, &what);
        }
    }

    fn too_many_pods(&mut self, fx: &mut Effects) {
        if !std::mem::replace(&mut self.said.too_many_pods, true) {
            let what = format!("pods beyond the first {MAX_PODS} of this node");
            self.forgotten(fx, None, &what);
        }
    }

    /// Joins requests and pulls anew, and looks on where a lease or its manifest must show up any moment.
    pub(super) fn join(&mut self, now: Time, may_tell: bool) {
        let forgotten = self
            .requests
            .forget_old(now, self.pulls.values().map(Candidate::of));
        if may_tell || forgotten {
            let joined = if self.requests.is_empty() {
                BTreeMap::new()
            } else {
                let pulls = self.pulls.values().map(Candidate::of);
                self.requests.join(pulls)
            };
            self.owners_found(&joined);
        }
        let settled: BTreeSet<CallId> = self
            .pulls
            .values()
            .filter(|pull| !pull.declared.images.is_empty())
            .filter_map(|pull| Some(pull.owners.known()?.call))
            .collect();
        if self.requests.expects_lease(now, LEASE_EXPECTED, &settled) {
            self.agenda.look_by(now.after(LOOK_FOR_LEASE));
        }
    }

    fn owners_found(&mut self, joined: &BTreeMap<PullId, Joined>) {
        let nobody = Owners::Unknown;
        let mut changed = false;
        for pull in self.pulls.values_mut() {
            let found = joined.get(&pull.id);
            let owners = found.map_or(&nobody, |found| &found.owners);
            let likely = found.and_then(|found| found.likely.clone());
            if pull.owners != *owners || pull.likely != likely {
                changed |= pull.owners != *owners;
                pull.owners = owners.clone();
                pull.likely = likely;
                pull.changed = true;
            }
            pull.ownership = self.pods.ownership(owners);
        }
        if changed && !self.policy.budgets.is_empty() {
            // What one pull uses is the other ones' affair, too.
            for pull in self.pulls.values_mut() {
                pull.changed = true;
            }
        }
        // What comes out late is right for those that ended a short while ago, too; also that nothing is known.
        for report in &mut self.ended {
            if let Some(found) = joined.get(&report.id) {
                let ownership = self.pods.ownership(&found.owners);
                report.owner = ownership.owner;
                report.owner_candidates = ownership.candidates;
            }
        }
    }

    /// Nobody is known to have asked for anything any more.
    pub(super) fn requests_lost(&mut self) {
        self.requests.lost();
        for pull in self.pulls.values_mut() {
            if pull.owners != Owners::Unknown || pull.likely.is_some() {
                pull.owners = Owners::Unknown;
                pull.likely = None;
                pull.ownership = Default::default();
                pull.changed = true;
            }
        }
    }

    /// Counts what is in flight against the budgets.
    pub(super) fn count_budgets(&mut self, now: Time) {
        self.accounts.forget_old(now, &self.policy);
        if self.policy.budgets.is_empty() {
            return;
        }
        let mut live: BTreeMap<PodNamespace, Vec<Charge>> = BTreeMap::new();
        for pull in self.pulls.values() {
            if let Some((namespace, charge)) = charge_of(pull) {
                live.entry(namespace).or_default().push(charge);
            }
        }
        self.accounts.in_flight(live);
    }

    /// An ended pull goes on counting.
    pub(super) fn charge(&mut self, now: Time, pull: &Pull) {
        if self.policy.budgets.is_empty() {
            return;
        }
        if let Some((namespace, charge)) = charge_of(pull) {
            self.accounts.ended(now, &namespace, charge);
        }
    }
}

/// What a pull whose owner is known has used.
fn charge_of(pull: &Pull) -> Option<(PodNamespace, Charge)> {
    let pod = pull.owners.known()?.request.pod.as_ref()?;
    let charge = Charge {
        pull: pull.id,
        began: pull.since,
        bytes: pull.fetched(),
    };
    Some((pod.namespace.clone(), charge))
}
