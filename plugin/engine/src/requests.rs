//! Which request led to which pull.
//!
//! Changed by: a request that begins or ends, a span in which requests may have gone unseen, a question of the image
//! verifier, a look at containerd (leases that come and go), a manifest that was read, and time.
//!
//! Nothing links a lease to the request that made it. So each pull keeps every request that may be its own, and what
//! contradicts is struck out: a lease is made after its request was read and is gone before the answer is written, its
//! manifest comes from the repository and has the digest that were asked for. What is left over is counted: only
//! where each pull can have exactly one request, and no request is left to be anybody else's, the owner is known.
//! A request whose own lease may not have shown yet concludes nothing: somebody whom nobody saw may have made the one
//! that did. Nothing is remembered of earlier conclusions, so that what comes later can correct them.

mod matching;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::bounds::{CLOCKS_DIFFER, MAX_CALLS, MAX_GONE_PULLS, MAX_LOOKS, MAX_MISSED_SPANS};
use crate::gateway::{Wanted, wanted};
use crate::ids::{CallId, Digest, ImageName, PullId};
use crate::owner::{PullRequest, RequestEnd};
use crate::pull::Pull;
use crate::reference::Reference;
use crate::time::Time;

/// Source: containerd 2.1.9 internal/cri/constants/constants.go, `K8sContainerdNamespace`.
const CRI_NAMESPACE: &str = "k8s.io";
/// Within this time a request has its lease (a few milliseconds measured; containerd's database may be busy).
const LEASE_WITHIN: Duration = Duration::from_millis(30);
/// Within this time a question for an image's status is answered, from containerd's memory.
const STATUS_WITHIN: Duration = Duration::from_millis(50);
/// How long after a span of unseen requests a lease may still come from one of them.
const MISSED_LEADS_TO: Duration = Duration::from_secs(1);
/// How long ended requests and pulls still count as explanations.
const REMEMBERED: Duration = Duration::from_secs(5);
/// Pause between two searches for what is older than that.
const FORGET_EVERY: Duration = Duration::from_secs(1);

/// A request, as far as it matters who asked for what.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Asker {
    pub(crate) call: CallId,
    pub(crate) request: PullRequest,
    pub(crate) reference: Option<Reference>,
}

impl Asker {
    /// The asker of a request.
    pub(crate) fn of(call: CallId, request: PullRequest) -> Self {
        Self {
            call,
            reference: Reference::parse(request.image.as_str()).ok(),
            request,
        }
    }
}

/// Who may have asked for a pull.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Owners {
    /// Nobody who was seen, or too many to tell.
    #[default]
    Unknown,
    /// This one, and nobody else.
    Known(Arc<Asker>),
    /// One of these, and nobody else.
    OneOf(Vec<Arc<Asker>>),
}

impl Owners {
    /// Every asker that it may be; `None` among them: somebody who was not seen.
    pub(crate) fn hypotheses(&self) -> Vec<Option<&Asker>> {
        match self {
            Self::Unknown => vec![None],
            Self::Known(asker) => vec![Some(asker)],
            Self::OneOf(askers) => askers.iter().map(|asker| Some(asker.as_ref())).collect(),
        }
    }

    pub(crate) fn known(&self) -> Option<&Asker> {
        match self {
            Self::Known(asker) => Some(asker),
            Self::Unknown | Self::OneOf(_) => None,
        }
    }
}

#[derive(Debug)]
struct Call {
    at: Time,
    ended: Option<Time>,
    /// Its end was not seen: it may have been before `ended`, or is still to come.
    is_lost: bool,
    /// A look showed every lease when this request was open and must have had its own.
    has_shown: bool,
    asker: Arc<Asker>,
}

impl Call {
    fn is_shown_by(&self, look: Time) -> bool {
        let may_be_over = self.is_lost || self.ended.is_some_and(|ended| look > ended);
        look >= self.at.after(LEASE_WITHIN) && !may_be_over
    }

    /// Whether its pull, if it led to one, is among those that were seen.
    fn is_settled(&self, latest_look: Option<Time>) -> bool {
        // What may have asked for an image's status has no lease at all, and is answered soon.
        let may_be_status =
            !self.asker.request.certain && self.ended.or(latest_look) < Some(self.at.after(STATUS_WITHIN));
        self.has_shown && !may_be_status
    }
}

/// What is concluded of one pull.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) owners: Owners,
    /// The only open request that was seen and may be its own, while no other pull may be that one's. Whether somebody
    /// unseen has made the lease is not known yet.
    pub(crate) likely: Option<Arc<Asker>>,
}

/// A pull as the join sees it.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) id: PullId,
    /// It is in the containerd namespace in which all pulls by CRI are.
    is_by_cri: bool,
    created: Option<Time>,
    /// The latest look that showed it began then.
    shown: Option<Time>,
    repositories: BTreeSet<(String, String)>,
    /// What it holds, once its manifest is known.
    content: Option<BTreeSet<Digest>>,
    /// When it was gone, by the engine's clock.
    gone: Option<Time>,
}

impl Candidate {
    pub(crate) fn of(pull: &Pull) -> Self {
        let split = |name: &str| {
            let (host, path) = name.split_once('/')?;
            Some((host.to_owned(), path.to_owned()))
        };
        let repositories = &pull.declared.repositories;
        Self {
            id: pull.id,
            is_by_cri: pull.lease.namespace.as_str() == CRI_NAMESPACE,
            created: pull.created,
            shown: pull.shown,
            repositories: repositories
                .iter()
                .filter_map(|name| split(name.as_str()))
                .collect(),
            content: (!pull.declared.images.is_empty()).then(|| pull.content.clone()),
            gone: None,
        }
    }
}

/// Every request that matters, and the pulls that ended lately.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    calls: BTreeMap<CallId, Call>,
    missed: VecDeque<(Time, Time)>,
    /// When the latest looks at all leases began, the oldest first.
    looks: VecDeque<Time>,
    gone: VecDeque<Candidate>,
    /// When what is old was last looked for.
    forgot: Time,
    /// What the verifier was told of: the digests of an image, and when.
    resolved: VecDeque<(ImageName, Digest, Time)>,
}

impl Requests {
    /// Takes a request over; `false` if another one had to be forgotten for it.
    pub(crate) fn began(&mut self, call: CallId, at: Time, request: PullRequest) -> bool {
        let mut had_room = true;
        if self.calls.len() >= MAX_CALLS && !self.calls.contains_key(&call) {
            had_room = false;
            let oldest = self
                .calls
                .iter()
                .min_by_key(|(_, one)| (one.ended.is_none(), one.at));
            if let Some((oldest, since)) = oldest.map(|(id, one)| (*id, one.at)) {
                self.calls.remove(&oldest);
                self.missed(since, since);
            }
        }
        let asker = Arc::new(Asker::of(call, request));
        let mut one = Call {
            at,
            ended: None,
            is_lost: false,
            has_shown: false,
            asker,
        };
        // What is told late may have shown already.
        one.has_shown = self.looks.iter().any(|look| one.is_shown_by(*look));
        self.calls.insert(call, one);
        had_room
    }

    /// A request is over, or is not followed any more; `false` if it is not known.
    pub(crate) fn ended(&mut self, call: CallId, at: Time, end: RequestEnd) -> bool {
        let Some(call) = self.calls.get_mut(&call) else {
            return false;
        };
        if end == RequestEnd::Lost && call.ended.is_none() {
            // It may have been over ever since requests went unseen: later looks say nothing.
            let unseen = self.missed.iter().rev().find(|(_, until)| *until >= at);
            let open_until = unseen.map_or(at, |(since, _)| *since);
            call.has_shown = self
                .looks
                .iter()
                .any(|look| *look < open_until && call.is_shown_by(*look));
        }
        call.ended.get_or_insert(at);
        call.is_lost |= end == RequestEnd::Lost;
        true
    }

    /// A look that began then has shown every lease.
    pub(crate) fn looked(&mut self, begun: Time) {
        if self.looks.len() >= MAX_LOOKS {
            self.looks.pop_front();
        }
        self.looks.push_back(begun);
        for call in self.calls.values_mut() {
            call.has_shown |= call.is_shown_by(begun);
        }
    }

    /// Requests may have gone unseen from `since` to `until`.
    pub(crate) fn missed(&mut self, since: Time, until: Time) {
        if self.missed.len() >= MAX_MISSED_SPANS
            && let (Some(one), Some(other)) = (self.missed.pop_front(), self.missed.pop_front())
        {
            self.missed.push_front((one.0.min(other.0), one.1.max(other.1)));
        }
        self.missed.push_back((since, until));
    }

    /// Nothing is seen any more: what is in flight may end unseen, and others may begin.
    pub(crate) fn lost(&mut self) {
        self.calls.clear();
    }

    /// containerd resolved an image to this digest.
    pub(crate) fn resolved(&mut self, image: ImageName, digest: Digest, at: Time) {
        if self.resolved.len() >= MAX_CALLS {
            self.resolved.pop_front();
        }
        self.resolved.push_back((image, digest, at));
    }

    /// A pull has ended; it still explains the request that led to it.
    pub(crate) fn pull_ended(&mut self, pull: &Pull, now: Time) {
        if self.gone.len() >= MAX_GONE_PULLS
            && let Some(oldest) = self.gone.pop_front()
        {
            // Without it, its request would seem to be free for another pull.
            let its: Vec<CallId> = self
                .calls
                .iter()
                .filter(|(_, call)| self.fits(&oldest, call))
                .map(|(id, _)| *id)
                .collect();
            for call in its {
                if let Some(call) = self.calls.remove(&call) {
                    self.missed(call.at, call.at);
                }
            }
        }
        self.gone.push_back(Candidate {
            gone: Some(now),
            ..Candidate::of(pull)
        });
    }

    /// Forgets what explains nothing any more; whether that was anything. `live` are the pulls in flight.
    ///
    /// A pull and a request that explain each other go together, or what stays would seem to be another one's.
    pub(crate) fn forget_old(&mut self, now: Time, live: impl Iterator<Item = Candidate>) -> bool {
        let old = |at: Option<Time>| at.is_some_and(|at| now.since(at) > REMEMBERED);
        let any_old = self.calls.values().any(|call| old(call.ended))
            || self.gone.iter().any(|pull| old(pull.gone))
            || self.resolved.iter().any(|(_, _, at)| old(Some(*at)));
        if !any_old || now.since(self.forgot) < FORGET_EVERY {
            return false;
        }
        self.forgot = now;
        let pulls: Vec<Candidate> = self.gone.iter().cloned().chain(live).collect();
        let (ids, calls): (Vec<CallId>, Vec<&Call>) = self.calls.iter().map(|(id, call)| (*id, call)).unzip();
        let edges = self.edges(&pulls, &calls);
        let found = self.found(&pulls, &calls, &edges);
        let pull_is_old = |index: usize| pulls.get(index).is_some_and(|pull| old(pull.gone));
        let call_is_old = |index: usize| calls.get(index).is_some_and(|call| old(call.ended));
        let mut pulls_kept: BTreeSet<usize> = (0..pulls.len()).collect();
        let mut calls_kept: BTreeSet<usize> = (0..calls.len()).collect();
        let explained: BTreeSet<usize> = edges.iter().flatten().copied().collect();
        calls_kept.retain(|call| explained.contains(call) || !call_is_old(*call));
        pulls_kept
            .retain(|pull| edges.get(*pull).is_some_and(|calls| !calls.is_empty()) || !pull_is_old(*pull));
        for (pulls, calls) in matching::groups(&edges) {
            if pulls.iter().all(|pull| pull_is_old(*pull)) && calls.iter().all(|call| call_is_old(*call)) {
                pulls_kept.retain(|pull| !pulls.contains(pull));
                calls_kept.retain(|call| !calls.contains(call));
            }
        }
        for (pull, found) in found.iter().enumerate() {
            if let matching::Found::One(call) = found
                && pull_is_old(pull)
                && call_is_old(*call)
            {
                // They are each other's for sure, and leave all others as they are.
                pulls_kept.remove(&pull);
                calls_kept.remove(call);
            }
        }
        let before = (self.calls.len(), self.gone.len());
        let ids: BTreeSet<CallId> = calls_kept
            .iter()
            .filter_map(|call| ids.get(*call).copied())
            .collect();
        self.calls.retain(|id, _| ids.contains(id));
        let mut index = 0..;
        self.gone
            .retain(|_| index.next().is_some_and(|index| pulls_kept.contains(&index)));
        let oldest_call = self.calls.values().map(|call| call.at).min();
        self.resolved
            .retain(|(_, _, at)| oldest_call.is_some_and(|oldest| *at >= oldest) || !old(Some(*at)));
        before != (self.calls.len(), self.gone.len())
    }

    /// The requests in flight for an image: who may be asking the verifier.
    pub(crate) fn asking_for(&self, image: &ImageName) -> Vec<Arc<Asker>> {
        let reference = Reference::parse(image.as_str()).ok();
        let same = |asker: &Asker| match (&asker.reference, &reference) {
            (Some(one), Some(other)) => one == other,
            (None, _) | (_, None) => asker.request.image == *image,
        };
        self.calls
            .values()
            .filter(|call| call.ended.is_none() && same(&call.asker))
            .map(|call| Arc::clone(&call.asker))
            .collect()
    }

    /// Whether requests may have gone unseen lately, so that those in flight may not be all.
    pub(crate) fn missed_lately(&self, now: Time) -> bool {
        self.missed
            .iter()
            .any(|(_, until)| now.since(*until) <= MISSED_LEADS_TO)
    }

    /// Whether a request is so young that its lease or manifest should show up any moment; those of `settled` have.
    pub(crate) fn expects_lease(&self, now: Time, within: Duration, settled: &BTreeSet<CallId>) -> bool {
        self.calls
            .iter()
            .any(|(id, call)| call.ended.is_none() && now.since(call.at) < within && !settled.contains(id))
    }

    /// Whether a request is known and not over.
    pub(crate) fn is_open(&self, call: CallId) -> bool {
        self.calls.get(&call).is_some_and(|call| call.ended.is_none())
    }

    /// When the requests in flight that want just this came, the oldest first.
    pub(crate) fn open_that_want(&self, what: Wanted<'_>) -> Vec<Time> {
        let open = self.calls.values().filter(|call| call.ended.is_none());
        let mut times: Vec<_> = open
            .filter(|call| wanted(&call.asker.request) == what)
            .map(|call| call.at)
            .collect();
        times.sort_unstable();
        times
    }

    /// Whether a request of this time may have gone unseen.
    pub(crate) fn may_have_missed(&self, from: Time, to: Time) -> bool {
        let mut missed = self.missed.iter();
        missed.any(|(since, until)| to.after(CLOCKS_DIFFER) >= *since && from <= until.after(CLOCKS_DIFFER))
    }

    /// Whether no request is known that could be anybody's.
    pub(crate) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Who may have asked for each of these pulls, and for those that ended lately.
    pub(crate) fn join(&self, pulls: impl Iterator<Item = Candidate>) -> BTreeMap<PullId, Joined> {
        let pulls: Vec<Candidate> = self.gone.iter().cloned().chain(pulls).collect();
        let calls: Vec<&Call> = self.calls.values().collect();
        let edges = self.edges(&pulls, &calls);
        let found = self.found(&pulls, &calls, &edges);
        let asker = |index: &usize| calls.get(*index).map(|call| Arc::clone(&call.asker));
        let likely = |index: usize| {
            let only = sole(edges.get(index)?)?;
            let rivals = edges.iter().filter(|others| others.contains(only)).count();
            let is_open = calls
                .get(*only)
                .is_some_and(|call| call.ended.is_none() && call.asker.request.certain);
            let may_be_unseen = pulls.get(index).is_none_or(|pull| self.is_unseen(pull, &calls));
            (is_open && rivals == 1 && !may_be_unseen).then(|| asker(only))?
        };
        let owners = |found: &matching::Found| match found {
            matching::Found::One(call) => asker(call).map_or(Owners::Unknown, Owners::Known),
            matching::Found::OneOf(calls) => Owners::OneOf(calls.iter().filter_map(asker).collect()),
            matching::Found::Unknown => Owners::Unknown,
        };
        pulls
            .iter()
            .zip(&found)
            .enumerate()
            .map(|(index, (pull, found))| {
                let joined = Joined {
                    owners: owners(found),
                    likely: likely(index),
                };
                (pull.id, joined)
            })
            .collect()
    }

    /// For each pull the requests that may be its own.
    fn edges(&self, pulls: &[Candidate], calls: &[&Call]) -> Vec<BTreeSet<usize>> {
        let of = |pull: &Candidate| {
            let fitting = calls.iter().enumerate().filter(|(_, call)| self.fits(pull, call));
            fitting.map(|(index, _)| index).collect()
        };
        pulls.iter().map(of).collect()
    }

    fn found(&self, pulls: &[Candidate], calls: &[&Call], edges: &[BTreeSet<usize>]) -> Vec<matching::Found> {
        let latest_look = self.looks.back().copied();
        let settled = |index: usize| calls.get(index).is_some_and(|call| call.is_settled(latest_look));
        let unseen = |index: usize| pulls.get(index).is_none_or(|pull| self.is_unseen(pull, calls));
        matching::unique(edges, settled, unseen)
    }

    /// Whether a pull may be that of somebody who was not seen, for all that is known of it alone.
    fn is_unseen(&self, pull: &Candidate, calls: &[&Call]) -> bool {
        let sure = |call: &&Call| is_in_time(pull, call, Duration::ZERO) && self.fits(pull, call);
        self.may_be_unseen(pull) || !calls.iter().any(sure)
    }

    /// Whether a pull may come from a request that was not seen.
    fn may_be_unseen(&self, pull: &Candidate) -> bool {
        let Some(created) = pull.created else {
            return true;
        };
        self.missed.iter().any(|(since, until)| {
            created.after(CLOCKS_DIFFER) >= *since && created <= until.after(MISSED_LEADS_TO)
        })
    }

    fn fits(&self, pull: &Candidate, call: &Call) -> bool {
        if !pull.is_by_cri || !is_in_time(pull, call, CLOCKS_DIFFER) {
            return false;
        }
        let Some(reference) = &call.asker.reference else {
            // containerd refuses what is no reference before it makes a lease.
            return false;
        };
        if !pull.repositories.is_empty()
            && !pull
                .repositories
                .iter()
                .any(|(host, path)| host == reference.domain_without_port() && path == reference.path())
        {
            return false;
        }
        let Some(content) = &pull.content else {
            return true;
        };
        if let Some(digest) = reference.digest() {
            return content.contains(digest);
        }
        // The verifier is asked between the request and the first byte, so its latest word on the image holds.
        let mut told = self
            .resolved
            .iter()
            .filter(|(image, _, at)| *at >= call.at && same_image(image, reference))
            .peekable();
        told.peek().is_none() || told.any(|(_, digest, _)| content.contains(digest))
    }

    /// What is remembered for a while; spans of unseen requests are few, and stay.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.calls.len() + self.gone.len() + self.resolved.len()
    }
}

/// Whether a pull has its lease only while the request is open, if their clocks differ by no more than that.
///
/// The lease is deleted before the answer is written (2.1.9 internal/cri/server/images/image_pull.go).
fn is_in_time(pull: &Candidate, call: &Call, clocks_differ: Duration) -> bool {
    let Some(created) = pull.created else {
        return false;
    };
    let began = created.after(clocks_differ) >= call.at;
    let in_time = match call.ended {
        None => true,
        // It may go on unseen, but whatever it makes a lease for has one soon: later ones are others'.
        Some(lost) if call.is_lost => created <= lost.after(MISSED_LEADS_TO),
        Some(ended) => {
            let ended = ended.after(clocks_differ);
            created <= ended && pull.shown.is_none_or(|shown| shown <= ended)
        }
    };
    began && in_time
}

/// The one thing in there, if it is one.
fn sole(set: &BTreeSet<usize>) -> Option<&usize> {
    set.first().filter(|_| set.len() == 1)
}

fn same_image(image: &ImageName, reference: &Reference) -> bool {
    Reference::parse(image.as_str()).is_ok_and(|other| other == *reference)
}

#[cfg(test)]
mod tests;
