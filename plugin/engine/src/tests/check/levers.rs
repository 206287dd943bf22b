//! What must hold of a lever in the moment in which it is pulled.

use std::collections::BTreeSet;

use super::judge::Condemned;
use super::{Broken, Checker, Gone, Invariant};
use crate::action::Lever;
use crate::audit::{AuditRecord, Entry, PullFacts};
use crate::bounds::CLEANUP_GRACE;
use crate::event::{Question, View};
use crate::evidence::{Evidence, Reason, Source};
use crate::ids::{AttemptId, Digest, GatewayCallId, IngestKey, LeaseKey, SnapshotName, SocketName};
use crate::manifest::Manifest;
use crate::owner::PullRequest;

impl Checker {
    pub(super) fn lever(
        &mut self,
        attempt: AttemptId,
        lever: &Lever,
        intent: &AuditRecord,
    ) -> Result<(), Broken> {
        let Entry::Intent {
            attempt: named,
            reason,
            lever: code,
            socket,
            evidence,
            ..
        } = &intent.entry
        else {
            return self.ensure(false, Invariant::TwoSources, || {
                format!("{lever:?} without an intent: {intent:?}")
            });
        };
        self.ensure(
            *named == attempt && code == lever.code(),
            Invariant::TwoSources,
            || format!("the intent {intent:?} is not of {attempt}, {lever:?}"),
        )?;
        match lever {
            Lever::DestroySocket { socket: target } | Lever::DisconnectSocket { socket: target } => {
                self.ensure(*socket == Some(*target), Invariant::TwoSources, || {
                    format!("the intent names {socket:?}, the lever {target}")
                })?;
                self.socket_lever(*target, *reason, evidence, intent.pull.as_ref())
            }
            Lever::CancelCalls { calls, refusal } => {
                self.ensure(
                    refusal.text.contains(reason.code()),
                    Invariant::TwoSources,
                    || format!("{reason}, and the caller hears {refusal:?}"),
                )?;
                self.call_lever(calls, *reason, evidence, intent.pull.as_ref())
            }
            Lever::DeleteLease { lease } => {
                self.lease_lever(attempt, lease, *reason, evidence, intent.pull.as_ref())
            }
            Lever::DestroyAll { sockets } => self.panic_lever(sockets, *reason, evidence),
            Lever::AbortIngest { .. } | Lever::RemoveSnapshot { .. } => {
                self.leftover(lever, evidence, intent.pull.as_ref())
            }
        }
    }

    /// What must hold of every lever that is to end a pull. Tells which lease it is.
    fn may_end(
        &self,
        reason: Reason,
        evidence: &[Evidence],
        facts: Option<&PullFacts>,
    ) -> Result<LeaseKey, Broken> {
        let Some(facts) = facts else {
            let (invariant, what) = (Invariant::RightPull, "a lever for no pull".to_owned());
            return Err(Broken { invariant, what });
        };
        let lease = &facts.lease;
        let seen = self.leases.get(lease).filter(|seen| seen.id == Some(facts.id));
        self.ensure(
            seen.is_some() && !self.gone.contains_key(&facts.id),
            Invariant::RightPull,
            || format!("the last look does not show {} ({lease})", facts.id),
        )?;
        self.ensure(
            self.up.contains(&Source::Containerd) && self.fresh,
            Invariant::LossIsHarmless,
            || format!("a lever for {lease}, and containerd was not seen since it is up"),
        )?;
        let claimed = self.claims.get(lease).and_then(|claim| claim.owner.as_ref());
        self.ensure(claimed == facts.owner.as_ref(), Invariant::RightOwner, || {
            format!("the intent says {:?}, the report {claimed:?}", facts.owner)
        })?;
        for piece in evidence {
            self.ensure(self.is_true(lease, piece), Invariant::TwoSources, || {
                format!("nobody said of {lease}: {piece:?}")
            })?;
            self.ensure(
                matches!(piece.source(), Source::Operator | Source::Master)
                    || self.up.contains(&piece.source()),
                Invariant::LossIsHarmless,
                || format!("{piece:?} comes from a source that is down"),
            )?;
        }
        let asked = seen.is_some_and(|seen| !seen.asked.is_empty());
        let allowed = match reason {
            Reason::Operator => asked,
            Reason::ImageTooLarge
            | Reason::LayerTooLarge
            | Reason::LayerOverrunsManifest
            | Reason::DeniedByRule
            | Reason::DeniedRecently
            | Reason::NamespaceBudget
            | Reason::NoDiskHeadroom
            | Reason::StarvingOthers
            | Reason::Orphaned => self.by_policy(lease) == Condemned::Enforced,
        };
        self.ensure(allowed, Invariant::ObserveOnlyLooks, || {
            format!(
                "a lever for {lease}, and the policy says {:?}",
                self.by_policy(lease)
            )
        })?;
        self.alone(facts)?;
        Ok(lease.clone())
    }

    fn acted(&mut self, lease: &LeaseKey, reason: Reason, evidence: &[Evidence], facts: Option<&PullFacts>) {
        if let Some(seen) = self.leases.get_mut(lease) {
            seen.acted_on = evidence.to_vec();
            seen.stopped_for = Some(reason);
        }
        if let Some(facts) = facts {
            self.sign(facts);
        }
    }

    fn socket_lever(
        &mut self,
        target: SocketName,
        reason: Reason,
        evidence: &[Evidence],
        facts: Option<&PullFacts>,
    ) -> Result<(), Broken> {
        self.agree(reason, evidence)?;
        let lease = self.may_end(reason, evidence, facts)?;
        self.ensure(
            evidence.iter().any(|piece| piece.cookie() == Some(target.cookie)),
            Invariant::TwoSources,
            || format!("nothing ties {target} to {lease}"),
        )?;
        let shared: Vec<_> = self
            .owners
            .iter()
            .filter(|(dir, _)| {
                self.feeds
                    .get(&target.cookie)
                    .is_some_and(|(feed, _)| feed.dir == **dir)
            })
            .flat_map(|(_, owners)| owners)
            .filter(|owner| !self.must_stop(owner))
            .collect();
        self.ensure(shared.is_empty(), Invariant::RightPull, || {
            format!("{target} may as well be of {shared:?}")
        })?;
        self.acted(&lease, reason, evidence, facts);
        Ok(())
    }

    /// Calls are cancelled only where each of them, whosever it is, is one's that is to be stopped.
    fn call_lever(
        &mut self,
        calls: &[GatewayCallId],
        reason: Reason,
        evidence: &[Evidence],
        facts: Option<&PullFacts>,
    ) -> Result<(), Broken> {
        let said: BTreeSet<Source> = evidence.iter().map(Evidence::source).collect();
        let other = match reason {
            Reason::Operator => Source::Operator,
            Reason::Orphaned => Source::Master,
            Reason::NamespaceBudget => Source::Requests,
            Reason::ImageTooLarge
            | Reason::LayerTooLarge
            | Reason::LayerOverrunsManifest
            | Reason::DeniedByRule
            | Reason::NoDiskHeadroom
            | Reason::StarvingOthers
            | Reason::DeniedRecently => Source::Containerd,
        };
        let enough = said.contains(&Source::Gateway) && said.contains(&other);
        self.ensure(enough, Invariant::TwoSources, || {
            format!("{reason} on the word of {said:?}")
        })?;
        let lease = self.may_end(reason, evidence, facts)?;
        let cancelled: Vec<_> = calls.iter().filter_map(|call| self.gateway.get(call)).collect();
        self.ensure(
            !calls.is_empty() && cancelled.len() == calls.len(),
            Invariant::RightPull,
            || format!("{calls:?} are to be cancelled, and not all are in flight"),
        )?;
        let wants = |request: &PullRequest, other: &PullRequest| {
            (&request.image, &request.pod) == (&other.image, &other.pod)
        };
        let hypotheses = self.hypotheses(&lease);
        let is_cancelled = |request: &PullRequest| cancelled.iter().any(|call| wants(call, request));
        let all_its = hypotheses.iter().all(|asker| asker.is_some_and(is_cancelled));
        self.ensure(all_its, Invariant::RightOwner, || {
            format!("{lease} may be {hypotheses:?}'s, {cancelled:?} are cancelled")
        })?;
        let none_else = cancelled
            .iter()
            .all(|call| hypotheses.iter().flatten().any(|asker| wants(call, asker)));
        self.ensure(none_else, Invariant::RightPull, || {
            format!("{lease} may be {hypotheses:?}'s, {cancelled:?} are cancelled")
        })?;
        let is_alone = calls.len() == 1 && hypotheses.len() == 1;
        let others = self.leases.keys().filter(|other| **other != lease);
        let hit: Vec<_> = others
            .filter(|other| !self.must_stop(other))
            .filter(|other| {
                let mut askers = self.hypotheses(other).into_iter();
                askers.any(|asker| asker.map_or(!is_alone, is_cancelled))
            })
            .collect();
        self.ensure(hit.is_empty(), Invariant::RightPull, || {
            format!("{calls:?} may as well be of {hit:?}")
        })?;
        self.acted(&lease, reason, evidence, facts);
        Ok(())
    }

    /// A lease is deleted only before the first layer, and only where the request shows the end.
    fn lease_lever(
        &mut self,
        attempt: AttemptId,
        target: &LeaseKey,
        reason: Reason,
        evidence: &[Evidence],
        facts: Option<&PullFacts>,
    ) -> Result<(), Broken> {
        let said: BTreeSet<Source> = evidence.iter().map(Evidence::source).collect();
        let enough = match reason {
            Reason::Operator => said.contains(&Source::Operator) && said.contains(&Source::Containerd),
            Reason::ImageTooLarge
            | Reason::LayerTooLarge
            | Reason::LayerOverrunsManifest
            | Reason::DeniedByRule
            | Reason::DeniedRecently
            | Reason::NamespaceBudget
            | Reason::NoDiskHeadroom
            | Reason::StarvingOthers => {
                said.contains(&Source::Requests) && said.contains(&Source::Containerd)
            }
            Reason::Orphaned => said.contains(&Source::Requests) && said.contains(&Source::Master),
        };
        self.ensure(enough, Invariant::TwoSources, || {
            format!("{reason} on the word of {said:?}")
        })?;
        let lease = self.may_end(reason, evidence, facts)?;
        self.ensure(lease == *target, Invariant::RightPull, || {
            format!("the lever is for {target}, the intent for {lease}")
        })?;
        self.ensure(self.is_before_layers(target), Invariant::RightPull, || {
            format!("a layer of {target} has begun")
        })?;
        self.ensure(
            self.requests_for(target).next().is_some(),
            Invariant::RightOwner,
            || format!("no request shows the end of {target}"),
        )?;
        if let Some(seen) = self.leases.get_mut(target) {
            seen.lease_deleted = Some(attempt);
        }
        self.acted(target, reason, evidence, facts);
        Ok(())
    }

    /// Nothing but its manifest and config is there, as far as the last look showed.
    fn is_before_layers(&self, lease: &LeaseKey) -> bool {
        let Some(seen) = self.leases.get(lease) else {
            return false;
        };
        let is_layer = |digest: &Digest| {
            let mut layers = seen.roots().into_iter().flat_map(Manifest::layers);
            layers.any(|layer| layer.digest == *digest)
        };
        let held = self.view.leases.iter().filter(|one| one.key == *lease);
        let named = |digest: &Digest| {
            seen.manifests.contains_key(digest)
                || seen
                    .manifests
                    .values()
                    .any(|one| one.blobs().any(|blob| blob == digest))
        };
        held.flat_map(|one| &one.content)
            .all(|digest| !is_layer(digest) && named(digest))
            && seen
                .ingests
                .values()
                .all(|held| held.digest.as_ref().is_some_and(|digest| !is_layer(digest)))
    }

    fn alone(&self, facts: &PullFacts) -> Result<(), Broken> {
        let others: Vec<_> = self
            .in_flight
            .iter()
            .filter(|(_, pull)| **pull == Some(facts.id))
            .map(|(attempt, _)| attempt)
            .collect();
        self.ensure(others.is_empty(), Invariant::OneLever, || {
            format!("{} has a lever in flight already: {others:?}", facts.id)
        })
    }

    /// Two sources that count for this reason.
    fn agree(&self, reason: Reason, evidence: &[Evidence]) -> Result<(), Broken> {
        let said: BTreeSet<Source> = evidence.iter().map(Evidence::source).collect();
        let kernel = said.contains(&Source::Probes) || said.contains(&Source::SocketTable);
        let containerd = said.contains(&Source::Containerd);
        let enough = match reason {
            Reason::Operator => said.contains(&Source::Operator) && (kernel || containerd),
            Reason::ImageTooLarge
            | Reason::LayerTooLarge
            | Reason::LayerOverrunsManifest
            | Reason::DeniedByRule
            | Reason::DeniedRecently
            | Reason::NoDiskHeadroom
            | Reason::StarvingOthers => kernel && containerd,
            // Whose bytes they are, the requests tell.
            Reason::NamespaceBudget => kernel && said.contains(&Source::Requests),
            // That it has no pod any more, the master tells.
            Reason::Orphaned => kernel && said.contains(&Source::Master),
        };
        self.ensure(enough, Invariant::TwoSources, || {
            format!("{reason} on the word of {said:?}")
        })
    }

    fn panic_lever(
        &self,
        sockets: &[SocketName],
        reason: Reason,
        evidence: &[Evidence],
    ) -> Result<(), Broken> {
        let open: Vec<SocketName> = self
            .listed
            .iter()
            .flatten()
            .filter(|stat| stat.established)
            .map(|stat| stat.socket)
            .collect();
        self.ensure(
            self.listed.is_some() && open == sockets,
            Invariant::LossIsHarmless,
            || format!("{sockets:?} are to be closed, {open:?} are listed"),
        )?;
        let actors: BTreeSet<&str> = self
            .questions
            .values()
            .filter_map(|(question, _)| match question {
                Question::Panic { actor } => Some(actor.as_str()),
                Question::Abort { .. }
                | Question::Pulls { .. }
                | Question::Verify { .. }
                | Question::Admit { .. }
                | Question::UnpackStopped { .. }
                | Question::Pods => None,
            })
            .collect();
        self.ensure(
            reason == Reason::Operator && !actors.is_empty(),
            Invariant::ObserveOnlyLooks,
            || "nobody asked for all sockets to be closed".to_owned(),
        )?;
        self.agree(reason, evidence)?;
        let true_words = evidence.iter().all(|piece| match piece {
            Evidence::Asked { actor } => actors.contains(actor.as_str()),
            Evidence::SocketsOpen { count } => usize::try_from(*count) == Ok(open.len()),
            Evidence::DeclaredImage { .. }
            | Evidence::DeclaredLayer { .. }
            | Evidence::IngestOverrun { .. }
            | Evidence::SocketFeeds { .. }
            | Evidence::DeniedImage { .. }
            | Evidence::StoppedBefore { .. }
            | Evidence::BudgetUsed { .. }
            | Evidence::DiskShort { .. }
            | Evidence::HoldsSlots { .. }
            | Evidence::AskedFor { .. }
            | Evidence::CalledThrough { .. }
            | Evidence::PodLost { .. }
            | Evidence::LeaseInFlight { .. } => false,
        });
        self.ensure(true_words, Invariant::TwoSources, || {
            format!("nobody said {evidence:?}")
        })
    }

    fn leftover(
        &self,
        lever: &Lever,
        evidence: &[Evidence],
        facts: Option<&PullFacts>,
    ) -> Result<(), Broken> {
        let gone = facts.and_then(|facts| Some((facts, self.gone.get(&facts.id)?)));
        let Some((facts, gone)) = gone else {
            return self.ensure(false, Invariant::RightPull, || {
                format!("{lever:?} for {facts:?}, which has not ended")
            });
        };
        self.ensure(
            self.up.contains(&Source::Containerd) && self.fresh,
            Invariant::LossIsHarmless,
            || format!("{lever:?}, and containerd was not seen since it is up"),
        )?;
        self.ensure(
            !gone.seen.acted_on.is_empty() && gone.seen.acted_on == evidence,
            Invariant::TwoSources,
            || {
                format!(
                    "{lever:?} on {evidence:?}, the pull was stopped on {:?}",
                    gone.seen.acted_on
                )
            },
        )?;
        self.ensure(
            self.now.since(gone.at) >= CLEANUP_GRACE,
            Invariant::RightPull,
            || format!("{lever:?} only {:?} after the end", self.now.since(gone.at)),
        )?;
        let ours = match lever {
            Lever::AbortIngest { ingest } => self.ingest_is_left(ingest, gone, facts),
            Lever::RemoveSnapshot { snapshot } => self.snapshot_is_left(snapshot, gone),
            Lever::CancelCalls { .. }
            | Lever::DeleteLease { .. }
            | Lever::DestroySocket { .. }
            | Lever::DisconnectSocket { .. }
            | Lever::DestroyAll { .. } => false,
        };
        self.ensure(ours, Invariant::RightPull, || {
            format!("{lever:?} is no leftover of {}", facts.id)
        })?;
        self.alone(facts)
    }

    fn ingest_is_left(&self, ingest: &IngestKey, gone: &Gone, facts: &PullFacts) -> bool {
        let held = |view: &View| {
            view.leases.iter().any(|lease| {
                lease.key.namespace == ingest.namespace && lease.ingests.contains(&ingest.reference)
            })
        };
        let offset = |view: &View| {
            view.ingests
                .iter()
                .find(|one| one.key == *ingest)
                .map(|one| one.offset)
        };
        ingest.namespace == facts.lease.namespace
            && gone.seen.ingests.contains_key(&ingest.reference)
            && [&self.view, &self.view_before].iter().all(|view| !held(view))
            && offset(&self.view).is_some()
            && offset(&self.view) == offset(&self.view_before)
    }

    fn snapshot_is_left(&self, snapshot: &SnapshotName, gone: &Gone) -> bool {
        gone.seen.snapshots.contains(snapshot)
            && self.view.extracts.iter().flatten().any(|name| name == snapshot)
            && !self
                .view
                .leases
                .iter()
                .any(|lease| lease.snapshots.contains(snapshot))
    }
}
