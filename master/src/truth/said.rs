//! Verdicts that were said lately, for nodes that come back to a master that does not know what they heard. Pure code.
//!
//! Changed by: [`Said::add`], and nothing else. At most [`MAX_OF_A_NODE`] of a node, and [`MAX_SAID`] in all, are
//! remembered; the oldest goes first, and is counted unless it was too old to be said again.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use crate::names::NodeName;
use crate::verdict::Verdict;

/// Verdicts that are remembered of one node: as many as may wait for it.
pub(super) const MAX_OF_A_NODE: usize = 512;
/// Verdicts that are remembered of all nodes.
pub(super) const MAX_SAID: usize = 65_536;

/// Said lately.
#[derive(Debug, Default)]
pub(super) struct Said {
    next: u64,
    all: BTreeMap<u64, Verdict>,
    by_node: BTreeMap<NodeName, BTreeSet<u64>>,
}

impl Said {
    /// Remembers one; how many had to be forgotten for it that were not older than `age`.
    pub(super) fn add(&mut self, verdict: Verdict, now: Timestamp, age: SignedDuration) -> u64 {
        let is_old = |verdict: &Verdict| now.duration_since(verdict.at) > age;
        while let Some(oldest) = self.all.first_entry().filter(|oldest| is_old(oldest.get())) {
            let number = *oldest.key();
            self.forget(number);
        }
        let number = self.next;
        self.next += 1;
        let of_node = self.by_node.entry(verdict.node.clone()).or_default();
        of_node.insert(number);
        let first_of_node = of_node.first().copied().filter(|_| of_node.len() > MAX_OF_A_NODE);
        self.all.insert(number, verdict);
        let mut forgotten = 0;
        if let Some(number) = first_of_node {
            self.forget(number);
            forgotten += 1;
        }
        if self.all.len() > MAX_SAID
            && let Some((number, _)) = self.all.first_key_value()
        {
            let number = *number;
            self.forget(number);
            forgotten += 1;
        }
        forgotten
    }

    fn forget(&mut self, number: u64) {
        let Some(verdict) = self.all.remove(&number) else {
            return;
        };
        if let Some(of_node) = self.by_node.get_mut(&verdict.node) {
            of_node.remove(&number);
            if of_node.is_empty() {
                self.by_node.remove(&verdict.node);
            }
        }
    }

    /// Those of `node` about changes since `since`, in the order in which they were said.
    pub(super) fn since<'s>(
        &'s self,
        node: &NodeName,
        since: Timestamp,
    ) -> impl Iterator<Item = &'s Verdict> + use<'s> {
        let numbers = self.by_node.get(node).into_iter().flatten();
        numbers
            .filter_map(|number| self.all.get(number))
            .filter(move |verdict| verdict.at >= since)
    }
}

#[cfg(test)]
mod tests {
    use magi_engine::ids::{ImageName, PodName, PodNamespace, PodUid};

    use super::*;
    use crate::verdict::{Cause, VerdictKind};

    const AGE: SignedDuration = SignedDuration::from_mins(10);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn said(node: &str, uid: &str, seconds: i64) -> Verdict {
        Verdict {
            at: at(seconds),
            kind: VerdictKind::PodGone,
            cause: Cause::Deleted,
            uid: PodUid::new(uid).unwrap(),
            namespace: PodNamespace::new("n").unwrap(),
            name: PodName::new("p").unwrap(),
            node: NodeName::new(node).unwrap(),
            images: vec![ImageName::new("i:1").unwrap()],
        }
    }

    fn uids(said: &Said, node: &str, since: i64) -> Vec<String> {
        let node = NodeName::new(node).unwrap();
        said.since(&node, at(since))
            .map(|verdict| verdict.uid.as_str().to_owned())
            .collect()
    }

    #[test]
    fn each_node_has_its_own_since_a_time() {
        let mut all = Said::default();
        for (node, uid, seconds) in [("a", "1", 0), ("b", "2", 1), ("a", "3", 2)] {
            assert_eq!(all.add(said(node, uid, seconds), at(2), AGE), 0);
        }
        assert_eq!(uids(&all, "a", 0), ["1", "3"]);
        assert_eq!(uids(&all, "a", 1), ["3"]);
        assert_eq!(uids(&all, "b", 0), ["2"]);
        assert_eq!(
            all.add(said("b", "4", 700), at(700), AGE),
            0,
            "the old ones go unmissed"
        );
        assert_eq!((all.all.len(), all.by_node.len()), (1, 1));
    }

    #[test]
    fn neither_one_node_nor_all_of_them_grow_without_bound() {
        let mut all = Said::default();
        let mut forgotten = 0;
        for number in 0..MAX_OF_A_NODE + 3 {
            forgotten += all.add(said("a", &number.to_string(), 0), at(0), AGE);
        }
        assert_eq!(forgotten, 3);
        assert_eq!(uids(&all, "a", 0).len(), MAX_OF_A_NODE);
        assert_eq!(uids(&all, "a", 0)[0], "3");
        let mut forgotten = 0;
        for number in 0..MAX_SAID {
            let node = format!("n{}", number % 1000);
            forgotten += all.add(said(&node, &number.to_string(), 0), at(0), AGE);
        }
        assert_eq!(forgotten, MAX_OF_A_NODE as u64);
        assert_eq!(all.all.len(), MAX_SAID);
        assert!(uids(&all, "a", 0).is_empty());
    }
}
