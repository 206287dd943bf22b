//! The pod watch against a fake API server on the loopback, which lists, watches, breaks off and forgets as it is told.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test may stop at the first surprise"
)]

mod fake_api;

use std::time::Duration;

use fake_api::{Answer, FakeApiServer, line, list, pod, stream};
use http::StatusCode;
use jiff::Timestamp;
use magi_master::intake::watch::{MAX_QUEUE, Told, watch};
use magi_master::ledger::{Bounds, Ledger};
use magi_master::verdict::{Judge, Verdict};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

fn now() -> Timestamp {
    Timestamp::now()
}

/// The watch with ledger and judge behind it.
struct Master {
    told: mpsc::Receiver<Told>,
    ledger: Ledger,
    judge: Judge,
    verdicts: Vec<Verdict>,
}

impl Master {
    fn start(uri: http::Uri) -> Self {
        let client = kube::Client::try_from(kube::Config::new(uri)).unwrap();
        let (tell, told) = mpsc::channel(MAX_QUEUE);
        tokio::spawn(watch(client, now, tell));
        Self {
            told,
            ledger: Ledger::new(Bounds::default()),
            judge: Judge::default(),
            verdicts: Vec::new(),
        }
    }

    /// Takes what is told next; what it was.
    async fn next(&mut self) -> String {
        let told = tokio::time::timeout(Duration::from_secs(20), self.told.recv()).await;
        match told.expect("something is told").expect("the watch goes on") {
            Told::Changes(changes) => {
                let count = changes.len();
                for change in changes {
                    let mut turns = Vec::new();
                    self.ledger.hear(change, &mut turns);
                    self.judge.hear(&self.ledger, turns, &mut self.verdicts);
                }
                format!("{count} changes")
            }
            Told::Whole => "whole".to_owned(),
            Told::Trouble(problem) => problem.to_string(),
            Told::Unusable(count) => format!("{count} unusable"),
        }
    }

    async fn until(&mut self, expected: &str) {
        for _ in 0..50 {
            if self.next().await == expected {
                return;
            }
        }
        panic!("never told: {expected}");
    }

    /// Takes what is told until there are verdicts; each as `kind cause name images`.
    async fn verdicts(&mut self) -> Vec<String> {
        while self.verdicts.is_empty() {
            self.next().await;
        }
        let short = |verdict: Verdict| {
            let json = serde_json::to_value(&verdict).unwrap();
            format!(
                "{} {} {} {}",
                json["kind"], json["cause"], json["name"], json["images"]
            )
            .replace('"', "")
        };
        self.verdicts.drain(..).map(short).collect()
    }
}

async fn asked(requests: &mut mpsc::UnboundedReceiver<String>) -> String {
    let request = tokio::time::timeout(Duration::from_secs(20), requests.recv()).await;
    request.expect("a request comes").expect("the fake lives")
}

#[tokio::test]
async fn pods_are_listed_in_pages_and_watched_from_there() {
    let (events, watched) = stream();
    let script = vec![
        list(10, Some("more"), &[pod("p", 1, "i:1"), pod("q", 2, "i:2")]),
        list(10, None, &[pod("r", 3, "i:3")]),
        watched,
    ];
    let (uri, mut requests) = FakeApiServer::start(script).await;
    let mut master = Master::start(uri);
    master.until("whole").await;
    assert_eq!(master.ledger.size(), (3, 0));
    assert!(asked(&mut requests).await.contains("limit=500"));
    assert!(asked(&mut requests).await.contains("continue=more"));
    let watch = asked(&mut requests).await;
    assert!(
        watch.contains("watch=true") && watch.contains("resourceVersion=10"),
        "{watch}"
    );
    assert!(watch.contains("allowWatchBookmarks=true"), "{watch}");

    // Half a line, and the rest of it later.
    let text = line("MODIFIED", &pod("p", 11, "i:9"));
    let (start, end) = text.split_at(40);
    events.send(start.to_owned()).unwrap();
    events.send(end.to_owned()).unwrap();
    assert_eq!(master.verdicts().await, ["images-replaced image-changed p [i:1]"]);
    let mut marked = pod("q", 12, "i:2");
    marked["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:01:00Z");
    marked["metadata"]["deletionGracePeriodSeconds"] = json!(30);
    events.send(line("MODIFIED", &marked)).unwrap();
    assert_eq!(master.verdicts().await, ["pod-gone deleted q [i:2]"]);
    events
        .send(line("DELETED", &marked) + &line("DELETED", &pod("r", 13, "i:3")))
        .unwrap();
    assert_eq!(
        master.verdicts().await,
        ["pod-gone force-deleted r [i:3]"],
        "and q only once"
    );
    events
        .send(line("ADDED", &pod("s", 14, "i:4")) + &line("DELETED", &pod("s", 15, "i:4")))
        .unwrap();
    assert_eq!(master.verdicts().await, ["pod-gone force-deleted s [i:4]"]);
}

#[tokio::test]
async fn a_watch_that_ends_is_taken_up_where_it_was() {
    let (first, one) = stream();
    let (second, two) = stream();
    let (uri, mut requests) =
        FakeApiServer::start(vec![list(10, None, &[pod("p", 1, "i:1")]), one, two]).await;
    let mut master = Master::start(uri);
    master.until("whole").await;
    let bookmark = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": "25"}});
    first.send(line("BOOKMARK", &bookmark)).unwrap();
    drop(first);
    let _list = asked(&mut requests).await;
    assert!(asked(&mut requests).await.contains("resourceVersion=10"));
    assert!(asked(&mut requests).await.contains("resourceVersion=25"));
    second.send(line("DELETED", &pod("p", 30, "i:1"))).unwrap();
    assert_eq!(master.verdicts().await.len(), 1);
}

#[tokio::test]
async fn too_old_a_version_makes_it_list_again_and_what_is_missing_is_gone() {
    let (first, one) = stream();
    let (_second, two) = stream();
    let gone = json!({"kind": "Status", "status": "Failure", "reason": "Expired", "code": 410});
    let script = vec![
        list(
            10,
            None,
            &[pod("p", 1, "i:1"), pod("q", 2, "i:2"), pod("r", 3, "i:3")],
        ),
        one,
        // An event of code 410 in the stream, then an answer of status 410.
        list(20, None, &[pod("q", 2, "i:2"), pod("r", 3, "i:3")]),
        Answer::Whole(StatusCode::GONE, gone.clone()),
        list(30, None, &[pod("r", 3, "i:3")]),
        two,
    ];
    let (uri, _requests) = FakeApiServer::start(script).await;
    let mut master = Master::start(uri);
    master.until("whole").await;
    first.send(line("ERROR", &gone)).unwrap();
    assert_eq!(master.verdicts().await, ["pod-gone vanished p [i:1]"]);
    assert_eq!(master.verdicts().await, ["pod-gone vanished q [i:2]"]);
    assert_eq!(master.ledger.size(), (1, 2));
}

#[tokio::test]
async fn failures_are_told_and_tried_again() {
    let (events, watched) = stream();
    let broken = |value| Answer::Whole(StatusCode::OK, value);
    let script = vec![
        Answer::Whole(StatusCode::FORBIDDEN, json!({"kind": "Status", "code": 403})),
        broken(json!({"kind": "Status"})),
        list(
            10,
            None,
            &[pod("p", 1, "i:1"), json!({"metadata": {"name": "x"}})],
        ),
        watched,
        list(20, None, &[]),
    ];
    let (uri, _requests) = FakeApiServer::start(script).await;
    let mut master = Master::start(uri);
    assert_eq!(master.next().await, "the API server answered with status 403");
    assert_eq!(master.next().await, "the API server's answer is no list of pods");
    assert_eq!(master.next().await, "1 unusable");
    master.until("whole").await;
    // What cannot be read makes it list again.
    events
        .send("{\"type\":\"ADDED\",\"object\":7}\n".to_owned())
        .unwrap();
    master.until("1 unusable").await;
    assert_eq!(master.verdicts().await, ["pod-gone vanished p [i:1]"]);
}

#[tokio::test]
async fn nobody_there_is_trouble_and_no_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    drop(listener);
    let mut master = Master::start(uri);
    for _ in 0..2 {
        assert_eq!(master.next().await, "cannot reach the API server");
    }
}
