//! containerd's end: connections to its socket, and what their failures mean to the caller.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tokio::sync::Mutex;

use crate::body::Passed;
use crate::bounds::{CONNECTION_WINDOW, MAX_HEADERS, STREAM_WINDOW};
use crate::calls::Watched;

/// A body as this program sends it.
pub(crate) type Body = Passed<Watched>;

type Sender = http2::SendRequest<Body>;

/// Why containerd did not answer a call.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswered {
    /// Nobody listens there.
    #[error("cannot connect to containerd at {}", address.display())]
    Connect {
        /// Its socket.
        address: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It does not speak HTTP/2.
    #[error("cannot begin to speak with containerd")]
    Handshake(#[source] hyper::Error),
    /// The connection broke while the call was on its way.
    #[error("the connection to containerd broke")]
    Broken(#[source] hyper::Error),
    /// containerd ended this one call without a status.
    #[error("containerd reset the call")]
    Reset(#[source] hyper::Error),
}

/// Sends one call on a connection of its own, which ends with it.
pub(crate) async fn alone(
    address: &Arc<PathBuf>,
    request: Request<Body>,
) -> Result<Response<Incoming>, Unanswered> {
    let mut sender = dial(address).await?;
    sender.send_request(request).await.map_err(broken)
}

/// The connection that belongs to one of the client's: made when it is first needed, and again when it broke.
#[derive(Debug)]
pub(crate) struct Upstream {
    address: Arc<PathBuf>,
    sender: Mutex<Option<Sender>>,
}

impl Upstream {
    pub(crate) fn new(address: Arc<PathBuf>) -> Self {
        Self {
            address,
            sender: Mutex::new(None),
        }
    }

    pub(crate) fn address(&self) -> &Arc<PathBuf> {
        &self.address
    }

    /// Sends one call.
    pub(crate) async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, Unanswered> {
        let sent = self.sender().await?.try_send_request(request).await;
        let mut failed = match sent {
            Ok(response) => return Ok(response),
            Err(failed) => failed,
        };
        // Not a byte of it was sent: containerd closed the connection before, as it does when it stops.
        let Some(request) = failed.take_message() else {
            return Err(broken(failed.into_error()));
        };
        self.sender().await?.send_request(request).await.map_err(broken)
    }

    async fn sender(&self) -> Result<Sender, Unanswered> {
        let mut held = self.sender.lock().await;
        if let Some(sender) = held.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let sender = dial(&self.address).await?;
        Ok(held.insert(sender).clone())
    }
}

async fn dial(address: &Arc<PathBuf>) -> Result<Sender, Unanswered> {
    let stream = UnixStream::connect(address.as_path())
        .await
        .map_err(|source| Unanswered::Connect {
            address: address.as_path().to_owned(),
            source,
        })?;
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADERS)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(Unanswered::Handshake)?;
    // It ends when its last sender and its last call are gone; what broke it, the calls on it hear.
    tokio::spawn(async move {
        let _calls_hear = connection.await;
    });
    Ok(sender)
}

fn broken(error: hyper::Error) -> Unanswered {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(&error);
    while let Some(one) = cause {
        if one.downcast_ref::<h2::Error>().is_some_and(h2::Error::is_reset) {
            return Unanswered::Reset(error);
        }
        cause = one.source();
    }
    Unanswered::Broken(error)
}
