//! Which verdicts were heard, so that a repeat has no effect: a bounded set that forgets its oldest.

use std::collections::{HashSet, VecDeque};

use crate::message::VerdictId;

/// Changed by: a verdict that is heard.
#[derive(Debug)]
pub struct Seen {
    most: usize,
    ids: HashSet<VerdictId>,
    order: VecDeque<VerdictId>,
}

impl Seen {
    /// Remembers up to `most`.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            most,
            ids: HashSet::new(),
            order: VecDeque::new(),
        }
    }

    /// Whether `id` is remembered.
    #[must_use]
    pub fn has(&self, id: VerdictId) -> bool {
        self.ids.contains(&id)
    }

    /// Remembers `id`; whether it is new.
    pub fn add(&mut self, id: VerdictId) -> bool {
        if !self.ids.insert(id) {
            return false;
        }
        self.order.push_back(id);
        while self.order.len() > self.most {
            if let Some(oldest) = self.order.pop_front() {
                self.ids.remove(&oldest);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten() {
        let mut seen = Seen::new(2);
        let id = |n| VerdictId([n; 16]);
        assert!(seen.add(id(1)) && seen.add(id(2)));
        assert!(!seen.add(id(1)));
        assert!(seen.add(id(3)));
        assert!(!seen.has(id(1)) && seen.has(id(2)) && seen.has(id(3)));
        assert!(seen.add(id(1)));
    }
}
