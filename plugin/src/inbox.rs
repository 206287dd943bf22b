//! The way into the engine: one bounded queue for every source.

use magi_engine::Event;
use tokio::sync::mpsc;

/// Events that may wait. A source that meets a full queue waits, and so reads the world later but never loses it.
const ROOM: usize = 4096;

/// The node is stopping; there is nobody left to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the engine is stopping")]
pub(crate) struct Stopping;

/// A source's end of the queue.
#[derive(Clone, Debug)]
pub(crate) struct Inbox(mpsc::Sender<Event>);

/// Makes the queue.
pub(crate) fn inbox() -> (Inbox, mpsc::Receiver<Event>) {
    let (sender, receiver) = mpsc::channel(ROOM);
    (Inbox(sender), receiver)
}

impl Inbox {
    /// Tells the engine; waits while the queue is full.
    pub(crate) async fn send(&self, event: Event) -> Result<(), Stopping> {
        self.0.send(event).await.map_err(|_| Stopping)
    }
}
