//! magi-unpack where a containerd of ours executes it.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::magi;

/// The layers that it is registered for, and under which name, as `magictl install containerd --with unpack` does it.
const REGISTERED: [(&str, &[&str]); 2] = [
    (
        "magi.unpack.gzip",
        &[
            "application/vnd.oci.image.layer.v1.tar+gzip",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "application/vnd.docker.image.rootfs.diff.tar",
            "application/vnd.docker.image.rootfs.foreign.diff.tar",
        ],
    ),
    (
        "magi.unpack.zstd",
        &[
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
            "application/vnd.docker.image.rootfs.diff.tar.zstd",
        ],
    ),
];

/// magi-unpack with a file of bounds, in a folder of the test's.
#[derive(Debug)]
pub struct Unpack {
    folder: PathBuf,
}

impl Unpack {
    /// Puts the bounds into `folder`, and a script in front of the program that counts its calls; `exec` leaves nothing
    /// of it.
    pub fn prepare(folder: &Path, bounds: &str) -> Result<Self> {
        let this = Self {
            folder: folder.to_owned(),
        };
        fs::write(this.bounds(), format!("{bounds}node = none\n")).context("write the bounds")?;
        fs::write(this.calls(), "").context("write the list of calls")?;
        let script = format!(
            "#!/bin/sh\necho \"$STREAM_PROCESSOR_MEDIATYPE\" >> {}\nexec {} \"$@\"\n",
            this.calls().display(),
            magi::binary("magi-unpack")?.display()
        );
        fs::write(this.script(), script).context("write the script")?;
        fs::set_permissions(this.script(), fs::Permissions::from_mode(0o755))
            .context("make it executable")?;
        Ok(this)
    }

    /// What registers it, for containerd's configuration.
    pub fn toml(&self) -> String {
        toml(&self.script(), Some(&self.bounds()))
    }

    /// The file with the bounds.
    pub fn bounds(&self) -> PathBuf {
        self.folder.join("unpack.conf")
    }

    /// Has it tell this magi-node what it stops, and not the machine's.
    pub fn tells(&self, node: &Path) -> Result<()> {
        let mut bounds = fs::read_to_string(self.bounds()).context("read the bounds")?;
        let _ = writeln!(bounds, "node = {}", node.display());
        fs::write(self.bounds(), bounds).context("write the bounds")
    }

    /// The media types of the layers that it was called for.
    pub fn called_for(&self) -> Result<Vec<String>> {
        let text = fs::read_to_string(self.calls()).context("read the list of calls")?;
        Ok(text.lines().map(ToOwned::to_owned).collect())
    }

    fn script(&self) -> PathBuf {
        self.folder.join("magi-unpack.sh")
    }

    fn calls(&self) -> PathBuf {
        self.folder.join("calls")
    }
}

/// What registers a program as stream processor, for containerd's configuration.
pub fn toml(program: &Path, bounds: Option<&Path>) -> String {
    let mut text = String::new();
    let args = bounds.map_or(String::new(), |bounds| {
        format!("args = [\"--bounds\", {:?}]\n", bounds.display().to_string())
    });
    for (name, accepts) in REGISTERED {
        let _ = writeln!(
            text,
            "[stream_processors.{name:?}]\naccepts = {accepts:?}\nreturns = \"application/vnd.oci.image.layer.v1.tar\"\n\
             path = {:?}\n{args}",
            program.display().to_string()
        );
    }
    text
}
