//! magi-master as a process, and the API server's part beside it: lines of an audit log, shaped as a real one writes them.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cri::Pod;
use crate::magi::binary;
use crate::process::{Launch, Process};
use crate::wait;

const READY_WITHIN: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(5);
/// The node that it knows.
pub const NODE: &str = "node-1";

/// A running magi-master with one node's certificates. Ended on drop.
#[derive(Debug)]
pub struct Master {
    process: Process,
    dir: TempDir,
    port: u16,
}

impl Master {
    /// Starts it with this policy in a file, and waits until it listens.
    pub async fn start(policy: &str) -> Result<Self> {
        Self::start_with(Some(policy)).await
    }

    /// Starts it without a policy: it takes one that is pushed.
    pub async fn start_for_pushes() -> Result<Self> {
        Self::start_with(None).await
    }

    async fn start_with(policy: Option<&str>) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("magi-master-")
            .tempdir()
            .context("a folder for magi-master")?;
        let path = |name: &str| dir.path().join(name);
        let made = Command::new(binary("magi-master")?)
            .args([
                "certs",
                "--node",
                NODE,
                "--operator",
                "tester",
                "--master-name",
                "localhost",
            ])
            .arg("--out")
            .arg(path("tls"))
            .output()
            .context("magi-master certs")?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let source = match policy {
            Some(policy) => {
                std::fs::write(path("policy.yaml"), policy).context("write the policy")?;
                path("policy.yaml").display().to_string()
            }
            None => "null".to_owned(),
        };
        std::fs::write(path("audit.log"), "").context("write the audit log")?;
        let port = free_port()?;
        let tls = path("tls/master");
        let settings = format!(
            "version: 1\nlisten: 127.0.0.1:{port}\n\
             tls: {{ certificate: {tls}/tls.crt, key: {tls}/tls.key, ca: {tls}/ca.crt }}\n\
             policy: {source}\nstate: {}\naudit: {{ path: {} }}\n\
             intake: {{ auditLog: {{ path: {}, state: {} }} }}\nlog: {{ level: debug }}\n",
            path("state").display(),
            path("records/audit.jsonl").display(),
            path("audit.log").display(),
            path("position.json").display(),
            tls = tls.display(),
        );
        std::fs::write(path("settings.yaml"), settings).context("write the settings")?;
        let process = Launch::new("magi-master", binary("magi-master")?, path("log"))
            .arg("run")
            .arg("--settings")
            .arg(path("settings.yaml"))
            .start()?;
        let master = Self { process, dir, port };
        let listening = wait::until("magi-master to listen", READY_WITHIN, STEP, || async {
            if let Some(status) = master.process.exited() {
                return Some(Err(anyhow::anyhow!("magi-master ended early: {status}")));
            }
            tokio::net::TcpStream::connect(("127.0.0.1", port))
                .await
                .is_ok()
                .then_some(Ok(()))
        });
        listening
            .await
            .and_then(|ended| ended)
            .with_context(|| master.process.log_tail(30))?;
        Ok(master)
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Lines of magi-node's settings that lead it here.
    pub fn node_settings(&self, state: &Path) -> String {
        let tls = self.dir.path().join("tls/nodes").join(NODE);
        format!(
            "master: {{ address: \"localhost:{}\", ca: {tls}/ca.crt, cert: {tls}/tls.crt, key: {tls}/tls.key, \
             node: {NODE}, state: {} }}\n",
            self.port,
            state.display(),
            tls = tls.display(),
        )
    }

    /// Its host and port.
    pub fn address(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// The folder of the operator's certificate.
    pub fn operator(&self) -> PathBuf {
        self.dir.path().join("tls/operators/tester")
    }

    /// The folder of the node's certificate.
    pub fn node(&self) -> PathBuf {
        self.dir.path().join("tls/nodes").join(NODE)
    }

    /// `magictl`, which asks it as the operator.
    pub fn ctl_command(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(binary("magictl")?);
        command
            .args(args)
            .env("MAGI_MASTER", self.address())
            .env("MAGI_MASTER_TLS", self.operator())
            .stdin(Stdio::null());
        Ok(command)
    }

    /// Runs it.
    pub fn ctl(&self, args: &[&str]) -> Result<Output> {
        self.ctl_command(args)?.output().context("run magictl")
    }

    /// The records that it has collected.
    pub fn records(&self) -> PathBuf {
        self.dir.path().join("records/audit.jsonl")
    }

    /// The API server writes these events, in one piece.
    pub fn api_server_writes(&self, events: &[Value]) -> Result<()> {
        let mut lines = String::new();
        for event in events {
            lines.push_str(&event.to_string());
            lines.push('\n');
        }
        OpenOptions::new()
            .append(true)
            .open(self.dir.path().join("audit.log"))
            .and_then(|mut file| file.write_all(lines.as_bytes()))
            .context("append to the audit log")
    }
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("a free port")?;
    Ok(listener.local_addr().context("a free port")?.port())
}

/// Sets what lies there, objects all the way.
fn put(value: &mut Value, path: &[&str], new: Value) {
    let mut place = value;
    for key in path {
        let Value::Object(map) = place else { return };
        place = map.entry(*key).or_insert_with(|| json!({}));
    }
    *place = new;
}

/// What an API server says of a request that it has carried out, or refused.
fn event(verb: &str, pod: &Pod, subresource: Option<&str>, code: u16) -> Value {
    let now = jiff::Timestamp::now().to_string();
    let path = subresource.map(|name| format!("/{name}")).unwrap_or_default();
    let mut event = json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "RequestResponse",
        "auditID": format!("{}-{verb}-{code}-{now}", pod.uid), "stage": "ResponseComplete",
        "requestURI": format!("/api/v1/namespaces/{}/pods/{}{path}", pod.namespace, pod.name),
        "verb": verb, "user": {"username": "tenant", "groups": ["system:authenticated"]},
        "sourceIPs": ["127.0.0.1"], "userAgent": "kubectl/v1.36.4",
        "objectRef": {"resource": "pods", "namespace": pod.namespace, "name": pod.name, "apiVersion": "v1"},
        "responseStatus": {"metadata": {}, "code": code},
        "requestReceivedTimestamp": now, "stageTimestamp": now,
        "annotations": {"authorization.k8s.io/decision": if code == 403 { "forbid" } else { "allow" }},
    });
    if let Some(name) = subresource {
        put(&mut event, &["objectRef", "subresource"], json!(name));
    }
    event
}

fn object(pod: &Pod, image: &str) -> Value {
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid, "resourceVersion": "1531",
                     "creationTimestamp": jiff::Timestamp::now().to_string()},
        "spec": {"containers": [{"name": "main", "image": image}], "nodeName": NODE},
        "status": {"phase": "Pending"},
    })
}

/// The pod is created and bound to the node.
pub fn created(pod: &Pod, image: &str) -> Vec<Value> {
    let mut create = event("create", pod, None, 201);
    let mut object = object(pod, image);
    put(&mut object, &["spec", "nodeName"], Value::Null);
    put(&mut create, &["requestObject"], object.clone());
    put(&mut create, &["responseObject"], object);
    let mut binding = event("create", pod, Some("binding"), 201);
    put(&mut binding, &["objectRef", "uid"], json!(pod.uid));
    put(
        &mut binding,
        &["requestObject"],
        json!({
            "kind": "Binding", "apiVersion": "v1",
            "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
            "target": {"kind": "Node", "name": NODE},
        }),
    );
    put(
        &mut binding,
        &["responseObject"],
        json!({"kind": "Status", "apiVersion": "v1", "status": "Success", "code": 201}),
    );
    vec![create, binding]
}

/// Its graceful deletion is accepted.
pub fn deleted(pod: &Pod, image: &str) -> Value {
    let mut delete = event("delete", pod, None, 200);
    let mut object = object(pod, image);
    put(
        &mut object,
        &["metadata", "deletionTimestamp"],
        json!(jiff::Timestamp::now().to_string()),
    );
    put(
        &mut object,
        &["metadata", "deletionGracePeriodSeconds"],
        json!(30),
    );
    put(&mut delete, &["responseObject"], object);
    delete
}

/// Its deletion is refused with this code.
pub fn refused(pod: &Pod, code: u16) -> Value {
    let mut delete = event("delete", pod, None, code);
    put(
        &mut delete,
        &["responseObject"],
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}),
    );
    delete
}

/// Its deletion is only tried.
pub fn dry_run(pod: &Pod, image: &str) -> Value {
    let mut delete = deleted(pod, image);
    put(
        &mut delete,
        &["requestURI"],
        json!(format!(
            "/api/v1/namespaces/{}/pods/{}?dryRun=All",
            pod.namespace, pod.name
        )),
    );
    put(
        &mut delete,
        &["requestObject"],
        json!({"kind": "DeleteOptions", "apiVersion": "v1", "dryRun": ["All"]}),
    );
    delete
}
