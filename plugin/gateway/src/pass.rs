//! One call: passed on to containerd byte for byte, whatever it is. Only of `PullImage` a copy is read on the way.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Buf as _;
use http::{Request, Response};
use hyper::body::{Body as _, Incoming};
use magi_engine::Time;
use magi_engine::owner::PullRequest;
use tracing::{debug, info};

use crate::body::Passed;
use crate::bounds::MAX_MESSAGE;
use crate::calls::{Calls, Watched};
use crate::decode::Message;
use crate::link::in_one_line;
use crate::status;
use crate::upstream::{self, Body, Unanswered, Upstream};

const PULL_IMAGE: &str = "/runtime.v1.ImageService/PullImage";

/// Passes on the calls of one client's connection.
#[derive(Debug)]
pub(crate) struct Passing {
    pub(crate) upstream: Upstream,
    pub(crate) calls: Calls,
    /// How long a pull may wait for magi-node's admission.
    pub(crate) ask_within: Duration,
}

impl Passing {
    /// Dropped unfinished, as it is when the client goes away, it resets the call at containerd.
    ///
    /// # Errors
    /// containerd reset the call, or its client did; then the call is reset in the same way.
    pub(crate) async fn pass(&self, request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
        let answered = if request.uri().path() == PULL_IMAGE {
            self.pull(request).await?
        } else {
            self.upstream
                .send(request.map(Passed::on))
                .await
                .map(|response| response.map(Passed::on))
        };
        match answered {
            Ok(response) => Ok(response),
            Err(Unanswered::Reset(error)) => Err(error),
            Err(error) => {
                let why = in_one_line(&error);
                debug!(why, "a call is answered with UNAVAILABLE");
                Ok(status::unavailable(&format!("magi-gateway: {why}")))
            }
        }
    }

    async fn pull(
        &self,
        request: Request<Incoming>,
    ) -> Result<Result<Response<Body>, Unanswered>, hyper::Error> {
        let (parts, body) = request.into_parts();
        let (body, asked) = read(body).await?;
        let mut watched = asked.and_then(|asked| self.calls.begin(now(), asked));
        if let Some(watched) = &mut watched
            && let Err(refusal) = watched.admitted(self.ask_within).await
        {
            info!(reason = refusal.text, "a pull is refused");
            return Ok(Ok(status::refusal(&refusal)));
        }
        let request = Request::from_parts(parts, body);
        let answered = tokio::select! {
            biased;
            refusal = cancelled(&mut watched) => return Ok(Ok(status::refusal(&refusal))),
            answered = upstream::alone(self.upstream.address(), request) => answered,
        };
        Ok(answered.map(|response| response.map(|body| Passed::on(body).guarded(watched))))
    }
}

async fn cancelled(watched: &mut Option<Watched>) -> magi_node_api::gateway::Refusal {
    match watched {
        Some(watched) => watched.cancelled().await,
        None => std::future::pending().await,
    }
}

/// Reads the one message of a request, if it is not too long, and gives the request whole again.
async fn read(mut body: Incoming) -> Result<(Body, Option<PullRequest>), hyper::Error> {
    let mut pieces = VecDeque::new();
    let mut message = Message::default();
    while !message.is_whole() && message.remaining() <= MAX_MESSAGE && !body.is_end_stream() {
        let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await else {
            break;
        };
        // Trailers of a request, which gRPC does not have, end it.
        let Ok(piece) = frame?.into_data() else { break };
        message.push(piece.clone());
        pieces.push_back(piece);
    }
    Ok((Passed::after(pieces, body), message.pull_request()))
}

fn now() -> Time {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time::from_micros(u64::try_from(now.as_micros()).unwrap_or(u64::MAX))
}
