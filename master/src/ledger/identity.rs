//! Which pod a change is about. A uid says so at once; a name says it only together with the time.
//!
//! The API server lets one pod have a name at a time. So of two pods with one name, one was gone before the other came,
//! and every deletion by that name which began after a pod existed concerns that pod, or comes after its end.

use jiff::{SignedDuration, Timestamp};

use super::pod::Pod;
use super::{Id, Ledger};
use crate::change::{Act, PodFacts};

/// `creationTimestamp` is rounded down to full seconds.
const SECOND: SignedDuration = SignedDuration::from_secs(1);

/// Which pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// This one.
    Known(Id),
    /// One that is not known yet. It has the name now, and this one had it before.
    New { before: Option<Id> },
    /// One that is not known yet, and that had its name before the one that has it now.
    Earlier,
    /// One that had the name before the one that is known; and there is no uid to know it by.
    ForgottenOne,
    /// No honest API server says this.
    Contradiction,
}

/// How a change told by name stands to the pod that has the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Same,
    Newer,
    Older,
}

impl Ledger {
    pub(super) fn about(&self, act: Act, facts: &PodFacts, began: Timestamp, at: Timestamp) -> About {
        if let Some(id) = facts.uid.as_ref().and_then(|uid| self.by_uid.get(uid)) {
            let is_same = |pod: &Pod| pod.namespace == facts.namespace && pod.name == facts.name;
            return match self.pods.get(id) {
                Some(pod) if is_same(pod) => About::Known(*id),
                Some(_) | None => About::Contradiction,
            };
        }
        let names = self.by_name.get(&facts.namespace);
        let holder = names.and_then(|names| names.get(&facts.name)).copied();
        let Some((id, pod)) = holder.and_then(|id| Some((id, self.pods.get(&id)?))) else {
            return About::New { before: None };
        };
        let order = match (&facts.uid, &pod.uid) {
            (Some(_), Some(_)) if is_after(facts, pod, at) => Order::Newer,
            (Some(_), Some(_)) => Order::Older,
            (None, _) | (_, None) => by_time(act, facts, pod, began, at),
        };
        match order {
            Order::Same => About::Known(id),
            Order::Newer => About::New { before: Some(id) },
            Order::Older if facts.uid.is_some() => About::Earlier,
            Order::Older => About::ForgottenOne,
        }
    }
}

/// Whether facts of one uid are about a pod that came after another uid's.
fn is_after(facts: &PodFacts, pod: &Pod, at: Timestamp) -> bool {
    match (facts.version, pod.version, facts.created, pod.born) {
        (Some(new), Some(old), _, _) => new > old,
        (_, _, Some(new), Some(old)) if new != old => new > old,
        _ => at >= pod.heard,
    }
}

fn by_time(act: Act, facts: &PodFacts, pod: &Pod, began: Timestamp, at: Timestamp) -> Order {
    if act == Act::Created {
        return by_creation(pod, began, at);
    }
    // A pod that is marked can still be patched, read, and deleted again; but not bound.
    let is_after_its_end = pod.gone.is_some_and(|gone| {
        let is_new_binding = act == Act::Bound && began > gone.at;
        is_new_binding || facts.created.is_some_and(|created| created > gone.at)
    });
    if is_after_its_end {
        return Order::Newer;
    }
    let is_too_early = match act {
        // Only what ended after the pod was there, and began after its creation did, can have ended it.
        Act::Gone { .. } => at < pod.alive_by || pod.born.is_some_and(|born| began < born),
        Act::Created | Act::Seen | Act::Bound => pod.born.is_some_and(|born| at < born),
    };
    // Of a pod whose creation was not heard, anything may have come before what was.
    if is_too_early && pod.born.is_some() {
        Order::Older
    } else {
        Order::Same
    }
}

/// Whether the creation from `began` to `at` is this pod's.
fn by_creation(pod: &Pod, began: Timestamp, at: Timestamp) -> Order {
    if let Some(creation) = pod.creation {
        return match creation {
            heard if heard == (began, at) => Order::Same,
            (heard, _) if began >= heard => Order::Newer,
            _ => Order::Older,
        };
    }
    if let Some(born) = pod.born {
        let born_by = born.checked_add(SECOND).unwrap_or(Timestamp::MAX);
        return if at < born {
            Order::Older
        } else if began > born_by {
            Order::Newer
        } else {
            Order::Same
        };
    }
    let known_since = pod.gone.map_or(pod.alive_by, |gone| pod.alive_by.max(gone.at));
    if began <= known_since {
        Order::Same
    } else {
        Order::Newer
    }
}
