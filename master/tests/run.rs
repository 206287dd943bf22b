//! `magi-master` as an operator runs it: certificates made, settings checked, a node served, and an end on request.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use magi_master_api::client::{FromMaster, NodeClient, ToMaster, run};
use magi_master_api::message::{AuditMark, AuditRecord, NodeFacts};
use magi_master_api::tls::{Material, TlsFiles, provider};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

const MASTER: &str = env!("CARGO_BIN_EXE_magi-master");

/// Ends with the test, however that ends.
struct Master(Child);

impl Master {
    fn start(settings: &str) -> Self {
        let mut command = Command::new(MASTER);
        command.args(["run", "--settings", settings]);
        Self(command.stderr(Stdio::piped()).spawn().unwrap())
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn certs(out: &Path, more: &[&str]) -> Output {
    Command::new(MASTER)
        .args([
            "certs",
            "--node",
            "worker-1",
            "--master-name",
            "magi-master",
            "--out",
        ])
        .arg(out)
        .args(more)
        .output()
        .unwrap()
}

#[test]
fn certificates_are_not_overwritten_unasked() {
    let folder = tempfile::tempdir().unwrap();
    let first = certs(folder.path(), &[]);
    assert!(first.status.success(), "{first:?}");
    let told = String::from_utf8(first.stdout).unwrap();
    assert!(
        told.contains("nodes/worker-1") && told.contains("master"),
        "{told}"
    );
    let second = certs(folder.path(), &[]);
    assert!(!second.status.success());
    assert!(String::from_utf8(second.stderr).unwrap().contains("--overwrite"));
    assert!(certs(folder.path(), &["--overwrite"]).status.success());
}

#[test]
fn wrong_settings_are_told_all_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("master.yaml");
    fs::write(&path, "listen: nowhere\nnodes: { most: 0 }\n").unwrap();
    for command in ["check", "run"] {
        let output = Command::new(MASTER)
            .args([command, "--settings"])
            .arg(&path)
            .output()
            .unwrap();
        assert!(!output.status.success());
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.contains("nowhere") && told.contains("`0`"), "{told}");
    }
}

/// A master with certificates and a policy of its own in `folder`, and where it listens.
fn listening(folder: &Path, audit: &str) -> (Master, String) {
    let path = |name: &str| folder.join(name).display().to_string();
    let made = certs(folder, &["--master-name", "localhost"]);
    assert!(made.status.success(), "{made:?}");
    fs::write(path("policy.yaml"), "version: 1\nmode: enforce\n").unwrap();
    let settings = format!(
        "listen: 127.0.0.1:0\npolicy: {}\nstate: {}\naudit: {{ path: {}{audit} }}\nlog: {{ format: json }}\n\
         tls: {{ certificate: {}, key: {}, ca: {} }}\n",
        path("policy.yaml"),
        path("state"),
        path("audit.jsonl"),
        path("master/tls.crt"),
        path("master/tls.key"),
        path("master/ca.crt")
    );
    fs::write(path("master.yaml"), settings).unwrap();
    let mut master = Master::start(&path("master.yaml"));
    // The rest of the log is read by nobody, and the pipe is closed: the master has to live with that.
    let mut lines = BufReader::new(master.0.stderr.take().unwrap()).lines();
    let address = lines.find_map(|line| {
        let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let is_there = line.pointer("/fields/message") == Some(&"the master listens".into());
        let address = line.pointer("/fields/address")?.as_str()?;
        is_there.then(|| address.to_owned())
    });
    (master, address.unwrap())
}

fn client(folder: &Path, address: String) -> NodeClient {
    NodeClient {
        master: address,
        server_name: "magi-master".to_owned(),
        tls: TlsFiles::in_folder(&folder.join("nodes/worker-1")),
        node: "worker-1".to_owned(),
        facts: NodeFacts::default(),
        policy: None,
        longest_pause: Duration::from_millis(100),
    }
}

#[tokio::test]
async fn a_node_is_served_until_the_master_is_told_to_stop() {
    let folder = tempfile::tempdir().unwrap();
    let (mut master, address) = listening(folder.path(), "");
    let (inbound, mut hears) = mpsc::channel(4);
    let (_says, outbound) = mpsc::channel(4);
    let client = client(folder.path(), address);
    let stop = CancellationToken::new();
    let running = tokio::spawn(run(client, inbound, outbound, stop.clone()));
    let heard = async {
        while let Some(heard) = hears.recv().await {
            if let FromMaster::Policy { bytes, .. } = heard {
                return Some(bytes);
            }
        }
        None
    };
    let policy = tokio::time::timeout(Duration::from_secs(20), heard)
        .await
        .unwrap();
    assert_eq!(policy.unwrap(), "version: 1\nmode: enforce\n");
    let pid = Pid::from_raw(i32::try_from(master.0.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let ended = tokio::task::spawn_blocking(move || master.0.wait().unwrap());
    let ended = tokio::time::timeout(Duration::from_secs(20), ended)
        .await
        .unwrap()
        .unwrap();
    assert!(ended.success(), "{ended}");
    stop.cancel();
    running.await.unwrap();
}

/// The body of the next POST that comes in by HTTPS, and the token that it showed.
async fn posted(listener: TcpListener, tls: &TlsFiles) -> (Value, String) {
    let material = Material::read(tls).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(material.chain, material.key)
        .unwrap();
    let (tcp, _) = listener.accept().await.unwrap();
    let stream = TlsAcceptor::from(Arc::new(config)).accept(tcp).await.unwrap();
    let (tell, mut told) = mpsc::channel(1);
    let service = service_fn(move |request: http::Request<Incoming>| {
        let tell = tell.clone();
        async move {
            let token = request.headers()[AUTHORIZATION].to_str().unwrap().to_owned();
            let body = request.into_body().collect().await?.to_bytes();
            tell.send((serde_json::from_slice(&body).unwrap(), token))
                .await
                .unwrap();
            Ok::<_, hyper::Error>(http::Response::new(Empty::<Bytes>::new()))
        }
    });
    let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let serving = tokio::spawn(serving);
    let posted = told.recv().await.unwrap();
    // The master ends the connection once it has the answer.
    let _broken_off = serving.await.unwrap();
    posted
}

#[tokio::test]
async fn records_are_pushed_to_the_webhook_of_the_settings() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("token"), "a-token\n").unwrap();
    let webhook = format!(
        ", webhook: {{ url: 'https://localhost:{port}/in', tokenFile: {}, ca: {} }}",
        path("token"),
        path("master/ca.crt")
    );
    let (_master, address) = listening(folder.path(), &webhook);
    let (inbound, mut hears) = mpsc::channel(4);
    let (says, outbound) = mpsc::channel(4);
    let stop = CancellationToken::new();
    let running = tokio::spawn(run(
        client(folder.path(), address),
        inbound,
        outbound,
        stop.clone(),
    ));
    let hearing = tokio::spawn(async move { while hears.recv().await.is_some() {} });
    let record = AuditRecord {
        mark: AuditMark { run: 7, sequence: 3 },
        json: Bytes::from_static(b"{\"kind\":\"clean\"}"),
    };
    says.send(ToMaster::Audit(record)).await.unwrap();
    let tls = TlsFiles::in_folder(&folder.path().join("master"));
    let posted = tokio::time::timeout(Duration::from_secs(20), posted(listener, &tls)).await;
    let (records, token) = posted.unwrap();
    assert_eq!(token, "Bearer a-token");
    let record = &records[0];
    assert_eq!(
        (&record["node"], &record["seq"], &record["record"]["kind"]),
        (&"worker-1".into(), &3.into(), &"clean".into())
    );
    let stored = fs::read_to_string(path("audit.jsonl")).unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(&stored).unwrap(),
        *record,
        "as in the store"
    );
    stop.cancel();
    running.await.unwrap();
    hearing.await.unwrap();
}
