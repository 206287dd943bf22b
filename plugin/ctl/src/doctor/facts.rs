//! What the checks are made of, gathered once: settings, the running magi-node, the running containerd and its files.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use magi_config::Settings;
use magi_install::{Effective, Place, Version};
use magi_node_api::{Client, ClientError, NodeStatus, Patience};

use tokio::time::sleep;

use super::check::causes;
use super::containerd::{self, Containerd};
use crate::args::DoctorArgs;
use crate::output::{Exit, Failure};

/// A node that does not answer a status in this time does not answer a verifier in time either.
const PATIENCE: Patience = Patience {
    connect: Duration::from_secs(2),
    answer: Duration::from_secs(5),
};

/// By then a node has what it will have.
const SETTLED: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(100);

/// All that is known before any check.
pub(super) struct Facts {
    /// magi-node's, or the defaults.
    pub(super) settings: Settings,
    /// Whether `settings` were read from a file.
    pub(super) settings_given: bool,
    /// Where magi-node is asked.
    pub(super) socket: PathBuf,
    pub(super) node: Result<Node, ClientError>,
    pub(super) containerd: Result<Containerd, containerd::AskError>,
    pub(super) config: Result<Config, String>,
}

/// A magi-node that answers.
pub(super) struct Node {
    pub(super) status: NodeStatus,
    pub(super) pid: Option<u32>,
    /// How many pods it knows.
    pub(super) pods: Option<usize>,
}

/// containerd's configuration.
pub(super) struct Config {
    pub(super) path: PathBuf,
    /// Whether the file exists; without it containerd's defaults hold.
    pub(super) exists: bool,
    /// The version that the file says it is written in.
    pub(super) written: Option<i64>,
    /// Of containerd.
    pub(super) version: Version,
    pub(super) effective: Effective,
}

impl Config {
    /// The command that registers magi with this containerd.
    pub(super) fn install(&self) -> String {
        if self.path == Path::new(magi_install::DEFAULT_CONFIG) {
            "magictl install containerd".to_owned()
        } else {
            format!("magictl install containerd --config {}", self.path.display())
        }
    }
}

impl Facts {
    /// Asks everybody.
    pub(super) async fn gather(socket: &Path, args: &DoctorArgs) -> Result<Self, Failure> {
        let settings = match &args.settings {
            Some(path) => magi_config::load_settings(path)
                .map_err(|error| Failure::new(Exit::Usage, error.to_string()))?,
            None => Settings::default(),
        };
        let settings_given = args.settings.is_some();
        let is_default = socket == Path::new(magi_node_api::DEFAULT_SOCKET);
        let socket = if settings_given && is_default {
            settings.control.socket.clone()
        } else {
            socket.to_owned()
        };
        let node = node(&socket).await;
        let address = match &node {
            Ok(node) if !settings_given => PathBuf::from(&node.status.containerd.address),
            Ok(_) | Err(_) => settings.containerd.address.clone(),
        };
        let containerd = containerd::ask(&address).await;
        let config = config(containerd.as_ref().ok(), args.containerd_config.as_deref());
        Ok(Self {
            settings,
            settings_given,
            socket,
            node,
            containerd,
            config,
        })
    }

    /// The status, or why a check that needs it is skipped.
    pub(super) fn status(&self) -> Result<&NodeStatus, &'static str> {
        self.node
            .as_ref()
            .map(|node| &node.status)
            .map_err(|_| "magi-node cannot be asked")
    }

    /// Which containerd it is, if that is known and supported.
    pub(super) fn version(&self) -> Option<Version> {
        let containerd = self.containerd.as_ref().ok()?;
        Version::from_str(&containerd.version).ok()
    }
}

async fn node(socket: &Path) -> Result<Node, ClientError> {
    let mut client = Client::connect(socket, PATIENCE).await?;
    let pid = client.node_pid();
    let mut status = client.status().await?;
    // A node that has just begun loads its probes, and registers; what is not there yet is no failure.
    while status.sources.iter().any(|source| !source.up) && status.now.since(status.started) < SETTLED {
        sleep(STEP).await;
        status = client.status().await?;
    }
    // A node that answers the one and not the other is no less reachable.
    let pods = client.pods().await.ok().and_then(|(_, pods)| pods);
    Ok(Node {
        status,
        pid,
        pods: pods.map(|pods| pods.len()),
    })
}

fn config(containerd: Option<&Containerd>, given: Option<&Path>) -> Result<Config, String> {
    let containerd = containerd.ok_or("containerd cannot be asked")?;
    let version = Version::from_str(&containerd.version).map_err(|error| error.to_string())?;
    let path = match given {
        Some(path) => path.to_owned(),
        None => containerd::config_of(containerd.pid).ok_or_else(|| {
            format!(
                "process {} is not visible from here, so it is not known which file containerd was started with",
                containerd.pid
            )
        })?,
    };
    let effective =
        magi_install::effective(&Place::new("/"), &path, version).map_err(|error| causes(&error))?;
    // It was read and understood a moment ago; a file that is gone now says nothing.
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let table = text.parse::<toml::Table>().unwrap_or_default();
    Ok(Config {
        exists: path.exists(),
        written: table.get("version").and_then(toml::Value::as_integer),
        path,
        version,
        effective,
    })
}
