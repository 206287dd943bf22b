//! From what NRI tells to the engine's vocabulary.

use std::collections::BTreeMap;

use magi_engine::ids::{ImageName, PodName, PodNamespace, PodUid, SandboxId};
use magi_engine::owner::{NodePod, PodIdentity};
use magi_engine::{Event, Source};
use tokio::sync::mpsc;
use tracing::debug;

use super::{Pod, PodChange};
use crate::inbox::Inbox;

/// Tells the engine, until one end is gone.
pub(crate) async fn tell(mut changes: mpsc::Receiver<PodChange>, inbox: Inbox) {
    let mut known = Known::default();
    while let Some(change) = changes.recv().await {
        for event in known.changed(change) {
            if inbox.send(event).await.is_err() {
                return;
            }
        }
    }
}

/// The pods as they were told last: an event of NRI names only what changes.
#[derive(Debug, Default)]
pub(super) struct Known(BTreeMap<String, NodePod>);

impl Known {
    pub(super) fn changed(&mut self, change: PodChange) -> Vec<Event> {
        match change {
            PodChange::Synchronized { pods, complete: _ } => {
                self.0 = pods
                    .into_iter()
                    .filter_map(|pod| Some((pod.sandbox.clone(), node_pod(pod)?)))
                    .collect();
                let pods = self.0.values().cloned().collect();
                vec![
                    Event::SourceUp { source: Source::Nri },
                    Event::PodsListed { pods },
                ]
            }
            PodChange::Started(pod) => {
                let sandbox = pod.sandbox.clone();
                let Some(pod) = node_pod(pod) else {
                    return Vec::new();
                };
                self.0.insert(sandbox, pod.clone());
                vec![Event::PodSeen { pod }]
            }
            PodChange::ContainerCreated { sandbox, image, .. } => self.update(&sandbox, |pod| {
                let image = image.and_then(|image| ImageName::new(image).ok());
                let new = image.filter(|image| !pod.images.contains(image));
                pod.images.extend(new);
            }),
            PodChange::Stopped { sandbox, .. } => self.update(&sandbox, |pod| pod.stopped = true),
            PodChange::Removed { sandbox, .. } => {
                self.0.remove(&sandbox);
                let sandbox = SandboxId::new(sandbox).ok();
                sandbox
                    .into_iter()
                    .map(|sandbox| Event::PodGone { sandbox })
                    .collect()
            }
            PodChange::Down => {
                self.0.clear();
                vec![Event::SourceDown { source: Source::Nri }]
            }
        }
    }

    fn update(&mut self, sandbox: &str, change: impl FnOnce(&mut NodePod)) -> Vec<Event> {
        let Some(pod) = self.0.get_mut(sandbox) else {
            return Vec::new();
        };
        change(pod);
        vec![Event::PodSeen { pod: pod.clone() }]
    }
}

/// A pod, unless the runtime leaves out who it is.
fn node_pod(pod: Pod) -> Option<NodePod> {
    let identity = || {
        Some(PodIdentity {
            uid: PodUid::new(pod.uid.clone()).ok()?,
            namespace: PodNamespace::new(pod.namespace.clone()).ok()?,
            name: PodName::new(pod.name.clone()).ok()?,
        })
    };
    let (Some(identity), Ok(sandbox)) = (identity(), SandboxId::new(pod.sandbox.clone())) else {
        debug!(
            sandbox = pod.sandbox,
            "a sandbox without a pod's names is left out"
        );
        return None;
    };
    let mut images: Vec<ImageName> = Vec::new();
    for image in pod
        .images
        .into_values()
        .filter_map(|image| ImageName::new(image).ok())
    {
        if !images.contains(&image) {
            images.push(image);
        }
    }
    Some(NodePod {
        sandbox,
        pod: identity,
        labels: pod.labels,
        images,
        stopped: pod.stopped,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(sandbox: &str) -> Pod {
        Pod {
            sandbox: sandbox.to_owned(),
            uid: "u".to_owned(),
            namespace: "team".to_owned(),
            name: "web".to_owned(),
            ..Pod::default()
        }
    }

    #[test]
    fn a_pod_is_followed_from_its_start_to_its_end() {
        let mut known = Known::default();
        let pods = vec![pod("s1")];
        let told = known.changed(PodChange::Synchronized { pods, complete: true });
        assert!(matches!(&told[..], [Event::SourceUp { .. }, Event::PodsListed { pods }] if pods.len() == 1));
        let image = |image: &str| PodChange::ContainerCreated {
            sandbox: "s1".to_owned(),
            uid: "u".to_owned(),
            container: "c".to_owned(),
            image: Some(image.to_owned()),
        };
        known.changed(image("a"));
        known.changed(image("b"));
        let told = known.changed(image("a"));
        assert!(
            matches!(&told[..], [Event::PodSeen { pod }] if pod.images.len() == 2),
            "{told:?}"
        );
        let (sandbox, uid) = ("s1".to_owned(), "u".to_owned());
        let told = known.changed(PodChange::Stopped { sandbox, uid });
        assert!(
            matches!(&told[..], [Event::PodSeen { pod }] if pod.stopped),
            "{told:?}"
        );
        let (sandbox, uid) = ("s1".to_owned(), "u".to_owned());
        let told = known.changed(PodChange::Removed { sandbox, uid });
        assert!(matches!(&told[..], [Event::PodGone { .. }]), "{told:?}");
        assert_eq!(known.changed(image("a")), Vec::new());
    }

    #[test]
    fn a_sandbox_without_names_is_nobodys() {
        let nameless = Pod {
            uid: String::new(),
            ..pod("s1")
        };
        assert_eq!(Known::default().changed(PodChange::Started(nameless)), Vec::new());
    }
}
