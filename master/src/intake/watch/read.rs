//! Pages of a list and lines of a watch → changes.

use std::collections::BTreeSet;

use jiff::Timestamp;
use magi_engine::ids::PodUid;

use crate::change::{Act, Change, PodFacts, What};
use crate::intake::audit::decode::{self, Body};
use crate::intake::audit::meaning;
use crate::verdict::Cause;

/// A page of the list.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) changes: Vec<Change>,
    pub(super) uids: BTreeSet<PodUid>,
    pub(super) version: u64,
    /// What to ask for the next page with.
    pub(super) rest: Option<String>,
    pub(super) unusable: u64,
}

/// A line of the watch.
#[derive(Debug)]
pub(super) enum Line {
    /// A pod, and its version.
    Change(Change, Option<u64>),
    /// The version that was reached.
    Bookmark(u64),
    /// The watch cannot go on, by this status.
    Error(i64),
    Unusable,
}

/// A page; `None` if it is no list of pods.
pub(super) fn page(bytes: &[u8], now: Timestamp) -> Option<Page> {
    let list = decode::answer(bytes)?;
    if list.kind.as_deref() != Some("PodList") {
        return None;
    }
    let mut page = Page {
        changes: Vec::with_capacity(list.items.0.len()),
        uids: BTreeSet::new(),
        version: list.metadata.version.as_deref()?.parse().ok()?,
        rest: list
            .metadata
            .rest
            .as_deref()
            .filter(|rest| !rest.is_empty())
            .map(Into::into),
        unusable: 0,
    };
    for item in &list.items.0 {
        match meaning::pod(item) {
            Ok(facts) => {
                page.uids.extend(facts.uid.clone());
                page.changes.push(pod(Act::Seen, facts, now));
            }
            Err(_) => page.unusable += 1,
        }
    }
    Some(page)
}

/// That these were all pods at this version; the list was asked for at `begun`.
pub(super) const fn all_listed(version: u64, uids: BTreeSet<PodUid>, begun: Timestamp) -> Change {
    Change {
        began: begun,
        at: begun,
        what: What::AllListed { version, uids },
    }
}

pub(super) fn line(line: &[u8], now: Timestamp) -> Line {
    let Some(watched) = decode::watched(line) else {
        return Line::Unusable;
    };
    let object = &watched.object;
    let version = object
        .metadata
        .version
        .as_deref()
        .and_then(|text| text.parse().ok());
    let facts = |object: &Body<'_>| meaning::pod(object).ok();
    match (watched.kind.as_deref(), version) {
        (Some("BOOKMARK"), Some(version)) => Line::Bookmark(version),
        (Some("ERROR"), _) => Line::Error(object.code.unwrap_or_default()),
        (Some("ADDED" | "MODIFIED"), _) => match facts(object) {
            Some(facts) => Line::Change(pod(Act::Seen, facts, now), version),
            None => Line::Unusable,
        },
        (Some("DELETED"), _) => match facts(object) {
            Some(facts) => Line::Change(pod(deleted(&facts), facts, now), version),
            None => Line::Unusable,
        },
        (Some(_) | None, _) => Line::Unusable,
    }
}

/// The object is gone. If it was marked before, that is why; else it went without any grace.
fn deleted(facts: &PodFacts) -> Act {
    let had_grace = facts.marked.is_some_and(|marked| !marked.at_once);
    Act::Gone {
        cause: if had_grace {
            Cause::Deleted
        } else {
            Cause::ForceDeleted
        },
        static_too: false,
    }
}

fn pod(act: Act, facts: PodFacts, now: Timestamp) -> Change {
    Change {
        began: now,
        at: now,
        what: What::Pod(act, Box::new(facts)),
    }
}
