//! The gateway between a client and a server that speak HTTP/2 by hand, so that nothing is added or hidden by a library.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use magi_node_api::gateway::{CallNumber, FromGateway, Refusal, RefusalKind};
use tempfile::TempDir;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::calls::Calls;
use crate::listen::Listening;
use crate::serve::{ServeError, Serving};

const BOUND: Duration = Duration::from_secs(10);
const PULL: &str = "/runtime.v1.ImageService/PullImage";
const ASK_WITHIN: Duration = Duration::from_millis(40);

/// What the server saw.
#[derive(Debug)]
enum Saw {
    Request(Box<http::request::Parts>, Bytes),
    Reset(Reason),
}

struct Rig {
    dir: TempDir,
    saw: mpsc::UnboundedReceiver<Saw>,
    calls: Calls,
    stop: Option<oneshot::Sender<()>>,
    gateway: JoinHandle<Result<(), ServeError>>,
    server: JoinHandle<()>,
}

impl Rig {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (tell, saw) = mpsc::unbounded_channel();
        let containerd = dir.path().join("containerd.sock");
        let server = tokio::spawn(serve(UnixListener::bind(&containerd).unwrap(), tell));
        let calls = Calls::default();
        let listening = Listening::begin(&dir.path().join("run/image.sock"), |_| None).unwrap();
        let serving = Serving {
            containerd: Arc::new(containerd),
            calls: calls.clone(),
            ask_within: ASK_WITHIN,
            drain: BOUND,
        };
        let (stop, stopped) = oneshot::channel();
        let gateway = tokio::spawn(serving.run(listening, async {
            let _dropped_is_as_good = stopped.await;
        }));
        Self {
            dir,
            saw,
            calls,
            stop: Some(stop),
            gateway,
            server,
        }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("run/image.sock")
    }

    async fn client(&self) -> SendRequest<Bytes> {
        let stream = UnixStream::connect(self.socket()).await.unwrap();
        let (client, connection) = h2::client::Builder::new()
            .max_header_list_size(1 << 20)
            .handshake(stream)
            .await
            .unwrap();
        tokio::spawn(connection);
        client.ready().await.unwrap()
    }

    async fn saw(&mut self) -> Saw {
        timeout(BOUND, self.saw.recv()).await.unwrap().unwrap()
    }

    async fn saw_request(&mut self) -> (http::request::Parts, Bytes) {
        match self.saw().await {
            Saw::Request(parts, body) => (*parts, body),
            Saw::Reset(reason) => panic!("a reset: {reason}"),
        }
    }

    /// What magi-node would be told next.
    async fn told(&self) -> Vec<FromGateway> {
        loop {
            let told = self.calls.untold();
            if !told.is_empty() {
                return told;
            }
            timeout(BOUND, self.calls.news()).await.unwrap();
        }
    }
}

async fn serve(listener: UnixListener, tell: mpsc::UnboundedSender<Saw>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let tell = tell.clone();
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, respond))) = connection.accept().await {
                tokio::spawn(answer(request, respond, tell.clone()));
            }
        });
    }
}

/// Says back what it was told, unless the path wants something else.
async fn answer(
    request: Request<RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    tell: mpsc::UnboundedSender<Saw>,
) {
    let (parts, body) = request.into_parts();
    let (body, _) = collect(body).await;
    let path = parts.uri.path().to_owned();
    tell.send(Saw::Request(Box::new(parts), body.clone())).unwrap();
    match path.as_str() {
        "/refused" => {
            let response = Response::builder()
                .header("content-type", "application/grpc")
                .header("grpc-status", "5")
                .header("grpc-message", "m".repeat(100_000))
                .body(())
                .unwrap();
            respond.send_response(response, true).unwrap();
        }
        "/reset" => respond.send_reset(Reason::REFUSED_STREAM),
        "/hangs" | PULL => {
            let reason = std::future::poll_fn(|context| respond.poll_reset(context)).await;
            tell.send(Saw::Reset(reason.unwrap_or(Reason::CANCEL))).unwrap();
        }
        _ => {
            let response = Response::builder()
                .header("x-said", "\u{e4}".as_bytes())
                .body(())
                .unwrap();
            let mut stream = respond.send_response(response, false).unwrap();
            stream.send_data(body, false).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "7".parse().unwrap());
            trailers.insert("grpc-message", "no%20way".parse().unwrap());
            trailers.insert("grpc-status-details-bin", "CAcSBm5v".parse().unwrap());
            stream.send_trailers(trailers).unwrap();
        }
    }
}

async fn collect(mut body: RecvStream) -> (Bytes, Option<HeaderMap>) {
    let mut bytes = Vec::new();
    while let Some(Ok(piece)) = body.data().await {
        body.flow_control().release_capacity(piece.len()).unwrap();
        bytes.extend_from_slice(&piece);
    }
    let trailers = body.trailers().await.ok().flatten();
    (bytes.into(), trailers)
}

fn request(path: &str) -> Request<()> {
    Request::builder()
        .method("POST")
        .uri(format!("http://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "90S")
        .header("x-trace-bin", "AAEC")
        .header("x-twice", "1")
        .header("x-twice", "2")
        .body(())
        .unwrap()
}

/// `PullImageRequest` for an image and a pod, with its prefix.
fn pull_message(image: &str) -> Bytes {
    let field =
        |number: u8, bytes: &[u8]| [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat();
    let metadata = [field(1, b"pod"), field(2, b"uid"), field(3, b"team")].concat();
    let message = [
        field(1, &field(1, image.as_bytes())),
        field(3, &field(1, &metadata)),
    ]
    .concat();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], length.as_slice(), &message].concat().into()
}

fn refusal() -> Refusal {
    Refusal {
        kind: RefusalKind::Exhausted,
        text: "magi: too much".to_owned(),
    }
}

#[tokio::test]
async fn any_method_passes_as_it_is() {
    let mut rig = Rig::start();
    let mut client = rig.client().await;
    let sent: Bytes = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    for path in ["/runtime.v1.ImageService/ListImages", "/some.Future/Method"] {
        let (response, mut stream) = client.send_request(request(path), false).unwrap();
        stream.send_data(sent.clone(), true).unwrap();
        let response = timeout(BOUND, response).await.unwrap().unwrap();
        let (head, body) = response.into_parts();
        let (said, trailers) = collect(body).await;
        let (seen, heard) = rig.saw_request().await;
        let wanted = request(path);
        assert_eq!(
            (seen.uri, seen.method),
            (wanted.uri().clone(), wanted.method().clone())
        );
        assert_eq!(&seen.headers, wanted.headers(), "not one more, not one less");
        assert!(heard == sent && said == sent, "the bytes");
        assert_eq!(head.headers.len(), 1, "{head:?}");
        assert_eq!(head.headers["x-said"].as_bytes(), "\u{e4}".as_bytes());
        let trailers = trailers.unwrap();
        assert_eq!(trailers.len(), 3);
        assert_eq!(trailers["grpc-message"], "no%20way");
        assert_eq!(trailers["grpc-status-details-bin"], "CAcSBm5v");
    }
}

#[tokio::test]
async fn errors_and_resets_pass_as_they_are() {
    let rig = Rig::start();
    let mut client = rig.client().await;
    let (response, _) = client.send_request(request("/refused"), true).unwrap();
    let (head, body) = timeout(BOUND, response).await.unwrap().unwrap().into_parts();
    assert!(body.is_end_stream(), "trailers only");
    assert_eq!(
        head.headers.len(),
        3,
        "{:?}",
        head.headers.keys().collect::<Vec<_>>()
    );
    assert_eq!(head.headers["grpc-message"].len(), 100_000);
    let (response, _) = client.send_request(request("/reset"), true).unwrap();
    let error = timeout(BOUND, response).await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(Reason::REFUSED_STREAM));
}

#[tokio::test]
async fn a_client_that_cancels_or_goes_away_ends_the_call() {
    let mut rig = Rig::start();
    for path in ["/hangs", PULL] {
        for disconnects in [false, true] {
            let mut client = rig.client().await;
            let (response, mut stream) = client.send_request(request(path), false).unwrap();
            stream.send_data(pull_message("r.example/x:1"), true).unwrap();
            rig.saw_request().await;
            if disconnects {
                drop((response, stream, client));
            } else {
                stream.send_reset(Reason::CANCEL);
            }
            let saw = rig.saw().await;
            assert!(matches!(saw, Saw::Reset(Reason::CANCEL)), "{path}: {saw:?}");
        }
    }
    assert_eq!(rig.calls.len(), 0);
}

#[tokio::test]
async fn a_pull_is_told_of_and_ends_with_a_typed_error() {
    let mut rig = Rig::start();
    let mut client = rig.client().await;
    let (response, mut stream) = client.send_request(request(PULL), false).unwrap();
    let message = pull_message("r.example/x:1");
    let (begin, end) = message.split_at(9);
    stream.send_data(Bytes::copy_from_slice(begin), false).unwrap();
    stream.send_data(Bytes::copy_from_slice(end), true).unwrap();
    let told = rig.told().await;
    let [
        FromGateway::Began {
            call,
            request: asked,
            asks: false,
            ..
        },
    ] = told.as_slice()
    else {
        panic!("{told:?}");
    };
    assert_eq!(asked.image.as_str(), "r.example/x:1");
    let (_, heard) = rig.saw_request().await;
    assert_eq!(heard, message);
    assert_eq!(rig.calls.cancel(&[*call, CallNumber(99)], &refusal()), 1);
    let response = timeout(BOUND, response).await.unwrap().unwrap();
    assert_eq!(response.headers()["grpc-status"], "8");
    assert_eq!(response.headers()["grpc-message"], "magi: too much");
    assert!(response.body().is_end_stream());
    assert!(matches!(rig.saw().await, Saw::Reset(Reason::CANCEL)));
    assert_eq!(rig.told().await, [FromGateway::Ended { call: *call }]);
}

#[tokio::test]
async fn a_pull_is_refused_before_containerd_hears_of_it() {
    let mut rig = Rig::start();
    rig.calls.connected();
    let mut client = rig.client().await;
    let mut pull = || {
        let (response, mut stream) = client.send_request(request(PULL), false).unwrap();
        stream.send_data(pull_message("r.example/x:1"), true).unwrap();
        (response, stream)
    };
    let (response, _stream) = pull();
    let told = rig.told().await;
    let [FromGateway::Began { call, asks: true, .. }] = told.as_slice() else {
        panic!("{told:?}");
    };
    rig.calls.admission(*call, Some(refusal()));
    let response = timeout(BOUND, response).await.unwrap().unwrap();
    assert_eq!(response.headers()["grpc-status"], "8");
    assert!(rig.saw.try_recv().is_err(), "containerd heard of it");
    // The next one is not answered: it passes, and the one after it does not even wait.
    let (_response, _stream) = pull();
    rig.saw_request().await;
    let (_response, _stream) = pull();
    rig.saw_request().await;
    let told = rig.told().await;
    assert!(
        matches!(told.last(), Some(FromGateway::Began { asks: false, .. })),
        "{told:?}"
    );
}

#[tokio::test]
async fn without_containerd_a_call_is_unavailable() {
    let rig = Rig::start();
    rig.server.abort();
    std::fs::remove_file(rig.dir.path().join("containerd.sock")).unwrap();
    let mut client = rig.client().await;
    for path in ["/any", PULL] {
        let (response, _) = client.send_request(request(path), true).unwrap();
        let response = timeout(BOUND, response).await.unwrap().unwrap();
        assert_eq!(response.headers()["grpc-status"], "14");
    }
}

#[tokio::test]
async fn calls_in_flight_are_finished_before_the_end() {
    let mut rig = Rig::start();
    let mut client = rig.client().await;
    let (response, mut stream) = client.send_request(request(PULL), false).unwrap();
    stream.send_data(pull_message("r.example/x:1"), true).unwrap();
    rig.saw_request().await;
    // One that nobody has accepted yet is served, too.
    let late = UnixStream::connect(rig.socket()).await.unwrap();
    drop(rig.stop.take());
    let (mut late, connection) = h2::client::handshake(late).await.unwrap();
    tokio::spawn(connection);
    let (echo, mut echoing) = late.send_request(request("/echo"), false).unwrap();
    echoing.send_data(Bytes::from_static(b"x"), true).unwrap();
    timeout(BOUND, echo).await.unwrap().unwrap();
    assert!(!rig.gateway.is_finished());
    assert!(!rig.socket().exists());
    let told = rig.told().await;
    let [FromGateway::Began { call, .. }] = told.as_slice() else {
        panic!("{told:?}");
    };
    rig.calls.cancel(&[*call], &refusal());
    timeout(BOUND, response).await.unwrap().unwrap();
    drop(late);
    timeout(BOUND, rig.gateway).await.unwrap().unwrap().unwrap();
}
