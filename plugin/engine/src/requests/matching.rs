//! Which pull belongs to which request, where only one answer is possible.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What is known of one pull's request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It is this one.
    One(usize),
    /// It is one of these.
    OneOf(Vec<usize>),
    /// It may be one that was not seen.
    Unknown,
}

/// Explanations of pulls that hang together, beyond which nothing is concluded: it would take long to find out.
const MAX_EXPLANATIONS: usize = 2048;

/// For each pull, what follows from the requests that it may belong to (`edges`).
///
/// `settled` tells whether a request has its pull for sure by now; `unseen` whether a pull may have a request that was
/// not seen. Pulls that share possible requests are looked at together: where not each can have a request of its own
/// that has its pull by now, somebody was not seen, and nothing is concluded of any of them. Else a pull may belong to
/// each request that leaves all the others one.
pub(super) fn unique(
    edges: &[BTreeSet<usize>],
    settled: impl Fn(usize) -> bool,
    unseen: impl Fn(usize) -> bool,
) -> Vec<Found> {
    let mut found = vec![Found::Unknown; edges.len()];
    for (pulls, _) in groups(edges) {
        let open: BTreeMap<usize, &BTreeSet<usize>> = pulls
            .iter()
            .filter_map(|pull| Some((*pull, edges.get(*pull)?)))
            .collect();
        let explanations = open
            .values()
            .fold(0_usize, |sum, calls| sum.saturating_add(calls.len()));
        if explanations > MAX_EXPLANATIONS || pulls.iter().any(|pull| unseen(*pull)) {
            continue;
        }
        let Some(one_each) = Matching::of(&open, &settled) else {
            continue;
        };
        for (pull, calls) in &open {
            let possible = one_each.possible(&open, *pull, calls);
            // A request whose pull may not have shown yet may be another one's, and this pull somebody unseen's.
            let Some(place) = found
                .get_mut(*pull)
                .filter(|_| possible.iter().all(|call| settled(*call)))
            else {
                continue;
            };
            *place = match possible.as_slice() {
                [call] => Found::One(*call),
                _ => Found::OneOf(possible),
            };
        }
    }
    found
}

/// One way to give each pull a request of its own.
struct Matching {
    call_of: BTreeMap<usize, usize>,
    pull_of: BTreeMap<usize, usize>,
}

impl Matching {
    /// None if there is no such way; only requests that `counts` are given.
    fn of(open: &BTreeMap<usize, &BTreeSet<usize>>, counts: impl Fn(usize) -> bool) -> Option<Self> {
        let mut matching = Self {
            call_of: BTreeMap::new(),
            pull_of: BTreeMap::new(),
        };
        open.keys()
            .all(|pull| matching.give(open, &counts, *pull))
            .then_some(matching)
    }

    /// Gives a pull a request; others may have to take another one for it.
    fn give(
        &mut self,
        open: &BTreeMap<usize, &BTreeSet<usize>>,
        counts: impl Fn(usize) -> bool,
        pull: usize,
    ) -> bool {
        // From which pull each request was come by, the nearest first.
        let mut come_from: BTreeMap<usize, usize> = BTreeMap::new();
        let mut waiting = VecDeque::from([pull]);
        while let Some(asks) = waiting.pop_front() {
            for call in open.get(&asks).into_iter().copied().flatten() {
                if come_from.contains_key(call) || !counts(*call) {
                    continue;
                }
                come_from.insert(*call, asks);
                match self.pull_of.get(call) {
                    Some(other) => waiting.push_back(*other),
                    None => {
                        self.move_along(&come_from, *call);
                        return true;
                    }
                }
            }
        }
        false
    }

    /// Hands a free request to whoever came by it, whose own one becomes free for the next.
    fn move_along(&mut self, come_from: &BTreeMap<usize, usize>, free: usize) {
        let mut free = Some(free);
        while let Some(call) = free {
            let Some(pull) = come_from.get(&call) else { return };
            self.pull_of.insert(call, *pull);
            free = self.call_of.insert(*pull, call);
        }
    }

    /// The requests that this pull may have, while each other one still has one of its own: its present one, and each
    /// whose present pull can move on, to a free one or in a circle.
    fn possible(
        &self,
        open: &BTreeMap<usize, &BTreeSet<usize>>,
        pull: usize,
        calls: &BTreeSet<usize>,
    ) -> Vec<usize> {
        let own = self.call_of.get(&pull).copied();
        let can_be_had = |call: &usize| {
            let mut seen = BTreeSet::new();
            let mut waiting = vec![*call];
            while let Some(call) = waiting.pop() {
                if Some(call) == own {
                    return true;
                }
                if !seen.insert(call) {
                    continue;
                }
                match self.pull_of.get(&call).and_then(|other| open.get(other)) {
                    Some(others) => waiting.extend(others.iter().copied()),
                    None => return true,
                }
            }
            false
        };
        calls.iter().copied().filter(can_be_had).collect()
    }
}

/// Pulls and requests that hang together, directly or through others.
pub(super) fn groups(edges: &[BTreeSet<usize>]) -> Vec<(BTreeSet<usize>, BTreeSet<usize>)> {
    let mut groups: Vec<(BTreeSet<usize>, BTreeSet<usize>)> = Vec::new();
    for (pull, calls) in edges.iter().enumerate().filter(|(_, calls)| !calls.is_empty()) {
        let mut merged = (BTreeSet::from([pull]), calls.clone());
        for (pulls, calls) in groups.extract_if(.., |(_, others)| !others.is_disjoint(calls)) {
            merged.0.extend(pulls);
            merged.1.extend(calls);
        }
        groups.push(merged);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(edges: &[&[usize]], settled: &[usize], unseen: &[usize]) -> Vec<Found> {
        let edges: Vec<BTreeSet<usize>> = edges.iter().map(|one| one.iter().copied().collect()).collect();
        unique(
            &edges,
            |call| settled.contains(&call),
            |pull| unseen.contains(&pull),
        )
    }

    #[test]
    fn a_chain_is_resolved_from_its_certain_end() {
        let edges: [&[usize]; 3] = [&[0], &[0, 1], &[0, 1, 2]];
        assert_eq!(
            found(&edges, &[0, 1, 2], &[]),
            [Found::One(0), Found::One(1), Found::One(2)]
        );
    }

    #[test]
    fn two_explanations_stay_two() {
        let either = || Found::OneOf(vec![0, 1]);
        assert_eq!(found(&[&[0, 1], &[0, 1]], &[0, 1], &[]), [either(), either()]);
        assert_eq!(found(&[&[0, 1]], &[0, 1], &[]), [either()]);
    }

    #[test]
    fn somebody_unseen_spoils_the_whole_group_and_no_other() {
        let edges: [&[usize]; 3] = [&[0], &[0], &[1]];
        assert_eq!(
            found(&edges, &[0, 1], &[]),
            [Found::Unknown, Found::Unknown, Found::One(1)]
        );
        assert_eq!(
            found(&[&[0], &[1]], &[0, 1], &[0]),
            [Found::Unknown, Found::One(1)]
        );
        // Two pulls need the same request, though there is one more in the group.
        let edges: [&[usize]; 3] = [&[0], &[0], &[0, 1, 2]];
        assert_eq!(found(&edges, &[0, 1, 2], &[]), vec![Found::Unknown; 3]);
    }

    #[test]
    fn a_request_without_its_pull_yet_concludes_nothing() {
        assert_eq!(found(&[&[0]], &[], &[]), [Found::Unknown]);
        // The second may be the first one's, and the first somebody's who was not seen.
        assert_eq!(
            found(&[&[0], &[0, 1]], &[0], &[]),
            [Found::Unknown, Found::Unknown]
        );
    }

    #[test]
    fn too_many_pulls_for_some_requests_are_noticed_beside_others() {
        let edges: [&[usize]; 4] = [&[0, 1], &[0, 1], &[0, 1], &[0, 1, 2, 3]];
        assert_eq!(found(&edges, &[0, 1, 2, 3], &[]), vec![Found::Unknown; 4]);
    }

    #[test]
    fn what_would_take_long_to_find_out_is_not_concluded() {
        let calls: Vec<usize> = (0..64).collect();
        let edges: Vec<&[usize]> = vec![&calls; 33];
        assert_eq!(found(&edges, &calls, &[]), vec![Found::Unknown; 33]);
        assert_eq!(
            found(&edges[..32], &calls, &[]),
            vec![Found::OneOf(calls.clone()); 32]
        );
    }

    proptest::proptest! {
        /// Against trying every way.
        #[test]
        fn a_request_is_possible_exactly_if_a_way_for_all_gives_it(
            edges in proptest::collection::vec(proptest::collection::btree_set(0..5_usize, 0..4), 1..5)
        ) {
            let ways = ways(&edges);
            for (pull, found) in unique(&edges, |_| true, |_| false).into_iter().enumerate() {
                let possible: BTreeSet<usize> = ways.iter().map(|way| way[pull]).collect();
                let mut told = BTreeSet::new();
                match found {
                    Found::One(call) => told.extend([call]),
                    Found::OneOf(calls) => told.extend(calls),
                    // In a group of its own somebody may be without a request.
                    Found::Unknown => continue,
                }
                if !ways.is_empty() {
                    proptest::prop_assert_eq!(told, possible);
                }
            }
            if edges.iter().all(|calls| !calls.is_empty()) && !ways.is_empty() {
                proptest::prop_assert!(!unique(&edges, |_| true, |_| false).contains(&Found::Unknown));
            }
        }
    }

    /// Every way to give each pull a request of its own.
    fn ways(edges: &[BTreeSet<usize>]) -> Vec<Vec<usize>> {
        edges.iter().fold(vec![Vec::new()], |ways, calls| {
            let longer = |way: &Vec<usize>| {
                let free: Vec<usize> = calls.iter().copied().filter(|call| !way.contains(call)).collect();
                let way = way.clone();
                free.into_iter()
                    .map(move |call| way.iter().copied().chain([call]).collect())
            };
            ways.iter().flat_map(longer).collect()
        })
    }

    #[test]
    fn a_request_that_fits_one_pull_is_its_only_if_all_have_theirs() {
        let edges: [&[usize]; 2] = [&[0, 1], &[1, 2]];
        let (first, second) = (Found::OneOf(vec![0, 1]), Found::OneOf(vec![1, 2]));
        assert_eq!(found(&edges, &[0, 1, 2], &[]), [first, second]);
        let edges: [&[usize]; 3] = [&[0, 1], &[1, 2], &[1, 2]];
        let either = || Found::OneOf(vec![1, 2]);
        assert_eq!(
            found(&edges, &[0, 1, 2], &[]),
            [Found::One(0), either(), either()]
        );
    }
}
