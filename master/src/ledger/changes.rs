//! What each kind of change does to the ledger.

use std::collections::BTreeSet;

use jiff::Timestamp;
use magi_engine::ids::{PodNamespace, PodUid};

use super::identity::About;
use super::pod::Pod;
use super::{Id, Ledger, Turn};
use crate::change::{Act, PodFacts};
use crate::verdict::{Cause, VerdictKind};

impl Ledger {
    pub(super) fn hear_pod(
        &mut self,
        act: Act,
        facts: PodFacts,
        began: Timestamp,
        at: Timestamp,
        turns: &mut Vec<Turn>,
    ) {
        let (id, before, is_superseded) = match self.about(act, &facts, began, at) {
            About::Known(id) => (id, None, false),
            About::New { before } => (self.enter(&facts, at, true), before, false),
            About::Earlier => (self.enter(&facts, at, false), None, true),
            About::ForgottenOne => {
                self.counts.about_an_earlier_pod += 1;
                return;
            }
            About::Contradiction => {
                self.counts.contradictions += 1;
                return;
            }
        };
        let marked = facts.marked;
        let Some(pod) = self.pods.get_mut(&id) else { return };
        let had_uid = pod.uid.is_some();
        let was_live = pod.is_live();
        let taken = pod.take(act, facts, began, at);
        if let Some(uid) = pod.uid.clone().filter(|_| !had_uid) {
            self.by_uid.insert(uid, id);
        }
        let replaced = if was_live && pod.is_bound() && !pod.mirror && !taken.replaced.is_empty() {
            let lost = pod.verdict(
                VerdictKind::ImagesReplaced,
                Cause::ImageChanged,
                at,
                taken.replaced,
            );
            self.counts.replaced_without_uid += u64::from(lost.is_none());
            lost
        } else {
            None
        };

        if let Act::Gone { cause, static_too } = act {
            self.end(id, cause, static_too, at);
        } else if let Some(marked) = marked {
            let cause = if marked.at_once {
                Cause::ForceDeleted
            } else {
                Cause::Deleted
            };
            self.end(id, cause, false, at);
        } else if taken.given_up {
            self.end(id, Cause::Failed, false, at);
        } else if is_superseded {
            self.end(id, Cause::NameReused, false, at);
        }

        // Wants first, so that the pod itself does not keep what it lost; and the newcomer's before those of the pod
        // that had its name, so that a mirror pod hands its static pod's images on.
        self.refresh(id, at, turns);
        turns.extend(replaced.map(Turn::Lost));
        self.settle(id, at, turns);
        if let Some(before) = before {
            self.displace(before, at, turns);
        }
    }

    /// A new pod; `holds` if it has its name now.
    fn enter(&mut self, facts: &PodFacts, at: Timestamp, holds: bool) -> Id {
        let id = Id(self.next);
        self.next += 1;
        if let Some(uid) = &facts.uid {
            self.by_uid.insert(uid.clone(), id);
        }
        if holds {
            let names = self.by_name.entry(facts.namespace.clone()).or_default();
            names.insert(facts.name.clone(), id);
        }
        self.pods.insert(id, Pod::new(facts, at));
        self.in_order.push_back(id);
        id
    }

    /// Another pod has this one's name.
    fn displace(&mut self, id: Id, at: Timestamp, turns: &mut Vec<Turn>) {
        self.end(id, Cause::NameReused, true, at);
        if let Some(pod) = self.pods.get_mut(&id) {
            pod.stop_lingering();
        }
        self.settle(id, at, turns);
    }

    /// Every pod that the namespace had when the request began is gone.
    pub(super) fn clear(
        &mut self,
        namespace: &PodNamespace,
        cause: Cause,
        began: Timestamp,
        at: Timestamp,
        turns: &mut Vec<Turn>,
    ) {
        let names = self.by_name.get(namespace);
        let ids: Vec<Id> = names
            .into_iter()
            .flat_map(|names| names.values().copied())
            .collect();
        for id in ids {
            let was_there = |pod: &Pod| pod.gone.is_none() && pod.alive_by <= began;
            if self.pods.get(&id).is_some_and(was_there) {
                self.end(id, cause, false, at);
                self.settle(id, at, turns);
            }
        }
    }

    /// Whoever is not listed, and was last heard of at the list's version or before, is gone.
    pub(super) fn keep_only(
        &mut self,
        version: u64,
        uids: &BTreeSet<PodUid>,
        at: Timestamp,
        turns: &mut Vec<Turn>,
    ) {
        let is_missing = |pod: &Pod| {
            let is_listed = pod.uid.as_ref().is_some_and(|uid| uids.contains(uid));
            let is_older = pod.version.is_none_or(|known| known <= version) && pod.heard <= at;
            pod.gone.is_none() && !is_listed && is_older
        };
        let mut ids: Vec<Id> = self
            .pods
            .iter()
            .filter(|(_, pod)| is_missing(pod))
            .map(|(id, _)| *id)
            .collect();
        ids.sort_unstable();
        for id in ids {
            self.end(id, Cause::Vanished, false, at);
            self.settle(id, at, turns);
        }
    }
}
