//! Whole connections, against a runtime that is a listening socket and frames.

use std::path::PathBuf;
use std::time::Duration;

use bytes::BytesMut;
use magi_wire::nri::pkg::api::v1alpha1 as nri;
use magi_wire::ttrpc::Response;
use prost::Message as _;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::super::mux::frames;
use super::super::{Config, run, start};
use super::*;

/// Far above what anything here takes, on a machine that does other things too.
const BOUND: Duration = Duration::from_secs(30);
const UNIMPLEMENTED: i32 = 12;

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(BOUND, what).await.expect("it takes too long")
}

/// The runtime's side of a node.
struct Runtime {
    listener: UnixListener,
    dir: TempDir,
}

impl Runtime {
    fn listen() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("nri.sock")).unwrap();
        Self { listener, dir }
    }

    fn config(&self) -> Config {
        Config {
            socket: self.dir.path().join("nri.sock"),
            cri: None,
        }
    }

    /// Starts the plugin with a channel of `room`.
    fn plugin(&self, room: usize) -> (mpsc::Receiver<PodChange>, JoinHandle<()>) {
        let (sender, changes) = mpsc::channel(room);
        (changes, tokio::spawn(run(self.config(), sender)))
    }

    /// Waits for the plugin, and reads its registration.
    async fn accept(&self) -> Plugin {
        let (socket, _) = soon(self.listener.accept()).await.unwrap();
        let mut plugin = Plugin {
            socket,
            arrived: BytesMut::new(),
            stream: 1,
        };
        let registration = plugin.read().await;
        let call = ttrpc::read_call(&registration.payload).unwrap();
        assert_eq!(call.service, "nri.pkg.api.v1alpha1.Runtime");
        assert_eq!(call.method, "RegisterPlugin");
        let request = nri::RegisterPluginRequest::decode(call.payload).unwrap();
        assert_eq!(request.plugin_name, "magi");
        assert_eq!(request.plugin_idx, "99");
        plugin
    }

    /// As containerd does it: accepts, configures, and tells that these pods are there.
    async fn register(&self, pods: &[&str]) -> Plugin {
        let mut plugin = self.accept().await;
        plugin
            .write(Connection::Runtime, &ttrpc::answer(1, Vec::new()))
            .await;
        let configure = nri::ConfigureRequest {
            runtime_name: "containerd".to_owned(),
            runtime_version: "1.7.24~ds1".to_owned(),
            ..Default::default()
        };
        plugin.call("Configure", configure.encode_to_vec()).await.unwrap();
        plugin.synchronize(pods, false).await;
        plugin
    }
}

/// The plugin as the runtime sees it.
struct Plugin {
    socket: UnixStream,
    arrived: BytesMut,
    stream: u32,
}

impl Plugin {
    async fn write(&mut self, connection: Connection, message: &[u8]) {
        soon(self.socket.write_all(&frames(connection, message)))
            .await
            .unwrap();
    }

    /// The next message, which the plugin sends in one frame.
    async fn read(&mut self) -> Message {
        loop {
            let messages = read([self.arrived.as_ref()]).unwrap();
            if let Some((_, message)) = messages.into_iter().next() {
                self.arrived.clear();
                return message;
            }
            let got = soon(self.socket.read_buf(&mut self.arrived)).await.unwrap();
            assert_ne!(got, 0, "the plugin closed the connection");
        }
    }

    /// Calls the plugin, and gives its answer, or the code of its refusal.
    async fn call(&mut self, method: &str, payload: Vec<u8>) -> Result<Vec<u8>, i32> {
        self.stream += 2;
        let service = "nri.pkg.api.v1alpha1.Plugin";
        let call = ttrpc::call(self.stream, service, method, payload, Duration::from_secs(2));
        self.write(Connection::Plugin, &call).await;
        let answer = self.read().await;
        assert_eq!((answer.stream, answer.kind), (self.stream, Kind::Response));
        let response = Response::decode(answer.payload).unwrap();
        match response.status {
            None => Ok(response.payload),
            Some(status) => Err(status.code),
        }
    }

    async fn synchronize(&mut self, pods: &[&str], more: bool) {
        let request = nri::SynchronizeRequest {
            pods: pods.iter().map(|id| sandbox(id)).collect(),
            containers: Vec::new(),
            more,
        };
        let answer = self.call("Synchronize", request.encode_to_vec()).await.unwrap();
        let answer = nri::SynchronizeResponse::decode(answer.as_slice()).unwrap();
        assert_eq!(answer.more, more);
    }

    async fn tell(&mut self, event: nri::Event, id: &str) {
        let change = nri::StateChangeEvent {
            event: event as i32,
            pod: Some(sandbox(id)),
            container: None,
        };
        let answer = self.call("StateChange", change.encode_to_vec()).await;
        assert_eq!(answer, Ok(Vec::new()));
    }

    async fn sees_the_end(mut self) {
        let mut rest = Vec::new();
        soon(self.socket.read_to_end(&mut rest)).await.unwrap();
    }
}

fn sandbox(id: &str) -> nri::PodSandbox {
    let pod = pod(id);
    nri::PodSandbox {
        id: pod.sandbox,
        uid: pod.uid,
        namespace: pod.namespace,
        name: pod.name,
        ..Default::default()
    }
}

async fn next(changes: &mut mpsc::Receiver<PodChange>) -> PodChange {
    soon(changes.recv()).await.expect("the plugin ended")
}

#[tokio::test]
async fn pods_are_told_in_parts_and_then_as_they_come_and_go() {
    let runtime = Runtime::listen();
    let (mut changes, _plugin) = runtime.plugin(16);
    let mut plugin = runtime.accept().await;
    plugin
        .write(Connection::Runtime, &ttrpc::answer(1, Vec::new()))
        .await;
    let answer = plugin.call("Configure", Vec::new()).await.unwrap();
    let answer = nri::ConfigureResponse::decode(answer.as_slice()).unwrap();
    assert_eq!(answer.events, 0b1_0111);
    plugin.synchronize(&["a"], true).await;
    plugin.synchronize(&["b"], true).await;
    plugin.synchronize(&["c"], false).await;
    assert_eq!(ids(&next(&mut changes).await), ["a", "b", "c"]);
    plugin.tell(nri::Event::RunPodSandbox, "d").await;
    plugin.tell(nri::Event::RemovePodSandbox, "a").await;
    assert_eq!(next(&mut changes).await, PodChange::Started(pod("d")));
    let removed = PodChange::Removed {
        sandbox: "a".to_owned(),
        uid: "uid-a".to_owned(),
    };
    assert_eq!(next(&mut changes).await, removed);
}

#[tokio::test]
async fn a_listener_that_does_not_listen_delays_no_pod_and_hears_all_in_the_end() {
    let runtime = Runtime::listen();
    let (mut changes, _plugin) = runtime.plugin(2);
    let mut plugin = runtime.register(&["first"]).await;
    let names: Vec<String> = (0..300).map(|n| format!("{n:03}")).collect();
    for name in &names {
        plugin.tell(nri::Event::RunPodSandbox, name).await;
    }
    assert_eq!(ids(&next(&mut changes).await), ["first"]);
    assert_eq!(next(&mut changes).await, PodChange::Started(pod("000")));
    let mut all: Vec<&str> = names.iter().map(String::as_str).collect();
    all.push("first");
    assert_eq!(ids(&next(&mut changes).await), all);
    // From here on it is told step by step again.
    plugin.tell(nri::Event::RunPodSandbox, "later").await;
    assert_eq!(next(&mut changes).await, PodChange::Started(pod("later")));
}

#[tokio::test]
async fn every_new_connection_tells_everything_anew() {
    let runtime = Runtime::listen();
    let (mut changes, _plugin) = runtime.plugin(16);
    for round in ["a", "b", "c"] {
        let plugin = runtime.register(&[round]).await;
        assert_eq!(ids(&next(&mut changes).await), [round]);
        drop(plugin);
        assert_eq!(next(&mut changes).await, PodChange::Down);
    }
}

#[tokio::test]
async fn the_end_is_told_even_to_a_listener_that_was_behind() {
    let runtime = Runtime::listen();
    let (mut changes, _plugin) = runtime.plugin(1);
    let mut plugin = runtime.register(&["a"]).await;
    plugin.tell(nri::Event::RunPodSandbox, "b").await;
    let Runtime { listener, dir } = runtime;
    drop((listener, plugin));
    assert_eq!(ids(&next(&mut changes).await), ["a"]);
    // It may have had time to be told of all pods before it was told of the end.
    let mut change = next(&mut changes).await;
    if change != PodChange::Down {
        assert_eq!(ids(&change), ["a", "b"]);
        change = next(&mut changes).await;
    }
    assert_eq!(change, PodChange::Down);
    drop(dir);
}

#[tokio::test]
async fn a_socket_that_is_not_there_yet_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let socket: PathBuf = dir.path().join("nri.sock");
    let config = Config {
        socket: socket.clone(),
        cri: None,
    };
    let (sender, mut changes) = mpsc::channel(4);
    let _plugin = tokio::spawn(run(config, sender));
    // Its first attempt has failed once it waits.
    tokio::task::yield_now().await;
    let listener = UnixListener::bind(&socket).unwrap();
    let runtime = Runtime { listener, dir };
    let _plugin = runtime.register(&["a"]).await;
    assert_eq!(ids(&next(&mut changes).await), ["a"]);
}

#[tokio::test]
async fn a_call_of_another_version_is_declined_and_the_next_one_answered() {
    let runtime = Runtime::listen();
    let (mut changes, _plugin) = runtime.plugin(16);
    let mut plugin = runtime.register(&[]).await;
    assert_eq!(ids(&next(&mut changes).await), [""; 0]);
    let declined = plugin.call("UpdatePodSandbox", vec![1, 2, 3]).await;
    assert_eq!(declined, Err(UNIMPLEMENTED));
    let message = nri::CreateContainerRequest {
        pod: Some(sandbox("a")),
        container: None,
    };
    let answer = plugin.call("RunPodSandbox", message.encode_to_vec()).await;
    assert_eq!(answer, Ok(Vec::new()));
    assert_eq!(next(&mut changes).await, PodChange::Started(pod("a")));
}

#[tokio::test]
async fn an_event_that_cannot_be_read_is_consented_to_and_owned_up_to() {
    let runtime = Runtime::listen();
    let (mut changes, _plugin) = runtime.plugin(16);
    let mut plugin = runtime.register(&["a"]).await;
    assert_eq!(ids(&next(&mut changes).await), ["a"]);
    // An event that starts a pod, and then a pod that ends before it should.
    let broken = vec![0x08, 1, 0x12, 200];
    let answer = plugin.call("RunPodSandbox", broken).await;
    assert_eq!(answer, Ok(Vec::new()));
    let PodChange::Synchronized { complete, .. } = next(&mut changes).await else {
        panic!("not whole");
    };
    assert!(!complete);
}

#[tokio::test]
async fn nonsense_on_the_trunk_ends_the_connection_and_another_is_made() {
    let runtime = Runtime::listen();
    let (mut changes, _plugin) = runtime.plugin(16);
    for nonsense in [
        [0, 0, 0, 1, 255, 255, 255, 255].to_vec(),
        frames(Connection::Plugin, &[255; 10]),
        frames(Connection::Plugin, &[0, 0, 0, 1, 0, 0, 0, 3, 1, 0, 7]),
    ] {
        let mut plugin = runtime.register(&["a"]).await;
        assert_eq!(ids(&next(&mut changes).await), ["a"]);
        soon(plugin.socket.write_all(&nonsense)).await.unwrap();
        plugin.sees_the_end().await;
        assert_eq!(next(&mut changes).await, PodChange::Down);
    }
}

#[tokio::test]
async fn a_refused_registration_is_tried_again() {
    let runtime = Runtime::listen();
    let (mut changes, _plugin) = runtime.plugin(16);
    let mut plugin = runtime.accept().await;
    let call = ttrpc::Call::default();
    plugin
        .write(Connection::Runtime, &ttrpc::unimplemented(1, &call))
        .await;
    plugin.sees_the_end().await;
    let _plugin = runtime.register(&["a"]).await;
    assert_eq!(ids(&next(&mut changes).await), ["a"]);
}

#[tokio::test]
async fn messages_of_no_concern_are_skipped() {
    let runtime = Runtime::listen();
    let (mut changes, _plugin) = runtime.plugin(16);
    let mut plugin = runtime.register(&["a"]).await;
    assert_eq!(ids(&next(&mut changes).await), ["a"]);
    // Data of a stream, an answer to nobody, a frame for nobody.
    plugin
        .write(Connection::Plugin, &[0, 0, 0, 1, 0, 0, 0, 3, 3, 0, 7])
        .await;
    plugin
        .write(Connection::Runtime, &ttrpc::answer(77, vec![1]))
        .await;
    soon(plugin.socket.write_all(&[0, 0, 0, 9, 0, 0, 0, 1, 1]))
        .await
        .unwrap();
    plugin.tell(nri::Event::RunPodSandbox, "b").await;
    assert_eq!(next(&mut changes).await, PodChange::Started(pod("b")));
}

#[tokio::test]
async fn its_thread_ends_with_its_listener() {
    let runtime = Runtime::listen();
    let (sender, changes) = mpsc::channel(4);
    start(runtime.config(), sender).unwrap();
    let plugin = runtime.register(&["a"]).await;
    drop(changes);
    plugin.sees_the_end().await;
}
