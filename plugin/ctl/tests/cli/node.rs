//! A fake node: the real server of the contract, with canned answers.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::JoinHandle;

use magi_engine::action::Answer;
use magi_engine::owner::NodePod;
use magi_engine::report::Report;
use magi_engine::{Source, Time};
use magi_node_api::*;
use tempfile::TempDir;
use tokio::sync::oneshot;

pub(crate) const NOW: Time = Time::from_micros(1_700_000_100_000_000);

/// A node in a thread of its own.
pub(crate) struct FakeNode {
    pub(crate) socket: PathBuf,
    pub(crate) heard: mpsc::Receiver<Request>,
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
    _folder: TempDir,
}

impl FakeNode {
    /// Gives this answer to whatever is asked; [`Request::Status`] gets the canned status.
    pub(crate) fn answering(answer: Answer) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("node.sock");
        let bound = bind(&socket).unwrap();
        let (tell, heard) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let handler = move |request: Request, _peer: Peer| {
            let reply = match &request {
                Request::Status => Reply::Status(Box::new(status())),
                Request::Question(_) | Request::Verify { .. } | Request::Gateway => Reply::Answer {
                    now: NOW,
                    answer: answer.clone(),
                },
            };
            let _test_is_over = tell.send(request);
            async move { Ok(reply) }
        };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                tokio::select! {
                    ended = serve(bound, handler, Limits::default()) => panic!("{ended:?}"),
                    _ = stopped => {}
                }
            });
        });
        Self {
            socket,
            heard,
            stop: Some(stop),
            thread: Some(thread),
            _folder: folder,
        }
    }

    /// A node with the canned pulls.
    pub(crate) fn with_pulls() -> Self {
        Self::answering(Answer::Pulls { report: report() })
    }

    pub(crate) fn address(&self) -> &str {
        self.socket.to_str().unwrap()
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// Fake pulls: one gigantic, one healthy and unknown, one that lies, one hostile by name, and one that has ended.
pub(crate) fn report() -> Report {
    let hex = |digit: &str| digit.repeat(64);
    serde_json::from_value(serde_json::json!({
        "pulls": [
            {
                "id": 3,
                "lease": {"namespace": "k8s.io", "id": "fake-lease-3"},
                "repositories": ["registry.example:5000/fake-team/gigantic"],
                "owner": {
                    "image": "registry.example:5000/fake-team/gigantic:1",
                    "pod": {"uid": "fake-uid-3", "namespace": "fake-team", "name": "web-0"},
                    "proof": ["requests", "containerd"],
                },
                "owner_candidates": [],
                "manifest": format!("sha256:{}", hex("a")),
                "stage": "downloading",
                "since": 1_700_000_088_000_000_u64,
                "ended": null,
                "declared": 12_884_901_888_u64,
                "stored": 1_468_006,
                "layers": [
                    {"digest": format!("sha256:{}", hex("1")), "declared": 4_294_967_296_u64, "stored": 1_048_576,
                     "socket": [{"cookie": 9, "local": "[::ffff:192.0.2.1]:41000", "remote": "[::ffff:192.0.2.9]:5000"},
                                "goroutine"]},
                    {"digest": format!("sha256:{}", hex("2")), "declared": 4_294_967_296_u64, "stored": 419_430,
                     "socket": [{"cookie": 10, "local": "[2001:db8::1]:41002", "remote": "[2001:db8::9]:5000"},
                                "byte-count"]},
                    {"digest": format!("sha256:{}", hex("3")), "declared": 4_294_967_296_u64, "stored": 0,
                     "socket": null},
                ],
                "verdict": {"reason": "image-too-large", "mode": "enforce", "rule": "fake-rule", "attempts": 1,
                            "why": "the manifest declares 12884901888 bytes, 1073741824 are allowed for an image"},
            },
            {
                "id": 4,
                "lease": {"namespace": "k8s.io", "id": "fake-lease-4"},
                "repositories": [],
                "owner": {"image": "fake-tool:2", "pod": null, "proof": []},
                "owner_candidates": [],
                "manifest": null,
                "stage": "resolving",
                "since": 1_700_000_100_000_000_u64,
                "ended": null,
                "declared": null,
                "stored": 0,
                "layers": [],
                "verdict": null,
            },
            {
                "id": 5,
                "lease": {"namespace": "k8s.io", "id": "fake-lease-5"},
                "repositories": ["registry.example:5000/fake-team/liar"],
                "owner": null,
                "owner_candidates": [
                    {"image": "registry.example:5000/fake-team/liar:1", "proof": ["requests"],
                     "pod": {"uid": "fake-uid-5", "namespace": "fake-team", "name": "liar\u{1b}[2J"}},
                    {"image": "registry.example:5000/fake-team/liar:2", "proof": ["requests"], "pod": null},
                ],
                "manifest": format!("sha256:{}", hex("b")),
                "stage": "waiting",
                "since": 1_699_990_000_000_000_u64,
                "ended": null,
                "declared": 1_048_576,
                "stored": 5_242_880,
                "layers": [],
                "verdict": {"reason": "layer-overruns-manifest", "mode": "observe", "rule": null, "attempts": 0,
                            "why": "5242880 bytes are stored, 1048576 were declared\u{1b}[2J"},
            },
            {
                "id": 6,
                "lease": {"namespace": "k8s.io", "id": "fake-lease-6"},
                "repositories": ["evil.example/\u{1b}]0;owned\u{7}\n\u{202e}x", "evil.example/y"],
                "owner": null,
                "owner_candidates": [],
                "manifest": null,
                "stage": "unpacking",
                "since": 1_700_000_000_000_000_u64,
                "ended": null,
                "declared": 1000,
                "stored": 1000,
                "layers": [],
                "verdict": null,
            },
        ],
        "ended": [
            {
                "id": 1,
                "lease": {"namespace": "k8s.io", "id": "fake-lease-1"},
                "repositories": ["registry.example:5000/fake-team/web"],
                "owner": null,
                "owner_candidates": [],
                "manifest": null,
                "stage": "ended",
                "since": 1_699_999_000_000_000_u64,
                "ended": 1_699_999_010_000_000_u64,
                "declared": 25_165_824,
                "stored": 25_165_824,
                "layers": [],
                "verdict": null,
            },
        ],
    }))
    .unwrap()
}

/// Fake pods: one that runs two images, one that is hostile by name and stopped.
pub(crate) fn pods() -> Vec<NodePod> {
    serde_json::from_value(serde_json::json!([
        {
            "sandbox": "0123456789abcdef0123456789abcdef",
            "pod": {"uid": "fake-uid-1", "namespace": "fake-team", "name": "web-0"},
            "labels": {"app": "web"},
            "images": ["registry.example:5000/fake-team/web:1", "registry.example/sidecar@sha256:fake"],
            "stopped": false,
        },
        {
            "sandbox": "fedcba",
            "pod": {"uid": "fake-uid-2\u{1b}[2J", "namespace": "fake-other", "name": "x\u{202e}y"},
            "labels": {},
            "images": [],
            "stopped": true,
        },
    ]))
    .unwrap()
}

pub(crate) fn status() -> NodeStatus {
    NodeStatus {
        version: "0.0.0-fake".to_owned(),
        started: Time::from_micros(1_699_990_000_000_000),
        now: NOW,
        containerd: ContainerdStatus {
            address: "/fake/containerd.sock".to_owned(),
            up: true,
            version: Some("2.1.9-fake".to_owned()),
            pid: Some(4242),
            root: Some("/fake/root".to_owned()),
        },
        probes: "fake probes\u{1b}[2J".to_owned(),
        sources: vec![
            SourceStatus {
                source: Source::Containerd,
                up: true,
            },
            SourceStatus {
                source: Source::Probes,
                up: false,
            },
            SourceStatus {
                source: Source::Requests,
                up: true,
            },
            SourceStatus {
                source: Source::Nri,
                up: false,
            },
        ],
        gateway: GatewayStatus {
            connected: 1,
            pulls: 2,
        },
        verifier: VerifierStatus {
            asked: 17,
            lately: Vec::new(),
        },
        policy: PolicyStatus {
            revision: "fake-revision".to_owned(),
            mode: magi_engine::policy::Mode::Enforce,
        },
        kill_switch: [(
            magi_engine::switch::SwitchHolder::Master,
            "anna: too many alarms\u{1b}[2J".to_owned(),
        )]
        .into(),
        audit: "/fake/audit.jsonl".to_owned(),
        lost_records: 2,
        trace: true,
    }
}
