//! Whose pulls would fill the disk.

use super::Engine;
use crate::headroom::Claim;
use crate::policy::Headroom;
use crate::pull::Pull;
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
