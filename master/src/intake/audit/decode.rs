//! The JSON of audit events, borrowed from the line. Its shapes go no further than this folder.
//!
//! Where a key stands twice, the last one counts, as it does for the API server (sigs.k8s.io/json); null is nothing.
//! Reading stops at the resource if that is none of ours: the bodies, which are most of a line, come after it.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::value::RawValue;

use super::Unusable;

/// A text of the line; a copy only if it was escaped there.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(in crate::intake) struct Text<'a>(Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Visit)
    }
}

/// A list, or null.
#[derive(Debug)]
pub(in crate::intake) struct List<T>(pub(in crate::intake) Vec<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::<Vec<T>>::deserialize(deserializer).map(|list| Self(list.unwrap_or_default()))
    }
}

/// That a key is there.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(in crate::intake) struct Present(pub(in crate::intake) bool);

impl<'de> Deserialize<'de> for Present {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self(true))
    }
}

/// Declares an object: the keys that matter. Null and, for the `status` of an answer of kind Status, a text are empty.
macro_rules! object {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty = $key:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub(in crate::intake) struct $name<'a> {
            $($(#[$field_doc])* pub(in crate::intake) $field: $type,)*
            marker: std::marker::PhantomData<&'a ()>,
        }

        impl<'a> Deserialize<'a> for $name<'a> {
            fn deserialize<D: Deserializer<'a>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visit<'a>(std::marker::PhantomData<&'a ()>);
                impl<'a> Visitor<'a> for Visit<'a> {
                    type Value = $name<'a>;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("an object")
                    }
                    fn visit_unit<E>(self) -> Result<Self::Value, E> {
                        Ok(Self::Value::default())
                    }
                    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
                        Ok(Self::Value::default())
                    }
                    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                        let mut value = Self::Value::default();
                        while let Some(key) = map.next_key::<Text<'a>>()? {
                            match &*key {
                                $($key => value.$field = map.next_value()?,)*
                                _ => {
                                    map.next_value::<IgnoredAny>()?;
                                }
                            }
                        }
                        Ok(value)
                    }
                }
                deserializer.deserialize_any(Visit(std::marker::PhantomData))
            }
        }
    };
}

object! {
    /// A line of a watch.
    Watched {
        kind: Option<Text<'a>> = "type",
        object: Body<'a> = "object",
    }
}
object! {
    /// Who asked.
    User { name: Option<Text<'a>> = "username", }
}
object! {
    /// What the request was about.
    ObjectRef {
        resource: Option<Text<'a>> = "resource",
        group: Option<Text<'a>> = "apiGroup",
        namespace: Option<Text<'a>> = "namespace",
        name: Option<Text<'a>> = "name",
        /// Of a binding: the pod's, which the API server has checked. Of a creation: whatever the client wrote.
        uid: Option<Text<'a>> = "uid",
        subresource: Option<Text<'a>> = "subresource",
    }
}
object! {
    /// How it was answered.
    Answered { code: Option<i64> = "code", }
}
object! {
    /// What the API server noted beside it.
    Notes {
        truncated: Option<Text<'a>> = "audit.k8s.io/truncated",
        decision: Option<Text<'a>> = "authorization.k8s.io/decision",
    }
}
object! {
    /// A body: a pod, a list of pods, a table, or options of a deletion. `kind` tells which.
    Body {
        kind: Option<Text<'a>> = "kind",
        metadata: Metadata<'a> = "metadata",
        spec: Spec<'a> = "spec",
        status: Status<'a> = "status",
        items: List<Body<'a>> = "items",
        rows: List<Row<'a>> = "rows",
        target: Target<'a> = "target",
        dry_run: List<Text<'a>> = "dryRun",
        grace: Option<i64> = "gracePeriodSeconds",
        preconditions: Preconditions<'a> = "preconditions",
        delete_options: Options<'a> = "deleteOptions",
        code: Option<i64> = "code",
    }
}
object! {
    /// A row of a table, as `kubectl get` asks for it.
    Row {
        object: Body<'a> = "object",
        cells: Cells<'a> = "cells",
    }
}
object! {
    /// Options of a deletion within an eviction.
    Options {
        dry_run: List<Text<'a>> = "dryRun",
        preconditions: Preconditions<'a> = "preconditions",
    }
}
object! {
    /// On which condition something is deleted.
    Preconditions { uid: Option<Text<'a>> = "uid", }
}
object! {
    /// What a pod is bound to.
    Target {
        kind: Option<Text<'a>> = "kind",
        name: Option<Text<'a>> = "name",
    }
}
object! {
    /// An object's metadata.
    Metadata {
        name: Option<Text<'a>> = "name",
        namespace: Option<Text<'a>> = "namespace",
        uid: Option<Text<'a>> = "uid",
        version: Option<Text<'a>> = "resourceVersion",
        created: Option<Text<'a>> = "creationTimestamp",
        deleted: Option<Text<'a>> = "deletionTimestamp",
        grace: Option<i64> = "deletionGracePeriodSeconds",
        annotations: Option<Annotations<'a>> = "annotations",
        /// Of a list: what to ask for the rest with.
        rest: Option<Text<'a>> = "continue",
    }
}
object! {
    /// Annotations of a pod.
    Annotations {
        /// Source: k8s.io/api core/v1 annotation_key_constants.go, `MirrorPodAnnotationKey`.
        mirror: Present = "kubernetes.io/config.mirror",
    }
}
object! {
    /// A pod's specification.
    Spec {
        node: Option<Text<'a>> = "nodeName",
        containers: List<Container<'a>> = "containers",
        init: List<Container<'a>> = "initContainers",
        ephemeral: List<Container<'a>> = "ephemeralContainers",
        volumes: List<Volume<'a>> = "volumes",
    }
}
object! {
    /// A container of any list.
    Container {
        name: Option<Text<'a>> = "name",
        image: Option<Text<'a>> = "image",
    }
}
object! {
    /// A volume; most have no image.
    Volume {
        name: Option<Text<'a>> = "name",
        image: ImageVolume<'a> = "image",
    }
}
object! {
    /// What an image volume shows.
    ImageVolume { reference: Option<Text<'a>> = "reference", }
}
object! {
    /// A pod's status.
    Status {
        phase: Option<Text<'a>> = "phase",
        reason: Option<Text<'a>> = "reason",
    }
}
object! {
    /// One operation of a JSON patch (RFC 6902).
    Operation {
        op: Option<Text<'a>> = "op",
        path: Option<Text<'a>> = "path",
        value: Option<&'a RawValue> = "value",
    }
}

/// The cells of a row; the first is the name (Kubernetes' printers put it there).
#[derive(Debug, Default)]
pub(in crate::intake) struct Cells<'a>(pub(in crate::intake) Option<Text<'a>>);

impl<'a> Deserialize<'a> for Cells<'a> {
    fn deserialize<D: Deserializer<'a>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit<'a>(std::marker::PhantomData<&'a ()>);
        impl<'a> Visitor<'a> for Visit<'a> {
            type Value = Cells<'a>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("cells")
            }
            fn visit_unit<E>(self) -> Result<Cells<'a>, E> {
                Ok(Cells(None))
            }
            fn visit_seq<A: SeqAccess<'a>>(self, mut cells: A) -> Result<Cells<'a>, A::Error> {
                let first = cells.next_element::<Text<'a>>()?;
                while cells.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Cells(first))
            }
        }
        deserializer.deserialize_any(Visit(std::marker::PhantomData))
    }
}

/// An event about pods, or about what ends them.
#[derive(Debug, Default)]
pub(in crate::intake) struct Event<'a> {
    pub(in crate::intake) level: Option<Text<'a>>,
    pub(in crate::intake) stage: Option<Text<'a>>,
    pub(in crate::intake) uri: Option<Text<'a>>,
    pub(in crate::intake) verb: Option<Text<'a>>,
    pub(in crate::intake) user: User<'a>,
    pub(in crate::intake) impersonated: Option<User<'a>>,
    pub(in crate::intake) object: ObjectRef<'a>,
    pub(in crate::intake) answered: Answered<'a>,
    pub(in crate::intake) request: Option<&'a RawValue>,
    pub(in crate::intake) response: Option<Body<'a>>,
    pub(in crate::intake) began: Option<Text<'a>>,
    pub(in crate::intake) at: Option<Text<'a>>,
    pub(in crate::intake) notes: Notes<'a>,
}

/// A line.
#[derive(Debug)]
pub(in crate::intake) enum Document<'a> {
    /// One event.
    Event(Box<Event<'a>>),
    /// An event about something else.
    OfNoInterest,
    /// Several, not yet read.
    List(Vec<&'a RawValue>),
}

/// What was read of a line, and why reading ended.
#[derive(Debug, Default)]
struct Progress<'a> {
    kind: Option<Text<'a>>,
    group: Option<Text<'a>>,
    event: Event<'a>,
    items: Option<Vec<&'a RawValue>>,
    is_of_no_interest: bool,
}

struct Seed<'p, 'a>(&'p mut Progress<'a>);

impl<'a> DeserializeSeed<'a> for Seed<'_, 'a> {
    type Value = ();
    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for Seed<'_, 'a> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an audit event")
    }
    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        let Self(progress) = self;
        let event = &mut progress.event;
        while let Some(key) = map.next_key::<Text<'a>>()? {
            match &*key {
                "kind" => progress.kind = map.next_value()?,
                "apiVersion" => progress.group = map.next_value()?,
                "items" => progress.items = map.next_value()?,
                "level" => event.level = map.next_value()?,
                "stage" => event.stage = map.next_value()?,
                "requestURI" => event.uri = map.next_value()?,
                "verb" => event.verb = map.next_value()?,
                "user" => event.user = map.next_value()?,
                "impersonatedUser" => event.impersonated = map.next_value()?,
                "objectRef" => event.object = map.next_value()?,
                "responseStatus" => event.answered = map.next_value()?,
                "requestObject" => event.request = map.next_value()?,
                "responseObject" => event.response = map.next_value()?,
                "requestReceivedTimestamp" => event.began = map.next_value()?,
                "stageTimestamp" => event.at = map.next_value()?,
                "annotations" => event.notes = map.next_value()?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            if &*key == "objectRef" && !is_ours(&event.object) {
                progress.is_of_no_interest = true;
                return Err(A::Error::custom("of no interest"));
            }
        }
        Ok(())
    }
}

/// Pods of the core group, and what ends them. `metrics.k8s.io` has pods too.
fn is_ours(object: &ObjectRef<'_>) -> bool {
    let is_core = object.group.as_deref().is_none_or(str::is_empty);
    is_core
        && matches!(
            object.resource.as_deref(),
            Some("pods" | "bindings" | "namespaces")
        )
}

fn progress(text: &str) -> Result<Progress<'_>, Unusable> {
    let mut progress = Progress::default();
    let mut json = serde_json::Deserializer::from_str(text);
    let read = Seed(&mut progress)
        .deserialize(&mut json)
        .and_then(|()| json.end());
    match read {
        Ok(()) => Ok(progress),
        Err(_) if progress.is_of_no_interest => Ok(progress),
        Err(problem) if problem.is_data() => Err(Unusable::BodyNotUnderstood),
        Err(_) => Err(Unusable::NotJson),
    }
}

/// Reads a line.
pub(in crate::intake) fn document(text: &str) -> Result<Document<'_>, Unusable> {
    let progress = progress(text)?;
    if progress.group.as_deref() != Some("audit.k8s.io/v1") {
        return Err(Unusable::NotAnEvent);
    }
    match (progress.kind.as_deref(), progress.items) {
        (Some("EventList"), items) => Ok(Document::List(items.unwrap_or_default())),
        (Some("Event"), _) if !is_ours(&progress.event.object) => Ok(Document::OfNoInterest),
        (Some("Event"), _) => Ok(Document::Event(Box::new(progress.event))),
        (Some(_) | None, _) => Err(Unusable::NotAnEvent),
    }
}

/// Reads an event out of a list: there it has no kind of its own. `None` if it is about something else.
pub(in crate::intake) fn item(text: &str) -> Result<Option<Event<'_>>, Unusable> {
    let progress = progress(text)?;
    Ok(is_ours(&progress.event.object).then_some(progress.event))
}

/// An answer's body.
pub(in crate::intake) fn answer(text: &[u8]) -> Option<Body<'_>> {
    serde_json::from_slice(text).ok()
}

/// A line of a watch.
pub(in crate::intake) fn watched(line: &[u8]) -> Option<Watched<'_>> {
    serde_json::from_slice(line).ok()
}

/// A request's body as an object.
pub(in crate::intake) fn body(raw: &RawValue) -> Option<Body<'_>> {
    serde_json::from_str(raw.get()).ok()
}

/// A request's body as a JSON patch.
pub(in crate::intake) fn operations(raw: &RawValue) -> Option<Vec<Operation<'_>>> {
    serde_json::from_str(raw.get()).ok()
}

/// A text within a patch.
pub(in crate::intake) fn text(raw: &RawValue) -> Option<Text<'_>> {
    serde_json::from_str(raw.get()).ok()
}

/// A container within a patch.
pub(in crate::intake) fn container(raw: &RawValue) -> Option<Container<'_>> {
    serde_json::from_str(raw.get()).ok()
}
