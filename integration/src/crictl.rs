//! `crictl`, as users try pulls with it. It is not in Debian: tests use it where it is on PATH and say whether it was.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result};

use crate::process::{self, Launch};

/// Where crictl is, if it is on PATH.
pub fn found() -> Option<PathBuf> {
    process::on_path("crictl")
}

/// Runs `crictl` with `args` against the socket at `address`; `None` without crictl. Blocks until it ends.
pub fn run(address: &Path, args: &[&str]) -> Result<Option<Output>> {
    let Some(program) = found() else { return Ok(None) };
    let endpoint = format!("unix://{}", address.display());
    let output = Command::new(program)
        .args(["--runtime-endpoint", &endpoint, "--image-endpoint", &endpoint])
        .args(args)
        .output()
        .context("run crictl")?;
    Ok(Some(output))
}

/// `crictl pull` as a process of its own, to be killed; `None` without crictl.
pub fn pull(address: &Path, reference: &str, log: &Path) -> Option<Launch> {
    let endpoint = format!("unix://{}", address.display());
    let launch = Launch::new("crictl pull", found()?, log)
        .arg("--runtime-endpoint")
        .arg(&endpoint)
        .arg("--image-endpoint")
        .arg(&endpoint);
    Some(launch.arg("pull").arg(reference))
}
