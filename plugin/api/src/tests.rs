//! Both ends of the contract against each other, and each against an end that misbehaves.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use magi_engine::action::Answer;
use magi_engine::event::Question;
use magi_engine::ids::{LeaseId, LeaseKey, PullId, RepositoryName};
use magi_engine::policy::Policy;
use magi_engine::report::{PullReport, Report, Stage};
use magi_engine::switch::SwitchHolder;
use magi_engine::{Source, Time};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::*;

const NOW: Time = Time::from_micros(1_700_000_000_000_000);

/// A bound for what must come at once; nothing waits for it unless the test fails.
const SOON: Duration = Duration::from_secs(20);

pub(crate) fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("magi").join("node.sock");
    (folder, socket)
}

fn pull(repository: &str) -> PullReport {
    PullReport {
        id: PullId(3),
        lease: LeaseKey {
            namespace: serde_json::from_str("\"k8s.io\"").unwrap(),
            id: LeaseId::new("1-abc").unwrap(),
        },
        repositories: vec![RepositoryName::new(repository).unwrap()],
        owner: None,
        owner_candidates: Vec::new(),
        manifest: None,
        stage: Stage::Resolving,
        since: NOW,
        ended: None,
        declared: None,
        stored: u64::MAX,
        layers: Vec::new(),
        verdict: None,
        unpack_stop: None,
    }
}

fn status() -> NodeStatus {
    NodeStatus {
        version: "0.1.0".to_owned(),
        started: NOW,
        now: NOW,
        containerd: ContainerdStatus {
            address: "/c.sock".to_owned(),
            up: false,
            version: None,
            pid: None,
            root: None,
        },
        probes: "none: no BTF".to_owned(),
        sources: vec![SourceStatus {
            source: Source::SocketTable,
            up: true,
        }],
        gateway: GatewayStatus {
            connected: 1,
            pulls: 2,
        },
        verifier: VerifierStatus::default(),
        policy: PolicyStatus::of(&Policy::default()),
        kill_switch: [(SwitchHolder::Node, "the file /k".to_owned())].into(),
        audit: "/a.jsonl".to_owned(),
        lost_records: 7,
        trace: false,
    }
}

fn answer(answer: Answer) -> Result<Reply, Refusal> {
    Ok(Reply::Answer { now: NOW, answer })
}

fn pulls(pulls: Vec<PullReport>) -> Result<Reply, Refusal> {
    answer(Answer::Pulls {
        report: Report {
            pulls,
            ended: Vec::new(),
        },
    })
}

/// A server on a socket of its own; ends with the test.
struct Served {
    _folder: TempDir,
    socket: PathBuf,
    heard: mpsc::UnboundedReceiver<(Request, Peer)>,
    task: JoinHandle<Result<std::convert::Infallible, ServeError>>,
}

impl Served {
    fn new(limits: Limits, result: Result<Reply, Refusal>) -> Self {
        Self::with(limits, move |_request| {
            let result = result.clone();
            async { result }
        })
    }

    fn with<A>(limits: Limits, handle: impl Fn(Request) -> A + Send + Sync + 'static) -> Self
    where
        A: Future<Output = Result<Reply, Refusal>> + Send + 'static,
    {
        let (folder, socket) = folder();
        let (tell, heard) = mpsc::unbounded_channel();
        let bound = bind(&socket).unwrap();
        let handler = move |request: Request, peer: Peer| {
            tell.send((request.clone(), peer)).unwrap();
            handle(request)
        };
        let task = tokio::spawn(serve(bound, handler, limits));
        Self {
            _folder: folder,
            socket,
            heard,
            task,
        }
    }

    async fn client(&self) -> Client {
        Client::connect(&self.socket, Patience::default()).await.unwrap()
    }

    /// Sends raw bytes and reads until the server hangs up or a line is complete.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        // The server may hang up before it has read everything.
        let _sent = stream.write_all(bytes).await;
        read_line(&mut stream).await
    }
}

async fn read_line(stream: &mut UnixStream) -> String {
    let mut line = Vec::new();
    tokio::time::timeout(SOON, async {
        while !line.ends_with(b"\n") {
            if matches!(stream.read_buf(&mut line).await, Ok(0) | Err(_)) {
                break;
            }
        }
    })
    .await
    .unwrap();
    String::from_utf8(line).unwrap()
}

#[test]
fn the_lines_are_as_documented() {
    use crate::line::{write_answer, write_request};
    for (ask, line) in [
        (
            Ask::Pulls { ended: true },
            r#"{"v":1,"ask":"pulls","ended":true}"#,
        ),
        (
            Ask::Abort { pull: PullId(3) },
            r#"{"v":1,"ask":"abort","pull":3}"#,
        ),
        (Ask::Panic {}, r#"{"v":1,"ask":"panic"}"#),
        (Ask::Status {}, r#"{"v":1,"ask":"status"}"#),
        (Ask::Pods {}, r#"{"v":1,"ask":"pods"}"#),
    ] {
        assert_eq!(write_request(ask.clone()).unwrap(), line);
        assert_eq!(line::read_request(line), Ok(ask));
    }
    assert_eq!(
        write_answer(&answer(Answer::Closed { count: 2 })).unwrap(),
        r#"{"v":1,"reply":{"now":1700000000000000,"answer":{"answer":"closed","count":2}}}"#
    );
    assert_eq!(
        write_answer(&Err(Refusal::new(ErrorCode::Busy, "later"))).unwrap(),
        r#"{"v":1,"error":{"code":"busy","message":"later"}}"#
    );
    assert!(
        write_answer(&Ok(Reply::Status(Box::new(status()))))
            .unwrap()
            .starts_with(r#"{"v":1,"status":{"version":"0.1.0","started":"#)
    );
}

#[test]
fn every_error_code_reads_back_as_it_is_printed() {
    let codes = [
        ErrorCode::WrongVersion,
        ErrorCode::Malformed,
        ErrorCode::RequestTooLong,
        ErrorCode::AnswerTooLong,
        ErrorCode::Forbidden,
        ErrorCode::Busy,
        ErrorCode::Late,
        ErrorCode::Unavailable,
    ];
    for code in codes {
        assert_eq!(serde_json::to_string(&code).unwrap(), format!("\"{code}\""));
        assert_eq!(
            serde_json::from_str::<ErrorCode>(&format!("\"{code}\"")).unwrap(),
            code
        );
    }
    assert_eq!(
        serde_json::from_str::<ErrorCode>("\"newer\"").unwrap(),
        ErrorCode::Unknown
    );
}

#[tokio::test]
async fn every_request_reaches_the_handler_with_its_asker() {
    let mut served = Served::with(Limits::default(), |request| async move {
        match request {
            Request::Question(Question::Pulls { .. }) => pulls(vec![pull("a.example/x")]),
            Request::Question(Question::Abort { .. }) => answer(Answer::NoSuchPull),
            Request::Question(Question::Panic { .. }) => answer(Answer::Closed { count: 4 }),
            Request::Question(Question::Pods) => answer(Answer::Pods { pods: None }),
            Request::Question(Question::UnpackStopped { .. }) => answer(Answer::Noted { pulls: 1 }),
            Request::Gateway => Err(Refusal::new(ErrorCode::Malformed, "it is a conversation")),
            Request::Verify { .. } | Request::Question(Question::Verify { .. } | Question::Admit { .. }) => {
                answer(Answer::Admitted { known: false })
            }
            Request::Status => Ok(Reply::Status(Box::new(status()))),
        }
    });
    let mut client = served.client().await;
    let (now, report) = client.pulls(true).await.unwrap();
    assert_eq!((now, report.pulls), (NOW, vec![pull("a.example/x")]));
    assert_eq!(client.abort(PullId(3)).await.unwrap(), Answer::NoSuchPull);
    assert_eq!(client.panic().await.unwrap(), Answer::Closed { count: 4 });
    assert_eq!(client.status().await.unwrap(), status());
    assert_eq!(client.pods().await.unwrap(), (NOW, None));
    assert_eq!(client.node_pid(), Some(std::process::id()));

    let own = Peer {
        uid: rustix::process::geteuid().as_raw(),
        pid: Some(std::process::id().cast_signed()),
    };
    let actor = format!("uid {} (pid {})", own.uid, std::process::id());
    for request in [
        Request::Question(Question::Pulls { ended: true }),
        Request::Question(Question::Abort {
            pull: PullId(3),
            actor: actor.clone(),
        }),
        Request::Question(Question::Panic { actor }),
        Request::Status,
    ] {
        assert_eq!(served.heard.recv().await.unwrap(), (request, own));
    }
}

#[tokio::test]
async fn an_answer_to_another_question_is_refused() {
    let served = Served::new(Limits::default(), answer(Answer::Ended));
    let mut client = served.client().await;
    assert!(matches!(client.pulls(false).await, Err(ClientError::Unasked)));
    assert!(matches!(client.status().await, Err(ClientError::Unasked)));
    let served = Served::new(Limits::default(), pulls(Vec::new()));
    assert!(matches!(
        served.client().await.abort(PullId(1)).await,
        Err(ClientError::Unasked)
    ));
}

#[tokio::test]
async fn garbage_gets_a_typed_error_and_does_not_reach_the_handler() {
    let mut served = Served::new(Limits::default(), answer(Answer::Ended));
    for (line, code) in [
        ("\n", "malformed"),
        ("hello\n", "malformed"),
        ("[]\n", "wrong-version"),
        ("{\"v\":1}\n", "malformed"),
        ("{\"v\":2,\"ask\":\"panic\"}\n", "wrong-version"),
        ("{\"v\":\"1\",\"ask\":\"panic\"}\n", "wrong-version"),
        ("{\"ask\":\"panic\"}\n", "wrong-version"),
        ("{\"v\":1,\"ask\":\"dance\"}\n", "malformed"),
        ("{\"v\":1,\"ask\":\"abort\"}\n", "malformed"),
        ("{\"v\":1,\"ask\":\"abort\",\"pull\":-1}\n", "malformed"),
        (
            "{\"v\":1,\"ask\":\"abort\",\"pull\":1,\"actor\":\"root\"}\n",
            "malformed",
        ),
        ("{\"v\":1,\"ask\":\"panic\",\"dry-run\":true}\n", "malformed"),
        ("{\"v\":1,\"ask\":\"status\",\"x\":1}\n", "malformed"),
    ] {
        let answer = served.raw(line.as_bytes()).await;
        assert!(
            answer.starts_with(&format!("{{\"v\":1,\"error\":{{\"code\":\"{code}\"")),
            "{line} {answer}"
        );
    }
    let deep = format!("{}\n", "[".repeat(60_000));
    assert!(served.raw(deep.as_bytes()).await.contains("malformed"));
    assert!(served.raw(b"\xff\xfe\n").await.contains("malformed"));
    served.heard.close();
    assert_eq!(served.heard.recv().await, None);
}

#[tokio::test]
async fn one_bad_line_does_not_spoil_the_next() {
    let served = Served::new(Limits::default(), answer(Answer::Ended));
    let mut stream = UnixStream::connect(&served.socket).await.unwrap();
    stream.write_all(b"x\n").await.unwrap();
    assert!(read_line(&mut stream).await.contains("malformed"));
    stream.write_all(b"{\"v\":1,\"ask\":\"panic\"}\n").await.unwrap();
    assert!(read_line(&mut stream).await.contains("\"ended\""));
}

#[tokio::test]
async fn the_longest_request_is_heard_and_a_longer_one_refused() {
    let served = Served::new(Limits::default(), answer(Answer::Ended));
    let ask = "{\"v\":1,\"ask\":\"panic\"}";
    let longest = format!("{ask}{}\n", " ".repeat(MAX_REQUEST - ask.len()));
    assert!(served.raw(longest.as_bytes()).await.contains("\"ended\""));
    let longer = format!("{ask}{}\n", " ".repeat(MAX_REQUEST - ask.len() + 1));
    assert!(served.raw(longer.as_bytes()).await.contains("request-too-long"));
    // Without an end of line in sight as well.
    assert!(
        served
            .raw(&vec![b'x'; 4 * MAX_REQUEST])
            .await
            .contains("request-too-long")
    );
}

#[tokio::test]
async fn an_answer_over_the_bound_becomes_an_error() {
    let large = || pull(&"x".repeat(4000));
    let served = Served::new(Limits::default(), pulls((0..3000).map(|_| large()).collect()));
    assert_eq!(
        served.client().await.pulls(false).await.unwrap().1.pulls.len(),
        3000
    );
    let served = Served::new(Limits::default(), pulls((0..5000).map(|_| large()).collect()));
    let Err(ClientError::Refused(refusal)) = served.client().await.pulls(false).await else {
        panic!("not refused");
    };
    assert_eq!(refusal.code, ErrorCode::AnswerTooLong);
}

#[tokio::test]
async fn a_silent_or_slow_asker_is_hung_up_on() {
    let limits = Limits {
        idle: Duration::from_millis(50),
        ..Limits::default()
    };
    let served = Served::new(limits, answer(Answer::Ended));
    let mut silent = UnixStream::connect(&served.socket).await.unwrap();
    assert_eq!(read_line(&mut silent).await, "");
    let mut slow = UnixStream::connect(&served.socket).await.unwrap();
    slow.write_all(b"{\"v\":1,").await.unwrap();
    assert_eq!(read_line(&mut slow).await, "");
}

#[tokio::test]
async fn an_asker_that_does_not_read_is_hung_up_on() {
    let limits = Limits {
        idle: Duration::from_millis(50),
        ..Limits::default()
    };
    let served = Served::new(
        limits,
        pulls((0..1000).map(|_| pull(&"x".repeat(4000))).collect()),
    );
    let mut stream = UnixStream::connect(&served.socket).await.unwrap();
    // The answer exceeds every socket buffer, so the server must wait, and must stop waiting.
    stream.write_all(b"{\"v\":1,\"ask\":\"pulls\"}\n").await.unwrap();
    tokio::time::timeout(SOON, async {
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_handler_that_never_answers_is_given_up() {
    let limits = Limits {
        answer: Duration::from_millis(20),
        ..Limits::default()
    };
    let served = Served::with(limits, |_| std::future::pending());
    let Err(ClientError::Refused(refusal)) = served.client().await.panic().await else {
        panic!("not refused")
    };
    assert_eq!(refusal.code, ErrorCode::Late);
}

#[tokio::test]
async fn one_connection_too_many_is_told_so_until_another_ends() {
    let limits = Limits {
        connections: 2,
        ..Limits::default()
    };
    let served = Served::new(limits, answer(Answer::Ended));
    let (mut first, mut second) = (served.client().await, served.client().await);
    first.panic().await.unwrap();
    second.panic().await.unwrap();
    let Err(ClientError::Refused(refusal)) = served.client().await.panic().await else {
        panic!("not refused")
    };
    assert_eq!(refusal.code, ErrorCode::Busy);
    drop(first);
    tokio::time::timeout(SOON, async {
        while served.client().await.panic().await.is_err() {}
    })
    .await
    .unwrap();
    second.panic().await.unwrap();
}

#[tokio::test]
async fn the_client_names_every_way_in_which_a_node_misbehaves() {
    let (_keep, socket) = folder();
    fs::create_dir(socket.parent().unwrap()).unwrap();
    let patience = Patience {
        connect: SOON,
        answer: Duration::from_millis(300),
    };
    let listener = UnixListener::bind(&socket).unwrap();
    let too_long = vec![b'x'; MAX_ANSWER + 2];
    let cases: [(&[u8], &str); 7] = [
        (b"", "magi-node hung up before its answer was complete"),
        (
            b"{\"v\":1,\"reply\":{\"now\":1,",
            "magi-node hung up before its answer was complete",
        ),
        (
            b"{\"v\":9,\"x\":1}\n",
            "magi-node speaks version 9 of the control contract, this program version 1",
        ),
        (
            b"{}\n",
            "magi-node speaks no version of the control contract, this program version 1",
        ),
        (b"{\"v\":1,\"song\":1}\n", "magi-node's answer makes no sense"),
        (
            b"HTTP/1.1 400 Bad Request\r\n",
            "magi-node's answer makes no sense",
        ),
        (&too_long, "magi-node's answer has more than 16777216 bytes"),
    ];
    for (bytes, message) in cases {
        let patience = Patience {
            answer: SOON,
            ..patience
        };
        let mut client = Client::connect(&socket, patience).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let node = async move {
            assert_ne!(read_line(&mut stream).await, "");
            let _read_by_the_client = stream.write_all(bytes).await;
        };
        let (result, ()) = tokio::join!(client.status(), node);
        assert_eq!(result.unwrap_err().to_string(), message);
    }

    let mut client = Client::connect(&socket, patience).await.unwrap();
    assert_eq!(
        client.status().await.unwrap_err().to_string(),
        "magi-node did not answer within 0.3 s"
    );

    drop(listener);
    let deserted = Client::connect(&socket, patience).await.unwrap_err();
    assert!(deserted.is_unreachable() && matches!(deserted, ClientError::Deserted { .. }));
    fs::remove_file(&socket).unwrap();
    let absent = Client::connect(&socket, patience).await.unwrap_err();
    assert!(absent.is_unreachable());
    assert_eq!(
        absent.to_string(),
        format!(
            "is magi-node running? its control socket is not at {}; set --socket or MAGI_SOCKET",
            socket.display()
        )
    );
}

#[tokio::test]
async fn the_socket_is_for_root_and_goes_with_the_server() {
    let served = Served::new(Limits::default(), answer(Answer::Ended));
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&served.socket), 0o600);
    let folder = served.socket.parent().unwrap().to_owned();
    assert_eq!(mode(&folder), 0o700);
    let names = || -> BTreeSet<_> {
        fs::read_dir(&folder)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect()
    };
    assert_eq!(names().len(), 2, "socket and lock: {:?}", names());
    served.task.abort();
    assert!(served.task.await.unwrap_err().is_cancelled());
    assert_eq!(names(), BTreeSet::new());
}
