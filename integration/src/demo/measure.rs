//! The figures of a pull: from the registry's log, containerd's API, and what `PullImage` returned.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::JoinSet;

use super::report::{LeftBehind, Name, Outcome, Scenario};
use crate::Api;
use crate::cri::Pull;
use crate::image::Image;
use crate::registry::{End, Log};

/// How long the registry may take to notice that its clients are gone.
const NOTICE_BOUND: Duration = Duration::from_secs(5);
const OFFSET_STEP: Duration = Duration::from_millis(4);

/// A pull as it ended; `None`: not in time, so that it was cancelled.
pub(super) type Ended = Option<Pull>;

/// What the registry counted for an image, once all of its layer responses have ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sent {
    /// Bytes of layers handed to sockets.
    pub(super) bytes: u64,
    /// When the first of them was.
    pub(super) first: Option<Instant>,
    /// When the last response ended.
    pub(super) last: Option<Instant>,
    /// Connections that carried a layer.
    pub(super) connections: u64,
    /// Of these, the ones that the client's side cut before the layer's end.
    pub(super) cut: u64,
}

impl Sent {
    /// Waits for the end of every layer response of `repository`, and counts.
    pub(super) async fn count(log: &Log, repository: &str) -> Result<Self> {
        log.wait_for("the end of all layer responses", NOTICE_BOUND, |_| {
            Self::look(log, repository)
        })
        .await
    }

    /// Counts, unless a layer response is still under way.
    pub(super) fn look(log: &Log, repository: &str) -> Option<Self> {
        let mut sent = Self::default();
        let mut connections = BTreeSet::new();
        let mut cut = BTreeSet::new();
        for request in log.layers(repository) {
            let (at, end) = request.ended?;
            sent.bytes += request.body_sent;
            sent.first = sent.first.into_iter().chain(request.first_body_byte).min();
            sent.last = sent.last.max(Some(at));
            connections.insert(request.connection);
            if end == End::ClientGone {
                cut.insert(request.connection);
            }
        }
        sent.connections = connections.len() as u64;
        sent.cut = cut.len() as u64;
        Some(sent)
    }
}

/// Puts the figures of one pull together. `collateral` is counted by the caller.
pub(super) fn figures(
    name: Name,
    pull: Option<&Pull>,
    sent: &Sent,
    left: LeftBehind,
    collateral: u64,
) -> Scenario {
    let (outcome, pull_error) = match pull.map(|pull| &pull.outcome) {
        Some(Ok(_)) => (Outcome::Completed, String::new()),
        Some(Err(error)) => (Outcome::Aborted, error.message.clone()),
        None => (Outcome::NotStopped, String::new()),
    };
    let abort_ms = match (outcome, pull, sent.first) {
        (Outcome::Aborted, Some(pull), Some(first)) => {
            milliseconds(pull.ended.saturating_duration_since(first))
        }
        (Outcome::Aborted | Outcome::Completed | Outcome::NotStopped, _, _) => 0,
    };
    Scenario {
        name,
        outcome,
        pull_error,
        received_layer_bytes: sent.bytes,
        abort_ms,
        left_behind: left,
        sockets_closed: sent.cut,
        collateral,
    }
}

/// Whole milliseconds, rounded up.
fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}

/// Whether the pull gave the image that was published: its id, the digest of its manifest, and every blob.
pub(super) async fn is_intact(
    api: &Api,
    pull: Option<&Pull>,
    reference: &str,
    image: &Image,
) -> Result<bool> {
    if pull.and_then(|pull| pull.outcome.as_deref().ok()) != Some(image.id()) {
        return Ok(false);
    }
    let images = api.images().await?;
    let named = |(name, digest): &(String, String)| name == reference && digest == image.digest();
    let blobs = api.blobs().await?;
    let whole = image
        .layers
        .iter()
        .all(|layer| blobs.contains(&(layer.digest.clone(), layer.declared)));
    Ok(images.iter().any(named) && whole)
}

/// An error without the reference that everybody knows, for the timeline.
pub(crate) fn short_error(error: &str) -> &str {
    error.split_once("\": ").map_or(error, |(_, rest)| rest)
}

/// Polls the ingests of an image and keeps the largest offset, as containerd's API tells it. Ends when dropped.
#[derive(Debug)]
pub(super) struct Offsets {
    most: Arc<AtomicU64>,
    _poll: JoinSet<()>,
}

impl Offsets {
    /// Begins.
    pub(super) fn watch(api: &Api, image: &Image) -> Self {
        let most = Arc::new(AtomicU64::new(0));
        let digests: Vec<String> = image.layers.iter().map(|layer| layer.digest.clone()).collect();
        let (api, seen) = (api.clone(), Arc::clone(&most));
        let mut poll = JoinSet::new();
        poll.spawn(async move {
            loop {
                // A look that fails shows in those that follow it.
                for ingest in api.ingests().await.unwrap_or_default() {
                    if digests.iter().any(|digest| ingest.reference.ends_with(digest)) {
                        seen.fetch_max(ingest.offset, Ordering::Relaxed);
                    }
                }
                tokio::time::sleep(OFFSET_STEP).await;
            }
        });
        Self { most, _poll: poll }
    }

    /// The largest offset so far.
    pub(super) fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_up() {
        assert_eq!(milliseconds(Duration::from_micros(1)), 1);
        assert_eq!(milliseconds(Duration::from_millis(12)), 12);
    }

    #[test]
    fn a_short_error_begins_after_the_reference() {
        let error = "failed to pull and unpack image \"127.0.0.1:1/a:1\": failed to copy: reset";
        assert_eq!(short_error(error), "failed to copy: reset");
        assert_eq!(short_error("plain"), "plain");
    }
}
