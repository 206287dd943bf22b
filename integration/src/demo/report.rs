//! What a run of the demo measured, as `target/demo/report.json` says it.
//!
//! Every figure is taken from outside of magi: from the registry's count of bytes, containerd's API, and what
//! `PullImage` returned. The keys are a promise to whoever reads the file.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The whole file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// One for each containerd, in the order in which they ran.
    pub runs: Vec<Run>,
}

/// What happened on one containerd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Its version, as its API says.
    pub containerd: String,
    /// In the order in which they ran.
    pub scenarios: Vec<Scenario>,
}

/// One pull and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Which it is.
    pub name: Name,
    /// How the pull ended.
    pub outcome: Outcome,
    /// What `PullImage` returned as its error; empty if it completed.
    pub pull_error: String,
    /// Bytes of layers of this image that the registry handed to its sockets: an upper bound of what containerd got.
    pub received_layer_bytes: u64,
    /// Milliseconds, rounded up, from the registry's first layer byte to the return of `PullImage`. 0 for a pull that
    /// completed, and for one that was stopped before the first layer byte.
    pub abort_ms: u64,
    /// What containerd still held of the pull afterwards. For `healthy`: after its image was removed again.
    pub left_behind: LeftBehind,
    /// Connections to the registry that carried a layer of this image and that containerd's side cut before the layer's
    /// end: the one that magi closed, and those that containerd then gave up itself.
    pub sockets_closed: u64,
    /// Healthy pulls beside it that failed, or came out with another digest. For `healthy`: 1 if it did itself.
    pub collateral: u64,
}

/// The pulls of the demo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Name {
    /// An image that declares far more than the policy allows.
    Oversize,
    /// The good image that is pulled beside it.
    Healthy,
    /// A layer that never ends under a small declared size.
    Lying,
    /// Another oversize image, for the same magi-node.
    Again,
}

impl Name {
    /// All of them, in the order in which they run.
    pub const ALL: [Self; 4] = [Self::Oversize, Self::Healthy, Self::Lying, Self::Again];
}

impl fmt::Display for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Oversize => "oversize",
            Self::Healthy => "healthy",
            Self::Lying => "lying",
            Self::Again => "again",
        })
    }
}

/// How a pull ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// `PullImage` returned an error.
    Aborted,
    /// `PullImage` returned an image.
    Completed,
    /// It returned nothing in time, and the demo cancelled it. Only in the report of a demo that failed.
    NotStopped,
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Aborted => "aborted",
            Self::Completed => "completed",
            Self::NotStopped => "not-stopped",
        })
    }
}

/// Things in containerd that should be gone, by its API.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeftBehind {
    /// Blobs being written.
    pub ingests: usize,
    /// Leases of pulls in flight.
    pub leases: usize,
    /// Snapshots, of an unpack in flight or committed.
    pub snapshots: usize,
    /// Blobs in the content store.
    pub blobs: usize,
}

impl LeftBehind {
    /// Whether nothing is.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl Report {
    /// Writes the file, making its folder, in one step: a reader never sees half of it.
    pub fn write(&self, path: &Path) -> Result<()> {
        let folder = path.parent().context("a report needs a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        let mut text = serde_json::to_string_pretty(self).context("encode the report")?;
        text.push('\n');
        let draft = path.with_extension("json.new");
        fs::write(&draft, text).with_context(|| format!("write {}", draft.display()))?;
        fs::rename(&draft, path).with_context(|| format!("put {} in place", path.display()))
    }
}
