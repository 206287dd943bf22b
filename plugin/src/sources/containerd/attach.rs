//! Finds out which containerd answers: process, version, folders. All through its API, never by a fixed path.

use std::path::{Path, PathBuf};

use magi_wire::containerd::services::introspection::v1::PluginsRequest;

use crate::containerd::{Api, ApiError, bounded};

/// The content store's plugin, whose export `root` is its folder.
const CONTENT_PLUGIN: (&str, &str) = ("io.containerd.content.v1", "content");

/// The snapshotter that containerd has by default, with the same export.
const SNAPSHOT_PLUGIN: (&str, &str) = ("io.containerd.snapshotter.v1", "overlayfs");

/// The containerd that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attached {
    pub(crate) version: String,
    pub(crate) pid: u32,
    pub(crate) content_root: PathBuf,
    /// Where layers are unpacked to; none, if that is another snapshotter's.
    pub(crate) snapshot_root: Option<PathBuf>,
}

/// Connects and asks.
pub(crate) async fn attach(address: &Path) -> Result<(Api, Attached), ApiError> {
    let api = Api::connect(address).await?;
    let version = api
        .version()
        .version(bounded(()))
        .await
        .map_err(ApiError::call("Version"))?
        .into_inner()
        .version;
    let server = api
        .introspection()
        .server(bounded(()))
        .await
        .map_err(ApiError::call("Introspection.Server"))?;
    let pid = u32::try_from(server.into_inner().pid)
        .ok()
        .filter(|pid| *pid != 0);
    let pid = pid.ok_or(ApiError::Incomplete {
        call: "Introspection.Server",
        what: "a process id",
    })?;
    let filter = |(kind, id): (&str, &str)| format!("type=={kind},id=={id}");
    let filters = vec![filter(CONTENT_PLUGIN), filter(SNAPSHOT_PLUGIN)];
    let mut plugins = api
        .introspection()
        .plugins(bounded(PluginsRequest { filters }))
        .await
        .map_err(ApiError::call("Introspection.Plugins"))?
        .into_inner()
        .plugins;
    let mut root_of = |(kind, id)| {
        let its = plugins
            .iter_mut()
            .find(|plugin| plugin.r#type == kind && plugin.id == id);
        its.and_then(|plugin| plugin.exports.remove("root"))
    };
    let snapshot_root = root_of(SNAPSHOT_PLUGIN).map(PathBuf::from);
    let content_root = PathBuf::from(root_of(CONTENT_PLUGIN).ok_or(ApiError::Incomplete {
        call: "Introspection.Plugins",
        what: "the content store's root",
    })?);
    Ok((
        api,
        Attached {
            version,
            pid,
            content_root,
            snapshot_root,
        },
    ))
}
