//! Events one by one: what they mean, what they do not, and what is made of hostile ones.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Kind, MAX_LINE, Reader, Unusable};
use crate::change::{Act, Change, Images, Node, Phase, PodFacts, SlotPatch, What};
use crate::verdict::Cause;

/// A completed event about pod `p` of namespace `n`, with `more` on top.
fn event(verb: &str, code: u16, more: &Value) -> Value {
    let mut event = json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "RequestResponse", "auditID": "x",
        "stage": "ResponseComplete", "requestURI": "/api/v1/namespaces/n/pods/p", "verb": verb,
        "user": {"username": "someone"}, "userAgent": "\"stage\":\"Panic\"",
        "objectRef": {"resource": "pods", "namespace": "n", "name": "p", "apiVersion": "v1"},
        "responseStatus": {"metadata": {}, "code": code},
        "requestReceivedTimestamp": "2026-01-01T00:00:01.000000Z", "stageTimestamp": "2026-01-01T00:00:02.000000Z",
        "annotations": {"authorization.k8s.io/decision": "allow"}
    });
    merge(&mut event, more);
    event
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

fn pod(more: &Value) -> Value {
    let mut pod = json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "resourceVersion": "7",
            "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"nodeName": "a", "containers": [{"name": "c", "image": "i:1"}]},
        "status": {"phase": "Pending"}
    });
    merge(&mut pod, more);
    pod
}

struct Heard {
    changes: Vec<Change>,
    kinds: Vec<Kind>,
    unusable: Vec<Unusable>,
    of_no_interest: u64,
}

fn hear_text(line: &[u8]) -> Heard {
    let mut reader = Reader::default();
    let mut changes = Vec::new();
    reader.line(line, &mut changes);
    let counts = reader.counts();
    assert_eq!(counts.lines, 1);
    Heard {
        changes,
        kinds: counts.kinds.keys().copied().collect(),
        unusable: counts.unusable.keys().copied().collect(),
        of_no_interest: counts.of_no_interest,
    }
}

fn hear(event: &Value) -> Heard {
    hear_text(event.to_string().as_bytes())
}

/// The one change of one pod that an event tells.
fn told(event: &Value) -> (Act, PodFacts) {
    let heard = hear(event);
    let [change] = &heard.changes[..] else {
        panic!("one change was expected: {:?} {event}", heard.changes);
    };
    let What::Pod(act, facts) = &change.what else {
        panic!("a pod was expected: {:?}", change.what);
    };
    (*act, (**facts).clone())
}

fn images(facts: &PodFacts) -> Vec<String> {
    let Images::Whole(slots) = &facts.images else {
        panic!("whole images were expected: {:?}", facts.images);
    };
    slots.iter().map(|slot| slot.image.to_string()).collect()
}

fn gone(cause: Cause) -> Act {
    Act::Gone {
        cause,
        static_too: false,
    }
}

#[test]
fn every_image_of_a_pod_is_taken() {
    let body = pod(&json!({"spec": {
        "initContainers": [{"name": "i", "image": "init:1"}],
        "containers": [{"name": "c", "image": "main:1"}, {"name": "d", "image": "caf\u{e9}\"\\:1"}],
        "ephemeralContainers": [{"name": "e", "image": "debug:1"}],
        "volumes": [{"name": "v", "image": {"reference": "data:1"}}, {"name": "w", "emptyDir": {}}]
    }}));
    let (act, facts) = told(&event("create", 201, &json!({"responseObject": body})));
    assert_eq!(act, Act::Created);
    assert_eq!(
        images(&facts),
        ["init:1", "main:1", "caf\u{e9}\"\\:1", "debug:1", "data:1"]
    );
    assert_eq!((facts.version, facts.mirror), (Some(7), Some(false)));
    assert_eq!(facts.phase, Some(Phase::Active));
}

#[test]
fn refused_unfinished_and_dry_requests_change_nothing() {
    let marked = pod(&json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:09Z"}}));
    let delete = |more: Value| {
        let mut event = event("delete", 200, &json!({"responseObject": marked}));
        merge(&mut event, &more);
        event
    };
    assert_eq!(told(&delete(json!({}))).0, gone(Cause::Deleted), "the control");
    let nothing = [
        (json!({"stage": "RequestReceived"}), None),
        (json!({"stage": "ResponseStarted"}), None),
        (json!({"responseStatus": {"code": 403}}), Some(Kind::Refused)),
        (json!({"responseStatus": {"code": 404}}), Some(Kind::Refused)),
        (json!({"responseStatus": {"code": 409}}), Some(Kind::Refused)),
        (json!({"responseStatus": {"code": 429}}), Some(Kind::Refused)),
        (json!({"responseStatus": {"code": 500}}), Some(Kind::Refused)),
        (json!({"responseStatus": null}), Some(Kind::Refused)),
        (
            json!({"annotations": {"authorization.k8s.io/decision": "forbid"}}),
            Some(Kind::Refused),
        ),
        (
            json!({"requestURI": "/api/v1/namespaces/n/pods/p?x=1&dryRun=All"}),
            Some(Kind::DryRun),
        ),
        (
            json!({"requestObject": {"kind": "DeleteOptions", "dryRun": ["All"]}}),
            Some(Kind::DryRun),
        ),
        (json!({"objectRef": {"apiGroup": "metrics.k8s.io"}}), None),
        (json!({"objectRef": {"subresource": "exec"}}), Some(Kind::Other)),
        (json!({"verb": "watch"}), Some(Kind::Other)),
    ];
    for (more, kind) in nothing {
        let heard = hear(&delete(more.clone()));
        assert!(
            heard.changes.is_empty() && heard.unusable.is_empty(),
            "{more}: {:?}",
            heard.changes
        );
        assert!(
            kind.is_none() || heard.kinds == [kind.unwrap()],
            "{more}: {:?}",
            heard.kinds
        );
    }
    let heard = hear(&delete(json!({"stage": "Panic"})));
    assert_eq!(
        (heard.changes.len(), &heard.unusable[..]),
        (0, &[Unusable::Panicked][..])
    );
}

#[test]
fn a_dry_run_that_cannot_be_excluded_is_no_deletion() {
    let in_doubt = [
        json!({"level": "Metadata"}),
        json!({"annotations": {"audit.k8s.io/truncated": "true"}}),
        json!({"requestURI": "/x?dryRun=All", "requestObject": {"kind": "DeleteOptions"}}),
        json!({"level": "Metadata", "objectRef": {"subresource": "eviction"}, "verb": "create"}),
    ];
    for more in in_doubt {
        let heard = hear(&event("delete", 200, &more));
        assert_eq!(
            (heard.changes.len(), &heard.unusable[..]),
            (0, &[Unusable::DryRunInDoubt][..]),
            "{more}"
        );
    }
    // A body would have been recorded at this level, so there was none.
    let (act, facts) = told(&event("delete", 200, &json!({"level": "Request"})));
    assert_eq!((act, facts.uid), (gone(Cause::Deleted), None));
    // What looks like a dry run in another value is none.
    let encoded = json!({"requestURI": "/x?fieldManager=x%26dryRun%3DAll&gracePeriodSeconds=0"});
    assert_eq!(told(&event("delete", 200, &encoded)).0, gone(Cause::ForceDeleted));
}

#[test]
fn deletions_tell_uid_and_grace() {
    let options = json!({"requestObject": {"kind": "DeleteOptions", "gracePeriodSeconds": 0,
        "preconditions": {"uid": "u2"}}, "level": "Request"});
    let (act, facts) = told(&event("delete", 200, &options));
    assert_eq!(
        (act, facts.uid.unwrap().as_str()),
        (gone(Cause::ForceDeleted), "u2")
    );

    let eviction = json!({"objectRef": {"subresource": "eviction"}, "level": "Request",
        "requestObject": {"kind": "Eviction", "deleteOptions": {"preconditions": {"uid": "u3"}}}});
    let (act, facts) = told(&event("create", 201, &eviction));
    assert_eq!((act, facts.uid.unwrap().as_str()), (gone(Cause::Evicted), "u3"));

    let dry = json!({"objectRef": {"subresource": "eviction"},
        "requestObject": {"kind": "Eviction", "deleteOptions": {"dryRun": ["All"]}}});
    assert_eq!(hear(&event("create", 201, &dry)).kinds, [Kind::DryRun]);
    // Accepted, but not yet done: with foreground deletion the answer is 202.
    assert_eq!(
        told(&event("delete", 202, &json!({"responseObject": pod(&json!({}))}))).0,
        gone(Cause::Deleted)
    );
}

#[test]
fn a_mirror_pod_is_known_and_who_removes_it() {
    let mirror = pod(&json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "5af"}}}));
    let by_kubelet = |options: Value| {
        told(&event(
            "delete",
            200,
            &json!({"responseObject": mirror, "user": {"username": "system:node:a"},
            "requestObject": options}),
        ))
    };
    let (act, facts) = by_kubelet(json!({"kind": "DeleteOptions", "gracePeriodSeconds": 0}));
    assert_eq!(facts.mirror, Some(true));
    assert_eq!(
        act,
        Act::Gone {
            cause: Cause::ForceDeleted,
            static_too: true
        }
    );
    let (act, _) = by_kubelet(json!({"kind": "DeleteOptions", "preconditions": {"uid": "u"}}));
    assert_eq!(act, gone(Cause::Deleted));
}

#[test]
fn a_creation_without_the_pod_in_its_answer_is_read_from_the_request() {
    let request = json!({"kind": "Pod", "metadata": {"generateName": "p-", "uid": "invented"},
        "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    let create = |response: Value| {
        event(
            "create",
            201,
            &json!({"requestObject": request, "responseObject": response,
            "objectRef": {"name": "", "uid": "invented"}}),
        )
    };
    let part =
        json!({"kind": "PartialObjectMetadata", "metadata": {"name": "p-x", "namespace": "n", "uid": "u"}});
    let (_, facts) = told(&create(part.clone()));
    assert_eq!(
        (facts.name.as_str(), facts.uid.as_ref().unwrap().as_str()),
        ("p-x", "u")
    );
    assert_eq!(
        (images(&facts), &facts.node),
        (vec!["i:1".to_owned()], &Node::None)
    );

    let table =
        |object: Value| json!({"kind": "Table", "rows": [{"cells": ["p-x", "0/1"], "object": object}]});
    let (_, facts) = told(&create(table(part)));
    assert_eq!(facts.uid.unwrap().as_str(), "u");
    let (_, facts) = told(&create(table(Value::Null)));
    assert_eq!(
        (facts.name.as_str(), facts.uid),
        ("p-x", None),
        "includeObject=None"
    );
    let (_, facts) = told(&create(table(pod(&json!({})))));
    assert_eq!(
        (facts.name.as_str(), facts.node),
        ("p", Node::On(crate::names::NodeName::new("a").unwrap()))
    );

    let heard = hear(&create(Value::Null));
    assert_eq!(
        (heard.changes.len(), &heard.unusable[..]),
        (0, &[Unusable::NoName][..])
    );
}

#[test]
fn an_apply_that_creates_is_a_creation_and_one_that_changes_is_none() {
    let body = json!({"responseObject": pod(&json!({}))});
    assert_eq!(told(&event("patch", 201, &body)).0, Act::Created);
    assert_eq!(told(&event("patch", 200, &body)).0, Act::Seen);
}

#[test]
fn patches_without_an_answer_tell_what_they_name() {
    let patch = |body: Value| {
        told(&event(
            "patch",
            200,
            &json!({"level": "Request", "requestObject": body}),
        ))
        .1
        .images
    };
    let named = patch(json!({"spec": {"containers": [{"name": "c", "image": "i:2"}, {"name": "d"}]}}));
    let Images::Patched(patches) = named else {
        panic!("{named:?}")
    };
    assert!(
        matches!(&patches[..], [SlotPatch::Named(slot)] if &*slot.name == "c" && slot.image.as_str() == "i:2")
    );
    let placed = patch(json!([
        {"op": "test", "path": "/spec/containers/1/image", "value": "old"},
        {"op": "replace", "path": "/spec/containers/1/image", "value": "i:3"},
        {"op": "add", "path": "/metadata/labels/a", "value": "b"},
        {"op": "add", "path": "/spec/ephemeralContainers/-", "value": {"name": "e", "image": "d:1"}}
    ]));
    let Images::Patched(patches) = placed else {
        panic!("{placed:?}")
    };
    assert!(
        matches!(&patches[..], [SlotPatch::At { index: 1, image, .. }, SlotPatch::Named(slot)]
            if image.as_str() == "i:3" && slot.image.as_str() == "d:1"),
        "{patches:?}"
    );
    let heard = hear(&event(
        "patch",
        200,
        &json!({"level": "Request",
        "requestObject": [{"op": "replace", "path": "/spec", "value": {}}]}),
    ));
    assert_eq!(heard.unusable, [Unusable::BodyNotUnderstood]);
}

#[test]
fn the_last_of_equal_keys_counts_and_null_is_nothing() {
    let body = r#"{"kind":"Pod","metadata":{"name":"x","name":"p","uid":"u","annotations":null},
        "spec":{"initContainers":null,"containers":[{"name":"c","image":"first:1","image":"second:2"}]},"status":null}"#;
    let event = event("create", 201, &json!({"responseObject": "BODY"}));
    let line = event.to_string().replace("\"BODY\"", body);
    let heard = hear_text(line.as_bytes());
    let [
        Change {
            what: What::Pod(_, facts),
            ..
        },
    ] = &heard.changes[..]
    else {
        panic!("{:?} {:?}", heard.changes, heard.unusable);
    };
    assert_eq!(
        (facts.name.as_str(), images(facts)),
        ("p", vec!["second:2".to_owned()])
    );
}

#[test]
fn bindings_tell_node_and_uid() {
    let pods = json!({"objectRef": {"subresource": "binding", "uid": "u"},
        "requestObject": {"kind": "Binding", "metadata": {"uid": "u"}, "target": {"kind": "Node", "name": "a"}}});
    let (act, facts) = told(&event("create", 201, &pods));
    assert_eq!((act, facts.uid.unwrap().as_str()), (Act::Bound, "u"));
    assert_eq!(facts.node, Node::On(crate::names::NodeName::new("a").unwrap()));
    let old = json!({"objectRef": {"resource": "bindings"}, "level": "Metadata"});
    let heard = hear(&event("create", 201, &old));
    assert_eq!(
        (heard.changes.len(), &heard.unusable[..]),
        (1, &[Unusable::NoNode][..])
    );
}

#[test]
fn a_collection_is_told_by_its_items_or_as_the_whole_namespace() {
    let collection = |more: Value| {
        let mut event = event(
            "deletecollection",
            200,
            &json!({"objectRef": {"name": null},
            "requestURI": "/api/v1/namespaces/n/pods"}),
        );
        merge(&mut event, &more);
        hear(&event)
    };
    let item = |name: &str, uid: &str| {
        json!({"metadata": {"name": name, "namespace": "n", "uid": uid},
        "spec": {"nodeName": "a", "containers": [{"name": "c", "image": "i:1"}]}})
    };
    let items = json!({"responseObject": {"kind": "PodList", "items": [item("p", "u"), item("q", "v")]}});
    let heard = collection(items.clone());
    assert_eq!(heard.changes.len(), 2);
    assert!(
        heard
            .changes
            .iter()
            .all(|change| matches!(change.what, What::Pod(act, _)
        if act == gone(Cause::CollectionDeleted)))
    );

    let no_items = |more: Value| {
        collection(more)
            .changes
            .into_iter()
            .map(|change| change.what)
            .next()
    };
    let cleared = |cause| {
        Some(What::NamespaceCleared(
            magi_engine::ids::PodNamespace::new("n").unwrap(),
            cause,
        ))
    };
    assert_eq!(
        no_items(json!({"level": "Request"})),
        cleared(Cause::CollectionDeleted)
    );
    let selected = json!({"level": "Request", "requestURI": "/api/v1/namespaces/n/pods?labelSelector=a%3Db"});
    assert_eq!(collection(selected).unusable, [Unusable::NoPods]);
    assert_eq!(
        collection(json!({"level": "Metadata"})).unusable,
        [Unusable::DryRunInDoubt]
    );
    let controller = json!({"user": {"username": super::meaning::NAMESPACE_CONTROLLER}, "level": "Metadata"});
    assert_eq!(no_items(controller.clone()), cleared(Cause::NamespaceDeleted));
    let mut somebody = controller;
    somebody["impersonatedUser"] = json!({"username": super::meaning::NAMESPACE_CONTROLLER});
    assert_eq!(
        collection(somebody).unusable,
        [Unusable::DryRunInDoubt],
        "impersonated: may be a dry run"
    );
    let mut dry = items;
    dry["requestObject"] = json!({"kind": "DeleteOptions", "dryRun": ["All"]});
    assert_eq!(collection(dry).kinds, [Kind::DryRun]);
}

#[test]
fn a_namespace_is_empty_when_its_controller_finalizes_it() {
    let finalize = |user: &str| {
        hear(&event(
            "update",
            200,
            &json!({"level": "Metadata", "user": {"username": user},
            "objectRef": {"resource": "namespaces", "namespace": "n", "name": "n", "subresource": "finalize"}}),
        ))
    };
    assert_eq!(finalize(super::meaning::NAMESPACE_CONTROLLER).changes.len(), 1);
    assert_eq!(finalize("admin").changes.len(), 0);
    let delete = hear(&event(
        "delete",
        200,
        &json!({"objectRef": {"resource": "namespaces"}}),
    ));
    assert_eq!(
        (delete.changes.len(), &delete.kinds[..]),
        (0, &[Kind::NamespaceDeleted][..])
    );
}

#[test]
fn the_kubelet_gives_a_pod_up_with_a_reason() {
    let status = |status: Value| {
        let body = json!({"responseObject": pod(&json!({"status": status})), "objectRef": {"subresource": "status"}});
        told(&event("patch", 200, &body)).1.phase.unwrap()
    };
    assert_eq!(
        status(json!({"phase": "Failed", "reason": "Evicted"})),
        Phase::GivenUp
    );
    assert_eq!(status(json!({"phase": "Failed"})), Phase::Ended);
    assert_eq!(status(json!({"phase": "Succeeded"})), Phase::Ended);
    assert_eq!(status(json!({"phase": "Running"})), Phase::Active);
}

#[test]
fn lists_of_events_are_read_item_by_item() {
    let mut one = event("delete", 200, &json!({"responseObject": pod(&json!({}))}));
    one.as_object_mut().unwrap().remove("kind");
    one.as_object_mut().unwrap().remove("apiVersion");
    let lease = json!({"stage": "ResponseComplete", "objectRef": {"resource": "leases"}, "verb": "update"});
    let list = json!({"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {},
        "items": [one, lease, {"stage": 5}, one]});
    let heard = hear(&list);
    assert_eq!((heard.changes.len(), heard.of_no_interest), (2, 1));
    assert_eq!(heard.unusable, [Unusable::BodyNotUnderstood]);
}

#[test]
fn hostile_lines_are_counted_and_harm_nothing() {
    let good = event("delete", 200, &json!({"responseObject": pod(&json!({}))})).to_string();
    let with = |from: &str, to: &str| good.replace(from, to).into_bytes();
    let mut broken = good.clone().into_bytes();
    let at = good.find("someone").unwrap();
    broken[at] = 0xff;
    let deep_list = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let mut deep_pod = String::new();
    for _ in 0..100_000 {
        let _ = write!(deep_pod, "{{\"object\":");
    }
    let cases: Vec<(Vec<u8>, Option<Unusable>)> = vec![
        (good.clone().into_bytes(), None),
        (broken, Some(Unusable::NotUtf8)),
        (
            good.as_bytes()[..good.len() - 2].to_vec(),
            Some(Unusable::NotJson),
        ),
        (
            with("audit.k8s.io/v1", "audit.k8s.io/v9"),
            Some(Unusable::NotAnEvent),
        ),
        (
            with("\"2026-01-01T00:00:02.000000Z\"", "\"now\""),
            Some(Unusable::NoTime),
        ),
        (
            with("\"stageTimestamp\"", "\"stageTime\""),
            Some(Unusable::NoTime),
        ),
        (
            with("\"uid\":\"u\"", &format!("\"uid\":\"{}\"", "u".repeat(5000))),
            Some(Unusable::BadName),
        ),
        (with("\"someone\"", &deep_list), Some(Unusable::BodyNotUnderstood)),
        (with("\"Pending\"", &deep_list), Some(Unusable::BodyNotUnderstood)),
        (
            with(
                "\"status\":{\"phase\":\"Pending\"}",
                &format!("\"rows\":[{deep_pod}"),
            ),
            Some(Unusable::NotJson),
        ),
        (
            b"\"ResponseComplete\" \"pods\"".to_vec(),
            Some(Unusable::BodyNotUnderstood),
        ),
        (vec![b' '; MAX_LINE + 1], Some(Unusable::TooLong)),
    ];
    for (line, expected) in cases {
        let start = String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned();
        let heard = hear_text(&line);
        assert_eq!(heard.unusable.first().copied(), expected, "{start}");
        assert_eq!(heard.changes.len(), usize::from(expected.is_none()), "{start}");
    }
    let unknown_but_deep = with("\"x\"", &deep_list);
    assert_eq!(
        hear_text(&unknown_but_deep).changes.len(),
        1,
        "what is not read may be anything"
    );
    assert_eq!(hear_text(b"").of_no_interest, 1);
}
