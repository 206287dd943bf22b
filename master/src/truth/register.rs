//! Which truth the master stands on: which intakes there are, whether they are up, and what they told.
//!
//! Changed by: the truth's task, whenever an intake tells something.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Display;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::intake::webhook;
use crate::stream::standing::Source;

/// The longest text of a trouble that is kept, in characters.
const MAX_TROUBLE: usize = 500;

/// The three of them, those that there are.
#[derive(Debug, Default)]
pub(super) struct Register {
    log: Mutex<Option<Entry>>,
    webhook: Mutex<Option<Entry>>,
    watch: Mutex<Option<Entry>>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Entry {
    source: Source,
    /// The last trouble that was logged; an intake says the same many times.
    logged: String,
    endpoint: Option<Arc<webhook::Counts>>,
}

impl Entry {
    pub(super) fn new(kind: &'static str, whence: impl Display) -> Self {
        Self {
            source: Source {
                kind,
                whence: whence.to_string(),
                is_up: false,
                heard: None,
                events: 0,
                unusable: BTreeMap::new(),
                trouble: String::new(),
            },
            logged: String::new(),
            endpoint: None,
        }
    }

    pub(super) const fn up(mut self) -> Self {
        self.source.is_up = true;
        self
    }

    pub(super) fn with(mut self, endpoint: Arc<webhook::Counts>) -> Self {
        self.endpoint = Some(endpoint);
        self
    }

    /// So many things were heard of it in all.
    pub(super) fn heard<K: Display>(&mut self, events: u64, unusable: Option<&BTreeMap<K, u64>>) {
        let source = &mut self.source;
        source.events = events;
        source.heard = Some(Timestamp::now());
        source.is_up = true;
        source.trouble.clear();
        self.logged.clear();
        for (why, count) in unusable.into_iter().flatten() {
            source.unusable.insert(why.to_string(), *count);
        }
    }

    /// So many more things were heard of it.
    pub(super) fn heard_more(&mut self, events: u64) {
        let events = self.source.events.saturating_add(events);
        self.heard::<&str>(events, None);
    }

    /// So many more things were unusable.
    pub(super) fn unusable(&mut self, why: &str, count: u64) {
        let sum = self.source.unusable.entry(why.to_owned()).or_default();
        *sum = sum.saturating_add(count);
    }

    /// It is in trouble, and goes on trying.
    pub(super) fn trouble(&mut self, problem: &dyn Error) {
        let source = &mut self.source;
        source.is_up = false;
        source.trouble = words(problem).chars().take(MAX_TROUBLE).collect();
        if self.logged != source.trouble {
            tracing::warn!(
                intake = source.kind,
                trouble = source.trouble,
                "an intake is in trouble"
            );
            self.logged.clone_from(&source.trouble);
        }
    }

    fn show(&self) -> Source {
        let mut source = self.source.clone();
        if let Some(counts) = &self.endpoint {
            let all = [
                ("unauthorized", &counts.unauthorized),
                ("no-handshake", &counts.no_handshake),
                ("body-too-large", &counts.too_large),
                ("body-broken", &counts.broken),
                ("queue-full", &counts.full),
                ("event-too-long", &counts.too_long),
            ];
            for (why, count) in all {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    source.unusable.insert(why.to_owned(), count);
                }
            }
        }
        source
    }
}

impl Register {
    pub(super) fn enter_log(&self, entry: Entry) {
        *lock(&self.log) = Some(entry);
    }

    pub(super) fn enter_webhook(&self, entry: Entry) {
        *lock(&self.webhook) = Some(entry);
    }

    pub(super) fn enter_watch(&self, entry: Entry) {
        *lock(&self.watch) = Some(entry);
    }

    pub(super) fn log(&self, change: impl FnOnce(&mut Entry)) {
        change_entry(&self.log, change);
    }

    pub(super) fn webhook(&self, change: impl FnOnce(&mut Entry)) {
        change_entry(&self.webhook, change);
    }

    pub(super) fn watch(&self, change: impl FnOnce(&mut Entry)) {
        change_entry(&self.watch, change);
    }

    pub(super) fn show(&self) -> Vec<Source> {
        let all = [&self.log, &self.webhook, &self.watch];
        all.into_iter()
            .filter_map(|place| lock(place).as_ref().map(Entry::show))
            .collect()
    }

    /// Tells the log what the master stands on.
    pub(super) fn announce(&self) {
        let sources = self.show();
        if sources.is_empty() {
            tracing::warn!(
                "no intake is given: nothing is known of pods, and no node will hear that one is gone; add `intake` to the \
                 settings"
            );
        }
        for source in sources {
            tracing::info!(
                intake = source.kind,
                whence = source.whence,
                "the master stands on"
            );
        }
    }
}

fn change_entry(place: &Mutex<Option<Entry>>, change: impl FnOnce(&mut Entry)) {
    if let Some(entry) = lock(place).as_mut() {
        change(entry);
    }
}

fn lock(place: &Mutex<Option<Entry>>) -> MutexGuard<'_, Option<Entry>> {
    // A poisoned lock means that another task panicked; what it guards is whole between any two statements.
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An error with its causes.
pub(super) fn words(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| (**cause).source());
    causes.fold(error.to_string(), |words, cause| format!("{words}: {cause}"))
}
