//! Ledger, judge and what was said lately, behind one lock: the truth changes them, and the streams ask.
//!
//! Changed by: [`Known::hear`], [`Known::judge_again`] and [`Known::remember`], which the truth's task alone calls. The lock
//! is held for the changes of one batch at most, and never while anything is waited for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};

use super::register::Register;
use super::said::Said;
use crate::change::Change;
use crate::counters::{Count, Counters};
use crate::ledger::{Bounds, Ledger, Turn};
use crate::names::NodeName;
use crate::stream::standing::{Source, Standing};
use crate::verdict::{Judge, Verdict};

/// What is known.
#[derive(Debug)]
pub(super) struct Known {
    state: Mutex<State>,
    /// After so long a verdict is not said again to a node that comes back.
    age: SignedDuration,
    counters: Arc<Counters>,
    register: Arc<Register>,
}

#[derive(Debug)]
struct State {
    ledger: Ledger,
    judge: Judge,
    said: Said,
    turns: Vec<Turn>,
}

impl Known {
    pub(super) fn new(age: SignedDuration, counters: Arc<Counters>, register: Arc<Register>) -> Self {
        Self {
            state: Mutex::new(State {
                ledger: Ledger::new(Bounds::default()),
                judge: Judge::default(),
                said: Said::default(),
                turns: Vec::new(),
            }),
            age,
            counters,
            register,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A poisoned lock means that another task panicked; what it guards is whole between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes changes, and appends the verdicts that follow.
    pub(super) fn hear(&self, changes: &mut Vec<Change>, verdicts: &mut Vec<Verdict>) {
        if changes.is_empty() {
            return;
        }
        let state = &mut *self.lock();
        for change in changes.drain(..) {
            state.ledger.hear(change, &mut state.turns);
            state.judge.hear(&state.ledger, state.turns.drain(..), verdicts);
        }
    }

    /// What a verdict that was held comes to, now that more is known. Images that a live pod wants are withheld.
    pub(super) fn judge_again(&self, verdict: Verdict) -> Vec<Verdict> {
        self.lock().judge_again(verdict)
    }

    /// Remembers that it is said.
    pub(super) fn remember(&self, verdict: Verdict, now: Timestamp) {
        let forgotten = self.lock().said.add(verdict, now, self.age);
        self.counters.add(Count::VerdictsUnremembered, forgotten);
    }

    /// Pods that are there.
    pub(super) fn size(&self) -> usize {
        self.lock().ledger.size().0
    }
}

impl State {
    fn judge_again(&mut self, verdict: Verdict) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        self.judge
            .hear(&self.ledger, [Turn::Lost(verdict)], &mut verdicts);
        verdicts
    }
}

/// What a node that comes back is not told, because a pod wants the image by now, it is told when that is gone too.
impl Standing for Known {
    fn still(&self, verdict: &Verdict) -> Option<Verdict> {
        self.judge_again(verdict.clone()).pop()
    }

    fn since(&self, node: &NodeName, since: Timestamp) -> Vec<Verdict> {
        let state = &mut *self.lock();
        let said: Vec<Verdict> = state.said.since(node, since).cloned().collect();
        said.into_iter()
            .flat_map(|verdict| state.judge_again(verdict))
            .collect()
    }

    fn sources(&self) -> Vec<Source> {
        self.register.show()
    }
}
