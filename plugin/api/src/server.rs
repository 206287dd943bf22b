//! The node's end: accepts, bounds, answers one line with one line.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::codec::{Framed, LinesCodec, LinesCodecError};

use crate::bind::ControlSocket;
use crate::gateway::Talk;
use crate::line::{MAX_REQUEST, read_request, write_answer};
use crate::reply::{ErrorCode, Refusal, Reply};
use crate::request::{Peer, Request};

/// Accepts that may fail in a row before the socket counts as broken.
const ACCEPT_FAILURES: u32 = 100;

/// Pause after a failed accept: descriptors may become free again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a refusal of a whole connection may take to write.
const REFUSAL_PATIENCE: Duration = Duration::from_millis(100);

/// What answers requests. Every `Fn(Request, Peer) -> impl Future<Output = Result<Reply, Refusal>>` is one.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. Dropped unfinished if its connection or the server ends.
    fn handle(&self, request: Request, peer: Peer) -> impl Future<Output = Result<Reply, Refusal>> + Send;

    /// Holds a conversation with magi-gateway, until either hangs up. Without this there is none.
    fn gateway(&self, talk: Talk, peer: Peer) -> impl Future<Output = ()> + Send {
        drop(talk);
        async move {
            let _nobody_talks = peer;
        }
    }
}

impl<F, A> Handler for F
where
    F: Fn(Request, Peer) -> A + Send + Sync + 'static,
    A: Future<Output = Result<Reply, Refusal>> + Send,
{
    fn handle(&self, request: Request, peer: Peer) -> impl Future<Output = Result<Reply, Refusal>> + Send {
        self(request, peer)
    }
}

/// How much the server bears.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once; one more gets [`ErrorCode::Busy`].
    pub connections: usize,
    /// From one answer to the next complete request, and for writing an answer; then the connection is closed.
    pub idle: Duration,
    /// For the handler; then the asker gets [`ErrorCode::Late`].
    pub answer: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            idle: Duration::from_secs(60),
            answer: Duration::from_secs(120),
        }
    }
}

/// Why the server ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener cannot be used by this runtime.
    #[error("cannot watch the control socket")]
    Watch(#[source] io::Error),
    /// Accepting failed again and again.
    #[error("cannot accept on the control socket")]
    Accept(#[source] io::Error),
}

/// Serves until it is dropped; then every connection is closed and the socket's file removed.
///
/// # Errors
/// The socket is broken beyond waiting.
pub async fn serve(
    socket: ControlSocket,
    handler: impl Handler,
    limits: Limits,
) -> Result<Infallible, ServeError> {
    let (listener, _place) = socket.split();
    let listener = UnixListener::from_std(listener).map_err(ServeError::Watch)?;
    let handler = Arc::new(handler);
    let mut connections = JoinSet::new();
    let mut failures = 0;
    loop {
        tokio::select! {
            Some(_ended) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    failures = 0;
                    match admit(&stream, connections.len(), limits) {
                        Ok(peer) => {
                            connections.spawn(converse(stream, peer, Arc::clone(&handler), limits));
                        }
                        Err(refusal) => refuse(stream, refusal).await,
                    }
                }
                Err(error) => {
                    failures += 1;
                    if failures == ACCEPT_FAILURES {
                        return Err(ServeError::Accept(error));
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

/// Decides whether a connection is heard at all.
fn admit(stream: &UnixStream, open: usize, limits: Limits) -> Result<Peer, Refusal> {
    let credentials = stream.peer_cred().map_err(|error| {
        Refusal::new(
            ErrorCode::Forbidden,
            format!("the kernel does not say who asks: {error}"),
        )
    })?;
    let peer = Peer {
        uid: credentials.uid(),
        pid: credentials.pid(),
    };
    if peer.uid != 0 && peer.uid != rustix::process::geteuid().as_raw() {
        return Err(Refusal::new(
            ErrorCode::Forbidden,
            format!("only root may ask, not {peer}"),
        ));
    }
    if open >= limits.connections {
        let message = format!("{open} connections are open already, one of them must end first");
        return Err(Refusal::new(ErrorCode::Busy, message));
    }
    Ok(peer)
}

/// Says why not and hangs up. The buffer of a new socket takes the line at once.
async fn refuse(stream: UnixStream, refusal: Refusal) {
    if let Ok(line) = write_answer(&Err(refusal)) {
        let mut lines = Framed::new(stream, LinesCodec::new());
        let _asker_may_be_gone = timeout(REFUSAL_PATIENCE, lines.send(line)).await;
    }
}

/// One connection, until the asker hangs up, is silent for too long, or breaks the framing.
async fn converse<H: Handler>(stream: UnixStream, peer: Peer, handler: Arc<H>, limits: Limits) {
    let mut lines = Framed::new(stream, LinesCodec::new_with_max_length(MAX_REQUEST));
    while let Ok(Some(line)) = timeout(limits.idle, lines.next()).await {
        let framing_holds = line.is_ok();
        let result = match line {
            Ok(line) => match read_request(&line).map(|ask| ask.from_peer(peer)) {
                Ok(Request::Gateway) => return handler.gateway(Talk::on(lines), peer).await,
                Ok(request) => answer(request, peer, handler.as_ref(), limits).await,
                Err(refusal) => Err(refusal),
            },
            Err(LinesCodecError::MaxLineLengthExceeded) => Err(Refusal::new(
                ErrorCode::RequestTooLong,
                format!("the request has more than {MAX_REQUEST} bytes"),
            )),
            Err(LinesCodecError::Io(error)) => Err(Refusal::new(ErrorCode::Malformed, error.to_string())),
        };
        let Ok(line) = write_answer(&result) else { return };
        if !matches!(timeout(limits.idle, lines.send(line)).await, Ok(Ok(()))) || !framing_holds {
            return;
        }
    }
}

async fn answer<H: Handler>(
    request: Request,
    peer: Peer,
    handler: &H,
    limits: Limits,
) -> Result<Reply, Refusal> {
    timeout(limits.answer, handler.handle(request, peer))
        .await
        .unwrap_or_else(|_| {
            let message = format!(
                "no answer within {} s; what was asked for may still happen",
                limits.answer.as_secs()
            );
            Err(Refusal::new(ErrorCode::Late, message))
        })
}
