//! One body: taken apart while it comes in, and queued piece by piece.

use http_body_util::BodyExt as _;
use hyper::body::{Body, Bytes};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::items::{Events, Items};
use super::{MAX_BODY, PATIENCE};

/// Why a body was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    TooLarge,
    Broken,
    Full,
}

/// Queues the events of a body; returns how many, and how many were too long.
pub(super) async fn take_apart(
    mut body: impl Body<Data = Bytes> + Unpin,
    queue: &mpsc::Sender<Events>,
) -> Result<(u64, u64), Refusal> {
    let mut items = Items::default();
    let mut size = 0u64;
    let mut is_first = true;
    while let Some(frame) = timeout(PATIENCE, body.frame())
        .await
        .map_err(|_| Refusal::Broken)?
    {
        let Ok(bytes) = frame.map_err(|_| Refusal::Broken)?.into_data() else {
            continue;
        };
        size += bytes.len() as u64;
        if size > MAX_BODY {
            return Err(Refusal::TooLarge);
        }
        items.feed(&bytes).map_err(|_| Refusal::Broken)?;
        if items.has_a_piece() {
            hand_on(queue, items.take(), std::mem::replace(&mut is_first, false)).await?;
        }
    }
    if !items.is_complete() {
        return Err(Refusal::Broken);
    }
    let rest = items.take();
    if !rest.is_empty() {
        hand_on(queue, rest, is_first).await?;
    }
    Ok(items.counts())
}

/// A body that finds the queue full goes away at once. One that has begun waits a little: if it were sent away each time
/// that it is larger than the queue, it would never get in.
async fn hand_on(queue: &mpsc::Sender<Events>, events: Events, is_first: bool) -> Result<(), Refusal> {
    if is_first {
        queue.try_send(events).map_err(|_| Refusal::Full)
    } else {
        queue
            .send_timeout(events, PATIENCE)
            .await
            .map_err(|_| Refusal::Full)
    }
}
