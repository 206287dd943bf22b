//! Which images a patch gave a pod, where the answer does not show the pod.
//!
//! Whether a patch was a merge, a strategic merge or an apply is not in the event. It makes no difference here: the API
//! server lets no patch add, drop or rename a container of a pod that exists, so a container that is named has the image
//! that stands beside it, and all others keep theirs. Source: pkg/apis/core/validation, `ValidatePodUpdate`.

use magi_engine::ids::ImageName;
use serde_json::value::RawValue;

use super::decode::{self, Container, Operation, Spec};
use crate::change::{Slot, SlotList, SlotPatch};

/// The images that a request's body sets; `None` if it may set some in a way that is not understood.
pub(super) fn images(raw: &RawValue) -> Option<Vec<SlotPatch>> {
    if raw.get().trim_start().starts_with('[') {
        return json_patch(&decode::operations(raw)?);
    }
    let body = decode::body(raw)?;
    Some(slots(&body.spec).into_iter().map(SlotPatch::Named).collect())
}

/// Every place of a specification where an image stands, as the kubelet goes through them.
pub(super) fn slots(spec: &Spec<'_>) -> Vec<Slot> {
    let lists = [
        (SlotList::Init, &spec.init),
        (SlotList::Main, &spec.containers),
        (SlotList::Ephemeral, &spec.ephemeral),
    ];
    let containers = lists.into_iter().flat_map(|(list, containers)| {
        let containers = containers.0.iter();
        containers.filter_map(move |container| slot(list, container))
    });
    let volumes = spec.volumes.0.iter().filter_map(|volume| {
        Some(Slot {
            list: SlotList::Volume,
            name: volume.name.as_deref().unwrap_or_default().into(),
            image: image(volume.image.reference.as_deref()?)?,
        })
    });
    containers.chain(volumes).collect()
}

fn slot(list: SlotList, container: &Container<'_>) -> Option<Slot> {
    Some(Slot {
        list,
        name: container.name.as_deref().unwrap_or_default().into(),
        image: image(container.image.as_deref()?)?,
    })
}

/// Empty ones come from no live pod, and one that is too long for a name cannot be pulled.
fn image(text: &str) -> Option<ImageName> {
    ImageName::new(text).ok()
}

fn json_patch(operations: &[Operation<'_>]) -> Option<Vec<SlotPatch>> {
    let mut patches = Vec::new();
    for operation in operations {
        let path = operation.path.as_deref()?;
        let mut parts = path.split('/').skip(1);
        match parts.next() {
            Some("spec") => {}
            // The whole document, replaced.
            None | Some("") => return None,
            Some(_) => continue,
        }
        let list = match parts.next() {
            Some("containers") => SlotList::Main,
            Some("initContainers") => SlotList::Init,
            Some("ephemeralContainers") => SlotList::Ephemeral,
            None => return None,
            Some(_) => continue,
        };
        match (operation.op.as_deref()?, parts.next(), parts.next(), parts.next()) {
            ("test", ..) => {}
            ("add" | "replace", Some(index), Some("image"), None) => {
                let text = decode::text(operation.value?)?;
                patches.push(SlotPatch::At {
                    list,
                    index: index.parse().ok()?,
                    image: image(&text)?,
                });
            }
            ("add" | "replace", Some(_), None, None) => {
                let container = decode::container(operation.value?)?;
                patches.extend(slot(list, &container).map(SlotPatch::Named));
            }
            // Another field of a container.
            (_, Some(_), Some(field), _) if field != "image" => {}
            _ => return None,
        }
    }
    Some(patches)
}
