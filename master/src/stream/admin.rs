//! What operators may ask and set. Who asks stands in the certificate; what is set is recorded with that name.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, stream};
use jiff::Timestamp;
use magi_master_api::bounds::MAX_TEXT;
use magi_master_api::message;
use magi_master_api::wire;
use magi_master_api::wire::admin_server::Admin;
use tokio::sync::broadcast::error::RecvError;
use tonic::{Request, Response, Status};

use super::Shared;
use super::accept::Caller;
use super::nodes::Shown;
use super::standing::Source;
use crate::policy::PolicyError;
use crate::store::{Query, Stored};

/// Nodes that are looked at together.
const PAGE: usize = 64;
/// Serves operators.
pub(super) struct Operators {
    pub(super) shared: Arc<Shared>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Admin for Operators {
    async fn status(&self, _: Request<wire::StatusRequest>) -> Result<Response<wire::MasterStatus>, Status> {
        let shared = &self.shared;
        let policy = shared.policy.borrow().clone();
        let source = shared.policies.source();
        let switch = message::KillSwitch::from(shared.kill_switch.borrow().clone());
        Ok(Response::new(wire::MasterStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_ms: milliseconds(shared.started),
            policy: policy.as_ref().map(|snapshot| snapshot.version.into()),
            policy_problem: shared.policies.problems().borrow().clone(),
            policy_source: source.map(|path| path.display().to_string()).unwrap_or_default(),
            policy_by: policy
                .and_then(|snapshot| snapshot.by.clone())
                .unwrap_or_default(),
            kill_switch: Some(switch.into()),
            counters: shared
                .counters
                .all()
                .into_iter()
                .map(|(name, number)| (name.to_owned(), number))
                .collect(),
            intakes: shared.nodes.sources().into_iter().map(intake).collect(),
        }))
    }

    type ListNodesStream = Answers<wire::NodeStatus>;

    async fn list_nodes(
        &self,
        request: Request<wire::ListNodesRequest>,
    ) -> Result<Response<Self::ListNodesStream>, Status> {
        let shared = Arc::clone(&self.shared);
        let prefix = request.into_inner().prefix;
        let pages = stream::unfold(Some(None), move |after| {
            let page = after.map(|after| shared.nodes.show(&prefix, Option::as_ref(&after), PAGE));
            async move {
                let page = page.filter(|page| !page.is_empty())?;
                let last = page.last().map(|shown| shown.name.clone());
                Some((stream::iter(page), last.map(Some)))
            }
        });
        let nodes = futures_util::StreamExt::flatten(pages);
        let nodes = futures_util::StreamExt::map(nodes, |shown| Ok(node_status(shown)));
        Ok(Response::new(Box::pin(nodes)))
    }

    type QueryAuditStream = Answers<wire::StoredRecord>;

    async fn query_audit(
        &self,
        request: Request<wire::AuditQuery>,
    ) -> Result<Response<Self::QueryAuditStream>, Status> {
        let turn = Arc::clone(&self.shared.questions)
            .try_acquire_owned()
            .map_err(|_| Status::resource_exhausted("others ask already; try again"))?;
        let query = query(request.into_inner());
        let store = self.shared.store.clone();
        let found = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            store.query(&query)
        })
        .await
        .map_err(|_| Status::internal("the question failed"))?
        .map_err(|error| Status::internal(error.to_string()))?;
        let mut older = found.older;
        let records = found
            .records
            .into_iter()
            .map(move |stored| Ok(record(&stored, std::mem::take(&mut older))));
        Ok(Response::new(Box::pin(stream::iter(records))))
    }

    type TailAuditStream = Answers<wire::StoredRecord>;

    async fn tail_audit(
        &self,
        request: Request<wire::AuditQuery>,
    ) -> Result<Response<Self::TailAuditStream>, Status> {
        let query = query(request.into_inner());
        let tail = self.shared.store.tail();
        let stop = self.shared.stop.clone();
        let records = stream::unfold((tail, 0), move |(mut tail, mut skipped)| {
            let (query, stop) = (query.clone(), stop.clone());
            async move {
                loop {
                    let received = tokio::select! {
                        () = stop.cancelled() => return None,
                        received = tail.recv() => received,
                    };
                    match received {
                        Ok(stored) if query.wants(&stored) => {
                            return Some((Ok(record(&stored, skipped)), (tail, 0)));
                        }
                        Ok(_) => {}
                        Err(RecvError::Lagged(behind)) => skipped += behind,
                        Err(RecvError::Closed) => return None,
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(records)))
    }

    async fn set_kill_switch(
        &self,
        request: Request<wire::SetKillSwitchRequest>,
    ) -> Result<Response<wire::KillSwitch>, Status> {
        let Some(caller) = request.extensions().get::<Caller>().cloned() else {
            return Err(Status::internal("the caller is not known"));
        };
        let wire::SetKillSwitchRequest { engaged, reason } = request.into_inner();
        if reason.len() > MAX_TEXT {
            return Err(Status::invalid_argument("the reason is too long"));
        }
        let by = caller.peer.to_string();
        let switchboard = Arc::clone(&self.shared.switchboard);
        let now = milliseconds(Timestamp::now());
        let (who, why) = (by.clone(), reason.clone());
        let switch = tokio::task::spawn_blocking(move || switchboard.set(engaged, &who, &why, now))
            .await
            .map_err(|_| Status::internal("the kill switch could not be set"))?
            .map_err(|error| Status::internal(error.to_string()))?;
        tracing::warn!(by, engaged, reason, revision = switch.revision, "kill switch");
        Ok(Response::new(message::KillSwitch::from(switch).into()))
    }

    async fn get_policy(&self, _: Request<wire::GetPolicyRequest>) -> Result<Response<wire::Policy>, Status> {
        let policy = self.shared.policy.borrow().clone();
        let policy = policy.ok_or_else(|| Status::not_found("this master has no policy"))?;
        Ok(Response::new(wire::Policy {
            version: Some(policy.version.into()),
            text: policy.bytes.clone(),
        }))
    }

    async fn push_policy(
        &self,
        request: Request<wire::PushPolicyRequest>,
    ) -> Result<Response<wire::PolicyPushed>, Status> {
        let Some(caller) = request.extensions().get::<Caller>().cloned() else {
            return Err(Status::internal("the caller is not known"));
        };
        let wire::PushPolicyRequest { text, replaces } = request.into_inner();
        let policies = Arc::clone(&self.shared.policies);
        let by = caller.peer.to_string();
        let pushed =
            tokio::task::spawn_blocking(move || policies.push(&text, &by, replaces, Timestamp::now())).await;
        let (version, is_new) = pushed
            .map_err(|_| Status::internal("the policy could not be pushed"))?
            .map_err(|error| not_pushed(&error))?;
        Ok(Response::new(wire::PolicyPushed {
            version: Some(version.into()),
            unchanged: !is_new,
        }))
    }
}

fn not_pushed(error: &PolicyError) -> Status {
    let mut why = error.to_string();
    if let Some(cause) = std::error::Error::source(error) {
        why = format!("{why}: {cause}");
    }
    // A status travels in a header, and a policy may have hundreds of mistakes.
    why.truncate(why.floor_char_boundary(MAX_TEXT));
    match error {
        PolicyError::NotPushed { .. } => Status::failed_precondition(why),
        PolicyError::Replaced { .. } => Status::aborted(why),
        PolicyError::Wrong(_) | PolicyError::NotText { .. } | PolicyError::TooLarge => {
            Status::invalid_argument(why)
        }
        PolicyError::List { .. }
        | PolicyError::NotOne { .. }
        | PolicyError::File(_)
        | PolicyError::Missing { .. }
        | PolicyError::Keep(_)
        | PolicyError::Broken { .. } => Status::internal(why),
    }
}

fn milliseconds(at: Timestamp) -> u64 {
    u64::try_from(at.as_millisecond()).unwrap_or_default()
}

fn intake(source: Source) -> wire::Intake {
    wire::Intake {
        kind: source.kind.to_owned(),
        whence: source.whence,
        up: source.is_up,
        last_heard_ms: source.heard.map(milliseconds).unwrap_or_default(),
        events: source.events,
        unusable: source.unusable.into_iter().collect(),
        trouble: source.trouble,
    }
}

fn node_status(shown: Shown) -> wire::NodeStatus {
    let Shown {
        name,
        is_connected,
        known,
        waiting,
        lost,
    } = shown;
    let facts = known.facts.unwrap_or_default();
    wire::NodeStatus {
        node: name.into(),
        connected: is_connected,
        last_seen_ms: known.seen.map(milliseconds).unwrap_or_default(),
        version: facts.version,
        containerd: facts.containerd,
        kernel: facts.kernel,
        coverage: facts
            .coverage
            .into_iter()
            .map(|one| wire::Coverage {
                name: one.name,
                works: one.works,
                detail: one.detail,
            })
            .collect(),
        policy: known.policy.map(Into::into),
        policy_refused: known.policy_refused.unwrap_or_default(),
        kill_switch: known.kill_switch,
        verdicts_waiting: u32::try_from(waiting).unwrap_or(u32::MAX),
        verdicts_lost: lost,
        audit_lost: known.audit_lost,
        pulls: known.pulls.map(Into::into),
        since_ms: known.since.map(milliseconds).unwrap_or_default(),
        policy_since_ms: known.policy_since.map(milliseconds).unwrap_or_default(),
    }
}

fn query(query: wire::AuditQuery) -> Query {
    Query {
        node: query.node,
        namespace: query.namespace,
        image: query.image,
        reason: query.reason,
        since_ms: query.since_ms,
        until_ms: query.until_ms,
        limit: usize::try_from(query.limit).unwrap_or(usize::MAX),
    }
}

fn record(stored: &Stored, skipped: u64) -> wire::StoredRecord {
    wire::StoredRecord {
        node: stored.node.as_str().to_owned(),
        mark: Some(stored.mark.into()),
        stored_ms: stored.at_ms,
        json: stored.json.clone(),
        skipped,
    }
}
