//! A connection to containerd's API, shared by what looks at containerd and what cleans up in it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use magi_engine::ids::ContainerdNamespace;
use magi_wire::containerd::services::content::v1::content_client::ContentClient;
use magi_wire::containerd::services::events::v1::events_client::EventsClient;
use magi_wire::containerd::services::introspection::v1::introspection_client::IntrospectionClient;
use magi_wire::containerd::services::leases::v1::leases_client::LeasesClient;
use magi_wire::containerd::services::snapshots::v1::snapshots_client::SnapshotsClient;
use magi_wire::containerd::services::version::v1::version_client::VersionClient;
use magi_wire::runtime::v1::runtime_service_client::RuntimeServiceClient;
use tokio::net::UnixStream;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};

/// How the leases begin that magi makes itself: they are no pulls.
pub(crate) const OWN_LEASES: &str = "magi-kept-";

/// Longest answer that is taken; a node with thousands of blobs in one lease stays far below.
const MAX_ANSWER: usize = 64 << 20;
/// Longest wait for one answer. containerd answers in milliseconds; a full disk can make it slow.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Longest wait for the socket.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// Why containerd could not be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// The socket's path cannot be an endpoint.
    #[error("cannot make an endpoint for {}", path.display())]
    Endpoint {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// Nobody answers on the socket.
    #[error("cannot connect to containerd at {}: is it running, and is `containerd.address` right?", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// A call failed.
    #[error("containerd refused {call}")]
    Call {
        /// The call.
        call: &'static str,
        /// Its answer.
        #[source]
        source: Box<tonic::Status>,
    },
    /// An answer lacks something.
    #[error("containerd's answer to {call} lacks {what}")]
    Incomplete {
        /// The call.
        call: &'static str,
        /// What it lacks.
        what: &'static str,
    },
    /// A namespace's name cannot be sent.
    #[error("containerd namespace {name:?} cannot be sent in a request")]
    Namespace {
        /// The name.
        name: String,
    },
}

impl ApiError {
    /// Wraps a refusal, for `map_err`.
    pub(crate) fn call(call: &'static str) -> impl Fn(tonic::Status) -> Self {
        move |source| Self::Call {
            call,
            source: Box::new(source),
        }
    }

    /// Whether containerd said that the thing does not exist.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Call { source, .. } if source.code() == tonic::Code::NotFound)
    }
}

/// An open connection.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    channel: Channel,
}

impl Api {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// Nobody answers there.
    pub(crate) async fn connect(path: &Path) -> Result<Self, ApiError> {
        // The authority is never resolved: the connector goes to the socket whatever it says.
        let endpoint = Endpoint::try_from("http://containerd.invalid")
            .map_err(|source| ApiError::Endpoint {
                path: path.to_owned(),
                source,
            })?
            .connect_timeout(CONNECT_WITHIN);
        let socket = path.to_owned();
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = endpoint
            .connect_with_connector(connector)
            .await
            .map_err(|source| ApiError::Connect {
                path: path.to_owned(),
                source,
            })?;
        Ok(Self { channel })
    }

    pub(crate) fn content(&self) -> ContentClient<Channel> {
        ContentClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    pub(crate) fn leases(&self) -> LeasesClient<Channel> {
        LeasesClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    pub(crate) fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    pub(crate) fn events(&self) -> EventsClient<Channel> {
        EventsClient::new(self.channel.clone())
    }

    pub(crate) fn introspection(&self) -> IntrospectionClient<Channel> {
        IntrospectionClient::new(self.channel.clone())
    }

    /// CRI, on the same socket.
    pub(crate) fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    pub(crate) fn version(&self) -> VersionClient<Channel> {
        VersionClient::new(self.channel.clone())
    }
}

/// A namespace, ready to be sent with requests.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    pub(crate) name: ContainerdNamespace,
    header: MetadataValue<Ascii>,
}

impl Scope {
    pub(crate) fn new(name: ContainerdNamespace) -> Result<Self, ApiError> {
        match MetadataValue::try_from(name.as_str()) {
            Ok(header) => Ok(Self { name, header }),
            Err(_) => Err(ApiError::Namespace {
                name: name.to_string(),
            }),
        }
    }

    /// `message` as a request in this namespace, with a deadline.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = bounded(message);
        request
            .metadata_mut()
            .insert("containerd-namespace", self.header.clone());
        request
    }
}

/// `message` as a request with a deadline.
pub(crate) fn bounded<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(ANSWER_WITHIN);
    request
}
