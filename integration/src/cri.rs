//! A CRI client, as the kubelet is one: pulls with a pod's identity, and stops a pull by dropping its future.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use magi_wire::runtime::v1 as runtime;
use magi_wire::runtime::v1::image_service_client::ImageServiceClient;
use magi_wire::runtime::v1::runtime_service_client::RuntimeServiceClient;
use tonic::Code;
use tonic::transport::Channel;

use crate::channel::{self, MAX_MESSAGE};

/// The pod for which an image is pulled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its annotations.
    pub annotations: HashMap<String, String>,
}

impl Pod {
    /// A pod with a uid derived from its name.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: format!("uid-{namespace}-{name}"),
            annotations: HashMap::new(),
        }
    }
}

/// Why a pull failed, as its caller sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullError {
    /// The gRPC code.
    pub code: Code,
    /// containerd's text.
    pub message: String,
}

impl std::fmt::Display for PullError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{:?}: {}", self.code, self.message)
    }
}

impl std::error::Error for PullError {}

/// How a pull went.
#[derive(Debug, Clone)]
pub struct Pull {
    /// What was asked for.
    pub reference: String,
    /// When the request was sent.
    pub started: Instant,
    /// When the answer arrived.
    pub ended: Instant,
    /// The image's id (digest of its config) or the error.
    pub outcome: Result<String, PullError>,
}

impl Pull {
    /// How long it took.
    pub fn elapsed(&self) -> Duration {
        self.ended.duration_since(self.started)
    }

    /// The error's text, empty if there was none.
    pub fn error(&self) -> &str {
        self.outcome.as_ref().err().map_or("", |error| &error.message)
    }
}

/// A client of one CRI socket. Cheap to clone; clones share a connection.
#[derive(Debug, Clone)]
pub struct Cri {
    channel: Channel,
}

impl Cri {
    /// A client for the socket at `address`; connects on first use. Must be called within a tokio runtime.
    pub fn connect(address: &Path) -> Self {
        Self {
            channel: channel::unix(address),
        }
    }

    /// Pulls without a pod or credentials. Dropping the future cancels the call, as a killed client would.
    pub async fn pull(&self, reference: &str) -> Pull {
        self.pull_as(reference, None, None).await
    }

    /// Pulls for a pod, with `(user, password)` if given. Dropping the future cancels the call.
    pub async fn pull_as(
        &self,
        reference: &str,
        pod: Option<&Pod>,
        credentials: Option<(&str, &str)>,
    ) -> Pull {
        let request = runtime::PullImageRequest {
            image: Some(spec(reference)),
            auth: credentials.map(|(user, password)| runtime::AuthConfig {
                username: user.to_owned(),
                password: password.to_owned(),
                ..Default::default()
            }),
            sandbox_config: pod.map(sandbox),
        };
        let started = Instant::now();
        let answer = self.images_client().pull_image(request).await;
        let ended = Instant::now();
        let outcome = answer
            .map(|answer| answer.into_inner().image_ref)
            .map_err(|status| PullError {
                code: status.code(),
                message: status.message().to_owned(),
            });
        Pull {
            reference: reference.to_owned(),
            started,
            ended,
            outcome,
        }
    }

    /// All images that CRI knows: id and names.
    pub async fn images(&self) -> Result<Vec<runtime::Image>> {
        let answer = self
            .images_client()
            .list_images(runtime::ListImagesRequest::default())
            .await
            .context("ListImages")?;
        Ok(answer.into_inner().images)
    }

    /// The image of that name or id, if there is one.
    pub async fn image(&self, reference: &str) -> Result<Option<runtime::Image>> {
        let request = runtime::ImageStatusRequest {
            image: Some(spec(reference)),
            verbose: false,
        };
        let answer = self
            .images_client()
            .image_status(request)
            .await
            .context("ImageStatus")?;
        Ok(answer.into_inner().image)
    }

    /// Removes an image and all its names; its content goes with the next collection.
    pub async fn remove(&self, reference: &str) -> Result<()> {
        let request = runtime::RemoveImageRequest {
            image: Some(spec(reference)),
        };
        self.images_client()
            .remove_image(request)
            .await
            .with_context(|| format!("RemoveImage {reference}"))?;
        Ok(())
    }

    /// Where images are stored, and how much of it they take.
    pub async fn image_fs(&self) -> Result<Vec<runtime::FilesystemUsage>> {
        let answer = self
            .images_client()
            .image_fs_info(runtime::ImageFsInfoRequest::default())
            .await
            .context("ImageFsInfo")?;
        Ok(answer.into_inner().image_filesystems)
    }

    /// As [`Cri::pull_as`], with a deadline that goes to the server; gives only how it went.
    pub async fn pull_within(&self, reference: &str, pod: &Pod, deadline: Duration) -> Result<(), PullError> {
        let mut request = tonic::Request::new(runtime::PullImageRequest {
            image: Some(spec(reference)),
            auth: None,
            sandbox_config: Some(sandbox(pod)),
        });
        request.set_timeout(deadline);
        let answer = self.images_client().pull_image(request).await;
        answer.map(drop).map_err(|status| PullError {
            code: status.code(),
            message: status.message().to_owned(),
        })
    }

    /// The runtime's version, which also shows that CRI is up.
    pub async fn version(&self) -> Result<String> {
        let mut client = RuntimeServiceClient::new(self.channel.clone());
        let answer = client
            .version(runtime::VersionRequest::default())
            .await
            .context("CRI Version")?;
        let _ = self
            .images_client()
            .list_images(runtime::ListImagesRequest::default())
            .await
            .context("ListImages")?;
        Ok(answer.into_inner().runtime_version)
    }

    fn images_client(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }
}

fn spec(reference: &str) -> runtime::ImageSpec {
    runtime::ImageSpec {
        image: reference.to_owned(),
        ..Default::default()
    }
}

fn sandbox(pod: &Pod) -> runtime::PodSandboxConfig {
    runtime::PodSandboxConfig {
        metadata: Some(runtime::PodSandboxMetadata {
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            namespace: pod.namespace.clone(),
            attempt: 0,
        }),
        annotations: pod.annotations.clone(),
        ..Default::default()
    }
}
