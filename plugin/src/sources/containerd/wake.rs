//! containerd's events, as a reason to look and nothing more.

use magi_engine::ids::ContainerdNamespace;
use magi_wire::containerd::services::events::v1::SubscribeRequest;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::containerd::{Api, ApiError};

/// Topics that move when a pull begins, gets on or ends. `/snapshot/prepare` is the one sign that every version gives
/// before the first layer byte; `/content/create` exists since 2.1 (containerd.md §2, §20).
const TOPICS: [&str; 5] = [
    "/snapshot/prepare",
    "/snapshot/remove",
    "/content/create",
    "/content/delete",
    "/images/create",
];

/// A subscription. Its task ends with it.
pub(super) struct Wakes {
    woken: mpsc::Receiver<()>,
    task: JoinSet<ApiError>,
}

impl Wakes {
    /// Subscribes to what concerns `namespaces`. containerd answers the call with its first event, which may come
    /// tomorrow, so a task of its own waits for that.
    pub(super) fn subscribe(api: &Api, namespaces: &[ContainerdNamespace]) -> Self {
        let filters = namespaces
            .iter()
            .flat_map(|namespace| {
                TOPICS.map(|topic| format!("namespace==\"{namespace}\",topic==\"{topic}\""))
            })
            .collect();
        let (wake, woken) = mpsc::channel(1);
        let mut task = JoinSet::new();
        task.spawn(listen(api.clone(), SubscribeRequest { filters }, wake));
        Self { woken, task }
    }

    /// Waits until something has happened since the last call.
    ///
    /// # Errors
    /// The connection is gone.
    pub(super) async fn next(&mut self) -> Result<(), ApiError> {
        if self.woken.recv().await.is_some() {
            return Ok(());
        }
        match self.task.join_next().await {
            Some(Ok(error)) => Err(error),
            Some(Err(_)) | None => Err(ended()),
        }
    }
}

async fn listen(api: Api, request: SubscribeRequest, wake: mpsc::Sender<()>) -> ApiError {
    let mut events = match api.events().subscribe(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return ApiError::call("Subscribe")(status),
    };
    loop {
        match events.message().await {
            // A full channel holds a wake-up already.
            Ok(Some(_)) => drop(wake.try_send(())),
            Ok(None) => return ended(),
            Err(status) => return ApiError::call("Subscribe")(status),
        }
    }
}

fn ended() -> ApiError {
    ApiError::Incomplete {
        call: "Subscribe",
        what: "more events: the stream has ended",
    }
}
