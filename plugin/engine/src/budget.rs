//! What the pulls of a namespace have used of their budgets.
//!
//! Changed by: a pull whose owner is known and that has ended, and time. What is in flight is counted when it is asked
//! for, so that a pull whose owner turns out to be another one is not charged to the wrong account.

use std::collections::{BTreeMap, VecDeque};

use crate::bounds::{MAX_ACCOUNT_ENTRIES, MAX_ACCOUNTS};
use crate::evidence::{BudgetKind, Evidence};
use crate::ids::{PodNamespace, PullId};
use crate::policy::{Budget, Mode, Policy};
use crate::time::Time;

/// A pull on an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Charge {
    pub(crate) pull: PullId,
    pub(crate) began: Time,
    pub(crate) bytes: u64,
}

/// Ended pulls by namespace, and those in flight.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    ended: BTreeMap<PodNamespace, VecDeque<(Time, Charge)>>,
    live: BTreeMap<PodNamespace, Vec<Charge>>,
}

impl Accounts {
    /// Charges a pull that has ended.
    pub(crate) fn ended(&mut self, now: Time, namespace: &PodNamespace, charge: Charge) {
        if !self.ended.contains_key(namespace) && self.ended.len() >= MAX_ACCOUNTS {
            let idle = self
                .ended
                .iter()
                .min_by_key(|(_, entries)| entries.back().map(|(at, _)| *at));
            if let Some(idle) = idle.map(|(namespace, _)| namespace.clone()) {
                self.ended.remove(&idle);
            }
        }
        let entries = self.ended.entry(namespace.clone()).or_default();
        if entries.len() >= MAX_ACCOUNT_ENTRIES {
            entries.pop_front();
        }
        entries.push_back((now, charge));
    }

    /// What is in flight, anew.
    pub(crate) fn in_flight(&mut self, live: BTreeMap<PodNamespace, Vec<Charge>>) {
        self.live = live;
    }

    /// Whether `pull` is what exceeds a budget of its namespace: the pulls that began before it count, and itself. So
    /// the earlier ones are left alone.
    pub(crate) fn exceeded(
        &self,
        now: Time,
        policy: &Policy,
        namespace: &PodNamespace,
        pull: PullId,
    ) -> Option<(Mode, String, Evidence)> {
        let own = *self
            .live
            .get(namespace)?
            .iter()
            .find(|charge| charge.pull == pull)?;
        policy
            .budgets
            .iter()
            .filter(|budget| budget.covers(namespace))
            .filter_map(|budget| {
                let (what, used, limit) = self.over(now, budget, namespace, own)?;
                let evidence = Evidence::BudgetUsed {
                    namespace: namespace.clone(),
                    budget: budget.name.clone(),
                    what,
                    used,
                    limit,
                };
                Some((budget.mode, budget.name.clone(), evidence))
            })
            .max_by_key(|(mode, _, _)| *mode)
    }

    fn over(
        &self,
        now: Time,
        budget: &Budget,
        namespace: &PodNamespace,
        own: Charge,
    ) -> Option<(BudgetKind, u64, u64)> {
        let ended = self
            .ended
            .get(namespace)
            .into_iter()
            .flatten()
            .filter(|(at, charge)| now.since(*at) < budget.window && charge.pull < own.pull)
            .map(|(_, charge)| charge);
        let live = self.live.get(namespace).into_iter().flatten();
        let live = live.filter(|charge| charge.pull < own.pull);
        let (mut bytes, mut pulls) = (own.bytes, 1_u64);
        for charge in ended.chain(live) {
            bytes = bytes.saturating_add(charge.bytes);
            // A long pull counts as begun where it began.
            if now.since(charge.began) < budget.window {
                pulls = pulls.saturating_add(1);
            }
        }
        let over = |used: u64, limit: Option<u64>, what| {
            let limit = limit?;
            (used > limit).then_some((what, used, limit))
        };
        over(bytes, budget.bytes, BudgetKind::Bytes).or_else(|| over(pulls, budget.pulls, BudgetKind::Pulls))
    }

    /// Forgets what no budget counts any more.
    pub(crate) fn forget_old(&mut self, now: Time, policy: &Policy) {
        let longest = policy.budgets.iter().map(|budget| budget.window).max();
        self.ended.retain(|_, entries| {
            entries.retain(|(at, _)| longest.is_some_and(|longest| now.since(*at) < longest));
            !entries.is_empty()
        });
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.ended.values().map(VecDeque::len).sum()
    }
}
