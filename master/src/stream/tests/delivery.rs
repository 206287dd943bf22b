//! Verdicts and policies: to the right node, once, whatever happens to the connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::stream;
use jiff::Timestamp;
use magi_master_api::client::{FromMaster, ToMaster, channel};
use magi_master_api::message::{Hello, PolicyAnswer, Up};
use magi_master_api::policy::PolicyVersion;
use magi_master_api::wire;
use magi_master_api::wire::nodes_client::NodesClient;
use tonic::Code;

use super::verdict;
use super::wire::Wire;
use super::world::{NAME, World, hasty, is_each_once, node, until};
use crate::counters::Count;
use crate::names::NodeName;
use crate::stream::standing::Standing;
use crate::verdict::Verdict;

#[tokio::test]
async fn a_verdict_reaches_its_node_and_no_other() {
    let world = World::new().await;
    let mut nodes = [world.node("a"), world.node("ab"), world.node("b")];
    for name in ["a", "ab", "b"] {
        world.connected(name).await;
    }
    for round in 0..20 {
        for name in ["a", "ab", "b"] {
            world.say(verdict(name, &format!("{name}-{round}"))).await;
        }
    }
    for (node, name) in nodes.iter_mut().zip(["a", "ab", "b"]) {
        let heard = node.verdicts_until(&format!("{name}-19")).await;
        let expected: Vec<String> = (0..20).map(|round| format!("{name}-{round}")).collect();
        assert_eq!(heard, expected);
    }
    world.counted(Count::VerdictsAnswered, 60).await;
    let waiting = ["a", "ab", "b"].map(|name| world.shown(name).unwrap().waiting);
    assert_eq!((waiting, world.count(Count::VerdictsSent)), ([0, 0, 0], 60));
}

#[tokio::test]
async fn cut_connections_cost_nothing_and_repeat_nothing() {
    const VERDICTS: usize = 400;
    let world = World::new().await;
    let wire = Wire::to(world.address).await;
    let mut node = world.node_at("a", wire.address);
    world.connected("a").await;
    let is_over = Arc::new(AtomicBool::new(false));
    let cutting = {
        let is_over = Arc::clone(&is_over);
        tokio::spawn(async move {
            let mut cuts = 0;
            while !is_over.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(60)).await;
                wire.cut();
                cuts += 1;
            }
            (wire, cuts)
        })
    };
    let saying = async {
        for number in 0..VERDICTS {
            world.say(verdict("a", &format!("uid-{number}"))).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        is_over.store(true, Ordering::Relaxed);
    };
    let hearing = async {
        let mut uids = Vec::new();
        while uids.len() < VERDICTS {
            uids.push(node.verdict().await.uid);
        }
        uids
    };
    let ((), heard) = tokio::join!(saying, hearing);
    let (_wire, cuts) = cutting.await.unwrap();
    assert!(is_each_once(&heard, VERDICTS));
    assert!(cuts >= 5 && world.count(Count::Resumed) >= 3, "{cuts} cuts");
    assert_eq!(world.count(Count::VerdictsLost), 0);
    // Nothing stays behind, and nothing comes a second time.
    until("all are answered", || world.shown("a").unwrap().waiting == 0).await;
    world.say(verdict("a", "last")).await;
    assert_eq!(node.verdict().await.uid, "last");
}

#[tokio::test]
async fn a_node_that_was_away_hears_what_still_matters() {
    struct Ledger;
    impl Standing for Ledger {
        fn still(&self, verdict: &Verdict) -> Option<Verdict> {
            (!verdict.uid.as_str().starts_with("back")).then(|| verdict.clone())
        }

        fn since(&self, node: &NodeName, _: Timestamp) -> Vec<Verdict> {
            vec![
                verdict(node.as_str(), "remembered"),
                verdict(node.as_str(), "gone-1"),
                verdict("another", "not-yours"),
            ]
        }
    }
    let world = World::with(hasty(), Arc::new(Ledger)).await;
    for uid in ["gone-1", "back-1", "gone-2"] {
        world.say(verdict("a", uid)).await;
    }
    world.counted(Count::Verdicts, 3).await;
    let mut a = world.node("a");
    assert_eq!(
        a.verdicts_until("remembered").await,
        ["gone-1", "gone-2", "remembered"]
    );
    assert_eq!(world.count(Count::VerdictsMoot), 1);
    // The answers are remembered: the next stream hears none of it again.
    world.counted(Count::VerdictsAnswered, 3).await;
    drop(a);
    until("the stream has ended", || !world.shown("a").unwrap().is_connected).await;
    let mut again = world.node("a");
    world.connected("a").await;
    world.say(verdict("a", "new")).await;
    assert_eq!(again.verdicts_until("new").await, ["new"]);
}

#[tokio::test]
async fn what_is_too_old_is_not_said() {
    let limits = crate::stream::Limits {
        verdict_age: Duration::from_millis(50),
        ..hasty()
    };
    let world = World::with(limits, Arc::new(crate::stream::standing::Unknowing)).await;
    world.say(verdict("a", "old")).await;
    world.counted(Count::Verdicts, 1).await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    let mut a = world.node("a");
    world.connected("a").await;
    world.say(verdict("a", "new")).await;
    assert_eq!(a.verdicts_until("new").await, ["new"]);
    assert_eq!(world.count(Count::VerdictsExpired), 1);
}

#[tokio::test]
async fn a_slow_node_delays_nobody_and_hears_of_its_loss() {
    let world = World::new().await;
    let wire = Wire::to(world.address).await;
    let mut slow = world.node_at("slow", wire.address);
    let mut quick = world.node("quick");
    world.connected("slow").await;
    world.connected("quick").await;
    wire.stop(true);
    let started = std::time::Instant::now();
    for number in 0..3000 {
        world.say(verdict("slow", &format!("uid-{number}"))).await;
    }
    world.say(verdict("quick", "now")).await;
    assert_eq!(quick.verdict().await.uid, "now");
    assert!(started.elapsed() < Duration::from_secs(2));
    world.counted(Count::VerdictsLost, 1).await;
    assert!(world.shown("slow").unwrap().waiting <= 512);
    // Its pings go unanswered: the master gives it up.
    world.counted(Count::Silent, 1).await;
    until("it is given up", || !world.shown("slow").unwrap().is_connected).await;
    wire.cut();
    wire.stop(false);
    let lost = loop {
        if let FromMaster::Connected { verdicts_lost, .. } = slow.hear().await
            && verdicts_lost > 0
        {
            break verdicts_lost;
        }
    };
    assert!((1..3000).contains(&lost), "{lost}");
    // It is told once.
    slow.verdicts_until("uid-2999").await;
    until("all are answered", || world.shown("slow").unwrap().waiting == 0).await;
    wire.cut();
    loop {
        if let FromMaster::Connected { verdicts_lost, .. } = slow.hear().await {
            assert_eq!(verdicts_lost, 0);
            break;
        }
    }
}

#[tokio::test]
async fn the_newest_stream_of_a_node_wins() {
    let world = World::new().await;
    let tls = world.certificate(&node("a"));
    let hello: wire::Up = Up::Hello(Hello {
        node: "a".to_owned(),
        ..Hello::default()
    })
    .into();
    let channel = channel(&world.address.to_string(), NAME, &tls).await.unwrap();
    let waiting = futures_util::StreamExt::chain(stream::iter([hello]), stream::pending());
    let mut first = NodesClient::new(channel)
        .attend(waiting)
        .await
        .unwrap()
        .into_inner();
    world.connected("a").await;
    let mut second = world.node("a");
    let status = loop {
        match first.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended well"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Aborted);
    world.say(verdict("a", "one")).await;
    assert_eq!(second.verdict().await.uid, "one");
    assert!(world.shown("a").unwrap().is_connected);
}

#[tokio::test]
async fn a_policy_is_pushed_and_answered() {
    let world = World::new().await;
    let mut a = world.node("a");
    world.connected("a").await;
    let first = world.publish(10, "first");
    assert_eq!(a.policy().await, (first, "first".into()));
    let answer = |version: PolicyVersion, refused: Option<&str>| {
        ToMaster::Policy(PolicyAnswer {
            version,
            refused: refused.map(ToOwned::to_owned),
        })
    };
    a.says.send(answer(first, None)).await.unwrap();
    let in_force = |version: PolicyVersion| world.shown("a").unwrap().known.policy == Some(version);
    until("it is in force", || in_force(first)).await;
    // Many pieces, with verdicts between them.
    let text = "x".repeat(900_000);
    let second = world.publish(20, text.clone());
    let (version, bytes) = a.policy().await;
    assert_eq!((version, bytes.len()), (second, text.len()));
    a.says.send(answer(second, Some("makes no sense"))).await.unwrap();
    until("it is refused", || world.count(Count::PolicyRefused) == 1).await;
    assert!(in_force(first));
    // Who comes later gets it as well.
    let mut b = world.node("b");
    assert_eq!(b.policy().await.0, second);
}

#[tokio::test]
async fn a_rolled_back_policy_is_refused_by_the_node() {
    let world = World::new().await;
    let newer = PolicyVersion::of(100, b"newer");
    let tls = world.certificate(&node("a"));
    let mut a = world.node_with("a", world.address, tls, Some(newer));
    world.connected("a").await;
    world.publish(99, "older");
    world.counted(Count::PolicyRefused, 1).await;
    let shown = world.shown("a").unwrap().known;
    assert!(
        shown
            .policy_refused
            .unwrap()
            .contains("99 is not after revision 100")
    );
    assert_eq!(shown.policy, Some(newer));
    // Bytes that are not those of their digest, as a broken master would send.
    let version = PolicyVersion::of(101, b"one");
    world.policy.send_replace(Some(Arc::new(crate::policy::Snapshot {
        version,
        bytes: "another".into(),
        by: None,
    })));
    world.counted(Count::PolicyRefused, 2).await;
    // The same text with a higher number is in force without another word.
    let same = world.publish(102, "newer");
    until("it is in force", || {
        world.shown("a").unwrap().known.policy == Some(same)
    })
    .await;
    let last = world.publish(103, "last");
    assert_eq!(a.policy().await.0, last, "nothing else reached the node");
}

#[tokio::test]
async fn a_master_that_goes_says_goodbye_and_another_takes_over() {
    let world = World::new().await;
    let mut a = world.node("a");
    world.connected("a").await;
    world.stop().await;
    let why = a.loss().await;
    assert!(why.contains("the master is going"), "{why}");
}

#[tokio::test]
async fn a_dead_master_is_noticed() {
    let world = World::new().await;
    let wire = Wire::to(world.address).await;
    let mut a = world.node_at("a", wire.address);
    assert!(matches!(a.hear().await, FromMaster::Connected { .. }));
    wire.stop(true);
    let why = a.loss().await;
    assert!(why.contains("nothing was heard"), "{why}");
}

#[tokio::test]
async fn names_that_somebody_made_up_are_forgotten_before_nodes_are() {
    let world = World::new().await;
    let mut real = world.node("a-real-one");
    world.connected("a-real-one").await;
    for number in 0..1100 {
        world.say(verdict(&format!("made-up-{number}"), "uid")).await;
    }
    world.say(verdict("a-real-one", "last")).await;
    assert_eq!(real.verdict().await.uid, "last");
    assert_eq!(world.count(Count::NodesForgotten), 1100 - 1024);
    assert!(world.shown("made-up-0").is_none() && world.shown("made-up-1099").is_some());
}
