//! The store on a real disk: each record once, over restarts and rotations.

use std::io::Write;
use std::path::Path;

use bytes::Bytes;
use magi_master_api::message::AuditRecord;

use super::*;
use crate::counters::Count;

fn settings(folder: &Path) -> StoreSettings {
    StoreSettings {
        path: folder.join("audit.jsonl"),
        rotate: 1 << 20,
        keep: 3,
        age: Duration::from_secs(3600),
    }
}

fn open(settings: StoreSettings) -> (Store, Arc<Counters>) {
    let counters = Arc::new(Counters::default());
    (
        Store::open(settings, None, Arc::clone(&counters)).unwrap(),
        counters,
    )
}

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn batch(records: impl IntoIterator<Item = (u64, String)>) -> Arc<AuditBatch> {
    Arc::new(AuditBatch {
        records: records
            .into_iter()
            .map(|(sequence, json)| AuditRecord {
                mark: AuditMark { run: 7, sequence },
                json: Bytes::from(json),
            })
            .collect(),
        lost: 0,
    })
}

fn numbers(stored: &[Stored]) -> Vec<u64> {
    stored.iter().map(|one| one.mark.sequence).collect()
}

#[tokio::test]
async fn each_record_is_stored_once() {
    let folder = tempfile::tempdir().unwrap();
    let (store, counters) = open(settings(folder.path()));
    let records = |range: std::ops::Range<u64>| batch(range.map(|n| (n, format!("{{\"n\":{n}}}"))));
    let mut tail = store.tail();
    assert!(store.append(&node("a"), &records(0..3)).await);
    assert!(store.append(&node("a"), &records(1..5)).await);
    assert!(store.append(&node("b"), &records(0..1)).await);
    let odd = batch([
        (5, "no json".to_owned()),
        (6, "[1]".to_owned()),
        (7, "{}".to_owned()),
    ]);
    assert!(store.append(&node("a"), &odd).await);
    assert_eq!(tail.recv().await.unwrap().json, "{\"n\":0}");
    assert_eq!(store.marks(&node("a")), [AuditMark { run: 7, sequence: 7 }]);
    drop(store);
    // A power failure in the middle of a line.
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(folder.path().join("audit.jsonl"))
        .unwrap();
    file.write_all(b"{\"node\":\"a\",\"run\":7,\"se").unwrap();
    let (store, again) = open(settings(folder.path()));
    assert!(store.append(&node("a"), &records(3..9)).await);
    let of_a = Query {
        node: "a".to_owned(),
        ..Query::default()
    };
    assert_eq!(
        numbers(&store.query(&of_a).unwrap().records),
        [0, 1, 2, 3, 4, 7, 8]
    );
    assert_eq!(counters.get(Count::RecordsUnusable), 2);
    assert_eq!(again.get(Count::RecordsRepeated), 5);
}

#[tokio::test]
async fn the_store_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let small = StoreSettings {
        rotate: 4096,
        ..settings(folder.path())
    };
    let (store, counters) = open(small);
    for sequence in 0..200 {
        let record = format!("{{\"text\":\"{}\"}}", "x".repeat(200));
        assert!(store.append(&node("a"), &batch([(sequence, record)])).await);
    }
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        bytes += entry.unwrap().metadata().unwrap().len();
    }
    assert!(bytes <= 4 * 4096, "{bytes}");
    assert!(counters.get(Count::StoreRotated) > 0);
    let newest = store.query(&Query::default()).unwrap().records;
    assert_eq!(newest.last().unwrap().mark.sequence, 199);
    let few = Query {
        limit: 2,
        ..Query::default()
    };
    assert_eq!(numbers(&store.query(&few).unwrap().records), [198, 199]);
    assert_eq!(store.query(&few).unwrap().older + 2, newest.len() as u64);
}

#[tokio::test]
async fn questions_find_what_they_ask_for() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(settings(folder.path()));
    let record = |reason: &str, image: &str, namespace: &str| {
        format!(
            "{{\"kind\":\"intent\",\"reason\":\"{reason}\",\"pull\":{{\"repositories\":[\"r.example/team/app\"],\
             \"owner\":{{\"image\":\"{image}\",\"pod\":{{\"uid\":\"u\",\"namespace\":\"{namespace}\",\"name\":\"p\"}},\"proof\":[]}}}}}}"
        )
    };
    let records = [
        (0, record("orphaned", "r.example/team/app:1", "blue")),
        (1, record("operator", "r.example/team/other:1", "green")),
        (2, "{\"kind\":\"source-changed\",\"pull\":null}".to_owned()),
        (
            3,
            "{\"kind\":\"refused\",\"reason\":\"orphaned\",\"image\":\"busybox\",\"pull\":null}".to_owned(),
        ),
    ];
    assert!(store.append(&node("a"), &batch(records)).await);
    let ask = |query: Query| numbers(&store.query(&query).unwrap().records);
    let none = Query::default;
    let text = str::to_owned;
    assert_eq!(
        ask(Query {
            reason: text("orphaned"),
            ..none()
        }),
        [0, 3]
    );
    assert_eq!(
        ask(Query {
            namespace: text("green"),
            ..none()
        }),
        [1]
    );
    assert_eq!(
        ask(Query {
            image: text("busybox"),
            ..none()
        }),
        [3]
    );
    assert_eq!(
        ask(Query {
            image: text("team/app"),
            ..none()
        }),
        [0, 1]
    );
    assert_eq!(
        ask(Query {
            image: text("r.example/team/other"),
            ..none()
        }),
        [1]
    );
    assert_eq!(
        ask(Query {
            image: text("team/ap"),
            ..none()
        }),
        [] as [u64; 0]
    );
    assert_eq!(
        ask(Query {
            node: text("b"),
            ..none()
        }),
        [] as [u64; 0]
    );
    assert_eq!(
        ask(Query {
            until_ms: 1,
            ..none()
        }),
        [] as [u64; 0]
    );
    assert_eq!(
        ask(Query {
            since_ms: 1,
            ..none()
        }),
        [0, 1, 2, 3]
    );
}
