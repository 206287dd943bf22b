//! What the runtime says about pods, as this source's own types. NRI's numbering ends here.
//!
//! Field numbers are those of `api.proto` in [`magi_wire`]; a test holds them against the generated types.

use magi_wire::nri::pkg::api::v1alpha1::{
    ConfigureResponse, Event, RegisterPluginRequest, SynchronizeResponse,
};
use prost::Message as _;

use super::fields::{Fields, Malformed, Value, fields};
use super::inventory::{
    Container, Happening, Listing, MAX_CONTAINERS, MAX_IMAGE, MAX_LABELS, MAX_NAME, MAX_PODS, Pod, PodEvent,
};
use super::ttrpc::{Call, quoted};

/// The service that magi calls.
pub(super) const RUNTIME: &str = "nri.pkg.api.v1alpha1.Runtime";
/// The service that magi is.
const PLUGIN: &str = "nri.pkg.api.v1alpha1.Plugin";
/// The name that shows in containerd's log.
const NAME: &str = "magi";
/// Plugins are called in this order: magi only watches, so it comes last.
const INDEX: &str = "99";
/// The image that a container was asked to run, as its pod names it where the kubelet tells.
/// Source: containerd 2.1.9 internal/cri/annotations/annotations.go.
const IMAGE_ANNOTATION: &str = "io.kubernetes.cri.image-name";
/// What magi wants to hear of. `POST_CREATE_CONTAINER` and not `CREATE_CONTAINER`: the latter asks the plugin for
/// changes, the former tells what is.
const WANTED: [Event; 4] = [
    Event::RunPodSandbox,
    Event::StopPodSandbox,
    Event::RemovePodSandbox,
    Event::PostCreateContainer,
];

/// What a call of the runtime is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked<'a> {
    /// Who are you, and what do you want to hear of?
    Configure(&'a [u8]),
    /// This is what there is.
    Synchronize(&'a [u8]),
    /// This has happened: what, and where pod and container are in the message.
    Event {
        happening: Happening,
        pod: u64,
        container: u64,
        message: &'a [u8],
    },
    /// A call that magi did not ask for, or has nothing to say to.
    Nothing,
    /// A call of a version that magi does not know.
    Unknown,
}

impl<'a> Asked<'a> {
    /// What `call` is about.
    pub(super) fn by(call: &Call<'a>) -> Self {
        if call.service != PLUGIN {
            return Self::Unknown;
        }
        let message = call.payload;
        // Since NRI 0.12 each event has a call of its own, with the pod first and no event.
        let event = |happening| Self::Event {
            happening,
            pod: 1,
            container: 2,
            message,
        };
        match call.method {
            "Configure" => Self::Configure(message),
            "Synchronize" => Self::Synchronize(message),
            "StateChange" => match happening(message) {
                Some(happening) => Self::Event {
                    happening,
                    pod: 2,
                    container: 3,
                    message,
                },
                None => Self::Nothing,
            },
            "RunPodSandbox" => event(Happening::Started),
            "StopPodSandbox" => event(Happening::Stopped),
            "RemovePodSandbox" => event(Happening::Removed),
            "PostCreateContainer" => event(Happening::ContainerCreated),
            "Shutdown" | "CreateContainer" | "UpdateContainer" | "StopContainer" => Self::Nothing,
            _ => Self::Unknown,
        }
    }

    /// The message that answers it: always a consent, and never a change; `None` where the call is not known.
    pub(super) fn answer(&self) -> Option<Vec<u8>> {
        match self {
            Self::Configure(_) => {
                let events = WANTED
                    .iter()
                    .fold(0, |mask, event| mask | 1 << (*event as i32 - 1));
                Some(ConfigureResponse { events }.encode_to_vec())
            }
            Self::Synchronize(message) => Some(
                SynchronizeResponse {
                    update: Vec::new(),
                    more: has_more(message),
                }
                .encode_to_vec(),
            ),
            // Every other answer is an empty message, or one whose fields would ask for changes.
            Self::Event { .. } | Self::Nothing => Some(Vec::new()),
            Self::Unknown => None,
        }
    }
}

/// The call that makes magi known, as `method, message`.
pub(super) fn registration() -> (&'static str, Vec<u8>) {
    let request = RegisterPluginRequest {
        plugin_name: NAME.to_owned(),
        plugin_idx: INDEX.to_owned(),
    };
    ("RegisterPlugin", request.encode_to_vec())
}

/// Name and version of the runtime, for the log. Versions are not understood: Debian's reads `1.7.24~ds1`.
pub(super) fn runtime(configure: &[u8]) -> (String, String) {
    let text = |number| {
        last(configure, number)
            .and_then(|value| Ok(quoted(value.text()?)))
            .unwrap_or_default()
    };
    (text(2), text(3))
}

/// Reads one message of a synchronization into `listing`; whether more follow.
pub(super) fn part(message: &[u8], listing: &mut Listing) -> Result<bool, Malformed> {
    let mut more = false;
    for field in fields(message) {
        match field? {
            (1, value) => match pod(value.bytes()?)? {
                Some(pod) if listing.pods.len() < MAX_PODS => listing.pods.push(pod),
                Some(_) | None => listing.cut = true,
            },
            (2, value) => match container(value.bytes()?)? {
                Some(container) if listing.containers.len() < MAX_CONTAINERS => {
                    listing.containers.push(container)
                }
                Some(_) | None => listing.cut = true,
            },
            (3, value) => more = value.number()? != 0,
            _ => {}
        }
    }
    Ok(more)
}

/// Reads an event; `None` if it is about nothing that could be taken.
pub(super) fn event(
    happening: Happening,
    (pod_at, container_at): (u64, u64),
    message: &[u8],
) -> Result<Option<PodEvent>, Malformed> {
    let (mut pod_of, mut container_of) = (None, None);
    for field in fields(message) {
        match field? {
            (at, value) if at == pod_at => pod_of = pod(value.bytes()?)?,
            (at, value) if at == container_at => container_of = container(value.bytes()?)?,
            _ => {}
        }
    }
    Ok(pod_of.map(|pod| PodEvent {
        happening,
        pod,
        container: container_of,
    }))
}

fn happening(state_change: &[u8]) -> Option<Happening> {
    let number = last(state_change, 1).and_then(Value::number).ok()?;
    match Event::try_from(i32::try_from(number).ok()?).ok()? {
        Event::RunPodSandbox => Some(Happening::Started),
        Event::StopPodSandbox => Some(Happening::Stopped),
        Event::RemovePodSandbox => Some(Happening::Removed),
        Event::PostCreateContainer => Some(Happening::ContainerCreated),
        Event::Unknown
        | Event::CreateContainer
        | Event::StartContainer
        | Event::PostStartContainer
        | Event::UpdateContainer
        | Event::PostUpdateContainer
        | Event::StopContainer
        | Event::RemoveContainer
        | Event::Last => None,
    }
}

fn has_more(synchronize: &[u8]) -> bool {
    last(synchronize, 3)
        .and_then(Value::number)
        .is_ok_and(|more| more != 0)
}

/// The last field of that number, which is the one that counts; an error if there is none.
fn last(message: &[u8], number: u64) -> Result<Value<'_>, Malformed> {
    let mut found = Err(Malformed);
    for field in fields(message) {
        match field? {
            (at, value) if at == number => found = Ok(value),
            _ => {}
        }
    }
    found
}

/// A pod; `None` if it has no usable id.
fn pod(message: &[u8]) -> Result<Option<Pod>, Malformed> {
    let mut pod = Pod::default();
    let mut room = MAX_LABELS;
    for field in fields(message) {
        match field? {
            (1, value) => pod.sandbox = name(value, &mut pod.cut)?,
            (2, value) => pod.name = name(value, &mut pod.cut)?,
            (3, value) => pod.uid = name(value, &mut pod.cut)?,
            (4, value) => pod.namespace = name(value, &mut pod.cut)?,
            (5, value) => {
                let (key, value) = entry(value)?;
                match room.checked_sub(key.len() + value.len()) {
                    Some(left) => {
                        room = left;
                        pod.labels.insert(key.to_owned(), value.to_owned());
                    }
                    None => pod.cut = true,
                }
            }
            _ => {}
        }
    }
    Ok((!pod.sandbox.is_empty()).then_some(pod))
}

/// A container; `None` if it has no usable name or pod.
fn container(message: &[u8]) -> Result<Option<Container>, Malformed> {
    let mut container = Container {
        sandbox: String::new(),
        name: String::new(),
        image: None,
    };
    for field in fields(message) {
        match field? {
            (2, value) => container.sandbox = name(value, &mut false)?,
            (3, value) => container.name = name(value, &mut false)?,
            (6, value) => {
                let (key, value) = entry(value)?;
                if key == IMAGE_ANNOTATION && !value.is_empty() && value.len() <= MAX_IMAGE {
                    container.image = Some(value.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok((!container.sandbox.is_empty() && !container.name.is_empty()).then_some(container))
}

/// A short text; empty if it is too long, and then `cut` is set.
fn name(value: Value<'_>, cut: &mut bool) -> Result<String, Malformed> {
    let text = value.text()?;
    if text.len() > MAX_NAME {
        *cut = true;
        return Ok(String::new());
    }
    Ok(text.to_owned())
}

/// An entry of a map of texts.
fn entry(value: Value<'_>) -> Result<(&str, &str), Malformed> {
    let (mut key, mut text) = ("", "");
    let entry: Fields<'_> = fields(value.bytes()?);
    for field in entry {
        match field? {
            (1, value) => key = value.text()?,
            (2, value) => text = value.text()?,
            _ => {}
        }
    }
    Ok((key, text))
}
