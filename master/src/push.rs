//! Audit records on their way to a receiver of the operator's: batches as JSON arrays, posted over HTTPS.
//!
//! The store never waits for it: records are offered to a bounded queue, and what does not fit is counted and stays in the
//! store. A batch is tried again with growing pauses, and given up after so many tries, or at once where the receiver says
//! that it will never take it. A receiver may hear a record twice, and knows it again by its node, run and number.

mod post;
mod queue;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use magi_config::AuditPushSettings;
use magi_master_api::backoff::Backoff;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio_util::sync::CancellationToken;

use crate::counters::{Count, Counters};
use crate::store::Stored;

pub use post::PushError;
use post::Receiver;
pub use queue::Queue;

/// How much may wait, and how long is tried. [`Bounds::default`] suits a cluster; tests are in a hurry.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Records that wait.
    pub records: usize,
    /// Bytes of these.
    pub bytes: usize,
    /// Records of one batch.
    pub batch: usize,
    /// Bytes of one batch, unless one record has more.
    pub batch_bytes: usize,
    /// Attempts for one batch.
    pub tries: u32,
    /// The first pause between two.
    pub first_pause: Duration,
    /// The longest one.
    pub longest_pause: Duration,
    /// From the first packet of an attempt to the head of the answer.
    pub attempt: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            records: 16_384,
            bytes: 16 << 20,
            batch: 256,
            batch_bytes: 512 << 10,
            tries: 10,
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(30),
            attempt: Duration::from_secs(10),
        }
    }
}

/// Posts what is offered to its queue.
#[derive(Debug)]
pub struct Pusher {
    receiver: Receiver,
    queue: Arc<Queue>,
    bounds: Bounds,
    counters: Arc<Counters>,
    random: SmallRng,
    /// Whether the last attempt failed, so that it is told once.
    is_failing: bool,
}

impl Pusher {
    /// For the receiver of these settings; `seed` is for the jitter of pauses.
    ///
    /// # Errors
    /// The URL is none, or its authorities cannot be read.
    pub fn new(
        settings: &AuditPushSettings,
        bounds: Bounds,
        counters: Arc<Counters>,
        seed: u64,
    ) -> Result<Self, PushError> {
        Ok(Self {
            receiver: Receiver::new(settings)?,
            queue: Arc::new(Queue::new(bounds, Arc::clone(&counters))),
            bounds,
            counters,
            random: SmallRng::seed_from_u64(seed),
            is_failing: false,
        })
    }

    /// Where records are offered.
    #[must_use]
    pub fn queue(&self) -> Arc<Queue> {
        Arc::clone(&self.queue)
    }

    /// Posts until it is time to stop. What waits then is counted as dropped.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let batch = tokio::select! {
                () = stop.cancelled() => break,
                batch = self.queue.next() => batch,
            };
            let records = batch.len() as u64;
            let is_taken = tokio::select! {
                () = stop.cancelled() => false,
                is_taken = self.deliver(&batch) => is_taken,
            };
            let count = if is_taken {
                Count::Pushed
            } else {
                Count::PushDropped
            };
            self.counters.add(count, records);
        }
        self.queue.close();
    }

    /// Tries until the receiver has taken the batch, or it is no use.
    async fn deliver(&mut self, batch: &[Arc<Stored>]) -> bool {
        let body = body(batch);
        let mut backoff = Backoff::new(self.bounds.first_pause, self.bounds.longest_pause);
        for attempt in 1..=self.bounds.tries {
            let posted = tokio::time::timeout(self.bounds.attempt, self.receiver.post(body.clone())).await;
            let error = match posted {
                Ok(Ok(())) => {
                    if std::mem::take(&mut self.is_failing) {
                        tracing::info!("audit records are pushed again");
                    }
                    return true;
                }
                Ok(Err(error)) => error,
                Err(_) => PushError::Slow {
                    within: self.bounds.attempt,
                },
            };
            self.counters.one(Count::PushFailed);
            if !std::mem::replace(&mut self.is_failing, true) {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, cause, "audit records cannot be pushed");
            }
            if error.is_final() {
                return false;
            }
            if attempt < self.bounds.tries {
                tokio::time::sleep(backoff.wait(&mut self.random)).await;
            }
        }
        false
    }
}

/// A JSON array of the store's lines.
fn body(batch: &[Arc<Stored>]) -> bytes::Bytes {
    let mut body = vec![b'['];
    for line in batch.iter().filter_map(|stored| stored.line()) {
        if body.len() > 1 {
            body.push(b',');
        }
        body.extend_from_slice(line.trim_ascii_end());
    }
    body.push(b']');
    body.into()
}
