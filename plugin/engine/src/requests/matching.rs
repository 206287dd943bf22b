//! Which pull belongs to which request, where only one answer is possible.

use std::collections::{BTreeMap, BTreeSet};

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

/// For each pull, what follows from the requests that it may belong to (`edges`).
///
/// `settled` tells whether a request has its pull for sure by now; `unseen` whether a pull may have a request that was
/// not seen. Pulls that share possible requests are looked at together: where they are more than the requests, or two
/// need the same one, somebody was not seen, and nothing is concluded of any of them.
pub(super) fn unique(
    edges: &[BTreeSet<usize>],
    settled: impl Fn(usize) -> bool,
    unseen: impl Fn(usize) -> bool,
) -> Vec<Found> {
    let mut found = vec![Found::Unknown; edges.len()];
    for (pulls, calls) in groups(edges) {
        if pulls.len() > calls.len() || pulls.iter().any(|pull| unseen(*pull)) {
            continue;
        }
        let fitting = pulls
            .iter()
            .filter_map(|pull| Some((*pull, edges.get(*pull)?.clone())))
            .collect();
        // As many pulls as requests, each of which has a pull by now: one that fits only one pull is that pull's.
        let is_perfect = pulls.len() == calls.len() && calls.iter().all(|call| settled(*call));
        for (pull, left) in struck_out(fitting, is_perfect) {
            // A request whose pull may not have shown yet may be another one's, and this pull somebody unseen's.
            let Some(place) = found
                .get_mut(pull)
                .filter(|_| left.iter().all(|call| settled(*call)))
            else {
                continue;
            };
            *place = match only(&left) {
                Some(call) => Found::One(call),
                None => Found::OneOf(left.into_iter().collect()),
            };
        }
    }
    found
}

/// Gives each pull its request where it has no other, and strikes that out elsewhere, until nothing changes. Empty if
/// a pull is left without any.
fn struck_out(
    mut open: BTreeMap<usize, BTreeSet<usize>>,
    is_perfect: bool,
) -> BTreeMap<usize, BTreeSet<usize>> {
    let mut done = BTreeMap::new();
    while let Some((pull, call)) = forced(&open, is_perfect) {
        open.remove(&pull);
        done.insert(pull, BTreeSet::from([call]));
        for left in open.values_mut() {
            left.remove(&call);
        }
    }
    if open.values().any(BTreeSet::is_empty) {
        return BTreeMap::new();
    }
    done.append(&mut open);
    done
}

/// A pull that can have only one request, or a request that can only have led to one pull.
fn forced(open: &BTreeMap<usize, BTreeSet<usize>>, is_perfect: bool) -> Option<(usize, usize)> {
    let pull = open.iter().find_map(|(pull, left)| Some((*pull, only(left)?)));
    pull.or_else(|| {
        let calls: BTreeSet<usize> = open.values().filter(|_| is_perfect).flatten().copied().collect();
        calls.into_iter().find_map(|call| {
            let fits = open.iter().filter(|(_, left)| left.contains(&call));
            let pulls: BTreeSet<usize> = fits.map(|(pull, _)| *pull).collect();
            Some((only(&pulls)?, call))
        })
    })
}

fn only(set: &BTreeSet<usize>) -> Option<usize> {
    set.first().copied().filter(|_| set.len() == 1)
}

/// Pulls and requests that hang together, directly or through others.
fn groups(edges: &[BTreeSet<usize>]) -> Vec<(BTreeSet<usize>, BTreeSet<usize>)> {
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
        assert_eq!(
            found(&[&[0], &[0, 1]], &[0], &[]),
            [Found::One(0), Found::Unknown]
        );
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
