//! The kubelet's end: connections are taken until the gateway is told to stop, and their calls are finished then.

use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::bounds::{
    ACCEPT_FAILURES, ACCEPT_PAUSE, CONNECTION_WINDOW, MAX_CONNECTIONS, MAX_HEADERS, MAX_STREAMS,
    STREAM_WINDOW,
};
use crate::calls::Calls;
use crate::link::in_one_line;
use crate::listen::Listening;
use crate::pass::Passing;
use crate::upstream::Upstream;

/// Why the gateway ends without being told to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// The listener cannot be used by this runtime.
    #[error("cannot watch the socket")]
    Watch(#[source] io::Error),
    /// Accepting failed again and again.
    #[error("cannot accept on the socket")]
    Accept(#[source] io::Error),
}

/// How to serve.
#[derive(Clone, Debug)]
pub(crate) struct Serving {
    pub(crate) containerd: Arc<PathBuf>,
    pub(crate) calls: Calls,
    pub(crate) ask_within: Duration,
    pub(crate) drain: Duration,
}

impl Serving {
    /// Serves until `stop` comes to its end, and then until every call is over, but not for long.
    pub(crate) async fn run(
        self,
        listening: Listening,
        stop: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        let listener = listening.listener().try_clone().map_err(ServeError::Watch)?;
        let listener = UnixListener::from_std(listener).map_err(ServeError::Watch)?;
        let (stopping, stopped) = watch::channel(false);
        let mut connections = JoinSet::new();
        let mut stop = pin!(stop);
        let mut failures = 0;
        loop {
            let has_room = connections.len() < MAX_CONNECTIONS;
            tokio::select! {
                () = &mut stop => break,
                Some(_ended) = connections.join_next() => {}
                accepted = listener.accept(), if has_room => match accepted {
                    Ok((stream, _)) => {
                        failures = 0;
                        connections.spawn(self.clone().converse(stream, stopped.clone()));
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
        // Whoever connects now is the next process's: it waits in systemd's socket, or finds the new one in its place.
        for stream in listening.last() {
            connections.spawn(self.clone().converse(stream, stopped.clone()));
        }
        drop(listener);
        info!(
            pulls = self.calls.len(),
            "stops, as soon as the calls in flight are over"
        );
        stopping.send_replace(true);
        let all_over = async { while connections.join_next().await.is_some() {} };
        if timeout(self.drain, all_over).await.is_err() {
            warn!(
                pulls = self.calls.len(),
                "calls are cut off, as their time is over"
            );
        }
        Ok(())
    }

    async fn converse(self, stream: UnixStream, mut stopped: watch::Receiver<bool>) {
        let passing = Arc::new(Passing {
            upstream: Upstream::new(self.containerd),
            calls: self.calls,
            ask_within: self.ask_within,
        });
        let service = service_fn(move |request| {
            let passing = Arc::clone(&passing);
            async move { passing.pass(request).await }
        });
        let connection = http2::Builder::new(TokioExecutor::new())
            .auto_date_header(false)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEADERS)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = async { drop(stopped.wait_for(|stopped| *stopped).await) } => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            debug!(error = in_one_line(&error), "a connection broke");
        }
    }
}
