//! containerd's events, as a reason to look and nothing more.

use magi_engine::ids::ContainerdNamespace;
use magi_wire::containerd::services::events::v1::SubscribeRequest;
use magi_wire::containerd::types::Envelope;
use tonic::Streaming;

use crate::containerd::{Api, ApiError};

/// Topics that move when a pull begins, gets on or ends. `/snapshot/prepare` is the one sign that every version gives
/// before the first layer byte; `/content/create` exists since 2.1 (containerd.md §2, §20).
const TOPICS: [&str; 5] =
    ["/snapshot/prepare", "/snapshot/remove", "/content/create", "/content/delete", "/images/create"];

/// An open subscription.
pub(crate) struct Wakes {
    stream: Streaming<Envelope>,
}

/// Subscribes to what concerns `namespaces`.
pub(crate) async fn subscribe(api: &Api, namespaces: &[ContainerdNamespace]) -> Result<Wakes, ApiError> {
    let filters = namespaces
        .iter()
        .flat_map(|namespace| TOPICS.map(|topic| format!("namespace==\"{namespace}\",topic==\"{topic}\"")))
        .collect();
    let answer = api.events().subscribe(SubscribeRequest { filters }).await.map_err(ApiError::call("Subscribe"))?;
    Ok(Wakes { stream: answer.into_inner() })
}

impl Wakes {
    /// Waits for the next event.
    ///
    /// # Errors
    /// The connection is gone.
    pub(crate) async fn next(&mut self) -> Result<(), ApiError> {
        match self.stream.message().await.map_err(ApiError::call("Subscribe"))? {
            Some(_) => Ok(()),
            None => Err(ApiError::Incomplete { call: "Subscribe", what: "an end that is not the end of containerd" }),
        }
    }
}
