//! From a TCP connection to a peer whose certificate says who it is, and to the service that it may call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use magi_master_api::bounds::{MAX_ADMIN, MAX_DOWN, MAX_UP};
use magi_master_api::wire::admin_server::AdminServer;
use magi_master_api::wire::nodes_server::NodesServer;
use rustls::pki_types::UnixTime;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response};

use super::Shared;
use super::admin::Operators;
use super::identity::{Peer, over_at};
use super::service::Attendance;
use super::tls::{Current, refusal};
use crate::counters::Count;

/// After a failure to accept, which comes from a lack of descriptors or memory.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);
/// Calls of one connection at a time.
const MAX_CALLS: u32 = 8;
/// Bytes that a peer may send ahead of us.
const WINDOW: u32 = 64 << 10;
/// Bytes of one HTTP/2 frame.
const FRAME: u32 = 16 << 10;
/// Bytes of the headers of a call; those of ours have a few hundred.
const MAX_HEADERS: u32 = 8 << 10;
/// Bytes that wait for a peer that reads slowly, before no more are made.
const SEND_AHEAD: usize = 16 << 10;

/// Who calls, and on which connection.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) peer: Arc<Peer>,
    /// Ends the connection.
    pub(super) connection: CancellationToken,
}

/// Accepts until it is time to stop. Each connection is a task of its own.
pub(super) async fn accept(
    shared: Arc<Shared>,
    listener: TcpListener,
    tls: Current,
    connections: Arc<Semaphore>,
) {
    loop {
        let accepted = tokio::select! {
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let tcp = match accepted {
            Ok((tcp, _)) => tcp,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&connections).try_acquire_owned() else {
            shared.counters.one(Count::RefusedFull);
            continue;
        };
        let acceptor = TlsAcceptor::from(Arc::clone(&tls.borrow()));
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            if let Some(peer) = recognise(&shared, tcp, &acceptor).await {
                // Boxed, so that the handshake's room is not kept for the connection's life.
                Box::pin(converse(shared, peer)).await;
            }
            drop(permit);
        });
    }
}

/// A connection whose other end is known.
struct Recognised {
    stream: Box<TlsStream<TcpStream>>,
    peer: Peer,
    /// How long its certificate is still good.
    good_for: Duration,
}

/// Does the handshake, and finds out who it is.
async fn recognise(shared: &Shared, tcp: TcpStream, acceptor: &TlsAcceptor) -> Option<Recognised> {
    let from = tcp.peer_addr().ok();
    let refuse = |count: Count, why: &dyn std::fmt::Display| {
        shared.counters.one(count);
        // Anybody may knock, and a probe does every few seconds: the counter tells, the log only on request.
        tracing::debug!(?from, %why, "connection refused");
        None
    };
    if let Err(error) = tcp.set_nodelay(true) {
        return refuse(Count::RefusedTls, &error);
    }
    let handshake = Box::pin(acceptor.accept(tcp));
    let stream = match tokio::time::timeout(shared.limits.handshake, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return refuse(refusal(&error), &error),
        Err(_) => return refuse(Count::RefusedSlow, &"the handshake took too long"),
    };
    let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let Some(leaf) = leaf else {
        return refuse(Count::RefusedNoCertificate, &"no certificate");
    };
    let good_for = over_at(leaf).map_or(Duration::MAX, |over| {
        Duration::from_secs(over.as_secs().saturating_sub(UnixTime::now().as_secs()))
    });
    match Peer::of(leaf) {
        Ok(peer) => {
            shared.counters.one(Count::Accepted);
            Some(Recognised {
                stream: Box::new(stream),
                peer,
                good_for,
            })
        }
        Err(error) => refuse(Count::RefusedNameless, &error),
    }
}

/// Serves the calls of one connection.
async fn converse(shared: Arc<Shared>, recognised: Recognised) {
    let Recognised {
        stream,
        peer,
        good_for,
    } = recognised;
    // It ends with the master; so nobody else here has to wait for that, which thousands would do at one place.
    let connection = shared.stop.child_token();
    let _ended = connection.clone().drop_guard();
    let called = Arc::new(AtomicBool::new(false));
    let caller = Caller {
        peer: Arc::new(peer),
        connection: connection.clone(),
    };
    let service = {
        let (shared, called) = (Arc::clone(&shared), Arc::clone(&called));
        hyper::service::service_fn(move |request| {
            called.store(true, Ordering::Relaxed);
            route(Arc::clone(&shared), caller.clone(), request)
        })
    };
    let serving = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_CALLS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_frame_size(FRAME)
        .max_header_list_size(MAX_HEADERS)
        .max_send_buf_size(SEND_AHEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let silent = tokio::time::sleep(shared.limits.handshake);
    tokio::pin!(silent);
    let mut is_waiting = true;
    let over = tokio::time::sleep(good_for);
    tokio::pin!(over);
    loop {
        tokio::select! {
            // A peer that breaks off is no news.
            _ = serving.as_mut() => return,
            () = connection.cancelled() => break,
            () = over.as_mut() => {
                shared.counters.one(Count::CertificateOver);
                connection.cancel();
                break;
            }
            () = silent.as_mut(), if is_waiting => {
                is_waiting = false;
                if !called.load(Ordering::Relaxed) {
                    shared.counters.one(Count::RefusedSilent);
                    break;
                }
            }
        }
    }
    serving.as_mut().graceful_shutdown();
    // What is to be said last has this long; after that the connection is dropped as it is.
    drop(tokio::time::timeout(shared.limits.goodbye, serving).await);
}

/// Nodes may attend, operators may ask and set, and neither may do the other's.
async fn route(
    shared: Arc<Shared>,
    caller: Caller,
    mut request: Request<Incoming>,
) -> Result<Response<tonic::body::Body>, std::convert::Infallible> {
    let counters = Arc::clone(&shared.counters);
    let service = request.uri().path().split('/').nth(1).unwrap_or_default();
    let is_node = matches!(*caller.peer, Peer::Node(_));
    match (service, is_node) {
        (magi_master_api::wire::nodes_server::SERVICE_NAME, true) => {
            request.extensions_mut().insert(caller);
            NodesServer::new(Attendance { shared })
                .max_decoding_message_size(MAX_UP)
                .max_encoding_message_size(MAX_DOWN)
                .call(request)
                .await
        }
        (magi_master_api::wire::admin_server::SERVICE_NAME, false) => {
            request.extensions_mut().insert(caller);
            AdminServer::new(Operators { shared })
                .max_decoding_message_size(MAX_ADMIN)
                .call(request)
                .await
        }
        _ => {
            counters.one(Count::RefusedRole);
            let why = format!("{} may not call {service}", caller.peer);
            tracing::warn!(why, "call refused");
            Ok(tonic::Status::permission_denied(why).into_http())
        }
    }
}
