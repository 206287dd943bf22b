//! What containerd shows: pulls that begin and end, what they declare, and what ended ones leave behind.

use std::collections::{BTreeMap, BTreeSet};

use super::Engine;
use crate::action::{Action, Answer, Effects};
use crate::aftermath::{Aftermath, Scene, Step};
use crate::audit::Entry;
use crate::bounds::{LOOK_FIRST, MAX_AFTERMATHS, MAX_ENDED, MAX_PULLS, WITHOUT_LEASE_LONGEST};
use crate::event::{IngestView, LeaseView, View};
use crate::evidence::{Reason, Source};
use crate::ids::{ContainerdNamespace, Digest, IngestKey, IngestRef, LeaseKey, PullId};
use crate::images::Denial;
use crate::manifest::Manifest;
use crate::pull::Pull;
use crate::questions::Waiting;
use crate::time::Time;

impl Engine {
    pub(super) fn looked(&mut self, now: Time, view: &View, fx: &mut Effects) {
        if !self.is_up(Source::Containerd) {
            return;
        }
        self.agenda.looked(view.extracts.is_some());
        let with_others = self.with_leaseless(now, view);
        let view = with_others.as_ref().unwrap_or(view);
        self.pulls_seen(now, view, fx);
        if let Some(begun) = view.begun.filter(|_| !self.said.too_many_leases) {
            self.requests.looked(begun);
        }
        for dir in self.picture.taken(now, view) {
            self.ties.given_up(dir);
        }
        let picture = &self.picture;
        let is_held = |dir| picture.ingest(dir).is_some_and(|held| !held.leases.is_empty());
        self.ties.looked(&picture.offsets(), is_held);
        if self.ties.awaits_look() {
            self.agenda.look_by(now.after(LOOK_FIRST));
        }
        self.suspect_overruns(now);
        self.seek_strangers(now);
        // The verdicts of this look count for the question who goes on with an ended pull's ingests.
        self.join(now, true);
        self.judge_changed(now);
        self.leftovers_seen(now, view, fx);
    }

    /// A pull whose lease magi has deleted is not over while its request is open. What it fetches in spite of that, it
    /// holds as if it still had its lease; none if there is no such pull.
    fn with_leaseless(&self, now: Time, view: &View) -> Option<View> {
        let runs_on = |pull: &&Pull| {
            let first = pull.pursuit.first;
            first.is_some_and(|first| now.since(first) < WITHOUT_LEASE_LONGEST)
                && pull
                    .pursuit
                    .lease_deleted
                    .is_some_and(|call| self.requests.is_open(call))
                && !view.leases.iter().any(|lease| lease.key == pull.lease)
        };
        let leaseless: Vec<&Pull> = self.pulls.values().filter(runs_on).collect();
        if leaseless.is_empty() {
            return None;
        }
        let held: BTreeSet<(&ContainerdNamespace, &IngestRef)> = view
            .leases
            .iter()
            .flat_map(|lease| lease.ingests.iter().map(|one| (&lease.key.namespace, one)))
            .collect();
        let mut extended = view.clone();
        for pull in leaseless {
            let is_its = |ingest: &&IngestView| {
                let key = &ingest.key;
                pull.declared.foreseen.contains_key(&ingest.dir)
                    && key.namespace == pull.lease.namespace
                    && !held.contains(&(&key.namespace, &key.reference))
            };
            let mut ingests: Vec<IngestRef> = view
                .ingests
                .iter()
                .filter(is_its)
                .map(|ingest| ingest.key.reference.clone())
                .collect();
            // containerd forgets the ingest soon, while its bytes go on: then the probes alone show it.
            for (dir, digest) in &pull.declared.foreseen {
                let listed = view.ingests.iter().any(|ingest| ingest.dir == *dir);
                let Some(feed) = self.ties.feed_of(*dir).filter(|_| !listed) else {
                    continue;
                };
                let Ok(reference) = IngestRef::new(format!("layer-{digest}")) else {
                    continue;
                };
                ingests.push(reference.clone());
                let total = pull.declared.layers.get(digest).copied().unwrap_or(0);
                extended.ingests.push(IngestView {
                    key: IngestKey {
                        namespace: pull.lease.namespace.clone(),
                        reference,
                    },
                    dir: *dir,
                    digest: Some(digest.clone()),
                    // On the socket there are headers too.
                    offset: feed.bytes.min(total),
                    total,
                });
            }
            extended.leases.push(LeaseView {
                key: pull.lease.clone(),
                created: pull.created,
                content: pull.content.iter().cloned().collect(),
                ingests,
                snapshots: Vec::new(),
            });
        }
        Some(extended)
    }

    fn pulls_seen(&mut self, now: Time, view: &View, fx: &mut Effects) {
        let present: BTreeSet<&LeaseKey> = view.leases.iter().map(|lease| &lease.key).collect();
        // First the ended ones, to make room.
        let gone: Vec<LeaseKey> = self
            .pulls
            .keys()
            .filter(|key| !present.contains(key))
            .cloned()
            .collect();
        for key in gone {
            self.ended(now, &key, fx);
        }
        let mut ingests: BTreeMap<_, BTreeMap<&IngestRef, &IngestView>> = BTreeMap::new();
        for ingest in &view.ingests {
            let of_namespace = ingests.entry(&ingest.key.namespace).or_default();
            of_namespace.insert(&ingest.key.reference, ingest);
        }
        let none = BTreeMap::new();
        // The source cuts the list at the same bound, so a full one may stand for a longer one.
        let mut too_many = view.leases.len() >= MAX_PULLS;
        for lease in &view.leases {
            if !self.pulls.contains_key(&lease.key) {
                if self.pulls.len() >= MAX_PULLS {
                    too_many = true;
                    continue;
                }
                self.pulls_counted = self.pulls_counted.saturating_add(1);
                let pull = Pull::new(PullId(self.pulls_counted), lease.key.clone(), now);
                self.pulls.insert(lease.key.clone(), pull);
            }
            if let Some(pull) = self.pulls.get_mut(&lease.key) {
                pull.seen(
                    view.begun,
                    lease,
                    ingests.get(&lease.key.namespace).unwrap_or(&none),
                );
                pull.pursuit.still_there();
                for manifest in pull.unlearnt(|digest| self.images.denied_manifest(digest)) {
                    pull.learn(manifest);
                }
            }
        }
        if too_many && !self.said.too_many_leases {
            let what = format!("pulls beyond the first {MAX_PULLS} in flight are not watched");
            self.forgotten(fx, None, &what);
        }
        self.said.too_many_leases = too_many;
    }

    fn ended(&mut self, now: Time, key: &LeaseKey, fx: &mut Effects) {
        let Some(pull) = self.pulls.remove(key) else {
            return;
        };
        if self.ended.len() >= MAX_ENDED {
            self.ended.pop_front();
        }
        self.ended.push_back(self.report_of(&pull, Some(now)));
        self.requests.pull_ended(&pull, now);
        self.charge(now, &pull);
        for request in self.questions.take(|waiting| *waiting == Waiting::End(pull.id)) {
            fx.push(Action::Answer {
                request,
                answer: Answer::Ended,
            });
        }
        let acted = pull.pursuit.acted.clone();
        let pursued = pull.verdict.as_ref().filter(|_| pull.is_pursued());
        let reason = acted.as_ref().map(|acted| acted.reason);
        let Some(reason) = reason.or(pursued.map(|verdict| verdict.reason)) else {
            return;
        };
        let facts = pull.facts();
        let took = pull.pursuit.first.map(|first| now.since(first).as_micros());
        let entry = Entry::Ended {
            reason,
            attempts: pull.pursuit.attempts,
            took_micros: took.map(|took| u64::try_from(took).unwrap_or(u64::MAX)),
        };
        let is_repetition = reason == Reason::DeniedRecently && pull.pursuit.attempts > 0;
        if !is_repetition {
            self.record(fx, Some(facts.clone()), entry);
        }
        let Some(acted) = acted else { return };
        self.deny(now, &pull, acted.reason, fx);
        self.collect(now, &pull, acted.reason, fx);
        if self.aftermaths.len() >= MAX_AFTERMATHS
            && let Some((_, oldest)) = self.aftermaths.pop_first()
        {
            let what = "too many ended pulls at once: the leftovers of this one are not watched";
            self.forgotten(fx, Some(oldest.facts), what);
        }
        let in_flight = pull.pursuit.in_flight();
        let ingests = pull.ingests.into_keys().collect();
        let mut aftermath = Aftermath::new(facts, acted, now, ingests, pull.snapshots, in_flight);
        aftermath.policy_loaded(&self.policy);
        self.aftermaths.insert(pull.id, aftermath);
        self.agenda.look_for_leftovers_by(now.after(LOOK_FIRST));
    }

    /// Whoever asks again for what is denied would go on with the ingest that is left, and no write would show which
    /// socket feeds it until its first mebibyte is there (containerd 1.7.24 content/helpers.go, `copyWithBuffer`).
    fn collect(&mut self, now: Time, pull: &Pull, reason: Reason, fx: &mut Effects) {
        let is_denied = reason == Reason::DeniedRecently
            || pull.declared.roots.iter().any(|root| self.images.denies(root));
        let is_worth_it = is_denied && !pull.ingests.is_empty() && !self.switch.is_engaged();
        if is_worth_it && self.collection.take(now) {
            fx.push(Action::Collect {
                namespace: pull.lease.namespace.clone(),
            });
        }
    }

    /// What was stopped for what it is, and not for who wanted it, is not let in again for a while.
    fn deny(&mut self, now: Time, pull: &Pull, reason: Reason, fx: &mut Effects) {
        let of_the_image = match reason {
            Reason::ImageTooLarge | Reason::LayerTooLarge | Reason::LayerOverrunsManifest => true,
            Reason::DeniedByRule
            | Reason::DeniedRecently
            | Reason::NamespaceBudget
            | Reason::NoDiskHeadroom
            | Reason::Orphaned
            | Reason::Operator => false,
        };
        if !of_the_image || self.policy.deny_for.is_zero() {
            return;
        }
        let until = now.after(self.policy.deny_for);
        let from = match pull.declared.repositories.as_slice() {
            [one] => Some(one),
            [] | [..] => None,
        };
        let mut had_room = true;
        for root in &pull.declared.roots {
            had_room &= self.images.deny(
                root.clone(),
                Denial {
                    reason,
                    until,
                    from: from.cloned(),
                },
            );
        }
        for manifest in pull.manifests() {
            self.images.remember_denied(manifest);
        }
        if !had_room && !std::mem::replace(&mut self.said.too_many_denials, true) {
            self.forgotten(fx, None, "denied digests, because there are too many");
        }
    }

    fn leftovers_seen(&mut self, now: Time, view: &View, fx: &mut Effects) {
        if self.aftermaths.is_empty() {
            return;
        }
        let scene = Scene::of(view);
        let pulls = &self.pulls;
        // Who goes on is told once it is judged; that a client asks again for what is denied says its own record.
        let pull_of = |lease: &LeaseKey| {
            let pull = pulls.get(lease).filter(|pull| !pull.declared.images.is_empty())?;
            let reason = pull.verdict.as_ref().map(|verdict| verdict.reason);
            (reason != Some(Reason::DeniedRecently)).then(|| (pull.id, pull.is_pursued()))
        };
        let mut wishes = Vec::new();
        for (id, aftermath) in &mut self.aftermaths {
            let steps = aftermath.looked(now, &scene, pull_of);
            wishes.extend(steps.into_iter().map(|step| (*id, step)));
        }
        for (id, step) in wishes {
            match step {
                Step::Record(entry) => {
                    let facts = self.aftermaths.get(&id).map(|aftermath| aftermath.facts.clone());
                    self.record(fx, facts, entry);
                }
                Step::Lever(lever) => self.clean_up(id, lever, fx),
                Step::Over => {
                    self.aftermaths.remove(&id);
                }
            }
        }
    }

    pub(super) fn manifest_read(&mut self, lease: &LeaseKey, manifest: Manifest, fx: &mut Effects) {
        let Some(pull) = self.pulls.get_mut(lease) else {
            return;
        };
        self.images.learn(&manifest);
        if !pull.learn(manifest) {
            let facts = pull.facts();
            let what = "a manifest: too many, or with too many layers, for one pull";
            self.forgotten(fx, Some(facts), what);
        }
    }

    pub(super) fn manifest_unreadable(
        &mut self,
        lease: &LeaseKey,
        digest: &Digest,
        problem: &str,
        fx: &mut Effects,
    ) {
        if let Some(pull) = self.pulls.get(lease) {
            let problem = format!("{digest}: {problem}");
            self.record(fx, Some(pull.facts()), Entry::ManifestUnreadable { problem });
        }
    }
}
