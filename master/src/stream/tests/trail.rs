//! The audit trail and what operators ask and set.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use magi_master_api::client::{FromMaster, ToMaster};
use magi_master_api::message::{AuditMark, AuditRecord, Pulls};
use magi_master_api::wire;

use super::wire::Wire;
use super::world::{World, until};
use crate::counters::Count;
use crate::store::Query;
use crate::switch::Switchboard;

fn record(sequence: u64, reason: &str) -> ToMaster {
    let json = format!("{{\"kind\":\"intent\",\"reason\":\"{reason}\",\"n\":{sequence}}}");
    ToMaster::Audit(AuditRecord {
        mark: AuditMark { run: 1, sequence },
        json: Bytes::from(json),
    })
}

#[tokio::test]
async fn each_record_is_stored_once_over_cut_connections() {
    const RECORDS: u64 = 500;
    let world = World::new().await;
    let wire = Wire::to(world.address).await;
    let mut a = world.node_at("a", wire.address);
    let says = a.says.clone();
    let hearing = tokio::spawn(async move {
        loop {
            if let FromMaster::AuditStored(mark) = a.hear().await
                && mark.sequence == RECORDS - 1
            {
                return a;
            }
        }
    });
    for sequence in 0..RECORDS {
        says.send(record(sequence, "operator")).await.unwrap();
        if sequence % 100 == 50 {
            world.connected("a").await;
            wire.cut();
        }
    }
    let _a = tokio::time::timeout(Duration::from_secs(20), hearing)
        .await
        .unwrap()
        .unwrap();
    let stored = world.store.query(&Query::default()).unwrap().records;
    let numbers: Vec<u64> = stored.iter().map(|stored| stored.mark.sequence).collect();
    assert_eq!(numbers, (0..RECORDS).collect::<Vec<_>>());
    assert_eq!(world.count(Count::Records), RECORDS);
}

#[tokio::test]
async fn operators_see_nodes_and_records() {
    let world = World::new().await;
    let mut operator = world.operator().await;
    let query = wire::AuditQuery {
        reason: "operator".to_owned(),
        ..wire::AuditQuery::default()
    };
    let mut tail = operator.tail_audit(query.clone()).await.unwrap().into_inner();
    let a = world.node("a");
    for name in ["b-1", "b-2"] {
        world.node(name);
    }
    for (sequence, reason) in [(0, "operator"), (1, "orphaned"), (2, "operator")] {
        a.says.send(record(sequence, reason)).await.unwrap();
    }
    let pulls = Pulls {
        in_flight: 3,
        ..Pulls::default()
    };
    a.says.send(ToMaster::Pulls(pulls)).await.unwrap();
    for wanted in [0, 2] {
        let record = tail.message().await.unwrap().unwrap();
        assert_eq!(
            (record.node.as_str(), record.mark.unwrap().sequence),
            ("a", wanted)
        );
    }
    let mut found = operator.query_audit(query).await.unwrap().into_inner();
    let mut numbers = Vec::new();
    while let Some(record) = found.message().await.unwrap() {
        numbers.push(record.mark.unwrap().sequence);
    }
    assert_eq!(numbers, [0, 2]);
    until("its pulls are known", || {
        world.shown("a").is_some_and(|shown| shown.known.pulls.is_some())
    })
    .await;
    let version = world.publish(5, "policy");
    let status = operator
        .status(wire::StatusRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(status.policy.unwrap().revision, version.revision);
    assert_eq!(status.counters["audit-records"], 3);
    let request = wire::ListNodesRequest {
        prefix: "a".to_owned(),
    };
    let mut nodes = operator.list_nodes(request).await.unwrap().into_inner();
    let a = nodes.message().await.unwrap().unwrap();
    assert_eq!(
        (a.node.as_str(), a.version.as_str(), a.connected),
        ("a", "test", true)
    );
    assert_eq!(a.pulls.unwrap().in_flight, 3);
    assert!(nodes.message().await.unwrap().is_none());
}

#[tokio::test]
async fn every_node_is_listed_over_many_pages() {
    let world = World::new().await;
    let mut expected = BTreeSet::new();
    for number in 0..150 {
        let name = format!("node-{number}");
        world.say(super::verdict(&name, "uid")).await;
        expected.insert(name);
    }
    world.counted(Count::Verdicts, 150).await;
    let mut operator = world.operator().await;
    let mut nodes = operator
        .list_nodes(wire::ListNodesRequest::default())
        .await
        .unwrap()
        .into_inner();
    let mut listed = BTreeSet::new();
    while let Some(node) = nodes.message().await.unwrap() {
        assert!(!node.connected && node.verdicts_waiting == 1);
        assert!(listed.insert(node.node));
    }
    assert_eq!(listed, expected);
}

#[tokio::test]
async fn the_kill_switch_reaches_every_node_and_outlives_the_master() {
    let world = World::new().await;
    let mut a = world.node("a");
    world.connected("a").await;
    let mut operator = world.operator().await;
    let request = wire::SetKillSwitchRequest {
        engaged: true,
        reason: "a storm".to_owned(),
    };
    let set = operator.set_kill_switch(request).await.unwrap().into_inner();
    assert_eq!((set.engaged, set.by.as_str()), (true, "operator ann"));
    let mut b = world.node("b");
    for node in [&mut a, &mut b] {
        let switch = loop {
            if let FromMaster::KillSwitch(switch) = node.hear().await {
                break switch;
            }
        };
        assert!(switch.engaged && switch.reason == "a storm" && switch.revision == set.revision);
        node.says
            .send(ToMaster::KillSwitch(switch.revision))
            .await
            .unwrap();
    }
    until("both have it", || {
        ["a", "b"]
            .iter()
            .all(|name| world.shown(name).unwrap().known.kill_switch == set.revision)
    })
    .await;
    let kept = Switchboard::open(world.folder.path()).unwrap();
    assert!(kept.sender().borrow().engaged);
    let cleared = kept.set(false, "operator ann", "", 1).unwrap();
    assert_eq!(
        cleared.revision,
        set.revision + 1,
        "a clock that was put back changes nothing"
    );
}
