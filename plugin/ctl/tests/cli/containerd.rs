//! A fake containerd: HTTP/2 on a unix socket, one canned answer to every `PullImage`.

use std::convert::Infallible;
use std::future::poll_fn;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::JoinHandle;

use bytes::{BufMut, Bytes, BytesMut};
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use magi_wire::runtime::v1::{PullImageRequest, PullImageResponse};
use prost::Message;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::oneshot;

/// What becomes of every pull.
#[derive(Clone, Copy)]
pub(crate) enum Fate {
    Pulled(&'static str),
    /// A gRPC code and message.
    Refused(&'static str, &'static str),
    /// Until the asker gives up.
    Endless,
}

/// What the fake saw.
#[derive(Debug)]
pub(crate) enum Seen {
    Request(Box<PullImageRequest>),
    Cancelled,
}

pub(crate) struct FakeContainerd {
    pub(crate) socket: PathBuf,
    pub(crate) seen: mpsc::Receiver<Seen>,
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
    _folder: TempDir,
}

impl FakeContainerd {
    pub(crate) fn new(fate: Fate) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("containerd.sock");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (tell, seen) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, fate, tell) => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            socket,
            seen,
            stop: Some(stop),
            thread: Some(thread),
            _folder: folder,
        }
    }

    pub(crate) fn address(&self) -> &str {
        self.socket.to_str().unwrap()
    }
}

impl Drop for FakeContainerd {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

async fn accept(listener: std::os::unix::net::UnixListener, fate: Fate, tell: mpsc::Sender<Seen>) {
    let listener = UnixListener::from_std(listener).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let tell = tell.clone();
        tokio::spawn(async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else {
                return;
            };
            while let Some(Ok((request, respond))) = connection.accept().await {
                tokio::spawn(answer(request, respond, fate, tell.clone()));
            }
        });
    }
}

async fn answer(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    fate: Fate,
    tell: mpsc::Sender<Seen>,
) {
    assert_eq!(request.uri().path(), "/runtime.v1.ImageService/PullImage");
    let mut body = request.into_body();
    let mut message = BytesMut::new();
    while let Some(Ok(chunk)) = body.data().await {
        let _room = body.flow_control().release_capacity(chunk.len());
        message.extend_from_slice(&chunk);
    }
    // One byte of flags and four of length precede the message.
    let request = PullImageRequest::decode(&message[5..]).unwrap();
    let _test_is_over = tell.send(Seen::Request(Box::new(request)));

    let head = Response::builder().header("content-type", "application/grpc");
    match fate {
        Fate::Pulled(image) => {
            let mut stream = respond.send_response(head.body(()).unwrap(), false).unwrap();
            let message = PullImageResponse {
                image_ref: image.to_owned(),
            }
            .encode_to_vec();
            let mut frame = BytesMut::new();
            frame.put_u8(0);
            frame.put_u32(u32::try_from(message.len()).unwrap());
            frame.extend_from_slice(&message);
            stream.send_data(frame.freeze(), false).unwrap();
            let status = [(
                http::HeaderName::from_static("grpc-status"),
                HeaderValue::from_static("0"),
            )];
            stream.send_trailers(HeaderMap::from_iter(status)).unwrap();
        }
        Fate::Refused(code, message) => {
            let head = head.header("grpc-status", code).header("grpc-message", message);
            respond.send_response(head.body(()).unwrap(), true).unwrap();
        }
        Fate::Endless => {
            let _reset_or_gone = poll_fn(|context| respond.poll_reset(context)).await;
            let _test_is_over = tell.send(Seen::Cancelled);
        }
    }
}
