//! A gRPC channel over a unix socket, which connects on first use and again after a restart of the server.

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

/// The largest answer accepted: a manifest with ten thousand layers makes long lists.
pub const MAX_MESSAGE: usize = 64 << 20;

/// A lazy channel to the socket at `path`. Must be called within a tokio runtime.
pub fn unix(path: &Path) -> Channel {
    let path: PathBuf = path.to_owned();
    // The host part only fills the :authority header; containerd ignores it.
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    }))
}
