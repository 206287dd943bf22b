//! What namespaces have used of their budgets, and what was stopped lately, as the checker was told.

use super::judge::Condemned;
use super::{Checker, Gone};
use crate::evidence::{BudgetKind, Evidence, Reason};
use crate::ids::{LeaseKey, PodNamespace, PullId, RepositoryName};
use crate::manifest::Manifest;
use crate::policy::Budget;
use crate::time::Time;

/// A digest that may not come in again for a while.
#[derive(Clone, Debug)]
pub(super) struct Denied {
    pub(super) reason: Reason,
    pub(super) until: Time,
    /// Where it came from, if that is sure.
    pub(super) from: Option<RepositoryName>,
    /// What it is, but for where it comes from.
    pub(super) document: Option<Manifest>,
}

/// An ended pull on the account of a namespace.
#[derive(Clone, Debug)]
pub(super) struct Charged {
    at: Time,
    namespace: PodNamespace,
    pull: PullId,
    began: Time,
    bytes: u64,
}

impl Checker {
    /// A pull is gone: what it was stopped for is not let in for a while, and what it fetched goes on counting.
    pub(super) fn settle(&mut self, lease: &LeaseKey, gone: &Gone) {
        if let Some(reason) = gone.seen.stopped_for
            && !self.policy.deny_for.is_zero()
            && matches!(
                reason,
                Reason::ImageTooLarge | Reason::LayerTooLarge | Reason::LayerOverrunsManifest
            )
        {
            let from = match gone.seen.repositories().as_slice() {
                [one] => Some((*one).clone()),
                [] | [..] => None,
            };
            let until = self.now.after(self.policy.deny_for);
            for root in gone.seen.roots() {
                let from = from.clone();
                let denied = Denied {
                    reason,
                    until,
                    from,
                    document: None,
                };
                self.denials.entry(root.digest.clone()).or_insert(denied);
            }
            for manifest in gone.seen.manifests.values() {
                if let Some(denied) = self.denials.get_mut(&manifest.digest) {
                    let repositories = Vec::new();
                    denied.document = Some(Manifest {
                        repositories,
                        ..manifest.clone()
                    });
                }
            }
        }
        if let Some(namespace) = self.namespace_of(lease)
            && let Some(pull) = gone.seen.id
            && !self.policy.budgets.is_empty()
        {
            self.charged.push(Charged {
                at: self.now,
                namespace,
                pull,
                began: gone.seen.since,
                bytes: gone.seen.fetched(),
            });
        }
    }

    /// What time and policies have ended.
    pub(super) fn forget_old(&mut self) {
        let (now, policy) = (self.now, &self.policy);
        self.denials
            .retain(|_, denial| denial.until > now && !policy.deny_for.is_zero());
        let longest = policy.budgets.iter().map(|budget| budget.window).max();
        self.charged
            .retain(|one| longest.is_some_and(|longest| now.since(one.at) < longest));
    }

    fn namespace_of(&self, lease: &LeaseKey) -> Option<PodNamespace> {
        let owner = self.claims.get(lease)?.owner.as_ref()?;
        Some(owner.pod.as_ref()?.namespace.clone())
    }

    /// Whether a pull is what exceeds a budget of its namespace, and what follows.
    pub(super) fn over_budget(&self, lease: &LeaseKey) -> Condemned {
        let Some(namespace) = self.namespace_of(lease) else {
            return Condemned::No;
        };
        let covering = self
            .policy
            .budgets
            .iter()
            .filter(|budget| covers(budget, &namespace));
        covering
            .filter(|budget| {
                let used = |what| self.used(lease, &namespace, budget, what);
                budget.bytes.is_some_and(|limit| used(BudgetKind::Bytes) > limit)
                    || budget.pulls.is_some_and(|limit| used(BudgetKind::Pulls) > limit)
            })
            .map(|budget| budget.mode.into())
            .max()
            .unwrap_or(Condemned::No)
    }

    /// Bytes or pulls of the window: those before this one, and itself.
    fn used(&self, lease: &LeaseKey, namespace: &PodNamespace, budget: &Budget, what: BudgetKind) -> u64 {
        let Some((own, id)) = self.leases.get(lease).and_then(|seen| Some((seen, seen.id?))) else {
            return 0;
        };
        let lives = self
            .leases
            .iter()
            .filter(|(other, seen)| {
                *other != lease
                    && seen.id.is_some_and(|other| other < id)
                    && self.namespace_of(other).as_ref() == Some(namespace)
            })
            .map(|(_, seen)| (seen.since, seen.fetched()));
        let ended = self
            .charged
            .iter()
            .filter(|one| {
                one.namespace == *namespace && one.pull < id && self.now.since(one.at) < budget.window
            })
            .map(|one| (one.began, one.bytes));
        let others = lives.chain(ended);
        match what {
            BudgetKind::Bytes => others.map(|(_, bytes)| bytes).sum::<u64>() + own.fetched(),
            BudgetKind::Pulls => {
                let young = others.filter(|(began, _)| self.now.since(*began) < budget.window);
                u64::try_from(young.count()).unwrap_or(u64::MAX) + 1
            }
        }
    }

    /// Whether evidence of a budget is what follows from what was told.
    pub(super) fn is_used_up(&self, lease: &LeaseKey, evidence: &Evidence) -> bool {
        let Evidence::BudgetUsed {
            namespace,
            budget,
            what,
            used,
            limit,
        } = evidence
        else {
            return false;
        };
        self.namespace_of(lease).as_ref() == Some(namespace)
            && self.policy.budgets.iter().any(|one| {
                let allowed = match what {
                    BudgetKind::Bytes => one.bytes,
                    BudgetKind::Pulls => one.pulls,
                };
                one.name == *budget
                    && covers(one, namespace)
                    && allowed == Some(*limit)
                    && used > limit
                    && self.used(lease, namespace, one, *what) == *used
            })
    }
}

fn covers(budget: &Budget, namespace: &PodNamespace) -> bool {
    budget.namespaces.is_empty()
        || budget
            .namespaces
            .iter()
            .any(|one| one.matches(namespace.as_str()))
}
