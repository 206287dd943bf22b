//! CRI's own list of sandboxes and containers, against which the inventory is checked.
//!
//! containerd answers it from memory, as it does for the kubelet every second, and holds no lock of NRI meanwhile.

use std::path::Path;

use magi_wire::runtime::v1 as cri;

use super::inventory::{Container, Listing, MAX_CONTAINERS, MAX_IMAGE, MAX_LABELS, MAX_NAME, MAX_PODS, Pod};
use crate::containerd::{Api, ApiError, bounded};

/// Asks containerd at `address`.
pub(super) async fn ask(address: &Path) -> Result<Listing, ApiError> {
    let mut runtime = Api::connect(address).await?.runtime();
    let sandboxes = runtime
        .list_pod_sandbox(bounded(cri::ListPodSandboxRequest::default()))
        .await
        .map_err(ApiError::call("ListPodSandbox"))?
        .into_inner()
        .items;
    let containers = runtime
        .list_containers(bounded(cri::ListContainersRequest::default()))
        .await
        .map_err(ApiError::call("ListContainers"))?
        .into_inner()
        .containers;
    Ok(listing(sandboxes, containers))
}

pub(super) fn listing(sandboxes: Vec<cri::PodSandbox>, containers: Vec<cri::Container>) -> Listing {
    let mut listing = Listing {
        cut: sandboxes.len() > MAX_PODS || containers.len() > MAX_CONTAINERS,
        ..Listing::default()
    };
    for sandbox in sandboxes.into_iter().take(MAX_PODS) {
        match pod(sandbox) {
            Some(pod) => listing.pods.push(pod),
            None => listing.cut = true,
        }
    }
    listing
        .containers
        .extend(containers.into_iter().take(MAX_CONTAINERS).filter_map(container));
    listing
}

fn pod(sandbox: cri::PodSandbox) -> Option<Pod> {
    let mut cut = false;
    let mut name = |text: String| {
        let fits = text.len() <= MAX_NAME;
        cut |= !fits;
        if fits { text } else { String::new() }
    };
    let metadata = sandbox.metadata.unwrap_or_default();
    let mut pod = Pod {
        uid: name(metadata.uid),
        namespace: name(metadata.namespace),
        name: name(metadata.name),
        sandbox: name(sandbox.id),
        stopped: sandbox.state == cri::PodSandboxState::SandboxNotready as i32,
        ..Pod::default()
    };
    let mut room = MAX_LABELS;
    for (key, value) in sandbox.labels {
        match room.checked_sub(key.len() + value.len()) {
            Some(left) => {
                room = left;
                pod.labels.insert(key, value);
            }
            None => cut = true,
        }
    }
    pod.cut = cut;
    (!pod.sandbox.is_empty()).then_some(pod)
}

/// A container; its image only where it is a name: the kubelet itself asks for ids.
fn container(container: cri::Container) -> Option<Container> {
    let name = container.metadata.unwrap_or_default().name;
    let image = container.image.unwrap_or_default();
    let named = [image.user_specified_image, image.image]
        .into_iter()
        .find(|text| !text.is_empty() && text.len() <= MAX_IMAGE && !text.starts_with("sha256:"));
    let sandbox = container.pod_sandbox_id;
    let fits = |text: &str| (1..=MAX_NAME).contains(&text.len());
    (fits(&sandbox) && fits(&name)).then_some(Container {
        sandbox,
        name,
        image: named,
    })
}
