//! The whole master as a process: what an API server does reaches the node that it concerns, and no other.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test may stop at the first surprise"
)]

#[path = "../fake_api/mod.rs"]
mod fake_api;
mod hostile;
mod lines;
#[path = "../../src/stream/tests/wire.rs"]
mod wire;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST};
use http_body_util::Full;
use hyper::body::{Body, Bytes};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use jiff::SignedDuration;
use magi_master_api::message::{Verdict, VerdictKind};
use magi_master_api::tls::{Material, TlsFiles, provider};
use magi_master_api::wire::{Intake, MasterStatus};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use fake_api::FakeApiServer;
use lines::{Pod, Recorded};
use world::{Log, NODES, World};

const TOKEN: &str = "0123456789abcdef-a-token";

fn log_settings(path: &dyn Fn(&str) -> String) -> String {
    format!(
        "{{ auditLog: {{ path: {}, state: {} }} }}",
        path("log/audit.log"),
        path("state/audit-log.json")
    )
}

fn intake<'s>(status: &'s MasterStatus, kind: &str) -> &'s Intake {
    let found = status.intakes.iter().find(|intake| intake.kind == kind);
    found.unwrap_or_else(|| panic!("{status:?}"))
}

fn is_gone(verdict: &Verdict, pod: &Pod) -> bool {
    verdict.kind == VerdictKind::PodGone && verdict.uid == pod.uid() && verdict.images == [pod.image()]
}

fn told(way: &str, mut times: Vec<Duration>) {
    times.sort();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    eprintln!(
        "{way}: {} verdicts, median {median:?}, worst {worst:?}",
        times.len()
    );
}

/// Pods of both nodes go in turn. As all verdicts go one way, what a node hears next shows that it heard nothing else before.
fn pods(number: u32) -> Vec<Pod> {
    let nodes = NODES.into_iter().cycle();
    (0..number)
        .zip(nodes)
        .map(|(number, node)| Pod { number, node })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_the_audit_log_reach_the_right_node() {
    let world = World::new(log_settings);
    let recorded = Recorded::read();
    let mut log = Log::new(world.path("log/audit.log"));
    let master = world.master();
    assert_eq!(
        master.intakes["audit-log"],
        world.path("log/audit.log").display().to_string()
    );
    let mut nodes = NODES.map(|name| world.node(name));
    for node in &mut nodes {
        node.connected().await;
    }
    let mut times = Vec::new();
    for pod in pods(40) {
        log.write(&recorded.created(&pod));
        log.write(&recorded.bound(&pod));
        let line = recorded.deleted(&pod);
        let written = Instant::now();
        log.write(&line);
        let verdict = nodes[usize::from(pod.node != NODES[0])].verdict().await;
        times.push(written.elapsed());
        assert!(is_gone(&verdict, &pod), "{verdict:?}");
    }
    told("audit log", times);
    // A line that was cut off, as by a full disk.
    let cut = recorded.deleted(&pods(1)[0]);
    log.write(&format!("{}\n", &cut[..cut.len() - 3]));
    let status = world
        .status_when(|status| intake(status, "audit-log").unusable.contains_key("not-json"))
        .await;
    let shown = intake(&status, "audit-log");
    assert!(shown.up && shown.last_heard_ms > 0, "{shown:?}");
    assert_eq!((shown.events, shown.unusable["not-json"]), (121, 1));
}

/// Posts a body as an API server does.
async fn post(world: &World, address: &str, body: String) {
    assert_eq!(try_post(world, "master", address, body).await.unwrap(), 200);
}

/// A connection to the webhook, trusting the authority whose certificate is in this folder.
async fn https<B>(world: &World, trusted: &str, address: &str) -> std::io::Result<SendRequest<B>>
where
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let material = Material::read(&TlsFiles::in_folder(&world.path(trusted))).unwrap();
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(Arc::clone(&material.roots))
        .with_no_client_auth();
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
    let (send, connection) = http1::handshake(TokioIo::new(tls)).await.unwrap();
    tokio::spawn(connection);
    Ok(send)
}

/// The same, trusting the authority whose certificate is in this folder; the answer's status.
async fn try_post(world: &World, trusted: &str, address: &str, body: String) -> std::io::Result<u16> {
    let mut send = https(world, trusted, address).await?;
    let request = http::Request::post("/")
        .header(HOST, address)
        .header(AUTHORIZATION, format!("Bearer {TOKEN}"))
        .header(CONTENT_LENGTH, body.len())
        .body(Full::new(Bytes::from(body)))
        .unwrap();
    Ok(send.send_request(request).await.unwrap().status().as_u16())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_posted_to_the_webhook_reaches_the_right_node() {
    let world = World::new(|path| {
        format!(
            "{{ webhook: {{ listen: '127.0.0.1:0', tokenFile: {} }} }}",
            path("token")
        )
    });
    std::fs::write(world.path("token"), TOKEN).unwrap();
    let recorded = Recorded::read();
    let master = world.master();
    let address = &master.intakes["webhook"];
    let mut nodes = NODES.map(|name| world.node(name));
    for node in &mut nodes {
        node.connected().await;
    }
    let list = |lines: &[String]| {
        format!(
            "{{\"kind\":\"EventList\",\"apiVersion\":\"audit.k8s.io/v1\",\"metadata\":{{}},\"items\":[{}]}}",
            lines.join(",")
        )
    };
    let mut times = Vec::new();
    for pod in pods(10) {
        post(
            &world,
            address,
            list(&[recorded.created(&pod), recorded.bound(&pod)]),
        )
        .await;
        let body = list(&[recorded.deleted(&pod)]);
        let posted = Instant::now();
        post(&world, address, body).await;
        let verdict = nodes[usize::from(pod.node != NODES[0])].verdict().await;
        times.push(posted.elapsed());
        assert!(is_gone(&verdict, &pod), "{verdict:?}");
    }
    told("webhook, handshake included", times);
    let status = world.status().await;
    assert_eq!(intake(&status, "webhook").events, 30);
    assert_eq!(status.intakes.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_webhook_shows_a_new_certificate_without_a_restart() {
    let world = World::new(|path| {
        format!(
            "{{ webhook: {{ listen: '127.0.0.1:0', tokenFile: {}, cert: {}, key: {} }} }}",
            path("token"),
            path("shown.crt"),
            path("shown.key")
        )
    });
    std::fs::write(world.path("token"), TOKEN).unwrap();
    let show = |folder: &str| {
        for end in ["key", "crt"] {
            let (from, to) = (
                world.path(&format!("{folder}/tls.{end}")),
                world.path(&format!("shown.{end}")),
            );
            std::fs::copy(from, to).unwrap();
        }
    };
    show("master");
    let master = world.master();
    let address = &master.intakes["webhook"];
    let empty = || "{\"kind\":\"EventList\",\"items\":[]}".to_owned();
    post(&world, address, empty()).await;
    world.certificates("other");
    assert!(try_post(&world, "other/master", address, empty()).await.is_err());
    show("other/master");
    let begun = Instant::now();
    while try_post(&world, "other/master", address, empty()).await.is_err() {
        assert!(begun.elapsed() < world::PATIENCE, "the old one is still shown");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(try_post(&world, "master", address, empty()).await.is_err());
    assert!(world.status().await.counters["certificates-reloaded"] >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_watch_tells_reaches_the_right_node() {
    let pod = |pod: &Pod, version: u64| {
        let mut object = fake_api::pod(&pod.name(), version, &pod.image());
        object["metadata"]["uid"] = pod.uid().into();
        object["spec"]["nodeName"] = pod.node.into();
        object
    };
    let all = pods(10);
    let listed: Vec<_> = all.iter().map(|one| pod(one, 1)).collect();
    let (events, watched) = fake_api::stream();
    let (uri, _requests) = FakeApiServer::start(vec![fake_api::list(10, None, &listed), watched]).await;
    let world = World::new(|path| format!("{{ watch: {{ kubeconfig: {} }} }}", path("kubeconfig")));
    let kubeconfig = format!(
        "{{apiVersion: v1, kind: Config, current-context: a, contexts: [{{name: a, context: {{cluster: a, user: a}}}}],\n\
         clusters: [{{name: a, cluster: {{server: '{uri}'}}}}], users: [{{name: a, user: {{}}}}]}}\n"
    );
    std::fs::write(world.path("kubeconfig"), kubeconfig).unwrap();
    let _master = world.master();
    let mut nodes = NODES.map(|name| world.node(name));
    for node in &mut nodes {
        node.connected().await;
    }
    let mut times = Vec::new();
    for (one, version) in all.iter().zip(11..) {
        let line = fake_api::line("DELETED", &pod(one, version));
        let sent = Instant::now();
        events.send(line).unwrap();
        let verdict = nodes[usize::from(one.node != NODES[0])].verdict().await;
        times.push(sent.elapsed());
        assert!(is_gone(&verdict, one), "{verdict:?}");
    }
    told("watch", times);
    let status = world.status().await;
    assert!(intake(&status, "watch").up, "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_deletion_arrives_once_though_master_log_and_network_come_and_go() {
    const DELETIONS: u32 = 500;
    let world = World::new(log_settings);
    let recorded = Recorded::read();
    let mut log = Log::new(world.path("log/audit.log"));
    let all = pods(DELETIONS);
    // What the deletions below leave out stands here, and is soon rotated away.
    for pod in &all {
        log.write(&recorded.created(pod));
        log.write(&recorded.bound(pod));
    }
    let mut master = Some(world.master());
    // One of the nodes is partitioned as well: for a while nothing passes, and nobody is told; then all links break.
    let wire = wire::Wire::to(world.address().parse().unwrap()).await;
    let ways = [wire.address.to_string(), world.address().to_owned()];
    let mut ways = ways.into_iter();
    let listening = NODES.map(|name| {
        let mut node = world.node_at(name, &ways.next().unwrap());
        let (tell, heard) = tokio::sync::oneshot::channel();
        let listening = tokio::spawn(async move {
            node.connected().await;
            let _waited_for = tell.send(());
            let mut heard: BTreeMap<String, u32> = BTreeMap::new();
            // The last deletion of each node is the last to be said.
            while heard.len() < DELETIONS as usize / 2 {
                *heard.entry(node.verdict().await.uid).or_default() += 1;
            }
            (heard, node)
        });
        (heard, listening)
    });
    let mut counting = Vec::new();
    for (connected, listening) in listening {
        connected.await.unwrap();
        counting.push(listening);
    }
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    for (pod, number) in all.iter().zip(0..) {
        pace.tick().await;
        if [100, 230, 233, 400].contains(&number) {
            log.rotate();
        }
        if [300, 450].contains(&number) {
            wire.stop(true);
        }
        if number == 340 {
            wire.cut();
        }
        if [350, 460].contains(&number) {
            wire.stop(false);
        }
        if [150, 232].contains(&number) {
            drop(master.take());
        }
        if [160, 240].contains(&number) {
            let world = &world;
            master = Some(tokio::task::block_in_place(|| world.master()));
        }
        log.write(&recorded.deleted_tersely(pod));
    }
    let mut sum = 0;
    let mut nodes = Vec::new();
    for listening in counting {
        let (heard, node) = listening.await.unwrap();
        assert!(heard.values().all(|times| *times == 1), "{heard:?}");
        sum += heard.len();
        nodes.push(node);
    }
    assert_eq!(sum, all.len());
    // Whatever else was under way comes before what is deleted now.
    for (node, (number, name)) in nodes.iter_mut().zip((DELETIONS..).zip(NODES)) {
        let last = Pod { number, node: name };
        log.write(&recorded.deleted(&last));
        assert!(is_gone(&node.verdict().await, &last));
    }
    let status = world.status().await;
    assert_eq!(status.counters["verdicts-lost"], 0);
    let again = status.counters["verdicts-repeated"];
    eprintln!("{DELETIONS} deletions: {again} verdicts came to the last master again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_hears_what_still_holds_and_nothing_else() {
    let world = World::new(log_settings);
    let recorded = Recorded::read();
    let mut log = Log::new(world.path("log/audit.log"));
    let _master = world.master();
    let [node, other] = NODES;
    let [before, gone, wanted, wants, last] = [1, 2, 1000, 1001, 3].map(|number| Pod { number, node });
    let elsewhere = Pod {
        number: 4,
        node: other,
    };
    let mut away = world.node(node);
    away.connected().await;
    let mut stays = world.node(other);
    stays.connected().await;
    for pod in [&before, &gone, &wanted, &last, &elsewhere] {
        log.write(&recorded.created(pod));
        log.write(&recorded.bound(pod));
    }
    log.write(&recorded.deleted(&before));
    assert!(is_gone(&away.verdict().await, &before));
    // Else the new client, which remembers nothing, would rightly hear it again.
    world
        .status_when(|status| status.counters["verdicts-answered"] == 1)
        .await;
    drop(away);
    world.until_away(node).await;
    // While it is away two pods go, and one comes that wants what one of them wanted.
    log.write(&recorded.deleted(&gone));
    log.write(&recorded.deleted(&wanted));
    log.write(&recorded.created(&wants));
    log.write(&recorded.bound(&wants));
    log.write(&recorded.deleted(&elsewhere));
    assert!(is_gone(&stays.verdict().await, &elsewhere));
    let mut back = world.node(node);
    assert!(is_gone(&back.verdict().await, &gone));
    log.write(&recorded.deleted(&last));
    assert!(is_gone(&back.verdict().await, &last), "nothing else was said");
    // It goes too, and now nobody wants that image.
    log.write(&recorded.deleted(&wants));
    let mut said = [back.verdict().await.uid, back.verdict().await.uid];
    said.sort();
    assert_eq!(said, [wanted.uid(), wants.uid()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_its_start_the_master_says_what_is_young_and_still_holds() {
    let world = World::new(log_settings);
    let recorded = Recorded::read();
    let mut log = Log::new(world.path("log/audit.log"));
    let node = NODES[0];
    let [old, young, wanted, wants] = [1, 2, 1000, 1001].map(|number| Pod { number, node });
    let minutes = SignedDuration::from_mins;
    log.write(&recorded.life(&old, minutes(16)));
    log.rotate();
    log.write(&recorded.life(&young, minutes(14)));
    log.write(&recorded.life(&wanted, minutes(13)));
    log.rotate();
    // It came after the other was gone, and wants the same image.
    log.write(&recorded.created(&wants));
    log.write(&recorded.bound(&wants));
    let _master = world.master();
    let mut node = world.node(node);
    assert!(is_gone(&node.verdict().await, &young));
    log.write(&recorded.deleted(&wants));
    let said = [node.verdict().await, node.verdict().await];
    let mut uids = said.each_ref().map(|verdict| verdict.uid.clone());
    uids.sort();
    assert_eq!(uids, [wanted.uid(), wants.uid()], "{said:?}");
    assert_eq!(world.status().await.counters["verdicts-about-old-changes"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_intake_the_master_says_that_it_knows_of_no_pods() {
    let world = World::new(|_| "{ age: 1m }".to_owned());
    let master = world.master();
    assert!(master.intakes.is_empty());
    assert!(world.status().await.intakes.is_empty());
}
