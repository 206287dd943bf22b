//! Records that wait to be pushed: bounded in number and bytes, offered without waiting.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Bounds;
use crate::counters::{Count, Counters};
use crate::store::Stored;

/// Changed by: records that are offered ([`Self::offer`]), batches that are taken (`next`).
#[derive(Debug)]
pub struct Queue {
    waiting: Mutex<Waiting>,
    wake: Notify,
    bounds: Bounds,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Waiting {
    records: VecDeque<Arc<Stored>>,
    bytes: usize,
    is_closed: bool,
}

impl Queue {
    pub(super) fn new(bounds: Bounds, counters: Arc<Counters>) -> Self {
        Self {
            waiting: Mutex::default(),
            wake: Notify::new(),
            bounds,
            counters,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a record over, or drops and counts it if there is no room. Waits for nothing.
    pub fn offer(&self, record: Arc<Stored>) {
        let size = record.json.len();
        let mut waiting = self.lock();
        let bytes = waiting.bytes.saturating_add(size);
        let is_full = waiting.records.len() >= self.bounds.records || bytes > self.bounds.bytes;
        if waiting.is_closed || is_full {
            drop(waiting);
            self.counters.one(Count::PushDropped);
            return;
        }
        waiting.bytes = bytes;
        waiting.records.push_back(record);
        drop(waiting);
        self.wake.notify_one();
    }

    /// The oldest records, as many as a batch may have; waits until there is one.
    pub(super) async fn next(&self) -> Vec<Arc<Stored>> {
        loop {
            let batch = self.take();
            if !batch.is_empty() {
                return batch;
            }
            self.wake.notified().await;
        }
    }

    fn take(&self) -> Vec<Arc<Stored>> {
        let mut waiting = self.lock();
        let mut batch = Vec::new();
        let mut bytes = 0_usize;
        while batch.len() < self.bounds.batch
            && let Some(first) = waiting.records.front()
        {
            let size = first.json.len();
            if !batch.is_empty() && bytes.saturating_add(size) > self.bounds.batch_bytes {
                break;
            }
            bytes = bytes.saturating_add(size);
            batch.extend(waiting.records.pop_front());
        }
        waiting.bytes = waiting.bytes.saturating_sub(bytes);
        batch
    }

    /// Nobody takes any more: what waits, and what is offered from now on, is dropped.
    pub(super) fn close(&self) {
        let mut waiting = self.lock();
        waiting.is_closed = true;
        let left = std::mem::take(&mut waiting.records).len() as u64;
        waiting.bytes = 0;
        drop(waiting);
        self.counters.add(Count::PushDropped, left);
    }
}
