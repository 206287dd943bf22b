//! Finds out which containerd answers: process, version, folders. All through its API, never by a fixed path.

use std::path::{Path, PathBuf};

use magi_wire::containerd::services::introspection::v1::PluginsRequest;

use crate::containerd::{Api, ApiError, bounded};

/// The content store's plugin, whose export `root` is its folder.
const CONTENT_PLUGIN: (&str, &str) = ("io.containerd.content.v1", "content");

/// The containerd that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attached {
    pub(crate) version: String,
    pub(crate) pid: u32,
    pub(crate) content_root: PathBuf,
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
    let filters = vec![format!("type=={},id=={}", CONTENT_PLUGIN.0, CONTENT_PLUGIN.1)];
    let plugins = api
        .introspection()
        .plugins(bounded(PluginsRequest { filters }))
        .await
        .map_err(ApiError::call("Introspection.Plugins"))?
        .into_inner()
        .plugins;
    let root = plugins.into_iter().find_map(|mut plugin| {
        let ours = plugin.r#type == CONTENT_PLUGIN.0 && plugin.id == CONTENT_PLUGIN.1;
        ours.then(|| plugin.exports.remove("root")).flatten()
    });
    let content_root = PathBuf::from(root.ok_or(ApiError::Incomplete {
        call: "Introspection.Plugins",
        what: "the content store's root",
    })?);
    Ok((
        api,
        Attached {
            version,
            pid,
            content_root,
        },
    ))
}
