//! Rounds of listings and looks, and what may and may not be concluded from them.

use super::*;

const MIB: u64 = 1 << 20;

fn dir(n: u8) -> IngestDir {
    IngestDir::from_hash([n; 32])
}

fn stat(cookie: u64, received: u64) -> SocketStat {
    let address = |port| std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let socket = SocketName {
        cookie: Cookie(cookie),
        local: address(40_000),
        remote: address(5000),
    };
    SocketStat {
        socket,
        established: true,
        received,
        unread: 0,
    }
}

fn round(pairing: &mut Pairing, sockets: &[SocketStat], low: &[(u8, u64)], high: &[(u8, u64)]) {
    let offsets = |of: &[(u8, u64)]| of.iter().map(|(n, bytes)| (dir(*n), *bytes)).collect::<Offsets>();
    pairing.asked(offsets(low));
    pairing.listed(sockets);
    for _ in 0..LOOKS {
        pairing.looked(&offsets(high));
    }
}

#[test]
fn two_rounds_with_progress_make_a_pair() {
    let mut pairing = Pairing::default();
    round(
        &mut pairing,
        &[stat(7, 5 * MIB + 700)],
        &[(1, 5 * MIB)],
        &[(1, 5 * MIB)],
    );
    assert!(pairing.sole_feed_of(dir(1)).is_none(), "one round proves nothing");
    round(
        &mut pairing,
        &[stat(7, 5 * MIB + 800)],
        &[(1, 5 * MIB)],
        &[(1, 5 * MIB)],
    );
    assert!(
        pairing.sole_feed_of(dir(1)).is_none(),
        "no progress proves nothing"
    );
    round(
        &mut pairing,
        &[stat(7, 9 * MIB + 700)],
        &[(1, 9 * MIB)],
        &[(1, 9 * MIB)],
    );
    assert_eq!(
        pairing.sole_feed_of(dir(1)).map(|feed| feed.socket.cookie),
        Some(Cookie(7))
    );
}

#[test]
fn an_ingest_that_stands_still_is_not_fed() {
    let mut pairing = Pairing::default();
    for bytes in [5 * MIB, 5 * MIB + 900 * 1024, 8 * MIB] {
        let ingests = [(1, 5 * MIB), (2, bytes - 5 * MIB)];
        round(&mut pairing, &[stat(7, bytes + 500)], &ingests, &ingests);
        assert!(pairing.feeds_of(dir(1)).0.is_empty(), "{bytes}");
    }
}

#[test]
fn an_explanation_that_is_gone_proves_nothing_about_the_other() {
    let mut pairing = Pairing::default();
    for bytes in [5 * MIB, 9 * MIB] {
        let both = [(1, bytes), (2, bytes)];
        round(&mut pairing, &[stat(7, bytes + 500)], &both, &both);
    }
    pairing.forget(dir(2));
    assert!(pairing.feeds_of(dir(1)).0.is_empty());
}

#[test]
fn equal_counts_stay_ambiguous() {
    let mut pairing = Pairing::default();
    for bytes in [5 * MIB, 9 * MIB] {
        let both = [(1, bytes), (2, bytes)];
        round(
            &mut pairing,
            &[stat(7, bytes + 500), stat(8, bytes + 600)],
            &both,
            &both,
        );
    }
    assert!(pairing.sole_feed_of(dir(1)).is_none());
    let (feeds, explanations) = pairing.feeds_of(dir(1));
    assert_eq!((feeds.len(), explanations.len()), (2, 2));
}

#[test]
fn a_socket_behind_the_ingest_is_no_pair() {
    let mut pairing = Pairing::default();
    for bytes in [5 * MIB, 9 * MIB] {
        round(
            &mut pairing,
            &[stat(7, bytes - 2 * MIB)],
            &[(1, bytes)],
            &[(1, bytes)],
        );
    }
    assert!(pairing.feeds_of(dir(1)).0.is_empty());
}

#[test]
fn two_sockets_and_one_ingest_prove_nothing() {
    let mut pairing = Pairing::default();
    for bytes in [5 * MIB, 9 * MIB] {
        let one = [(1, bytes)];
        round(
            &mut pairing,
            &[stat(7, bytes + 500), stat(8, bytes + 600)],
            &one,
            &one,
        );
    }
    assert!(pairing.feeds_of(dir(1)).0.is_empty());
}

#[test]
fn a_socket_on_its_second_blob_fits_another_ingest_by_chance_only() {
    // Socket 7 has brought 20 MiB before, and now brings ingest 2; its count looks like that of ingest 1, whose
    // own socket is on its second blob as well.
    let mut pairing = Pairing::default();
    for bytes in [25 * MIB, 29 * MIB] {
        let ingests = [(1, bytes), (2, bytes - 20 * MIB)];
        let sockets = [stat(7, bytes + 500), stat(8, bytes + 40 * MIB)];
        round(&mut pairing, &sockets, &ingests, &ingests);
    }
    let (feeds, explanations) = pairing.feeds_of(dir(1));
    assert_eq!(feeds.first().map(|feed| feed.socket.cookie), Some(Cookie(7)));
    assert_eq!(explanations, BTreeSet::from([dir(1), dir(2)]));
    assert!(pairing.sole_feed_of(dir(1)).is_none());
}

#[test]
fn a_neighbour_of_the_same_pace_explains_nothing_if_its_own_socket_is_known() {
    let mut pairing = Pairing::default();
    for bytes in [25 * MIB, 29 * MIB] {
        let ingests = [(1, bytes), (2, bytes - 20 * MIB)];
        let sockets = [stat(7, bytes + 500), stat(8, bytes - 20 * MIB + 700)];
        round(&mut pairing, &sockets, &ingests, &ingests);
    }
    let feed = pairing.sole_feed_of(dir(1));
    assert_eq!(feed.map(|feed| feed.socket.cookie), Some(Cookie(7)));
}

#[test]
fn nothing_is_concluded_across_generations() {
    let mut pairing = Pairing::default();
    round(
        &mut pairing,
        &[stat(7, 5 * MIB + 700)],
        &[(1, 5 * MIB)],
        &[(1, 5 * MIB)],
    );
    pairing.forget(dir(1));
    round(
        &mut pairing,
        &[stat(7, 9 * MIB + 700)],
        &[(1, 9 * MIB)],
        &[(1, 9 * MIB)],
    );
    assert!(
        pairing.sole_feed_of(dir(1)).is_none(),
        "the first round was another pull's"
    );
}

#[test]
fn a_look_that_was_under_way_completes_no_round() {
    let mut pairing = Pairing::default();
    pairing.asked(Offsets::from([(dir(1), 5 * MIB)]));
    pairing.looked(&Offsets::from([(dir(1), 5 * MIB)]));
    pairing.listed(&[stat(7, 5 * MIB)]);
    pairing.looked(&Offsets::from([(dir(1), 5 * MIB)]));
    assert!(pairing.awaits_look());
    pairing.looked(&Offsets::from([(dir(1), 6 * MIB)]));
    assert!(!pairing.awaits_look());
    assert_eq!(pairing.pairs.len(), 1);
}
