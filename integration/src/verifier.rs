//! magi-verify where a containerd of ours executes it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::containerd::Containerd;
use crate::magi;

/// Puts magi-verify into `node`'s folder of verifiers, as an installation does: whole, or not at all. A script in front
/// of it says where to ask and how long, as /etc is not ours to write; `exec` leaves nothing of it.
pub fn install(node: &Containerd, socket: &Path, deadline: Duration) -> Result<()> {
    let script = format!(
        "#!/bin/sh\nMAGI_SOCKET={} MAGI_VERIFY_DEADLINE={} exec {} \"$@\"\n",
        socket.display(),
        deadline.as_millis(),
        magi::binary("magi-verify")?.display()
    );
    let new = node.dir().join("magi-verify.new");
    fs::write(&new, script).context("write the verifier")?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).context("make it executable")?;
    fs::rename(&new, node.verifier_dir().join("magi-verify")).context("move it in")
}
