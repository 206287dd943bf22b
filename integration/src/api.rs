//! What containerd holds, seen from outside through its API: proof that a stopped pull left nothing.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use magi_wire::containerd::services::content::v1 as content;
use magi_wire::containerd::services::images::v1 as images;
use magi_wire::containerd::services::leases::v1 as leases;
use magi_wire::containerd::services::snapshots::v1 as snapshots;
use magi_wire::containerd::services::version::v1::version_client::VersionClient;
use tonic::transport::Channel;
use tonic::{IntoRequest, Request};

use crate::channel::{self, MAX_MESSAGE};

/// The namespace in which CRI works.
pub const NAMESPACE: &str = "k8s.io";
const SNAPSHOTTER: &str = "overlayfs";

/// How many things of each kind exist in [`NAMESPACE`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Leases: one per pull in flight.
    pub leases: usize,
    /// Ingests: one per blob being written.
    pub ingests: usize,
    /// Snapshots of all kinds.
    pub snapshots: usize,
    /// Of these, the ones of an unpack in flight (`extract-…`).
    pub extract_snapshots: usize,
    /// Committed blobs.
    pub blobs: usize,
    /// Image records.
    pub images: usize,
}

impl Counts {
    /// What is there beyond `baseline`, kind by kind.
    #[must_use]
    pub fn beyond(&self, baseline: &Self) -> Self {
        Self {
            leases: self.leases.saturating_sub(baseline.leases),
            ingests: self.ingests.saturating_sub(baseline.ingests),
            snapshots: self.snapshots.saturating_sub(baseline.snapshots),
            extract_snapshots: self.extract_snapshots.saturating_sub(baseline.extract_snapshots),
            blobs: self.blobs.saturating_sub(baseline.blobs),
            images: self.images.saturating_sub(baseline.images),
        }
    }
}

/// An ingest: a blob being written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ingest {
    /// Its key, such as `layer-sha256:…`.
    pub reference: String,
    /// Bytes written so far.
    pub offset: u64,
    /// Bytes that the manifest declares; 0 if unknown.
    pub total: u64,
    /// When it began.
    pub started: Option<SystemTime>,
}

/// A client of one containerd. Cheap to clone; clones share a connection.
#[derive(Debug, Clone)]
pub struct Api {
    channel: Channel,
}

impl Api {
    /// A client for the socket at `address`; connects on first use. Must be called within a tokio runtime.
    pub fn connect(address: &Path) -> Self {
        Self {
            channel: channel::unix(address),
        }
    }

    /// The channel itself, for calls that this module does not offer. Wrap requests with [`in_namespace`].
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// containerd's version.
    pub async fn version(&self) -> Result<String> {
        let answer = VersionClient::new(self.channel())
            .version(())
            .await
            .context("Version")?;
        Ok(answer.into_inner().version)
    }

    /// Ids of all leases.
    pub async fn leases(&self) -> Result<Vec<String>> {
        let mut client = leases::leases_client::LeasesClient::new(self.channel());
        let answer = client
            .list(in_namespace(leases::ListRequest::default()))
            .await
            .context("list leases")?;
        Ok(answer
            .into_inner()
            .leases
            .into_iter()
            .map(|lease| lease.id)
            .collect())
    }

    /// Deletes a lease, and what it held before the call returns.
    pub async fn delete_lease(&self, id: &str) -> Result<()> {
        let mut client = leases::leases_client::LeasesClient::new(self.channel());
        let request = leases::DeleteRequest {
            id: id.to_owned(),
            sync: true,
        };
        client
            .delete(in_namespace(request))
            .await
            .with_context(|| format!("delete lease {id}"))?;
        Ok(())
    }

    /// Makes containerd collect its garbage now. Returns when it is gone.
    ///
    /// It does so by itself after a pull, but what a cancelled pull wrote after that collection stays until the next one.
    pub async fn collect(&self) -> Result<()> {
        let mut client = leases::leases_client::LeasesClient::new(self.channel());
        let id = format!("magi-collect-{}", std::process::id());
        let request = leases::CreateRequest {
            id: id.clone(),
            ..Default::default()
        };
        client
            .create(in_namespace(request))
            .await
            .context("create a lease")?;
        self.delete_lease(&id).await
    }

    /// All ingests.
    pub async fn ingests(&self) -> Result<Vec<Ingest>> {
        let mut client = content::content_client::ContentClient::new(self.channel());
        let answer = client
            .list_statuses(in_namespace(content::ListStatusesRequest::default()))
            .await
            .context("list ingests")?;
        let mut ingests: Vec<Ingest> = answer
            .into_inner()
            .statuses
            .into_iter()
            .map(|status| Ingest {
                reference: status.r#ref,
                offset: u64::try_from(status.offset).unwrap_or(0),
                total: u64::try_from(status.total).unwrap_or(0),
                started: status.started_at.and_then(|at| SystemTime::try_from(at).ok()),
            })
            .collect();
        ingests.sort_by(|one, other| one.reference.cmp(&other.reference));
        Ok(ingests)
    }

    /// Names of all snapshots.
    pub async fn snapshots(&self) -> Result<Vec<String>> {
        let mut client = snapshots::snapshots_client::SnapshotsClient::new(self.channel());
        let request = snapshots::ListSnapshotsRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            filters: Vec::new(),
        };
        let mut stream = client
            .list(in_namespace(request))
            .await
            .context("list snapshots")?
            .into_inner();
        let mut names = Vec::new();
        while let Some(page) = stream.message().await.context("list snapshots")? {
            names.extend(page.info.into_iter().map(|info| info.name));
        }
        Ok(names)
    }

    /// Digests and sizes of all committed blobs.
    pub async fn blobs(&self) -> Result<Vec<(String, u64)>> {
        let mut client = content::content_client::ContentClient::new(self.channel())
            .max_decoding_message_size(MAX_MESSAGE);
        let mut stream = client
            .list(in_namespace(content::ListContentRequest::default()))
            .await
            .context("list content")?
            .into_inner();
        let mut blobs = Vec::new();
        while let Some(page) = stream.message().await.context("list content")? {
            blobs.extend(
                page.info
                    .into_iter()
                    .map(|info| (info.digest, u64::try_from(info.size).unwrap_or(0))),
            );
        }
        Ok(blobs)
    }

    /// Names and target digests of all images.
    pub async fn images(&self) -> Result<Vec<(String, String)>> {
        let mut client = images::images_client::ImagesClient::new(self.channel());
        let answer = client
            .list(in_namespace(images::ListImagesRequest::default()))
            .await
            .context("list images")?;
        let images = answer.into_inner().images;
        Ok(images
            .into_iter()
            .map(|image| (image.name, image.target.unwrap_or_default().digest))
            .collect())
    }

    /// Counts everything. The calls are not one transaction: use it when nothing is in flight, or poll.
    pub async fn counts(&self) -> Result<Counts> {
        let snapshots = self.snapshots().await?;
        Ok(Counts {
            leases: self.leases().await?.len(),
            ingests: self.ingests().await?.len(),
            extract_snapshots: snapshots.iter().filter(|name| is_extract(name)).count(),
            snapshots: snapshots.len(),
            blobs: self.blobs().await?.len(),
            images: self.images().await?.len(),
        })
    }

    /// Waits until nothing is there beyond `baseline`, at most `bound`; gives what was still there at the end.
    ///
    /// All zero means: nothing left behind.
    pub async fn left_behind(&self, baseline: &Counts, bound: Duration) -> Result<Counts> {
        let start = std::time::Instant::now();
        loop {
            let beyond = self.counts().await?.beyond(baseline);
            if beyond == Counts::default() || start.elapsed() >= bound {
                return Ok(beyond);
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// As [`Self::left_behind`]; anything still there is an error that names it.
    pub async fn expect_nothing_left(&self, baseline: &Counts, bound: Duration) -> Result<()> {
        let left = self.left_behind(baseline, bound).await?;
        if left != Counts::default() {
            bail!(
                "left behind after {bound:?}: {left:?}\nleases {:?}\ningests {:?}\nsnapshots {:?}\nblobs {:?}",
                self.leases().await?,
                self.ingests().await?,
                self.snapshots().await?,
                self.blobs().await?,
            );
        }
        Ok(())
    }
}

/// Adds the header that containerd's services ask for.
pub fn in_namespace<T>(message: T) -> Request<T> {
    let mut request = message.into_request();
    request.metadata_mut().insert(
        "containerd-namespace",
        tonic::metadata::MetadataValue::from_static(NAMESPACE),
    );
    request
}

fn is_extract(name: &str) -> bool {
    // Through the API the name is the client's own key: `extract-<nanos>-<random> <chain id>`.
    name.starts_with("extract-")
}
