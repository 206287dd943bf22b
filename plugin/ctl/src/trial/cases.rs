//! What records tell of each pull, put together: several lines may be about one.

use std::collections::btree_map::Entry as MapEntry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use magi_engine::audit::Entry;
use magi_engine::ids::{Digest, PullId};
use magi_engine::owner::{LostPod, Owner};
use magi_engine::report::{PullReport, Report};
use magi_engine::trial::Recorded;
use magi_engine::{AuditRecord, Evidence, Source, Time};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Pulls that are judged; those of a busy node in a year.
const MAX_CASES: usize = 500_000;

/// A pull, or an image that the verifier was asked about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) recorded: Recorded,
    pub(crate) stored: u64,
    /// How often; more than once only where not each was recorded.
    pub(crate) times: u64,
    /// Who asked for it is not known for sure: it is who most likely did.
    pub(crate) is_likely: bool,
}

impl Case {
    /// The namespace of whoever asked; none: not known, or several.
    pub(crate) fn namespace(&self) -> Option<String> {
        let owners = self.recorded.owners.iter();
        let namespaces: Option<BTreeSet<&str>> = owners
            .map(|owner| owner.pod.as_ref().map(|pod| pod.namespace.as_str()))
            .collect();
        let mut namespaces = namespaces?.into_iter();
        let first = namespaces.next()?;
        namespaces.next().is_none().then(|| first.to_owned())
    }

    /// What was pulled, as far as known.
    pub(crate) fn image(&self) -> Option<String> {
        let asked = self.recorded.owners.first().map(|owner| owner.image.to_string());
        let from = || self.recorded.repositories.first().map(ToString::to_string);
        let digest = || self.recorded.digests.first().map(ToString::to_string);
        asked.or_else(from).or_else(digest)
    }

    fn digest(&mut self, digest: &Digest) {
        if !self.recorded.digests.contains(digest) {
            self.recorded.digests.push(digest.clone());
        }
    }

    fn learn(&mut self, evidence: &[Evidence]) {
        for fact in evidence {
            match fact {
                Evidence::DeclaredImage {
                    manifest, declared, ..
                } => {
                    self.digest(manifest);
                    self.recorded.declared = Some(*declared);
                }
                Evidence::DeclaredLayer {
                    manifest, declared, ..
                } => {
                    self.digest(manifest);
                    // The judge names the largest layer of the image.
                    self.recorded.largest = Some(*declared);
                    self.recorded.is_largest = true;
                }
                Evidence::IngestOverrun { offset, total, .. } => {
                    self.recorded.overrun = Some((*offset, *total));
                }
                Evidence::StoppedBefore { manifest, .. } => self.digest(manifest),
                Evidence::PodLost {
                    verdict,
                    pod,
                    image,
                    cause,
                } => {
                    let lost = LostPod {
                        id: verdict.clone(),
                        pod: pod.clone(),
                        images: vec![image.clone()],
                        cause: cause.clone(),
                    };
                    if !self.recorded.lost.contains(&lost) {
                        self.recorded.lost.push(lost);
                    }
                }
                Evidence::AskedFor { image, pod } if self.recorded.owners.is_empty() => {
                    self.is_likely = true;
                    self.recorded.owners.push(Owner {
                        image: image.clone(),
                        pod: pod.clone(),
                        proof: vec![Source::Requests],
                    });
                }
                Evidence::AskedFor { .. }
                | Evidence::CalledThrough { .. }
                | Evidence::SocketFeeds { .. }
                | Evidence::LeaseInFlight { .. }
                | Evidence::SocketsOpen { .. }
                | Evidence::DeniedImage { .. }
                | Evidence::BudgetUsed { .. }
                | Evidence::DiskShort { .. }
                | Evidence::HoldsSlots { .. }
                | Evidence::Asked { .. } => {}
            }
        }
    }
}

impl From<PullReport> for Case {
    fn from(pull: PullReport) -> Self {
        let declared_of_layers = pull
            .layers
            .iter()
            .fold(0_u64, |sum, layer| sum.saturating_add(layer.declared));
        let overrun = pull.layers.iter().find(|layer| layer.stored > layer.declared);
        Self {
            recorded: Recorded {
                owners: pull.owner.map_or(pull.owner_candidates, |owner| vec![owner]),
                repositories: pull.repositories,
                digests: pull.manifest.into_iter().collect(),
                declared: pull.declared,
                largest: pull.layers.iter().map(|layer| layer.declared).max(),
                is_largest: pull.declared == Some(declared_of_layers),
                overrun: overrun.map(|layer| (layer.stored, layer.declared)),
                lost: Vec::new(),
            },
            stored: pull.stored,
            times: 1,
            is_likely: false,
        }
    }
}

/// What was read and tells of no pull.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Skipped {
    /// Lines that are neither audit records nor lists of pulls, or that are too long.
    pub(crate) unreadable_lines: u64,
    /// Audit records of what is no pull.
    pub(crate) about_no_pull: u64,
    /// Pulls beyond so many.
    pub(crate) too_many: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    /// A run of an agent, and its number in it.
    Audited(String, u64, PullId),
    /// An image that the verifier was asked about.
    Refused(String, u64, String, Digest),
    /// A lease in a file.
    Listed(PathBuf, String, Time),
}

/// All pulls. Changed by: lines of files.
#[derive(Debug, Default)]
pub(crate) struct Cases {
    by_key: BTreeMap<Key, Case>,
    /// Refusals that were read: files may overlap.
    refused: BTreeSet<(String, u64, u64)>,
    pub(crate) skipped: Skipped,
}

/// Where a record stands, as each line tells.
#[derive(Deserialize)]
struct Whence {
    host: String,
    run: u64,
    seq: u64,
}

impl Cases {
    /// Each pull.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Case> {
        self.by_key.values()
    }

    /// A line of audit records; none: one that is too long.
    pub(crate) fn audit(&mut self, line: Option<&[u8]>) {
        let parsed = line.and_then(|line| serde_json::from_slice(line).ok());
        // The store puts the node's record into one of its own.
        let record = parsed.map(|value: Value| match value.get("record") {
            Some(inner) => inner.clone(),
            None => value,
        });
        let known = record.as_ref().and_then(|record| {
            Some((
                Whence::deserialize(record).ok()?,
                AuditRecord::deserialize(record).ok()?,
            ))
        });
        match known {
            Some((whence, record)) => self.record(whence, &record),
            None => count(&mut self.skipped.unreadable_lines, 1),
        }
    }

    fn record(&mut self, Whence { host, run, seq }: Whence, record: &AuditRecord) {
        if let Some(pull) = &record.pull {
            let Some(case) = self.case(Key::Audited(host, run, pull.id)) else {
                return;
            };
            case.times = 1;
            let owners = match &pull.owner {
                Some(owner) => vec![owner.clone()],
                None => pull.owner_candidates.clone(),
            };
            // Later records may know more, and those of the aftermath less.
            let is_more = (case.is_likely || case.recorded.owners.len() != 1) && !owners.is_empty();
            if is_more || pull.owner.is_some() {
                case.recorded.owners = owners;
                case.is_likely = false;
            }
            if !pull.repositories.is_empty() {
                case.recorded.repositories.clone_from(&pull.repositories);
            }
            case.recorded.declared = pull.declared.or(case.recorded.declared);
            case.stored = case.stored.max(pull.stored);
            case.learn(record.entry.evidence());
            return;
        }
        let Entry::Refused {
            image,
            digest: Some(digest),
            evidence,
            unrecorded,
            ..
        } = &record.entry
        else {
            count(&mut self.skipped.about_no_pull, 1);
            return;
        };
        if !self.refused.insert((host.clone(), run, seq)) {
            return;
        }
        let key = Key::Refused(host, run, image.to_string(), digest.clone());
        let Some(case) = self.case(key) else { return };
        count(&mut case.times, unrecorded.saturating_add(1));
        case.digest(digest);
        case.learn(evidence);
        if case.recorded.owners.is_empty() {
            case.recorded.owners.push(Owner {
                image: image.clone(),
                pod: None,
                proof: vec![Source::Verifier],
            });
        }
    }

    /// A line of what `magictl pulls --json` printed in the file `path`; none: one that is too long.
    pub(crate) fn pulls(&mut self, path: &Path, line: Option<&[u8]>) {
        let report = line.and_then(|line| serde_json::from_slice::<Report>(line).ok());
        let Some(Report { pulls, ended }) = report else {
            count(&mut self.skipped.unreadable_lines, 1);
            return;
        };
        for pull in pulls.into_iter().chain(ended) {
            let key = Key::Listed(path.to_owned(), pull.lease.to_string(), pull.since);
            if let Some(case) = self.case(key) {
                *case = pull.into();
            }
        }
    }

    /// The case of this key, begun if need be; none: there are too many.
    fn case(&mut self, key: Key) -> Option<&mut Case> {
        let is_full = self.by_key.len() >= MAX_CASES;
        match self.by_key.entry(key) {
            MapEntry::Occupied(case) => Some(case.into_mut()),
            MapEntry::Vacant(_) if is_full => {
                count(&mut self.skipped.too_many, 1);
                None
            }
            MapEntry::Vacant(place) => Some(place.insert(Case::default())),
        }
    }
}

fn count(counter: &mut u64, more: u64) {
    *counter = counter.saturating_add(more);
}
