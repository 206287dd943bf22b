//! An API server that is none, on the loopback: it lists, watches, breaks off and forgets as it is told.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{Request, Response, StatusCode};
use http_body_util::channel::{Channel, Sender};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// What the fake answers next.
pub(crate) enum Answer {
    /// This, whole.
    Whole(StatusCode, Value),
    /// What comes out of this channel, until it is closed.
    Stream(mpsc::UnboundedReceiver<String>),
}

/// An API server that is none: it answers requests in the order of its script, and keeps what was asked.
pub(crate) struct FakeApiServer {
    script: Mutex<VecDeque<Answer>>,
    asked: mpsc::UnboundedSender<String>,
}

impl FakeApiServer {
    /// Serves the script; requests beyond it get 500. Returns its address, and what is asked of it.
    pub(crate) async fn start(script: Vec<Answer>) -> (http::Uri, mpsc::UnboundedReceiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        let (asked, requests) = mpsc::unbounded_channel();
        let fake = Arc::new(Self {
            script: Mutex::new(script.into()),
            asked,
        });
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // As Go does: what is small must not wait for an acknowledgement.
                stream.set_nodelay(true).unwrap();
                let fake = Arc::clone(&fake);
                let service = service_fn(move |request: Request<Incoming>| {
                    let answer = fake.answer(&request);
                    async move { Ok::<_, Infallible>(answer) }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        (uri, requests)
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Channel<Bytes>> {
        let _nobody_asks = self.asked.send(request.uri().to_string());
        let answer = self.script.lock().unwrap().pop_front();
        let (mut to, body) = Channel::new(16);
        let mut response = Response::new(body);
        match answer {
            Some(Answer::Whole(status, value)) => {
                *response.status_mut() = status;
                tokio::spawn(async move { send(&mut to, value.to_string()).await });
            }
            Some(Answer::Stream(mut lines)) => {
                tokio::spawn(async move {
                    while let Some(line) = lines.recv().await {
                        send(&mut to, line).await;
                    }
                });
            }
            None => *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR,
        }
        response
    }
}

async fn send(to: &mut Sender<Bytes>, text: String) {
    let _gone = to.send_data(Bytes::from(text)).await;
}

pub(crate) fn pod(name: &str, version: u64, image: &str) -> Value {
    json!({"kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "n", "uid": format!("u-{name}"),
            "resourceVersion": version.to_string(), "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"nodeName": "a", "containers": [{"name": "c", "image": image}]},
        "status": {"phase": "Pending"}})
}

pub(crate) fn list(version: u64, rest: Option<&str>, pods: &[Value]) -> Answer {
    let metadata = json!({"resourceVersion": version.to_string(), "continue": rest});
    Answer::Whole(
        StatusCode::OK,
        json!({"kind": "PodList", "metadata": metadata, "items": pods}),
    )
}

pub(crate) fn stream() -> (mpsc::UnboundedSender<String>, Answer) {
    let (to, from) = mpsc::unbounded_channel();
    (to, Answer::Stream(from))
}

pub(crate) fn line(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": kind, "object": object}))
}
