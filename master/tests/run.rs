//! `magi-master` as an operator runs it: certificates made, settings checked, a node served, and an end on request.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use magi_master_api::client::{FromMaster, NodeClient, run};
use magi_master_api::message::NodeFacts;
use magi_master_api::tls::TlsFiles;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::mpsc;
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

#[tokio::test]
async fn a_node_is_served_until_the_master_is_told_to_stop() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    assert!(certs(folder.path(), &[]).status.success());
    fs::write(path("policy.yaml"), "version: 1\nmode: enforce\n").unwrap();
    let settings = format!(
        "listen: 127.0.0.1:0\npolicy: {}\nstate: {}\naudit: {{ path: {} }}\nlog: {{ format: json }}\n\
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
    let mut address = None;
    // The rest of the log is read by nobody, and the pipe is closed: the master has to live with that.
    for line in BufReader::new(master.0.stderr.take().unwrap()).lines() {
        let line: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
        if line["fields"]["message"] == "the master listens" {
            address = line["fields"]["address"].as_str().map(ToOwned::to_owned);
            break;
        }
    }
    let (inbound, mut hears) = mpsc::channel(4);
    let (_says, outbound) = mpsc::channel(4);
    let client = NodeClient {
        master: address.unwrap(),
        server_name: "magi-master".to_owned(),
        tls: TlsFiles::in_folder(&folder.path().join("nodes/worker-1")),
        node: "worker-1".to_owned(),
        facts: NodeFacts::default(),
        policy: None,
        longest_pause: Duration::from_millis(100),
    };
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
