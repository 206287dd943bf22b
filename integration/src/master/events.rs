//! What happens on an API server, as it tells it: lines of its audit log, and lines of a watch. The shapes are those that a
//! real one wrote and sent.

use serde_json::{Value, json};

use super::NODE;
use crate::cri::Pod;

/// The one who deletes the pods of a namespace that is being deleted.
const NAMESPACE_CONTROLLER: &str = "system:serviceaccount:kube-system:namespace-controller";

/// One thing that happened, or was refused.
#[derive(Debug, Clone, Default)]
pub struct Happening {
    /// Its audit events.
    pub(super) audit: Vec<Value>,
    /// What watchers are told: kind and object. Nothing, if nothing changed.
    pub(super) watch: Vec<(&'static str, Value)>,
}

/// The ways in which a pod stops to want its image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// It is deleted, with a grace.
    Deleted,
    /// It is deleted at once.
    ForceDeleted,
    /// It is evicted: there is no delete event.
    Evicted,
    /// Its namespace is deleted.
    NamespaceDeleted,
    /// It is one of a collection that is deleted.
    CollectionDeleted,
    /// It gets another image.
    ImagePatched,
}

impl Loss {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Deleted,
        Self::ForceDeleted,
        Self::Evicted,
        Self::NamespaceDeleted,
        Self::CollectionDeleted,
        Self::ImagePatched,
    ];

    /// It happens to the pod.
    pub fn of(self, pod: &Pod, image: &str) -> Happening {
        match self {
            Self::Deleted => deleted(pod, image),
            Self::ForceDeleted => force_deleted(pod, image),
            Self::Evicted => evicted(pod, image),
            Self::NamespaceDeleted => namespace_deleted(pod, image),
            Self::CollectionDeleted => collection_deleted(pod, image),
            Self::ImagePatched => image_patched(pod, &format!("{image}-patched")),
        }
    }
}

/// Sets what lies there, objects all the way.
fn put(value: &mut Value, path: &[&str], new: Value) {
    let mut place = value;
    for key in path {
        let Value::Object(map) = place else { return };
        place = map.entry(*key).or_insert_with(|| json!({}));
    }
    *place = new;
}

/// What an API server says of a request that it has carried out, or refused.
fn event(verb: &str, pod: &Pod, subresource: Option<&str>, code: u16) -> Value {
    let now = now();
    let path = subresource.map(|name| format!("/{name}")).unwrap_or_default();
    let mut event = json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "RequestResponse",
        "auditID": format!("{}-{verb}-{code}-{now}", pod.uid), "stage": "ResponseComplete",
        "requestURI": format!("/api/v1/namespaces/{}/pods/{}{path}", pod.namespace, pod.name),
        "verb": verb, "user": {"username": "tenant", "groups": ["system:authenticated"]},
        "sourceIPs": ["127.0.0.1"], "userAgent": "kubectl/v1.36.4",
        "objectRef": {"resource": "pods", "namespace": pod.namespace, "name": pod.name, "apiVersion": "v1"},
        "responseStatus": {"metadata": {}, "code": code},
        "requestReceivedTimestamp": now, "stageTimestamp": now,
        "annotations": {"authorization.k8s.io/decision": if code == 403 { "forbid" } else { "allow" }},
    });
    if let Some(name) = subresource {
        put(&mut event, &["objectRef", "subresource"], json!(name));
    }
    event
}

/// A request for all pods of the pod's namespace.
fn collection_event(pod: &Pod, query: &str) -> Value {
    let mut event = event("deletecollection", pod, None, 200);
    let uri = format!("/api/v1/namespaces/{}/pods{query}", pod.namespace);
    put(&mut event, &["requestURI"], json!(uri));
    put(
        &mut event,
        &["objectRef"],
        json!({"resource": "pods", "namespace": pod.namespace, "apiVersion": "v1"}),
    );
    event
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

/// The pod, bound to the node. Each object is of a later version than the one before.
fn object(pod: &Pod, image: &str) -> Value {
    static VERSION: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1000);
    let version = VERSION.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid,
                     "resourceVersion": version.to_string(), "creationTimestamp": now()},
        "spec": {"containers": [{"name": "main", "image": image}], "nodeName": NODE},
        "status": {"phase": "Pending"},
    })
}

/// The pod, on its way out.
fn leaving(pod: &Pod, image: &str, grace: u32) -> Value {
    let mut object = object(pod, image);
    put(&mut object, &["metadata", "deletionTimestamp"], json!(now()));
    put(
        &mut object,
        &["metadata", "deletionGracePeriodSeconds"],
        json!(grace),
    );
    object
}

fn success(code: u16) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code})
}

/// The pod is created and bound to the node.
pub fn created(pod: &Pod, image: &str) -> Vec<Happening> {
    let mut unbound = object(pod, image);
    put(&mut unbound, &["spec", "nodeName"], Value::Null);
    let mut create = event("create", pod, None, 201);
    put(&mut create, &["requestObject"], unbound.clone());
    put(&mut create, &["responseObject"], unbound.clone());
    let mut binding = event("create", pod, Some("binding"), 201);
    put(&mut binding, &["objectRef", "uid"], json!(pod.uid));
    put(
        &mut binding,
        &["requestObject"],
        json!({
            "kind": "Binding", "apiVersion": "v1",
            "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
            "target": {"kind": "Node", "name": NODE},
        }),
    );
    put(&mut binding, &["responseObject"], success(201));
    vec![
        Happening {
            audit: vec![create],
            watch: vec![("ADDED", unbound)],
        },
        Happening {
            audit: vec![binding],
            watch: vec![("MODIFIED", object(pod, image))],
        },
    ]
}

/// Its graceful deletion is accepted.
pub fn deleted(pod: &Pod, image: &str) -> Happening {
    let object = leaving(pod, image, 30);
    let mut delete = event("delete", pod, None, 200);
    put(&mut delete, &["responseObject"], object.clone());
    Happening {
        audit: vec![delete],
        watch: vec![("MODIFIED", object)],
    }
}

/// It is deleted with a grace of nothing: the object is gone at once.
pub fn force_deleted(pod: &Pod, image: &str) -> Happening {
    let object = leaving(pod, image, 0);
    let mut delete = event("delete", pod, None, 200);
    put(
        &mut delete,
        &["requestObject"],
        json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/__internal",
               "gracePeriodSeconds": 0, "propagationPolicy": "Background"}),
    );
    put(&mut delete, &["responseObject"], object.clone());
    Happening {
        audit: vec![delete],
        watch: vec![("DELETED", object)],
    }
}

/// Its eviction is accepted.
pub fn evicted(pod: &Pod, image: &str) -> Happening {
    let mut eviction = event("create", pod, Some("eviction"), 201);
    put(
        &mut eviction,
        &["requestObject"],
        json!({"kind": "Eviction", "apiVersion": "policy/v1",
               "metadata": {"name": pod.name, "namespace": pod.namespace}}),
    );
    put(&mut eviction, &["responseObject"], success(201));
    let mut object = leaving(pod, image, 30);
    put(
        &mut object,
        &["status", "conditions"],
        json!([{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}]),
    );
    Happening {
        audit: vec![eviction],
        watch: vec![("MODIFIED", object)],
    }
}

/// Its namespace is deleted, and the namespace controller deletes what is in it. The answer shows the pods as they were.
pub fn namespace_deleted(pod: &Pod, image: &str) -> Happening {
    let mut namespace = event("delete", pod, None, 200);
    let uri = format!("/api/v1/namespaces/{}", pod.namespace);
    put(&mut namespace, &["requestURI"], json!(uri));
    put(&mut namespace, &["level"], json!("Metadata"));
    put(
        &mut namespace,
        &["objectRef"],
        json!({"resource": "namespaces", "namespace": pod.namespace, "name": pod.namespace, "apiVersion": "v1"}),
    );
    let mut pods = collection_event(pod, "");
    put(
        &mut pods,
        &["user"],
        json!({"username": NAMESPACE_CONTROLLER, "groups": ["system:serviceaccounts"]}),
    );
    put(
        &mut pods,
        &["requestObject"],
        json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/__internal", "propagationPolicy": "Background"}),
    );
    put(&mut pods, &["responseObject"], list(&[object(pod, image)]));
    Happening {
        audit: vec![namespace, pods],
        watch: vec![("MODIFIED", leaving(pod, image, 30))],
    }
}

/// It is deleted with all others of a label.
pub fn collection_deleted(pod: &Pod, image: &str) -> Happening {
    let mut pods = collection_event(pod, "?labelSelector=app%3Dattack");
    put(&mut pods, &["responseObject"], list(&[object(pod, image)]));
    Happening {
        audit: vec![pods],
        watch: vec![("MODIFIED", leaving(pod, image, 30))],
    }
}

fn list(pods: &[Value]) -> Value {
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1531"}, "items": pods})
}

/// It gets another image.
pub fn image_patched(pod: &Pod, image: &str) -> Happening {
    let object = object(pod, image);
    let mut patch = event("patch", pod, None, 200);
    put(
        &mut patch,
        &["requestObject"],
        json!({"spec": {"$setElementOrder/containers": [{"name": "main"}],
                        "containers": [{"image": image, "name": "main"}]}}),
    );
    put(&mut patch, &["responseObject"], object.clone());
    Happening {
        audit: vec![patch],
        watch: vec![("MODIFIED", object)],
    }
}

/// Its deletion is refused with this code.
pub fn refused(pod: &Pod, code: u16) -> Happening {
    let mut delete = event("delete", pod, None, code);
    put(
        &mut delete,
        &["responseObject"],
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}),
    );
    Happening {
        audit: vec![delete],
        watch: Vec::new(),
    }
}

/// Its eviction is refused: a disruption budget forbids it.
pub fn eviction_refused(pod: &Pod) -> Happening {
    let mut eviction = event("create", pod, Some("eviction"), 429);
    put(
        &mut eviction,
        &["responseObject"],
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "TooManyRequests", "code": 429}),
    );
    Happening {
        audit: vec![eviction],
        watch: Vec::new(),
    }
}

/// Its deletion is only tried: once said so in the query, once in the body.
pub fn dry_run(pod: &Pod, image: &str) -> Happening {
    let mut by_body = event("delete", pod, None, 200);
    put(&mut by_body, &["responseObject"], leaving(pod, image, 30));
    let mut by_query = by_body.clone();
    put(
        &mut by_body,
        &["requestObject"],
        json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/__internal", "dryRun": ["All"]}),
    );
    let uri = format!(
        "/api/v1/namespaces/{}/pods/{}?dryRun=All",
        pod.namespace, pod.name
    );
    put(&mut by_query, &["requestURI"], json!(uri));
    Happening {
        audit: vec![by_query, by_body],
        watch: Vec::new(),
    }
}

/// Its status changes, and nothing else.
pub fn status_changed(pod: &Pod, image: &str) -> Happening {
    let mut object = object(pod, image);
    put(
        &mut object,
        &["status", "conditions"],
        json!([{"type": "Ready", "status": "False"}]),
    );
    let mut patch = event("patch", pod, Some("status"), 200);
    put(&mut patch, &["responseObject"], object.clone());
    Happening {
        audit: vec![patch],
        watch: vec![("MODIFIED", object)],
    }
}
