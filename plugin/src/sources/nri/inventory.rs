//! The node's pods, as far as they are known, and how what is heard of them changes that.
//!
//! Three things are heard: the whole at registration, events after it, and a look at CRI's own list. The first two
//! leave a gap where containerd is older than NRI 0.8: a sandbox that starts or goes while the plugin registers is
//! in neither. The list closes it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Sandboxes that are kept, stopped ones included. A kubelet runs some hundred.
pub(super) const MAX_PODS: usize = 4096;
/// Containers that are taken from one message.
pub(super) const MAX_CONTAINERS: usize = 8 * MAX_PODS;
/// Images of one pod that are kept.
pub(super) const MAX_IMAGES: usize = 64;
/// Bytes of one pod's labels that are kept.
pub(super) const MAX_LABELS: usize = 16 << 10;
/// Longest id or name. Kubernetes allows 253.
pub(super) const MAX_NAME: usize = 512;
/// Longest image reference.
pub(super) const MAX_IMAGE: usize = 1024;
/// Ids of removed sandboxes that are remembered. They are random and never come back, but a list may still hold one.
const MAX_REMOVED: usize = 256;

/// A pod sandbox and what was asked to run in it. Every text is bounded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Pod {
    /// The sandbox's id. A pod may have several over time, one of them not stopped.
    pub(crate) sandbox: String,
    /// The pod's uid, as the kubelet gives it: for a static pod not the one in the API.
    pub(crate) uid: String,
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
    /// Its labels, with those that the kubelet and containerd add.
    pub(crate) labels: BTreeMap<String, String>,
    /// Images by container name, as the pod names them where the kubelet tells.
    pub(crate) images: BTreeMap<String, String>,
    /// Its sandbox was stopped. Without a word about it a pod counts as running.
    pub(crate) stopped: bool,
    /// Labels, images or a name were left out because they were too many or too long.
    pub(crate) cut: bool,
}

/// What has become known about the node's pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PodChange {
    /// These are all; whatever was known before is void.
    Synchronized {
        /// Ordered by sandbox id.
        pods: Vec<Pod>,
        /// Nothing is missing. What is not complete cannot prove that a pod is not there.
        complete: bool,
    },
    /// A sandbox is there.
    Started(Pod),
    /// A container was created in it.
    ContainerCreated {
        /// The sandbox's id.
        sandbox: String,
        /// The pod's uid.
        uid: String,
        /// The container's name.
        container: String,
        /// Its image; `None` if the runtime did not tell.
        image: Option<String>,
    },
    /// A sandbox was stopped: its pod goes, or gets a new one.
    Stopped {
        /// The sandbox's id.
        sandbox: String,
        /// The pod's uid.
        uid: String,
    },
    /// A sandbox is gone.
    Removed {
        /// The sandbox's id.
        sandbox: String,
        /// The pod's uid.
        uid: String,
    },
    /// Nothing more is heard; what is known grows old. [`PodChange::Synchronized`] ends it.
    Down,
}

/// What happened to a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Happening {
    /// Its sandbox starts.
    Started,
    /// Its sandbox was stopped.
    Stopped,
    /// Its sandbox is gone.
    Removed,
    /// It has a new container.
    ContainerCreated,
}

/// A container of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Container {
    pub(super) sandbox: String,
    pub(super) name: String,
    pub(super) image: Option<String>,
}

/// An event of the runtime.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PodEvent {
    pub(super) happening: Happening,
    pub(super) pod: Pod,
    pub(super) container: Option<Container>,
}

/// All sandboxes and containers at one time.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Listing {
    pub(super) pods: Vec<Pod>,
    pub(super) containers: Vec<Container>,
    /// Something could not be taken.
    pub(super) cut: bool,
}

/// The pods that are known.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    pods: BTreeMap<String, Known>,
    removed: VecDeque<String>,
    /// Something is missing.
    cut: bool,
}

#[derive(Debug)]
struct Known {
    pod: Pod,
    /// It was in a list, so if a later one lacks it, it is gone. Until then it may just be starting: containerd tells
    /// of a sandbox before it lists it.
    listed: bool,
}

impl Inventory {
    /// Begins with what the runtime says there is.
    pub(super) fn of(listing: Listing) -> Self {
        let mut inventory = Self {
            cut: listing.cut,
            ..Self::default()
        };
        let mut unheard = Vec::new();
        for pod in listing.pods {
            inventory.add(pod, true, &mut unheard);
        }
        for container in listing.containers {
            inventory.add_container(container, &mut unheard);
        }
        inventory
    }

    /// Everything, for somebody who knows nothing yet.
    pub(super) fn whole(&self) -> PodChange {
        PodChange::Synchronized {
            pods: self.pods.values().map(|known| known.pod.clone()).collect(),
            complete: !self.cut,
        }
    }

    /// An event was not understood; the next list mends it.
    pub(super) fn missed_something(&mut self) {
        self.cut = true;
    }

    /// Takes an event, and says what is new.
    pub(super) fn hear(&mut self, event: PodEvent, changes: &mut Vec<PodChange>) {
        let PodEvent {
            happening,
            pod,
            container,
        } = event;
        let id = pod.sandbox.clone();
        if happening == Happening::Removed {
            self.remove(&id, changes);
            return;
        }
        // Whatever happens to a sandbox that is not known shows that it is there.
        self.add(pod, false, changes);
        match happening {
            Happening::Stopped => self.stop(&id, changes),
            Happening::ContainerCreated => {
                if let Some(container) = container.filter(|container| container.sandbox == id) {
                    self.add_container(container, changes);
                }
            }
            Happening::Started | Happening::Removed => {}
        }
    }

    /// Compares with a list that was asked for after all that was heard so far, and says what is new.
    pub(super) fn compare(&mut self, listing: Listing, changes: &mut Vec<PodChange>) {
        let was_cut = self.cut;
        let listed: BTreeSet<String> = listing.pods.iter().map(|pod| pod.sandbox.clone()).collect();
        if !listing.cut {
            let gone = self
                .pods
                .iter()
                .filter(|(id, known)| known.listed && !listed.contains(*id));
            let gone: Vec<String> = gone.map(|(id, _)| id.clone()).collect();
            for id in gone {
                self.remove(&id, changes);
            }
        }
        self.cut = listing.cut;
        for pod in listing.pods {
            let (id, stopped) = (pod.sandbox.clone(), pod.stopped);
            self.add(pod, true, changes);
            if stopped {
                self.stop(&id, changes);
            }
        }
        for container in listing.containers {
            let known = self.pods.get(&container.sandbox);
            // What NRI says of an image is better than what the list does.
            if known.is_some_and(|known| !known.pod.images.contains_key(&container.name)) {
                self.add_container(container, changes);
            }
        }
        if was_cut != self.cut {
            changes.clear();
            changes.push(self.whole());
        }
    }

    fn add(&mut self, pod: Pod, listed: bool, changes: &mut Vec<PodChange>) {
        if self.removed.contains(&pod.sandbox) {
            return;
        }
        if let Some(known) = self.pods.get_mut(&pod.sandbox) {
            known.listed |= listed;
            return;
        }
        if self.pods.len() >= MAX_PODS {
            self.cut = true;
            return;
        }
        changes.push(PodChange::Started(pod.clone()));
        self.pods.insert(pod.sandbox.clone(), Known { pod, listed });
    }

    fn add_container(&mut self, container: Container, changes: &mut Vec<PodChange>) {
        let Some(known) = self.pods.get_mut(&container.sandbox) else {
            return;
        };
        let images = &mut known.pod.images;
        match &container.image {
            Some(image) if images.len() < MAX_IMAGES || images.contains_key(&container.name) => {
                images.insert(container.name.clone(), image.clone());
            }
            Some(_) => known.pod.cut = true,
            None => {}
        }
        changes.push(PodChange::ContainerCreated {
            uid: known.pod.uid.clone(),
            sandbox: container.sandbox,
            container: container.name,
            image: container.image,
        });
    }

    fn stop(&mut self, id: &str, changes: &mut Vec<PodChange>) {
        if let Some(known) = self.pods.get_mut(id)
            && !std::mem::replace(&mut known.pod.stopped, true)
        {
            changes.push(PodChange::Stopped {
                sandbox: id.to_owned(),
                uid: known.pod.uid.clone(),
            });
        }
    }

    fn remove(&mut self, id: &str, changes: &mut Vec<PodChange>) {
        if self.removed.len() >= MAX_REMOVED {
            self.removed.pop_front();
        }
        self.removed.push_back(id.to_owned());
        if let Some(known) = self.pods.remove(id) {
            changes.push(PodChange::Removed {
                sandbox: id.to_owned(),
                uid: known.pod.uid,
            });
        }
    }
}
