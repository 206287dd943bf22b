//! Who asks for what: requests on their way, pods, the verifier; and who really asked.

use super::{Asked, World, images};
use crate::event::{Event, Question};
use crate::evidence::Source;
use crate::ids::{CallId, GatewayCallId, ImageName, SandboxId, VerdictId};
use crate::owner::{LostPod, NodePod, Owner, PullRequest, RequestEnd};
use crate::tests::build;
use crate::tests::check::{Broken, Invariant};

/// Pods in several namespaces; the label `app` is the pod's name.
const PODS: [&str; 4] = ["team-a/one", "team-b/two", "team-b/one-more", "free/three"];

/// Who wants an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tests) enum Asker {
    Pod(u8),
    /// By CRI, without a pod.
    Nobody,
    /// Not by CRI.
    Unseen,
}

/// The pod of this number.
pub(super) fn pod(which: u8) -> &'static str {
    PODS[usize::from(which) % PODS.len()]
}

/// What is asked for.
pub(super) fn request(image: usize, of: Option<u8>) -> PullRequest {
    let mut request = build::request(&images::reference(image), of.map(pod));
    request.certain = of.is_some();
    request
}

pub(super) fn node_pod(which: u8) -> NodePod {
    build::node_pod(&format!("sandbox-{}", pod(which)), pod(which))
}

impl World {
    /// A request is read by containerd; none if nobody sees it. All pulls by CRI are in one containerd namespace.
    pub(super) fn request(&mut self, image: usize, namespace: &str, asker: Asker) -> Option<Asked> {
        let of = match asker {
            Asker::Pod(which) => Some(which),
            Asker::Nobody => None,
            Asker::Unseen => return None,
        };
        if namespace != "k8s.io" {
            return None;
        }
        let call = CallId(self.count());
        let request = request(image, of);
        // The gateway hears it first, and passes it on. Not everybody goes through it.
        let gateway = (!call.0.is_multiple_of(3)).then(|| GatewayCallId(self.count()));
        if let Some(call) = gateway {
            let request = request.clone();
            let at = self.now;
            self.gateway_tells(Event::GatewayCallBegan { call, at, request });
        }
        self.request_passes(Event::CallBegan {
            call,
            at: self.now,
            request,
        });
        Some(Asked {
            call,
            at: self.now,
            pod: of,
            gateway,
        })
    }

    pub(super) fn request_ends(&mut self, asked: Asked, end: RequestEnd) {
        self.request_passes(Event::CallEnded {
            call: asked.call,
            at: self.now,
            end,
        });
        if let Some(call) = asked.gateway {
            self.gateway_tells(Event::GatewayCallEnded { call });
        }
    }

    fn request_passes(&mut self, event: Event) {
        if self.up.contains(&Source::Requests) {
            self.requests.push_back(event);
        }
    }

    pub(super) fn deliver_requests(&mut self, most: usize) -> Result<(), Broken> {
        for _ in 0..most {
            let Some(event) = self.requests.pop_front() else {
                self.requests_told = self.now;
                break;
            };
            self.tell(event)?;
        }
        Ok(())
    }

    /// What is on its way is lost, and the loss is noticed; ends that were in it are noticed as lost.
    pub(super) fn lose_requests(&mut self) -> Result<(), Broken> {
        if !self.up.contains(&Source::Requests) {
            return Ok(());
        }
        let lost = std::mem::take(&mut self.requests);
        let (since, until) = (self.requests_told, self.now);
        self.requests_told = self.now;
        self.tell(Event::CallsMissed { since, until })?;
        for event in lost {
            if let Event::CallEnded { call, .. } = event {
                let (at, end) = (self.now, RequestEnd::Lost);
                self.tell(Event::CallEnded { call, at, end })?;
            }
        }
        Ok(())
    }

    /// A pod comes if it was not there, and goes if it was.
    pub(super) fn change_pod(&mut self, which: u8) -> Result<(), Broken> {
        let which = which % 4;
        let pod = node_pod(which);
        let event = if self.pods.remove(&which) {
            let sandbox: SandboxId = pod.sandbox;
            Event::PodGone { sandbox }
        } else {
            self.pods.insert(which);
            Event::PodSeen { pod }
        };
        if self.up.contains(&Source::Nri) {
            self.tell(event)?;
        }
        Ok(())
    }

    /// The master says that a pod wants an image no longer.
    pub(super) fn lose_pod(&mut self, which: u8, image: usize) -> Result<(), Broken> {
        let pod = build::pod(pod(which));
        let lost = LostPod {
            id: VerdictId::new(format!("{} {image}", pod.uid)).unwrap(),
            pod,
            images: vec![ImageName::new(images::reference(image)).unwrap()],
            cause: "deleted".to_owned(),
        };
        self.tell(Event::PodLost { lost })
    }

    /// containerd's verifier asks before the first byte.
    pub(super) fn verify(&mut self, image: usize) -> Result<(), Broken> {
        let digest = images::documents(image)[0].digest.clone();
        let image = ImageName::new(images::reference(image)).unwrap();
        self.ask(Question::Verify { image, digest })
    }

    /// A manifest is read from its registry.
    pub(super) fn resolve(&mut self, image: usize) -> Result<(), Broken> {
        for manifest in images::documents(image) {
            let manifest = manifest.clone();
            self.tell(Event::ManifestResolved { manifest })?;
        }
        Ok(())
    }

    /// The truth about owners: who is named has asked.
    pub(super) fn owners_are_right(&self) -> Result<(), Broken> {
        for pull in self.engine.report(false).pulls {
            let Some(truth) = self.pulls.iter().find(|one| one.lease == pull.lease) else {
                continue;
            };
            let is_it = |owner: &Owner| {
                truth.asked.is_some_and(|asked| {
                    owner.image.as_str() == images::reference(truth.image)
                        && owner.pod == asked.pod.map(|which| build::pod(pod(which)))
                })
            };
            let candidates = &pull.owner_candidates;
            let right =
                pull.owner.iter().all(is_it) && (candidates.is_empty() || candidates.iter().any(is_it));
            // A restart of containerd, of which the engine has not heard yet, ends all requests.
            if !right && truth.runs {
                return Err(Broken {
                    invariant: Invariant::RightOwner,
                    what: format!(
                        "{} of image {} was asked for by {:?}, and {:?} or {candidates:?} is named",
                        pull.lease, truth.image, truth.asked, pull.owner
                    ),
                });
            }
        }
        Ok(())
    }
}
