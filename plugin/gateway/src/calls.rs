//! The pulls in flight: what magi-node is to hear of them, and the way back to each.
//!
//! A call never waits here for anybody. It puts itself into the table and goes on; the link to magi-node (`link.rs`) reads
//! from the table what is new whenever it can, and all of it when it connects again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use magi_engine::Time;
use magi_engine::owner::PullRequest;
use magi_node_api::gateway::{CallNumber, FromGateway, Refusal};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tracing::warn;

use crate::bounds::MAX_CALLS;

/// What magi-node has said of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Word {
    /// Nothing.
    #[default]
    None,
    /// It may go on.
    Admitted,
    /// It is to end, and its caller to hear this.
    Refused(Refusal),
}

#[derive(Debug)]
struct Entry {
    at: Time,
    request: PullRequest,
    /// It waits for its admission.
    asks: bool,
    told: bool,
    word: watch::Sender<Word>,
}

#[derive(Debug, Default)]
struct Table {
    calls: BTreeMap<CallNumber, Entry>,
    counted: u64,
    /// Calls that magi-node was told of, and whose end it was not told yet. Never more than were told.
    ended: BTreeSet<CallNumber>,
    /// magi-node is there, and has answered the latest question in time.
    answers: bool,
    /// Calls that were not watched because there were too many.
    unwatched: u64,
}

/// All pulls in flight. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Calls {
    table: Arc<Mutex<Table>>,
    news: Arc<Notify>,
}

/// A call that magi-node hears of; dropped, it is over.
#[derive(Debug)]
pub(crate) struct Watched {
    calls: Calls,
    number: CallNumber,
    word: watch::Receiver<Word>,
    asks: bool,
}

impl Calls {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing in here can panic half-way.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call begins; none if there are too many already: then it is nobody's.
    pub(crate) fn begin(&self, at: Time, request: PullRequest) -> Option<Watched> {
        let (word, heard) = watch::channel(Word::None);
        let mut table = self.table();
        if table.calls.len() >= MAX_CALLS || table.ended.len() >= MAX_CALLS {
            table.unwatched = table.unwatched.saturating_add(1);
            let unwatched = table.unwatched;
            drop(table);
            warn!(
                unwatched,
                "a pull goes unwatched, because {MAX_CALLS} are in flight"
            );
            return None;
        }
        table.counted = table.counted.saturating_add(1);
        let number = CallNumber(table.counted);
        let asks = table.answers;
        let entry = Entry {
            at,
            request,
            asks,
            told: false,
            word,
        };
        table.calls.insert(number, entry);
        drop(table);
        self.news.notify_one();
        Some(Watched {
            calls: self.clone(),
            number,
            word: heard,
            asks,
        })
    }

    fn end(&self, number: CallNumber) {
        let mut table = self.table();
        if table.calls.remove(&number).is_some_and(|call| call.told) {
            table.ended.insert(number);
        }
        drop(table);
        self.news.notify_one();
    }

    /// How many are in flight.
    pub(crate) fn len(&self) -> usize {
        self.table().calls.len()
    }

    /// Waits until there may be something to tell.
    pub(crate) async fn news(&self) {
        self.news.notified().await;
    }

    /// magi-node is there and knows nothing: every call is news to it.
    pub(crate) fn connected(&self) {
        let mut table = self.table();
        table.ended.clear();
        table.answers = true;
        for call in table.calls.values_mut() {
            call.told = false;
        }
        drop(table);
        self.news.notify_one();
    }

    /// magi-node is gone: nobody waits for its word.
    pub(crate) fn disconnected(&self) {
        self.table().answers = false;
    }

    /// What magi-node has not been told yet; now it counts as told.
    pub(crate) fn untold(&self) -> Vec<FromGateway> {
        let mut table = self.table();
        let ended = std::mem::take(&mut table.ended).into_iter();
        let mut news: Vec<FromGateway> = ended.map(|call| FromGateway::Ended { call }).collect();
        for (number, call) in table.calls.iter_mut().filter(|(_, call)| !call.told) {
            call.told = true;
            news.push(FromGateway::Began {
                call: *number,
                at: call.at,
                request: call.request.clone(),
                asks: call.asks,
            });
        }
        news
    }

    /// magi-node's word on whether a call may go on.
    pub(crate) fn admission(&self, number: CallNumber, refusal: Option<Refusal>) {
        let mut table = self.table();
        table.answers = true;
        if let Some(call) = table.calls.get(&number).filter(|call| call.asks) {
            call.word
                .send_replace(refusal.map_or(Word::Admitted, Word::Refused));
        }
    }

    /// Ends these calls; how many of them were in flight.
    pub(crate) fn cancel(&self, numbers: &[CallNumber], refusal: &Refusal) -> u64 {
        let table = self.table();
        let found = numbers.iter().filter_map(|number| table.calls.get(number));
        let cancelled = found.map(|call| call.word.send_replace(Word::Refused(refusal.clone())));
        u64::try_from(cancelled.count()).unwrap_or(u64::MAX)
    }

    /// A question was not answered in time; the next ones do not wait, until an answer comes.
    fn unanswered(&self, number: CallNumber) {
        let mut table = self.table();
        table.answers = false;
        if let Some(call) = table.calls.get_mut(&number) {
            call.asks = false;
        }
    }
}

impl Watched {
    /// Waits for magi-node's admission, if it is there to give one, but not for long; why the call may not go on.
    pub(crate) async fn admitted(&mut self, within: Duration) -> Result<(), Refusal> {
        if !self.asks || within.is_zero() {
            return Ok(());
        }
        let said = self.word.wait_for(|word| *word != Word::None);
        if let Ok(Ok(word)) = timeout(within, said).await {
            return match &*word {
                Word::Refused(refusal) => Err(refusal.clone()),
                Word::None | Word::Admitted => Ok(()),
            };
        }
        self.calls.unanswered(self.number);
        Ok(())
    }

    /// Waits until the call is to end.
    pub(crate) async fn cancelled(&mut self) -> Refusal {
        loop {
            if let Word::Refused(refusal) = &*self.word.borrow_and_update() {
                return refusal.clone();
            }
            if self.word.changed().await.is_err() {
                // Nobody can cancel it any more.
                return std::future::pending().await;
            }
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.calls.end(self.number);
    }
}
