//! Questions about what is stored: which records, by what stands in them.

use std::borrow::Cow;
use std::collections::VecDeque;

use magi_master_api::bounds::MAX_QUERY;
use serde::Deserialize;

use super::files::{each_line, open_all};
use super::line::{Line, Stored};
use super::{StoreError, StoreSettings};

/// Bytes of records that one answer has.
const MAX_BYTES: usize = 16 << 20;

/// What is stored that a question asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The newest, oldest first.
    pub records: Vec<Stored>,
    /// Older ones that found no room in the answer.
    pub older: u64,
}

/// Which records; what is empty or zero asks for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// The node.
    pub node: String,
    /// The namespace of a pod that the record names.
    pub namespace: String,
    /// An image or repository that the record names, or either end of it up to a separator.
    pub image: String,
    /// The reason that the record gives.
    pub reason: String,
    /// Stored at this time or later, in milliseconds since the epoch.
    pub since_ms: u64,
    /// Stored before this time.
    pub until_ms: u64,
    /// The newest so many.
    pub limit: usize,
}

/// What a record says, as far as questions go. Every field may be missing, or have another form than we know.
#[derive(Debug, Default, Deserialize)]
struct Facts<'a> {
    #[serde(borrow, default)]
    reason: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    image: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pull: Option<Pull<'a>>,
}

#[derive(Debug, Default, Deserialize)]
struct Pull<'a> {
    #[serde(borrow, default)]
    repositories: Vec<Cow<'a, str>>,
    #[serde(borrow, default)]
    owner: Option<Owner<'a>>,
    #[serde(borrow, default)]
    owner_candidates: Vec<Owner<'a>>,
}

#[derive(Debug, Deserialize)]
struct Owner<'a> {
    #[serde(borrow, default)]
    image: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pod: Option<Pod<'a>>,
}

#[derive(Debug, Deserialize)]
struct Pod<'a> {
    #[serde(borrow, default)]
    namespace: Option<Cow<'a, str>>,
}

impl Query {
    /// The records that are wanted, at most.
    fn limit(&self) -> usize {
        let most = usize::try_from(MAX_QUERY).unwrap_or(usize::MAX);
        if self.limit == 0 {
            most
        } else {
            self.limit.min(most)
        }
    }

    /// Whether it asks for this record.
    #[must_use]
    pub fn wants(&self, stored: &Stored) -> bool {
        self.wants_of(stored.node.as_str(), stored.at_ms, &stored.json)
    }

    fn wants_of(&self, node: &str, at_ms: u64, json: &[u8]) -> bool {
        if !self.node.is_empty() && self.node != node
            || at_ms < self.since_ms
            || self.until_ms > 0 && at_ms >= self.until_ms
        {
            return false;
        }
        if self.namespace.is_empty() && self.image.is_empty() && self.reason.is_empty() {
            return true;
        }
        serde_json::from_slice::<Facts<'_>>(json).is_ok_and(|facts| self.wants_facts(&facts))
    }

    fn wants_facts(&self, facts: &Facts<'_>) -> bool {
        let pull = facts.pull.as_ref();
        let owners = pull
            .into_iter()
            .flat_map(|pull| pull.owner.iter().chain(&pull.owner_candidates));
        let is_reason = self.reason.is_empty() || facts.reason.as_deref() == Some(&*self.reason);
        let is_namespace = self.namespace.is_empty()
            || owners
                .clone()
                .filter_map(|owner| owner.pod.as_ref()?.namespace.as_deref())
                .any(|namespace| namespace == self.namespace);
        let is_image = || {
            let repositories = pull.into_iter().flat_map(|pull| &pull.repositories);
            let mut named = facts
                .image
                .as_deref()
                .into_iter()
                .chain(owners.clone().filter_map(|owner| owner.image.as_deref()))
                .chain(repositories.map(|repository| &**repository));
            named.any(|name| is_part(name, &self.image))
        };
        is_reason && is_namespace && (self.image.is_empty() || is_image())
    }
}

/// Whether `part` is `name`, or an end of it up to one of the separators of a reference.
fn is_part(name: &str, part: &str) -> bool {
    let begins = name
        .strip_prefix(part)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':', '@']));
    let ends = name
        .strip_suffix(part)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('/'));
    // `team/app` means `registry/team/app:1` as well.
    let within = name
        .split_once('/')
        .and_then(|(_, path)| path.strip_prefix(part))
        .is_some_and(|rest| rest.starts_with([':', '@']));
    begins || ends || within
}

pub(super) fn run(settings: &StoreSettings, query: &Query) -> Result<Found, StoreError> {
    let limit = query.limit();
    let mut found: VecDeque<Stored> = VecDeque::new();
    let mut bytes = 0_usize;
    let mut older = 0_u64;
    for (path, file) in open_all(settings)? {
        each_line(file, |line| {
            let Some(line) = Line::parse(line) else { return };
            if !query.wants_of(&line.node, line.stored, line.record.get().as_bytes()) {
                return;
            }
            let Some(stored) = line.stored() else { return };
            bytes = bytes.saturating_add(stored.json.len());
            found.push_back(stored);
            while found.len() > limit || bytes > MAX_BYTES {
                if let Some(oldest) = found.pop_front() {
                    bytes = bytes.saturating_sub(oldest.json.len());
                    older = older.saturating_add(1);
                }
            }
        })
        .map_err(|source| StoreError::Read { path, source })?;
    }
    Ok(Found {
        records: found.into(),
        older,
    })
}
