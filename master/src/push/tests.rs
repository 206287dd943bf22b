//! Records are posted to a real HTTPS server on the loopback, which answers as it is told.

use std::collections::VecDeque;
use std::fs;
use std::net::SocketAddr;
use std::sync::Mutex;

use bytes::Bytes;
use http::header::{AUTHORIZATION, LOCATION};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use magi_master_api::message::AuditMark;
use magi_master_api::tls::{Material, TlsFiles, provider};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::DropGuard;

use super::*;
use crate::certs::{Authority, Subject};
use crate::names::NodeName;

/// Nothing here takes so long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(20);
const TOKEN: &str = "a-token-of-the-collector";

fn hasty() -> Bounds {
    Bounds {
        first_pause: Duration::from_millis(5),
        longest_pause: Duration::from_millis(20),
        attempt: Duration::from_secs(5),
        ..Bounds::default()
    }
}

/// What one request brought.
struct Request {
    path: String,
    token: Option<String>,
    records: Value,
}

#[derive(Default)]
struct Heard {
    requests: Mutex<Vec<Request>>,
    /// What is answered next; 200 where nothing is said.
    answers: Mutex<VecDeque<(StatusCode, Option<String>)>>,
}

struct World {
    folder: tempfile::TempDir,
    heard: Arc<Heard>,
    address: SocketAddr,
    counters: Arc<Counters>,
    queue: Arc<Queue>,
    running: JoinHandle<()>,
    stop: CancellationToken,
    _stop: DropGuard,
}

impl World {
    async fn new(bounds: Bounds, answers: &[(u16, Option<String>)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::in_folder(folder.path(), Timestamp::now()).unwrap();
        let subject = Subject::Master(vec!["localhost".to_owned()]);
        let leaf = authority.issue(&subject, 1, Timestamp::now()).unwrap();
        authority.write(&folder.path().join("server"), &leaf).unwrap();
        let heard = Arc::new(Heard::default());
        heard.answers.lock().unwrap().extend(
            answers
                .iter()
                .map(|(status, to)| (StatusCode::from_u16(*status).unwrap(), to.clone())),
        );
        let address = serve(
            &TlsFiles::in_folder(&folder.path().join("server")),
            Arc::clone(&heard),
        )
        .await;
        fs::write(folder.path().join("token"), format!("{TOKEN}\n")).unwrap();
        let counters = Arc::new(Counters::default());
        let ca = folder.path().join("server/ca.crt");
        let settings = settings(&folder, address, ca);
        let pusher = Pusher::new(&settings, bounds, Arc::clone(&counters), 1).unwrap();
        let stop = CancellationToken::new();
        Self {
            queue: pusher.queue(),
            running: tokio::spawn(pusher.run(stop.clone())),
            _stop: stop.clone().drop_guard(),
            stop,
            folder,
            heard,
            address,
            counters,
        }
    }

    fn offer(&self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            self.queue.offer(record(number));
        }
    }

    async fn counted(&self, count: Count, wanted: u64) {
        let polled = async {
            while self.counters.get(count) < wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, polled).await;
        assert!(in_time.is_ok(), "{count:?} is {}", self.counters.get(count));
    }

    /// The numbers of the records of each request.
    fn numbers(&self) -> Vec<Vec<u64>> {
        let requests = self.heard.requests.lock().unwrap();
        let of = |records: &Value| {
            let records = records.as_array().unwrap().iter();
            records.map(|record| record["seq"].as_u64().unwrap()).collect()
        };
        requests.iter().map(|request| of(&request.records)).collect()
    }
}

fn settings(folder: &tempfile::TempDir, address: SocketAddr, ca: std::path::PathBuf) -> AuditPushSettings {
    AuditPushSettings {
        url: format!("https://localhost:{}/in?source=magi", address.port()),
        token: Some(folder.path().join("token")),
        ca: Some(ca),
    }
}

fn record(number: u64) -> Arc<Stored> {
    Arc::new(Stored {
        node: NodeName::new("node-1").unwrap(),
        mark: AuditMark {
            run: 7,
            sequence: number,
        },
        at_ms: 1000 + number,
        json: Bytes::from_static(b"{\"kind\":\"clean\"}"),
    })
}

/// Serves HTTPS on the loopback for as long as the test's runtime lives.
async fn serve(files: &TlsFiles, heard: Arc<Heard>) -> SocketAddr {
    let material = Material::read(files).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(material.chain, material.key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let (acceptor, heard) = (acceptor.clone(), Arc::clone(&heard));
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(tcp).await else {
                    return;
                };
                let service = service_fn(move |request| answer(Arc::clone(&heard), request));
                let _broken_off = http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    address
}

async fn answer(
    heard: Arc<Heard>,
    request: http::Request<hyper::body::Incoming>,
) -> Result<Response<Empty<Bytes>>, hyper::Error> {
    let path = request.uri().to_string();
    let token = request.headers().get(AUTHORIZATION);
    let token = token.map(|token| token.to_str().unwrap().to_owned());
    let body = request.into_body().collect().await?.to_bytes();
    heard.requests.lock().unwrap().push(Request {
        path,
        token,
        records: serde_json::from_slice(&body).unwrap(),
    });
    let next = heard.answers.lock().unwrap().pop_front();
    let (status, to) = next.unwrap_or((StatusCode::OK, None));
    let mut response = Response::new(Empty::new());
    *response.status_mut() = status;
    if let Some(to) = to {
        response.headers_mut().insert(LOCATION, to.parse().unwrap());
    }
    Ok(response)
}

#[tokio::test]
async fn records_arrive_in_batches_with_the_token_of_the_moment() {
    let world = World::new(hasty(), &[]).await;
    world.offer(0..1000);
    world.counted(Count::Pushed, 1000).await;
    let numbers = world.numbers();
    assert_eq!(numbers.concat(), (0..1000).collect::<Vec<_>>());
    assert!(numbers.len() < 100, "{} requests", numbers.len());
    fs::write(world.folder.path().join("token"), "another-token").unwrap();
    world.offer(1000..1001);
    world.counted(Count::Pushed, 1001).await;
    let requests = world.heard.requests.lock().unwrap();
    let (first, last) = (requests.first().unwrap(), requests.last().unwrap());
    assert_eq!(first.path, "/in?source=magi");
    assert_eq!(first.token.as_deref(), Some(&*format!("Bearer {TOKEN}")));
    assert_eq!(last.token.as_deref(), Some("Bearer another-token"));
    let wanted = serde_json::json!({
        "node": "node-1", "run": 7, "seq": 1000, "stored": 2000, "record": {"kind": "clean"},
    });
    assert_eq!(last.records, serde_json::json!([wanted]));
}

#[tokio::test]
async fn what_failed_is_tried_again_and_what_never_will_be_taken_is_not() {
    let world = World::new(hasty(), &[(503, None), (429, None), (200, None), (400, None)]).await;
    world.offer(0..1);
    world.counted(Count::Pushed, 1).await;
    assert_eq!(world.counters.get(Count::PushFailed), 2);
    assert_eq!(world.numbers(), [[0], [0], [0]]);
    world.offer(1..2);
    world.counted(Count::PushDropped, 1).await;
    world.offer(2..3);
    world.counted(Count::Pushed, 2).await;
    assert_eq!(world.numbers(), [[0], [0], [0], [1], [2]]);
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let elsewhere = World::new(hasty(), &[]).await;
    let to = format!("https://localhost:{}/", elsewhere.address.port());
    let world = World::new(hasty(), &[(307, Some(to))]).await;
    world.offer(0..1);
    world.counted(Count::PushDropped, 1).await;
    world.offer(1..2);
    world.counted(Count::Pushed, 1).await;
    assert_eq!(world.numbers(), [[0], [1]]);
    assert_eq!(elsewhere.numbers(), [[0; 0]; 0], "nobody else hears of it");
}

#[tokio::test]
async fn a_receiver_that_is_another_gets_neither_records_nor_token() {
    let world = World::new(hasty(), &[]).await;
    let folder = tempfile::tempdir().unwrap();
    let stranger = Authority::in_folder(folder.path(), Timestamp::now()).unwrap();
    let subject = Subject::Master(vec!["localhost".to_owned()]);
    let leaf = stranger.issue(&subject, 1, Timestamp::now()).unwrap();
    stranger.write(&folder.path().join("other"), &leaf).unwrap();
    let settings = settings(&world.folder, world.address, folder.path().join("other/ca.crt"));
    let counters = Arc::new(Counters::default());
    let bounds = Bounds { tries: 3, ..hasty() };
    let mut pusher = Pusher::new(&settings, bounds, Arc::clone(&counters), 1).unwrap();
    assert!(!pusher.deliver(&[record(0)]).await);
    assert_eq!(counters.get(Count::PushFailed), 3);
    assert!(world.heard.requests.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_waits_is_bounded_and_the_rest_is_counted() {
    let bounds = Bounds {
        records: 10,
        batch: 1,
        tries: u32::MAX,
        ..hasty()
    };
    let world = World::new(bounds, &[]).await;
    let refuse = std::iter::repeat_n((StatusCode::SERVICE_UNAVAILABLE, None), 100_000);
    world.heard.answers.lock().unwrap().extend(refuse);
    world.offer(0..1);
    world.counted(Count::PushFailed, 1).await;
    // One is on its way, ten wait.
    world.offer(1..31);
    assert_eq!(world.counters.get(Count::PushDropped), 20);
    world.heard.answers.lock().unwrap().clear();
    world.counted(Count::Pushed, 11).await;
    let numbers = world.numbers().concat();
    let taken: std::collections::BTreeSet<u64> = numbers.into_iter().collect();
    assert_eq!(taken, (0..11).collect());
    world.stop.cancel();
    tokio::time::timeout(PATIENCE, world.running)
        .await
        .unwrap()
        .unwrap();
    world.queue.offer(record(99));
    assert_eq!(
        world.counters.get(Count::PushDropped),
        21,
        "nobody takes it any more"
    );
}

#[test]
fn wrong_settings_show_at_the_start_and_the_token_in_no_message() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("token"), "hunter\ntwo").unwrap();
    fs::write(path("empty"), "").unwrap();
    let of = |token: &str, ca: &str| {
        let settings = AuditPushSettings {
            url: "https://localhost/".to_owned(),
            token: Some(path(token)),
            ca: Some(path(ca)),
        };
        Pusher::new(&settings, hasty(), Arc::default(), 1).map(|_| ())
    };
    assert!(matches!(of("token", "missing"), Err(PushError::Read { .. })));
    assert!(matches!(of("token", "empty"), Err(PushError::NoAuthority)));
    let authority = Authority::in_folder(folder.path(), Timestamp::now()).unwrap();
    let leaf = authority
        .issue(
            &Subject::Master(vec!["localhost".to_owned()]),
            1,
            Timestamp::now(),
        )
        .unwrap();
    authority.write(&path("server"), &leaf).unwrap();
    let wrong = of("token", "server/ca.crt").unwrap_err();
    assert!(!format!("{wrong} {wrong:?}").contains("hunter"), "{wrong:?}");
    assert!(matches!(wrong, PushError::Token { .. }));
}
