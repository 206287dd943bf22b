//! Debian's docker-registry on loopback, and pushing images to it: a registry that is not ours.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderName};
use http::{Method, StatusCode};
use tempfile::TempDir;

use crate::http_client::Client;
use crate::image::Image;
use crate::parts;
use crate::process::{Launch, Process};
use crate::registry::Content;
use crate::wait;

const READY_BOUND: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(20);

/// A running docker-registry with a storage folder of its own, both gone when it is dropped.
#[derive(Debug)]
pub struct DockerRegistry {
    // Before the folder: the process must be gone before its files.
    process: Process,
    address: SocketAddr,
    _dir: TempDir,
}

impl DockerRegistry {
    /// Starts it on a free port; `None` if this system has none (see [`parts`]).
    pub async fn start() -> Result<Option<Self>> {
        let Some(program) = parts::obtain()?.docker_registry else {
            return Ok(None);
        };
        let dir = tempfile::Builder::new()
            .prefix("magi-docker-registry-")
            .tempdir()
            .context("create a folder")?;
        let config = dir.path().join("config.yml");
        let storage = dir.path().join("storage");
        let text = format!(
            "version: 0.1\nlog:\n  level: info\n  formatter: text\n\
             storage:\n  filesystem:\n    rootdirectory: {storage:?}\nhttp:\n  addr: 127.0.0.1:0\n"
        );
        fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
        let log = dir.path().join("log");
        let process = Launch::new("docker-registry", program, &log)
            .arg("serve")
            .arg(&config)
            .start()?;
        let address = wait::until(
            "docker-registry's address in its log",
            READY_BOUND,
            POLL,
            async || {
                let text = fs::read_to_string(&log).ok()?;
                let (_, rest) = text.split_once("listening on ")?;
                let address: String = rest
                    .chars()
                    .take_while(|letter| letter.is_ascii_digit() || ".:".contains(*letter))
                    .collect();
                address.parse().ok()
            },
        )
        .await
        .with_context(|| process.log_tail(20))?;
        Ok(Some(Self {
            process,
            address,
            _dir: dir,
        }))
    }

    /// `127.0.0.1:port`
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// The last lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        self.process.log_tail(lines)
    }

    /// Pushes an image with all its blobs and gives its reference. Layers go through memory one by one.
    pub async fn push(&self, repository: &str, tag: &str, image: &Image) -> Result<String> {
        let client = Client::plain(self.address);
        for layer in &image.layers {
            push_blob(&client, repository, &layer.digest, collect(&layer.content)).await?;
        }
        push_blob(
            &client,
            repository,
            &image.config.digest,
            image.config.bytes.clone(),
        )
        .await?;
        for child in &image.children {
            push_manifest(
                &client,
                repository,
                &child.digest,
                &child.media_type,
                child.bytes.clone(),
            )
            .await?;
        }
        let top = &image.manifest;
        push_manifest(&client, repository, tag, &top.media_type, top.bytes.clone()).await?;
        Ok(format!("{}/{repository}:{tag}", self.host()))
    }
}

async fn push_blob(client: &Client, repository: &str, digest: &str, bytes: Bytes) -> Result<()> {
    let begin = format!("/v2/{repository}/blobs/uploads/");
    let reply = client.send(Method::POST, &begin, &[], Bytes::new()).await?;
    ensure!(
        reply.status == StatusCode::ACCEPTED,
        "POST {begin}: {}",
        reply.status
    );
    let location = reply.header("location").to_owned();
    // It may be absolute; the server is known.
    let path = location
        .split_once("://")
        .and_then(|(_, rest)| rest.find('/').and_then(|at| rest.get(at..)));
    let path = path.unwrap_or(&location);
    let join = if path.contains('?') { '&' } else { '?' };
    let target = format!("{path}{join}digest={}", digest.replace(':', "%3A"));
    let headers = [(CONTENT_TYPE, "application/octet-stream")];
    expect_created(client, &target, &headers, bytes)
        .await
        .with_context(|| format!("push blob {digest}"))
}

async fn push_manifest(
    client: &Client,
    repository: &str,
    reference: &str,
    media_type: &str,
    bytes: Bytes,
) -> Result<()> {
    let target = format!("/v2/{repository}/manifests/{reference}");
    expect_created(client, &target, &[(CONTENT_TYPE, media_type)], bytes)
        .await
        .with_context(|| format!("push manifest {reference}"))
}

async fn expect_created(
    client: &Client,
    path: &str,
    headers: &[(HeaderName, &str)],
    body: Bytes,
) -> Result<()> {
    let mut reply = client.send(Method::PUT, path, headers, body).await?;
    if reply.status == StatusCode::CREATED {
        return Ok(());
    }
    let (text, _) = reply.read(4096, Duration::from_secs(1)).await;
    Err(anyhow!(
        "PUT {path}: {} {}",
        reply.status,
        String::from_utf8_lossy(&text)
    ))
}

fn collect(content: &Content) -> Bytes {
    let mut bytes = BytesMut::new();
    content.for_each(|piece| bytes.extend_from_slice(piece));
    bytes.freeze()
}
