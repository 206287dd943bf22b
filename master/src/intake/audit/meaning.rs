//! What an audit event means: which pods the request changed, if it changed any.
//!
//! Facts come from the answer where it shows the pod; a client may ask for another kind of answer, or the audit policy
//! may leave it out, and then from the request. Neither is trusted further than the API server vouches for it: a uid in
//! a creation's request is the client's invention, one in a precondition was checked.

use jiff::Timestamp;
use magi_engine::ids::{PodName, PodNamespace, PodUid};

use super::decode::{self, Body, Event};
use super::query::Query;
use super::{Kind, Unusable, patch};
use crate::change::{Act, Change, Images, Marked, Node, Phase, PodFacts, What};
use crate::names::NodeName;
use crate::verdict::Cause;

/// Deletes the pods of namespaces that were deleted. It makes no dry run, and selects nothing.
/// Source: pkg/controller/namespace/deletion, `deleteCollection`.
pub(super) const NAMESPACE_CONTROLLER: &str = "system:serviceaccount:kube-system:namespace-controller";
/// What the name of every kubelet's user begins with, and of nobody else's (the node authorizer).
const KUBELET: &str = "system:node:";

type Meaning = (Option<Kind>, Option<Unusable>);

/// Appends what the event changed; says what it was, and what about it could not be used.
pub(super) fn read(event: &Event<'_>, changes: &mut Vec<Change>) -> Meaning {
    let reading = match Reading::of(event) {
        Ok(Some(reading)) => reading,
        Ok(None) => return (Some(Kind::Other), None),
        Err(Stop::Kind(kind)) => return (Some(kind), None),
        Err(Stop::Unusable(unusable)) => return (None, Some(unusable)),
    };
    match reading.interpret(changes) {
        Ok(()) => (Some(reading.kind()), None),
        Err(Stop::Kind(kind)) => (Some(kind), None),
        Err(Stop::Unusable(unusable)) => (Some(reading.kind()), Some(unusable)),
    }
}

/// Why an event is read no further.
enum Stop {
    Kind(Kind),
    Unusable(Unusable),
}

impl From<Unusable> for Stop {
    fn from(unusable: Unusable) -> Self {
        Self::Unusable(unusable)
    }
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    Create,
    Update,
    Patch,
    /// To a subresource that cannot change images.
    ChangeNoImages,
    Bind,
    Delete,
    DeleteCollection,
    Evict,
    Get,
    List,
    DeleteNamespace,
    FinalizeNamespace,
}

struct Reading<'e, 'a> {
    event: &'e Event<'a>,
    request: Request,
    query: Query,
    namespace: Option<PodNamespace>,
    began: Timestamp,
    at: Timestamp,
}

fn request(event: &Event<'_>) -> Option<Request> {
    let subresource = event.object.subresource.as_deref().unwrap_or_default();
    let code = event.answered.code;
    Some(
        match (
            event.object.resource.as_deref()?,
            event.verb.as_deref()?,
            subresource,
        ) {
            ("pods", "create", "") => Request::Create,
            // A server-side apply creates what is not there.
            ("pods", "patch", "") if code == Some(201) => Request::Create,
            ("pods", "update", "" | "ephemeralcontainers") => Request::Update,
            ("pods", "patch", "" | "ephemeralcontainers") => Request::Patch,
            ("pods", "update" | "patch", "status" | "resize") => Request::ChangeNoImages,
            ("pods", "create", "binding") | ("bindings", "create", "") => Request::Bind,
            ("pods", "create", "eviction") => Request::Evict,
            ("pods", "delete", "") => Request::Delete,
            ("pods", "deletecollection", "") => Request::DeleteCollection,
            ("pods", "get", "" | "status" | "ephemeralcontainers") => Request::Get,
            ("pods", "list", "") => Request::List,
            ("namespaces", "delete", "") => Request::DeleteNamespace,
            ("namespaces", "update", "finalize") => Request::FinalizeNamespace,
            _ => return None,
        },
    )
}

impl<'e, 'a> Reading<'e, 'a> {
    /// An event that changed something, or showed it. `None` for what is of no interest.
    fn of(event: &'e Event<'a>) -> Result<Option<Self>, Stop> {
        let Some(request) = request(event) else {
            return Ok(None);
        };
        match event.stage.as_deref() {
            Some("ResponseComplete") => {}
            Some("Panic") => return Err(Unusable::Panicked.into()),
            // RequestReceived comes before authorisation, ResponseStarted before the end.
            Some(_) | None => return Ok(None),
        }
        let succeeded = event.answered.code.is_some_and(|code| (200..300).contains(&code));
        if !succeeded || event.notes.decision.as_deref() == Some("forbid") {
            return Err(Stop::Kind(Kind::Refused));
        }
        let time = |text: Option<&str>| text.and_then(|text| text.parse::<Timestamp>().ok());
        let at = time(event.at.as_deref()).ok_or(Unusable::NoTime)?;
        let began = time(event.began.as_deref()).unwrap_or(at).min(at);
        let namespace = event.object.namespace.as_deref().filter(|text| !text.is_empty());
        let namespace = namespace.map(PodNamespace::new).transpose();
        Ok(Some(Self {
            event,
            request,
            query: Query::of(event.uri.as_deref().unwrap_or_default()),
            namespace: namespace.map_err(|_| Unusable::BadName)?,
            began,
            at,
        }))
    }

    const fn kind(&self) -> Kind {
        match self.request {
            Request::Create => Kind::Created,
            Request::Update | Request::Patch | Request::ChangeNoImages => Kind::Changed,
            Request::Bind => Kind::Bound,
            Request::Delete => Kind::Deleted,
            Request::DeleteCollection => Kind::CollectionDeleted,
            Request::Evict => Kind::Evicted,
            Request::Get | Request::List => Kind::Seen,
            Request::DeleteNamespace => Kind::NamespaceDeleted,
            Request::FinalizeNamespace => Kind::NamespaceEmptied,
        }
    }

    fn interpret(&self, changes: &mut Vec<Change>) -> Result<(), Stop> {
        let is_read = matches!(self.request, Request::Get | Request::List);
        if !is_read && self.query.dry_run {
            return Err(self.query_is_dry());
        }
        match self.request {
            Request::Create => self.create(changes),
            Request::Update | Request::Patch | Request::ChangeNoImages => self.change(changes),
            Request::Bind => self.bind(changes),
            Request::Delete => self.delete(changes),
            Request::Evict => self.evict(changes),
            Request::DeleteCollection => self.delete_collection(changes),
            Request::Get | Request::List => self.seen(changes),
            // Its pods are there until the namespace controller deletes them, which is an event of its own.
            Request::DeleteNamespace => Ok(()),
            Request::FinalizeNamespace => self.finalize_namespace(changes),
        }
    }

    /// A deletion's body, where there is one, replaces its query; so with a body that asks for no dry run it may be a
    /// real deletion. Nobody but an attacker writes such a request.
    fn query_is_dry(&self) -> Stop {
        match self.body_of_deletion() {
            Ok(Some(body)) if matches!(self.request, Request::Delete | Request::DeleteCollection) => {
                if body.dry_run.0.is_empty() {
                    Stop::Unusable(Unusable::DryRunInDoubt)
                } else {
                    Stop::Kind(Kind::DryRun)
                }
            }
            Ok(_) | Err(_) => Stop::Kind(Kind::DryRun),
        }
    }

    fn create(&self, changes: &mut Vec<Change>) -> Result<(), Stop> {
        let (mut facts, mut problem) = self.answered_pod()?;
        if facts.images == Images::Unknown {
            match self.request_body()? {
                Some(body) => {
                    facts.images = Images::Whole(patch::slots(&body.spec));
                    facts.node = node(&body)?;
                    facts.mirror = facts.mirror.or_else(|| mirror(&body));
                    problem = None;
                }
                None => problem = problem.or(Some(self.why_no_body())),
            }
        }
        self.tell(Act::Created, facts, changes);
        problem.map_or(Ok(()), |problem| Err(problem.into()))
    }

    fn change(&self, changes: &mut Vec<Change>) -> Result<(), Stop> {
        let (mut facts, mut problem) = self.answered_pod()?;
        if facts.images == Images::Unknown && self.request != Request::ChangeNoImages {
            match (self.event.request, self.request) {
                (None, _) => problem = problem.or(Some(self.why_no_body())),
                (Some(raw), Request::Update) => {
                    let body = decode::body(raw).ok_or(Unusable::BodyNotUnderstood)?;
                    facts.images = Images::Whole(patch::slots(&body.spec));
                    facts.uid = facts.uid.or(uid(body.metadata.uid.as_deref())?);
                    problem = None;
                }
                (Some(raw), _) => {
                    let patches = patch::images(raw).ok_or(Unusable::BodyNotUnderstood)?;
                    facts.images = Images::Patched(patches);
                    // The API server refuses a patch of another uid than the pod's.
                    let body = decode::body(raw).unwrap_or_default();
                    facts.uid = facts.uid.or(uid(body.metadata.uid.as_deref())?);
                    problem = None;
                }
            }
        }
        self.tell(Act::Seen, facts, changes);
        problem.map_or(Ok(()), |problem| Err(problem.into()))
    }

    fn bind(&self, changes: &mut Vec<Change>) -> Result<(), Stop> {
        let body = self.request_body()?.unwrap_or_default();
        let name = body.metadata.name.as_deref();
        let mut facts = self.named(self.event.object.name.as_deref().or(name))?;
        // The scheduler writes the pod's uid, and the API server refuses another one.
        facts.uid = uid(body.metadata.uid.as_deref().or(self.event.object.uid.as_deref()))?;
        let is_node = body
            .target
            .kind
            .as_deref()
            .is_none_or(|kind| kind.is_empty() || kind == "Node");
        let target = body.target.name.as_deref().filter(|_| is_node);
        if let Some(target) = target {
            facts.node = Node::On(NodeName::new(target).map_err(|_| Unusable::BadName)?);
        }
        let is_told = facts.node != Node::Unknown;
        self.tell(Act::Bound, facts, changes);
        if is_told {
            Ok(())
        } else {
            Err(Unusable::NoNode.into())
        }
    }

    fn delete(&self, changes: &mut Vec<Change>) -> Result<(), Stop> {
        let options = self.body_of_deletion()?;
        let (body, is_without_body) = match options {
            Some(body) => (body, false),
            None => (Body::default(), true),
        };
        if !body.dry_run.0.is_empty() {
            return Err(Stop::Kind(Kind::DryRun));
        }
        let (mut facts, _) = self.answered_pod()?;
        let precondition = uid(body.preconditions.uid.as_deref())?;
        let is_checked = precondition.is_some();
        facts.uid = facts.uid.or(precondition);
        let at_once = body.grace == Some(0) || is_without_body && self.query.no_grace;
        let act = Act::Gone {
            cause: if at_once {
                Cause::ForceDeleted
            } else {
                Cause::Deleted
            },
            // The kubelet names the uid when it makes a mirror pod anew, and none when the static pod is gone.
            // Source: pkg/kubelet/kubelet_pods.go, `deleteOrphanedMirrorPods`.
            static_too: !is_checked && self.actor().is_some_and(|user| user.starts_with(KUBELET)),
        };
        self.tell(act, facts, changes);
        Ok(())
    }

    fn evict(&self, changes: &mut Vec<Change>) -> Result<(), Stop> {
        let body = self.body_of_deletion()?.unwrap_or_default();
        if !body.delete_options.dry_run.0.is_empty() {
            return Err(Stop::Kind(Kind::DryRun));
        }
        let mut facts = self.named(self.event.object.name.as_deref())?;
        facts.uid = uid(body.delete_options.preconditions.uid.as_deref())?;
        let act = Act::Gone {
            cause: Cause::Evicted,
            static_too: false,
        };
        self.tell(act, facts, changes);
        Ok(())
    }

    fn delete_collection(&self, changes: &mut Vec<Change>) -> Result<(), Stop> {
        let by_controller = self.is_namespace_controller();
        match self.body_of_deletion() {
            Ok(Some(body)) if !body.dry_run.0.is_empty() => return Err(Stop::Kind(Kind::DryRun)),
            Ok(_) => {}
            Err(_) if by_controller => {}
            Err(stop) => return Err(stop),
        }
        let cause = if by_controller {
            Cause::NamespaceDeleted
        } else {
            Cause::CollectionDeleted
        };
        let act = Act::Gone {
            cause,
            static_too: false,
        };
        let Some(answer) = self.answer_with_pods() else {
            if self.query.selects {
                return Err(Unusable::NoPods.into());
            }
            let namespace = self.namespace.clone().ok_or(Unusable::NoPods)?;
            changes.push(self.change_of(What::NamespaceCleared(namespace, cause)));
            return Ok(());
        };
        self.tell_each(act, answer, changes)
    }

    fn seen(&self, changes: &mut Vec<Change>) -> Result<(), Stop> {
        match (self.request, &self.event.response) {
            (Request::List, Some(answer)) if has_pods(answer) => self.tell_each(Act::Seen, answer, changes),
            (Request::Get, Some(answer)) if is_whole(answer) => {
                let facts = self.facts(answer)?;
                self.tell(Act::Seen, facts, changes);
                Ok(())
            }
            // To read is to change nothing, so what the answer lacks is no lack.
            _ => Ok(()),
        }
    }

    /// The controller takes its finalizer off once nothing is left in the namespace. Others may do so before.
    fn finalize_namespace(&self, changes: &mut Vec<Change>) -> Result<(), Stop> {
        if !self.is_namespace_controller() {
            return Err(Stop::Kind(Kind::Other));
        }
        let name = self.event.object.name.as_deref().ok_or(Unusable::NoName)?;
        let namespace = PodNamespace::new(name).map_err(|_| Unusable::BadName)?;
        changes.push(self.change_of(What::NamespaceCleared(namespace, Cause::NamespaceDeleted)));
        Ok(())
    }

    /// The pod of the answer as far as it is shown, else just its name; and what is missing for that.
    fn answered_pod(&self) -> Result<(PodFacts, Option<Unusable>), Stop> {
        let name = self.event.object.name.as_deref().filter(|text| !text.is_empty());
        let Some(answer) = &self.event.response else {
            return Ok((self.named(name)?, None));
        };
        if is_whole(answer) {
            return Ok((self.facts(answer)?, None));
        }
        let row = answer.rows.0.first();
        if let Some(row) = row.filter(|row| is_whole(&row.object)) {
            return Ok((self.facts(&row.object)?, None));
        }
        let part = row.map_or(answer, |row| &row.object);
        let metadata = &part.metadata;
        if metadata.uid.is_some() && metadata.name.is_some() {
            return Ok((self.facts(part)?, Some(Unusable::AnswerWithoutSpec)));
        }
        let cell = row.and_then(|row| row.cells.0.as_deref());
        Ok((self.named(name.or(cell))?, Some(Unusable::AnswerWithoutSpec)))
    }

    /// An answer that is a list of pods, or of their names.
    fn answer_with_pods(&self) -> Option<&'e Body<'a>> {
        let answer = self.event.response.as_ref()?;
        let is_list = |kind: &str| matches!(kind, "PodList" | "PartialObjectMetadataList" | "List");
        let is_table = answer.kind.as_deref() == Some("Table");
        let has_objects = answer.rows.0.iter().all(|row| row.object.metadata.uid.is_some());
        (answer.kind.as_deref().is_some_and(is_list) || is_table && has_objects).then_some(answer)
    }

    fn tell_each(&self, act: Act, answer: &Body<'_>, changes: &mut Vec<Change>) -> Result<(), Stop> {
        let rows = answer.rows.0.iter().map(|row| &row.object);
        for pod in answer.items.0.iter().chain(rows) {
            let facts = self.facts(pod)?;
            self.tell(act, facts, changes);
        }
        Ok(())
    }

    /// What a pod, or the metadata of one, tells. Its name may be in the request only.
    fn facts(&self, pod: &Body<'_>) -> Result<PodFacts, Stop> {
        let name = pod.metadata.name.as_deref().or(self.event.object.name.as_deref());
        Ok(told_by(self.named(name)?, pod)?)
    }

    fn named(&self, name: Option<&str>) -> Result<PodFacts, Stop> {
        let name = name.filter(|text| !text.is_empty()).ok_or(Unusable::NoName)?;
        let name = PodName::new(name).map_err(|_| Unusable::BadName)?;
        // Lists over all namespaces have none in the request; there each pod brings its own.
        let nowhere = || PodNamespace::new("-").map_err(|_| Unusable::BadName);
        let namespace = self.namespace.clone().map_or_else(nowhere, Ok)?;
        Ok(PodFacts::named(namespace, name))
    }

    fn tell(&self, act: Act, facts: PodFacts, changes: &mut Vec<Change>) {
        changes.push(self.change_of(What::Pod(act, Box::new(facts))));
    }

    const fn change_of(&self, what: What) -> Change {
        Change {
            began: self.began,
            at: self.at,
            what,
        }
    }

    fn request_body(&self) -> Result<Option<Body<'a>>, Stop> {
        let Some(raw) = self.event.request else {
            return Ok(None);
        };
        Ok(Some(decode::body(raw).ok_or(Unusable::BodyNotUnderstood)?))
    }

    /// The options of a deletion or an eviction; `None` if the client sent none, an error if that cannot be known.
    fn body_of_deletion(&self) -> Result<Option<Body<'a>>, Stop> {
        let body = self.request_body()?;
        let is_recorded = matches!(self.event.level.as_deref(), Some("Request" | "RequestResponse"));
        if body.is_none() && (!is_recorded || self.is_truncated()) {
            return Err(Unusable::DryRunInDoubt.into());
        }
        Ok(body)
    }

    fn is_truncated(&self) -> bool {
        self.event.notes.truncated.as_deref() == Some("true")
    }

    fn why_no_body(&self) -> Unusable {
        if self.is_truncated() {
            Unusable::BodyTruncated
        } else {
            Unusable::BodyNotRecorded
        }
    }

    /// Who acted: with impersonation, not who asked.
    fn actor(&self) -> Option<&str> {
        let user = self.event.impersonated.as_ref().unwrap_or(&self.event.user);
        user.name.as_deref()
    }

    fn is_namespace_controller(&self) -> bool {
        self.event.impersonated.is_none() && self.event.user.name.as_deref() == Some(NAMESPACE_CONTROLLER)
    }
}

/// A pod of a list or a watch over all namespaces: it names itself.
pub(in crate::intake) fn pod(pod: &Body<'_>) -> Result<PodFacts, Unusable> {
    let metadata = &pod.metadata;
    let (Some(namespace), Some(name)) = (metadata.namespace.as_deref(), metadata.name.as_deref()) else {
        return Err(Unusable::NoName);
    };
    let namespace = PodNamespace::new(namespace).map_err(|_| Unusable::BadName)?;
    let name = PodName::new(name).map_err(|_| Unusable::BadName)?;
    if !is_whole(pod) || metadata.uid.is_none() {
        return Err(Unusable::BodyNotUnderstood);
    }
    told_by(PodFacts::named(namespace, name), pod)
}

/// The facts with what the pod, or the metadata of one, tells.
fn told_by(mut facts: PodFacts, pod: &Body<'_>) -> Result<PodFacts, Unusable> {
    let metadata = &pod.metadata;
    if let Some(namespace) = metadata.namespace.as_deref().filter(|text| !text.is_empty()) {
        facts.namespace = PodNamespace::new(namespace).map_err(|_| Unusable::BadName)?;
    }
    facts.uid = uid(metadata.uid.as_deref())?;
    facts.version = metadata.version.as_deref().and_then(|text| text.parse().ok());
    facts.created = metadata.created.as_deref().and_then(|text| text.parse().ok());
    facts.mirror = mirror(pod);
    facts.marked = metadata.deleted.as_ref().map(|_| Marked {
        at_once: metadata.grace == Some(0),
    });
    if is_whole(pod) {
        facts.node = node(pod)?;
        facts.images = Images::Whole(patch::slots(&pod.spec));
        facts.phase = Some(phase(pod));
    }
    Ok(facts)
}

/// Whether a body is a pod with its specification. In a list it has no kind.
fn is_whole(body: &Body<'_>) -> bool {
    body.kind.as_deref().is_none_or(|kind| kind == "Pod") && !body.spec.containers.0.is_empty()
}

fn has_pods(body: &Body<'_>) -> bool {
    matches!(body.kind.as_deref(), Some("PodList" | "List")) && body.items.0.iter().all(is_whole)
}

fn uid(text: Option<&str>) -> Result<Option<PodUid>, Unusable> {
    let text = text.filter(|text| !text.is_empty());
    text.map(PodUid::new).transpose().map_err(|_| Unusable::BadName)
}

fn node(pod: &Body<'_>) -> Result<Node, Unusable> {
    match pod.spec.node.as_deref().filter(|text| !text.is_empty()) {
        Some(text) => Ok(Node::On(NodeName::new(text).map_err(|_| Unusable::BadName)?)),
        None => Ok(Node::None),
    }
}

fn mirror(pod: &Body<'_>) -> Option<bool> {
    let annotations = pod.metadata.annotations.as_ref();
    Some(annotations.is_some_and(|annotations| annotations.mirror.0))
}

/// A failed pod has a reason if the kubelet gave it up (`Evicted`, `DeadlineExceeded`), and none if its containers failed,
/// which they can only after they were pulled. Source: pkg/kubelet/eviction, `PodIsEvicted`; kubelet_pods.go, `getPhase`.
fn phase(pod: &Body<'_>) -> Phase {
    let has_reason = pod.status.reason.as_deref().is_some_and(|text| !text.is_empty());
    match pod.status.phase.as_deref() {
        Some("Succeeded") => Phase::Ended,
        Some("Failed") if has_reason => Phase::GivenUp,
        Some("Failed") => Phase::Ended,
        Some(_) | None => Phase::Active,
    }
}
