//! Bounds of what is remembered of requests, and the order of events. Scenarios stand in `tests/owning.rs`.

use super::*;
use crate::ids::{LeaseId, LeaseKey};
use crate::owner::PullRequest;

const fn at(millis: u64) -> Time {
    Time::from_micros(1_000_000_000 + millis * 1000)
}

fn request() -> PullRequest {
    PullRequest {
        image: ImageName::new("reg.example/app:1").unwrap(),
        pod: None,
        labels: None,
        certain: true,
    }
}

fn pull(id: u64, created: u64, shown: u64) -> Candidate {
    let lease = LeaseKey {
        namespace: crate::ids::ContainerdNamespace::new("k8s.io").unwrap(),
        id: LeaseId::new(format!("l{id}")).unwrap(),
    };
    let mut pull = Pull::new(PullId(id), lease, at(created));
    pull.created = Some(at(created));
    pull.shown = Some(at(shown));
    Candidate::of(&pull)
}

fn owner(requests: &mut Requests, pulls: &[Candidate], id: u64) -> Option<CallId> {
    let looks: BTreeSet<Time> = pulls.iter().filter_map(|pull| pull.shown).collect();
    looks.into_iter().for_each(|look| requests.looked(look));
    let joined = requests.join(pulls.iter().cloned());
    joined[&PullId(id)].owners.known().map(|asker| asker.call)
}

#[test]
fn requests_beyond_the_bound_are_forgotten_and_leave_their_pulls_unknown() {
    let mut requests = Requests::default();
    let last = u64::try_from(MAX_CALLS).unwrap();
    for call in 0..last {
        assert!(requests.began(CallId(call), at(call * 100), request()));
    }
    assert!(!requests.began(CallId(last), at(last * 100), request()));
    assert_eq!(requests.len(), MAX_CALLS);
    // The oldest made room. The pull of that one is not taken for another one's.
    let pulls = [pull(1, 2, 60_000_000)];
    assert_eq!(owner(&mut requests, &pulls, 1), None);
    // An ended one makes room first.
    requests.ended(CallId(7), at(800), RequestEnd::Answered);
    assert!(!requests.began(CallId(last + 1), at(last * 100 + 100), request()));
    assert!(!requests.is_open(CallId(7)) && requests.is_open(CallId(1)));
}

#[test]
fn spans_of_unseen_requests_beyond_the_bound_become_longer_ones() {
    let mut requests = Requests::default();
    requests.began(CallId(1), at(5_000), request());
    let pulls = [pull(1, 5_002, 6_000)];
    assert_eq!(owner(&mut requests, &pulls, 1), Some(CallId(1)));
    requests.missed(at(4_990), at(4_995));
    for span in 0..10 * u64::try_from(MAX_MISSED_SPANS).unwrap() {
        requests.missed(at(90_000 + span * 10), at(90_001 + span * 10));
    }
    assert_eq!(requests.missed.len(), MAX_MISSED_SPANS);
    assert_eq!(owner(&mut requests, &pulls, 1), None);
}

#[test]
fn what_follows_hangs_on_no_order_of_events() {
    type Step = fn(&mut Requests);
    let steps: [Step; 4] = [
        |requests| {
            requests.began(CallId(1), at(0), request());
            requests.ended(CallId(1), at(70), RequestEnd::Answered);
        },
        |requests| {
            requests.began(CallId(2), at(20), request());
        },
        |requests| {
            let digest = Digest::parse(&format!("sha256:{:064x}", 7)).unwrap();
            requests.resolved(request().image, digest, at(25));
        },
        |requests| requests.missed(at(5_000), at(5_001)),
    ];
    let pulls = [pull(1, 5, 60), pull(2, 22, 90)];
    let mut orders = 0;
    for order in 0..256_usize {
        let order: Vec<usize> = (0..4).map(|place| order >> (2 * place) & 3).collect();
        if (0..4).any(|step| !order.contains(&step)) {
            continue;
        }
        let mut requests = Requests::default();
        for step in &order {
            steps[*step](&mut requests);
        }
        orders += 1;
        let owners = [1, 2].map(|id| owner(&mut requests, &pulls, id));
        assert_eq!(owners, [Some(CallId(1)), Some(CallId(2))], "{order:?}");
    }
    assert_eq!(orders, 24);
}

#[test]
fn a_request_whose_end_was_lost_may_have_ended_before_or_go_on() {
    let mut requests = Requests::default();
    requests.began(CallId(1), at(0), request());
    requests.ended(CallId(1), at(50), RequestEnd::Lost);
    assert!(!requests.is_open(CallId(1)));
    assert_eq!(
        owner(&mut requests, &[pull(1, 2, 5_000)], 1),
        None,
        "its lease may never have shown"
    );
    requests.looked(at(40));
    assert_eq!(
        owner(&mut requests, &[pull(1, 2, 5_000)], 1),
        None,
        "it may have been over by then"
    );
}

#[test]
fn a_request_that_had_shown_before_its_end_was_lost_has_shown() {
    let lost = |missed_since| {
        let mut requests = Requests::default();
        requests.began(CallId(1), at(0), request());
        requests.looked(at(40));
        requests.missed(at(missed_since), at(50));
        requests.ended(CallId(1), at(50), RequestEnd::Lost);
        requests
    };
    assert_eq!(owner(&mut lost(39), &[pull(1, 2, 5_000)], 1), None);
    // What went unseen came after it, and too early for the pull to be somebody else's.
    let mut requests = lost(45);
    assert_eq!(owner(&mut requests, &[pull(1, 2, 5_000)], 1), Some(CallId(1)));
    let two = [pull(1, 2, 5_000), pull(2, 3, 40)];
    assert_eq!([1, 2].map(|id| owner(&mut requests, &two, id)), [None, None]);
}
