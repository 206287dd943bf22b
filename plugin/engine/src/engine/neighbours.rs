//! Who is in the way of others: would fill the disk, or holds their download slots.

use super::Engine;
use crate::headroom::Claim;
use crate::ids::LeaseKey;
use crate::policy::Headroom;
use crate::pull::Pull;
use crate::report::Stage;
use crate::starvation::{Progress, Runner};
use crate::time::Time;

impl Engine {
    /// Chooses anew if anything changed that the choice hangs on.
    pub(super) fn choose_for_disks(&mut self, now: Time) {
        let is_news = self.disks.take_news();
        let Some(headroom) = self.policy.headroom.as_ref() else {
            self.disks.choose(None, &[]);
            return;
        };
        if !is_news && !self.pulls.values().any(|pull| pull.changed) {
            return;
        }
        let law = self.law(now);
        let claims: Vec<Claim<'_>> = self
            .pulls
            .values()
            .filter_map(|pull| Claim::of(pull, headroom, is_spared(headroom, pull), law.may_stop(pull)))
            .collect();
        self.disks.choose(Some(headroom), &claims);
        for pull in self.pulls.values_mut() {
            pull.changed |= self.disks.chosen(pull.id).is_some();
        }
    }

    /// A look shows how pulls get on.
    pub(super) fn paced(&mut self, now: Time) {
        let Some(rate) = self.policy.starving.map(|starving| starving.rate) else {
            return;
        };
        let shown: Vec<(LeaseKey, Progress)> = self
            .pulls
            .values()
            .map(|pull| (pull.lease.clone(), self.progress_of(pull)))
            .collect();
        for (lease, progress) in shown {
            if let Some(pull) = self.pulls.get_mut(&lease) {
                pull.pace.seen(now, rate, progress);
            }
        }
    }

    fn progress_of(&self, pull: &Pull) -> Progress {
        let whole = pull
            .stored_by_layer()
            .filter(|(digest, ..)| pull.content.contains(*digest));
        Progress {
            fetched: pull.fetched(),
            complete: whole.fold(0, |sum, (_, size, _)| sum.saturating_add(size)),
            downloads: self.downloads(pull),
            since: pull
                .live_ingests()
                .filter_map(|(_, ingest)| self.ties.fetched_since(ingest.dir))
                .min(),
            lacks: pull.stage != Stage::Unpacking && !self.is_fetched_by_others(pull),
        }
    }

    /// Ingests of its own that have something in them, or are being fetched.
    fn downloads(&self, pull: &Pull) -> u64 {
        let known = pull
            .live_ingests()
            .filter(|(_, ingest)| ingest.offset > 0 || self.ties.fetched_since(ingest.dir).is_some());
        u64::try_from(known.count()).unwrap_or(u64::MAX)
    }

    /// Chooses anew if anything changed that the choice hangs on.
    pub(super) fn choose_for_slots(&mut self, now: Time) {
        if self.policy.starving.is_some() && !self.pulls.values().any(|pull| pull.changed) {
            return;
        }
        let law = self.law(now);
        let runners: Vec<Runner<'_>> = self
            .pulls
            .values()
            .filter(|_| self.policy.starving.is_some())
            .map(|pull| Runner {
                pull: pull.id,
                pace: &pull.pace,
                downloads: self.downloads(pull),
                ingests: u64::try_from(pull.live_ingests().count()).unwrap_or(u64::MAX),
                may_be_stopped: law.may_stop(pull),
            })
            .collect();
        self.starvation
            .choose(now, self.policy.starving.as_ref(), &runners);
        for pull in self.pulls.values_mut() {
            pull.changed |= self.starvation.chosen(pull.id).is_some();
        }
    }
}

/// Whether its pod may be of a namespace that comes last.
fn is_spared(policy: &Headroom, pull: &Pull) -> bool {
    let is_of_those = |namespace: &str| policy.spare.iter().any(|pattern| pattern.matches(namespace));
    !policy.spare.is_empty()
        && pull.owners.hypotheses().into_iter().any(|asker| {
            let pod = asker.and_then(|asker| asker.request.pod.as_ref());
            pod.is_none_or(|pod| is_of_those(pod.namespace.as_str()))
        })
}
