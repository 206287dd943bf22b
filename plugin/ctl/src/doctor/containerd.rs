//! containerd, asked over its API: who it is, where it keeps things, what it is doing.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use magi_wire::containerd::services::introspection::v1::introspection_client::IntrospectionClient;
use magi_wire::containerd::services::introspection::v1::{Plugin, PluginsRequest};
use magi_wire::containerd::services::leases::v1::ListRequest;
use magi_wire::containerd::services::leases::v1::leases_client::LeasesClient;
use magi_wire::containerd::services::version::v1::version_client::VersionClient;
use magi_wire::runtime::v1::ImageFsInfoRequest;
use magi_wire::runtime::v1::image_service_client::ImageServiceClient;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};

/// Longest wait for one answer.
const WITHIN: Duration = Duration::from_secs(5);
/// The namespace of Kubernetes' pulls.
const NAMESPACE: &str = "k8s.io";
const CONTENT: &str = "io.containerd.content.v1";
const SNAPSHOTTER: &str = "io.containerd.snapshotter.v1";
/// Longest command line that is read.
const LONGEST: usize = 64 << 10;

/// Why containerd's answer is not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    /// Nobody answers.
    #[error("cannot connect to containerd at {}", path.display())]
    Connect {
        path: PathBuf,
        #[source]
        source: tonic::transport::Error,
    },
    /// A call failed.
    #[error("containerd refused {call}")]
    Call {
        call: &'static str,
        #[source]
        source: Box<tonic::Status>,
    },
    /// A call took too long.
    #[error("containerd did not answer {call} within {} s", WITHIN.as_secs())]
    Late { call: &'static str },
}

/// A containerd that answers.
pub(super) struct Containerd {
    pub(super) address: PathBuf,
    pub(super) channel: Channel,
    pub(super) version: String,
    pub(super) pid: u32,
    /// Its content store's folder.
    pub(super) store: Option<String>,
    /// Where CRI keeps unpacked images.
    pub(super) images: Result<String, AskError>,
    /// Snapshotters that work.
    pub(super) snapshotters: Vec<String>,
    /// Leases in [`NAMESPACE`].
    pub(super) leases: Result<usize, AskError>,
}

/// Connects and asks.
pub(super) async fn ask(address: &Path) -> Result<Containerd, AskError> {
    let channel = connect(address).await?;
    let version = call("Version", VersionClient::new(channel.clone()).version(()))
        .await?
        .version;
    let mut introspection = IntrospectionClient::new(channel.clone());
    let pid = call("Introspection.Server", introspection.server(())).await?.pid;
    let filters = [CONTENT, SNAPSHOTTER]
        .map(|kind| format!("type=={kind}"))
        .to_vec();
    let plugins = call(
        "Introspection.Plugins",
        introspection.plugins(PluginsRequest { filters }),
    )
    .await?
    .plugins;
    let working = |kind: &'static str| {
        let works = move |plugin: &&Plugin| plugin.r#type == kind && plugin.init_err.is_none();
        plugins.iter().filter(works)
    };
    let store = working(CONTENT).find_map(|plugin| plugin.exports.get("root").cloned());
    let snapshotters = working(SNAPSHOTTER).map(|plugin| plugin.id.clone()).collect();
    Ok(Containerd {
        address: address.to_owned(),
        version,
        pid: u32::try_from(pid).unwrap_or(0),
        store,
        images: images(channel.clone()).await,
        snapshotters,
        leases: leases(channel.clone()).await,
        channel,
    })
}

async fn connect(address: &Path) -> Result<Channel, AskError> {
    let socket = address.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://containerd.invalid")
        .connect_timeout(WITHIN)
        .connect_with_connector(connector)
        .await
        .map_err(|source| AskError::Connect {
            path: address.to_owned(),
            source,
        })
}

async fn images(channel: Channel) -> Result<String, AskError> {
    let mut client = ImageServiceClient::new(channel);
    let answer = call("ImageFsInfo", client.image_fs_info(ImageFsInfoRequest {})).await?;
    let folder = answer
        .image_filesystems
        .into_iter()
        .find_map(|system| system.fs_id);
    Ok(folder.map(|folder| folder.mountpoint).unwrap_or_default())
}

async fn leases(channel: Channel) -> Result<usize, AskError> {
    let mut request = tonic::Request::new(ListRequest::default());
    let namespace = MetadataValue::from_static(NAMESPACE);
    request.metadata_mut().insert("containerd-namespace", namespace);
    let answer = call("Leases.List", LeasesClient::new(channel).list(request)).await?;
    Ok(answer.leases.len())
}

/// Waits for an answer, but not for ever.
async fn call<T>(
    call: &'static str,
    answer: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, AskError> {
    match timeout(WITHIN, answer).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(AskError::Call {
            call,
            source: Box::new(status),
        }),
        Err(_) => Err(AskError::Late { call }),
    }
}

/// The configuration that a running containerd was started with; `None` if its process cannot be seen from here.
pub(super) fn config_of(pid: u32) -> Option<PathBuf> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let line = line.get(..line.len().min(LONGEST))?;
    let folder = std::fs::read_link(format!("/proc/{pid}/cwd")).ok();
    let named = config_in(line)?;
    let path = named.unwrap_or_else(|| PathBuf::from(magi_install::DEFAULT_CONFIG));
    Some(folder.map_or_else(|| path.clone(), |folder| folder.join(&path)))
}

/// What `--config` or `-c` says in a command line of containerd; `None` if it is of another program.
fn config_in(line: &[u8]) -> Option<Option<PathBuf>> {
    let mut words = line.split(|byte| *byte == 0);
    let program = Path::new(OsStr::from_bytes(words.next()?));
    if !program.file_name()?.as_bytes().starts_with(b"containerd") {
        return None;
    }
    let mut named = None;
    while let Some(word) = words.next() {
        // Go takes one dash or two.
        let Some(option) = word.strip_prefix(b"-") else {
            continue;
        };
        let value = match option.strip_prefix(b"-").unwrap_or(option) {
            b"config" | b"c" => words.next(),
            option => [&b"config="[..], b"c="]
                .iter()
                .find_map(|key| option.strip_prefix(*key)),
        };
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            named = Some(PathBuf::from(OsStr::from_bytes(value)));
        }
    }
    Some(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_the_one_of_the_command_line() {
        for (line, path) in [
            ("/usr/bin/containerd\0", None),
            ("containerd\0--config\0/a/b.toml\0", Some("/a/b.toml")),
            (
                "containerd\0-c\0/a/b.toml\0--log-level\0debug\0",
                Some("/a/b.toml"),
            ),
            (
                "/x/containerd\0--root\0/r\0--config=/a=b.toml\0",
                Some("/a=b.toml"),
            ),
            ("containerd\0-c=rel.toml\0", Some("rel.toml")),
            ("containerd\0config\0dump\0", None),
            ("containerd\0--config\0", None),
        ] {
            assert_eq!(
                config_in(line.as_bytes()),
                Some(path.map(PathBuf::from)),
                "{line:?}"
            );
        }
        assert_eq!(config_in(b"dockerd\0--config\0/x\0"), None);
        assert_eq!(config_in(b""), None);
    }
}
