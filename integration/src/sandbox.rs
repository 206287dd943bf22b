//! Pod sandboxes and containers on a containerd of ours, started as a kubelet starts them.
//!
//! They share the host's network, so no CNI plugin is needed, and they run a program of a few machine instructions that
//! does nothing, so no image needs to be fetched from anywhere.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use magi_wire::runtime::v1 as runtime;
use magi_wire::runtime::v1::runtime_service_client::RuntimeServiceClient;
use serde_json::json;
use tonic::transport::Channel;

use crate::channel::{self, MAX_MESSAGE};
use crate::containerd::Containerd;
use crate::cri::Pod;
use crate::image::{Compression, Document, Format, Image, Layer};
use crate::registry::Registry;
use crate::registry::content::{Content, digest_of};

/// Seconds that a container gets to end by itself; the program ends at no signal that it could catch.
const GRACE: i64 = 0;
/// The default name of the image that holds a sandbox, up to its tag.
const PAUSE: &str = "registry.k8s.io/pause:";

/// Lets `node` run sandboxes: whatever tag of the pause image it asks for, `registry` serves one that only sleeps.
///
/// Gives the reference of the same image at `registry`, for containers.
pub fn prepare(node: &Containerd, registry: &Registry) -> Result<String> {
    let tag = pause_tag(node)?;
    let reference = registry.put("pause", &tag, &sleeper()?);
    node.trust(registry)?;
    let dir = node.dir().join("certs.d/registry.k8s.io");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let base = registry.base();
    let text = format!("server = \"{base}\"\n[host.\"{base}\"]\ncapabilities = [\"pull\", \"resolve\"]\n");
    let file = dir.join("hosts.toml");
    fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    Ok(reference)
}

/// The tag of the pause image that this version asks for.
fn pause_tag(node: &Containerd) -> Result<String> {
    let program = fs::read_link(format!("/proc/{}/exe", node.pid())).context("find containerd's program")?;
    let output = Command::new(&program)
        .args(["config", "default"])
        .output()
        .with_context(|| format!("run {} config default", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let tag = text.split(PAUSE).nth(1).map(|rest| {
        rest.chars()
            .take_while(|c| c.is_ascii_alphanumeric() || ".-_".contains(*c))
            .collect::<String>()
    });
    tag.filter(|tag| !tag.is_empty()).with_context(|| {
        format!(
            "{} names no {PAUSE}… in its default configuration",
            program.display()
        )
    })
}

/// A client that runs pods.
#[derive(Debug, Clone)]
pub struct Sandboxes {
    client: RuntimeServiceClient<Channel>,
}

impl Sandboxes {
    /// A client for the CRI socket at `address`; connects on first use. Must be called within a tokio runtime.
    pub fn connect(address: &Path) -> Self {
        let client = RuntimeServiceClient::new(channel::unix(address)).max_decoding_message_size(MAX_MESSAGE);
        Self { client }
    }

    /// Runs a sandbox for `pod`, and gives its id.
    pub async fn run(&self, pod: &Pod, labels: &HashMap<String, String>) -> Result<String> {
        let request = runtime::RunPodSandboxRequest {
            config: Some(sandbox_config(pod, labels)),
            runtime_handler: String::new(),
        };
        let answer = self.client.clone().run_pod_sandbox(request).await;
        Ok(answer
            .with_context(|| format!("RunPodSandbox {}/{}", pod.namespace, pod.name))?
            .into_inner()
            .pod_sandbox_id)
    }

    /// Creates and starts a container in a sandbox of `pod`, and gives its id. The image must be there already.
    pub async fn run_container(&self, sandbox: &str, pod: &Pod, name: &str, image: &str) -> Result<String> {
        let spec = runtime::ImageSpec {
            image: image.to_owned(),
            user_specified_image: image.to_owned(),
            ..Default::default()
        };
        let request = runtime::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(runtime::ContainerConfig {
                metadata: Some(runtime::ContainerMetadata {
                    name: name.to_owned(),
                    attempt: 0,
                }),
                image: Some(spec),
                linux: Some(runtime::LinuxContainerConfig::default()),
                ..Default::default()
            }),
            sandbox_config: Some(sandbox_config(pod, &HashMap::new())),
        };
        let mut client = self.client.clone();
        let answer = client.create_container(request).await;
        let container_id = answer
            .with_context(|| format!("CreateContainer {name}"))?
            .into_inner()
            .container_id;
        client
            .start_container(runtime::StartContainerRequest {
                container_id: container_id.clone(),
            })
            .await
            .with_context(|| format!("StartContainer {name}"))?;
        Ok(container_id)
    }

    /// Stops and removes a container.
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        let mut client = self.client.clone();
        let container_id = id.to_owned();
        client
            .stop_container(runtime::StopContainerRequest {
                container_id: container_id.clone(),
                timeout: GRACE,
            })
            .await
            .with_context(|| format!("StopContainer {id}"))?;
        client
            .remove_container(runtime::RemoveContainerRequest { container_id })
            .await
            .with_context(|| format!("RemoveContainer {id}"))?;
        Ok(())
    }

    /// Stops a sandbox; it stays in the list.
    pub async fn stop(&self, id: &str) -> Result<()> {
        let request = runtime::StopPodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        self.client
            .clone()
            .stop_pod_sandbox(request)
            .await
            .with_context(|| format!("StopPodSandbox {id}"))?;
        Ok(())
    }

    /// Removes a sandbox, and stops it first if it still runs.
    pub async fn remove(&self, id: &str) -> Result<()> {
        let request = runtime::RemovePodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        self.client
            .clone()
            .remove_pod_sandbox(request)
            .await
            .with_context(|| format!("RemovePodSandbox {id}"))?;
        Ok(())
    }

    /// All sandboxes, stopped ones included.
    pub async fn list(&self) -> Result<Vec<runtime::PodSandbox>> {
        let answer = self
            .client
            .clone()
            .list_pod_sandbox(runtime::ListPodSandboxRequest::default())
            .await;
        Ok(answer.context("ListPodSandbox")?.into_inner().items)
    }
}

fn sandbox_config(pod: &Pod, labels: &HashMap<String, String>) -> runtime::PodSandboxConfig {
    let namespaces = runtime::NamespaceOption {
        network: runtime::NamespaceMode::Node as i32,
        ..Default::default()
    };
    runtime::PodSandboxConfig {
        metadata: Some(runtime::PodSandboxMetadata {
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            namespace: pod.namespace.clone(),
            attempt: 0,
        }),
        labels: labels.clone(),
        annotations: pod.annotations.clone(),
        linux: Some(runtime::LinuxPodSandboxConfig {
            security_context: Some(runtime::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// An image whose one program sleeps for ever.
pub fn sleeper() -> Result<Image> {
    let machine = machine()?;
    let program = program(&machine);
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(program.len() as u64);
    header.set_mode(0o755);
    header.set_cksum();
    archive
        .append_data(&mut header, "pause", program.as_slice())
        .context("write the layer")?;
    let bytes = archive.into_inner().context("write the layer")?;
    let digest = digest_of(&bytes);
    let layer = Layer {
        compression: Compression::None,
        declared: bytes.len() as u64,
        diff_id: digest.clone(),
        digest,
        content: Content::from(bytes),
    };
    let format = Format::Oci;
    let config = Document::new(
        format.config(),
        &json!({
            "architecture": machine.architecture,
            "os": "linux",
            "config": {"Entrypoint": ["/pause"]},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
        }),
    )?;
    let manifest = Document::new(
        format.manifest(),
        &json!({
            "schemaVersion": 2,
            "mediaType": format.manifest(),
            "config": {"mediaType": format.config(), "digest": config.digest, "size": config.bytes.len()},
            "layers": [{
                "mediaType": format.layer(layer.compression),
                "digest": layer.digest,
                "size": layer.declared,
            }],
        }),
    )?;
    Ok(Image {
        manifest,
        children: Vec::new(),
        config,
        layers: vec![layer],
    })
}

/// What differs from processor to processor.
struct Machine {
    /// In the words of OCI.
    architecture: &'static str,
    /// In the numbers of ELF.
    number: u16,
    /// A loop around one system call.
    code: &'static [u8],
}

fn machine() -> Result<Machine> {
    match std::env::consts::ARCH {
        "x86_64" => Ok(Machine {
            architecture: "amd64",
            number: 62,
            // mov eax, pause; syscall; jmp back
            code: &[0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7],
        }),
        "aarch64" => Ok(Machine {
            architecture: "arm64",
            number: 183,
            // mov x0..x4, 0; mov x8, ppoll; svc 0; b back
            code: &[
                0x00, 0x00, 0x80, 0xd2, 0x01, 0x00, 0x80, 0xd2, 0x02, 0x00, 0x80, 0xd2, 0x03, 0x00, 0x80,
                0xd2, 0x04, 0x00, 0x80, 0xd2, 0x28, 0x09, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4, 0xf9, 0xff,
                0xff, 0x17,
            ],
        }),
        other => bail!("no sleeping program is known for {other}"),
    }
}

/// A static program that waits for signals for ever: an ELF header, one segment, and the loop.
fn program(machine: &Machine) -> Vec<u8> {
    const HEADERS: u64 = 64 + 56;
    const BASE: u64 = 0x40_0000;
    let code = machine.code;
    let size = HEADERS + code.len() as u64;
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let half = |file: &mut Vec<u8>, value: u16| file.extend_from_slice(&value.to_le_bytes());
    let word = |file: &mut Vec<u8>, value: u32| file.extend_from_slice(&value.to_le_bytes());
    let long = |file: &mut Vec<u8>, value: u64| file.extend_from_slice(&value.to_le_bytes());
    // An executable of this machine, version 1; entry, program headers, no section headers, no flags.
    half(&mut file, 2);
    half(&mut file, machine.number);
    word(&mut file, 1);
    long(&mut file, BASE + HEADERS);
    long(&mut file, 64);
    long(&mut file, 0);
    word(&mut file, 0);
    for value in [64, 56, 1, 0, 0, 0] {
        half(&mut file, value);
    }
    // One segment to load, readable and executable: the whole file.
    word(&mut file, 1);
    word(&mut file, 5);
    for value in [0, BASE, BASE, size, size, 0x1000] {
        long(&mut file, value);
    }
    file.extend_from_slice(code);
    file
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    use std::os::unix::process::ExitStatusExt as _;
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_program_runs_until_it_is_killed() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("pause");
        let mut file = fs::File::options()
            .create_new(true)
            .write(true)
            .mode(0o755)
            .open(&path)
            .expect("a file");
        let machine = machine().expect("a machine that is known");
        file.write_all(&program(&machine)).expect("written");
        drop(file);
        // While another test forks, its child holds the file open for writing.
        let mut child = crate::wait::until_blocking(
            "it to start",
            Duration::from_secs(10),
            Duration::from_millis(5),
            || Command::new(&path).spawn().ok(),
        )
        .expect("it starts");
        // Once it sleeps in its system call it has run its first instructions.
        let stat = format!("/proc/{}/stat", child.id());
        let sleeps = crate::wait::until_blocking(
            "it to sleep",
            Duration::from_secs(10),
            Duration::from_millis(5),
            || {
                let stat = fs::read_to_string(&stat).ok()?;
                (stat.contains("(pause) S") || child.try_wait().ok().flatten().is_some()).then_some(())
            },
        );
        let ended = child.try_wait().expect("its state");
        child.kill().expect("it is killed");
        let status = child.wait().expect("its end");
        sleeps.expect("it sleeps");
        assert_eq!(ended, None);
        assert_eq!(status.signal(), Some(9));
    }
}
