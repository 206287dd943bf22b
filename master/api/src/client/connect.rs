//! From a name and certificates to a stream on which the master has greeted.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint, Uri};

use super::{ClientError, NodeClient};
use crate::bounds::{MAX_ADMIN, MAX_DOWN, MAX_UP};
use crate::message::{Down, Hello, Up, Welcome};
use crate::tls::{Material, TlsError, TlsFiles};
use crate::wire;
use crate::wire::admin_client::AdminClient;
use crate::wire::nodes_client::NodesClient;

/// From the first packet to the greeting.
const GREETED_WITHIN: Duration = Duration::from_secs(10);
/// Messages that wait for the stream; whatever else is to be said waits in the keep.
const UP_WAITING: usize = 2;
/// Bytes that the master may send ahead of us on the stream.
const WINDOW: u32 = 64 << 10;

/// A stream on which the master has greeted.
pub(super) struct Link {
    pub(super) welcome: Welcome,
    pub(super) up: mpsc::Sender<wire::Up>,
    pub(super) down: Streaming<wire::Down>,
}

pub(super) async fn connect(config: NodeClient, hello: Hello) -> Result<Link, ClientError> {
    let master = config.master.clone();
    match tokio::time::timeout(GREETED_WITHIN, greeted(config, hello)).await {
        Ok(result) => result,
        Err(_) => Err(ClientError::Slow {
            master,
            within: GREETED_WITHIN,
        }),
    }
}

async fn greeted(config: NodeClient, hello: Hello) -> Result<Link, ClientError> {
    let channel = channel(&config.master, &config.server_name, &config.tls).await?;
    let mut client = NodesClient::new(channel)
        .max_decoding_message_size(MAX_DOWN)
        .max_encoding_message_size(MAX_UP);
    let (up, queue) = mpsc::channel(UP_WAITING);
    let requests = stream::unfold(queue, |mut queue: mpsc::Receiver<wire::Up>| async move {
        queue.recv().await.map(|message| (message, queue))
    });
    up.send(Up::Hello(hello).into())
        .await
        .map_err(|_| ClientError::Closed)?;
    let ended = |status| ClientError::Ended(Box::new(status));
    let mut down = client.attend(requests).await.map_err(ended)?.into_inner();
    let first = down.message().await.map_err(ended)?.ok_or(ClientError::Closed)?;
    match Down::try_from(first) {
        Ok(Down::Welcome(welcome)) => Ok(Link { welcome, up, down }),
        Ok(_) | Err(_) => Err(ClientError::NoWelcome),
    }
}

/// One connection to `master` (host and port), whose certificate must be for `server_name`. It is not made again by
/// itself.
///
/// # Errors
/// The certificates cannot be used, or the master cannot be reached or is another. That it takes ours shows with the
/// first call.
pub async fn channel(master: &str, server_name: &str, tls: &TlsFiles) -> Result<Channel, ClientError> {
    let files = tls.clone();
    let tls =
        tokio::task::spawn_blocking(move || Material::read(&files).and_then(|material| material.client()))
            .await
            .map_err(|_| ClientError::Closed)?
            .map_err(|error: TlsError| ClientError::Tls(error))?;
    let bad_name = || ClientError::ServerName {
        name: server_name.to_owned(),
    };
    let name = ServerName::try_from(server_name.to_owned()).map_err(|_| bad_name())?;
    let tls = TlsConnector::from(Arc::new(tls));
    let address = master.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let (tls, name, address) = (tls.clone(), name.clone(), address.clone());
        async move {
            let tcp = TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            Ok::<_, std::io::Error>(TokioIo::new(tls.connect(name, tcp).await?))
        }
    });
    // The name stands in no address; whom we speak to is settled by TLS.
    Endpoint::from_static("http://master")
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .connect_with_connector(connector)
        .await
        .map_err(|source| ClientError::Connect {
            master: master.to_owned(),
            source,
        })
}

/// Connects an operator.
///
/// # Errors
/// As [`channel`].
pub async fn operator(
    master: &str,
    server_name: &str,
    tls: &TlsFiles,
) -> Result<AdminClient<Channel>, ClientError> {
    let channel = channel(master, server_name, tls).await?;
    Ok(AdminClient::new(channel).max_decoding_message_size(MAX_ADMIN))
}
