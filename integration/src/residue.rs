//! What a run left behind on the machine: processes, mounts, sockets and files below a folder of ours.
//!
//! A folder's name is unique to one instance, so whatever names it in its command line, or is mounted below it, is ours.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal};

use crate::wait;

/// Things found below a folder; all empty is a clean end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Residue {
    /// Processes that name the folder in their command line, as `pid command`.
    pub processes: Vec<String>,
    /// Mount points below the folder.
    pub mounts: Vec<PathBuf>,
    /// Unix sockets that still listen below the folder. Socket files without a listener are files, not sockets.
    pub sockets: Vec<PathBuf>,
    /// Files of ingests in the content store: bytes of pulls that are over.
    pub ingests: Vec<PathBuf>,
    /// Folders below `tmpmounts`: temporary mounts of unpacking, which must be gone with their pull.
    pub temporary_mounts: Vec<PathBuf>,
}

impl Residue {
    /// Whether nothing was left.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// An error that lists what was left, if anything was.
    pub fn expect_none(&self) -> Result<()> {
        if !self.is_empty() {
            bail!("left behind: {self:#?}");
        }
        Ok(())
    }
}

/// Looks for residue below `dir`. Meant for after the process that owned the folder has ended.
pub fn under(dir: &Path) -> Result<Residue> {
    let content = dir.join("root/io.containerd.content.v1.content/ingest");
    Ok(Residue {
        processes: processes_naming(dir)?
            .into_iter()
            .map(|(pid, command)| format!("{pid} {command}"))
            .collect(),
        mounts: mounts_under(dir)?,
        sockets: listening_under(dir)?,
        ingests: entries(&content),
        temporary_mounts: entries(&dir.join("root/tmpmounts")),
    })
}

/// Ends the shims that name `dir` and unmounts everything below it, so that it can be removed.
///
/// Shims alone: any other process there has a guard of its own in the test that started it.
pub fn clear(dir: &Path) -> Result<()> {
    for (pid, _) in shims_naming(dir)? {
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
    wait::until_blocking(
        "the end of its shims",
        Duration::from_secs(5),
        Duration::from_millis(5),
        || shims_naming(dir).ok().filter(Vec::is_empty),
    )
    .with_context(|| format!("clear {}", dir.display()))?;
    // Innermost first; a mount point may carry several mounts, so each round looks again.
    for _ in 0..1000 {
        let Some(mount) = mounts_under(dir)?.pop() else {
            return Ok(());
        };
        rustix::mount::unmount(&mount, UnmountFlags::DETACH)
            .with_context(|| format!("unmount {}", mount.display()))?;
    }
    Err(anyhow!(
        "{} still has mounts after a thousand rounds",
        dir.display()
    ))
}

/// Mount points below `dir`, outer ones first.
pub fn mounts_under(dir: &Path) -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    Ok(table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|field| PathBuf::from(field.replace("\\040", " ")))
        .filter(|path| path.starts_with(dir) && path != dir)
        .collect())
}

/// Processes, other than ourselves, whose command line names `dir`.
pub fn processes_naming(dir: &Path) -> Result<Vec<(u32, String)>> {
    let needle = dir.display().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")
        .context("read /proc")?
        .filter_map(Result::ok)
    {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        // A process may end between the two calls; then it is no residue.
        let Ok(raw) = fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        let command = String::from_utf8_lossy(&raw).replace('\0', " ").trim().to_owned();
        if pid != std::process::id() && command.contains(&needle) {
            found.push((pid, command));
        }
    }
    Ok(found)
}

fn shims_naming(dir: &Path) -> Result<Vec<(u32, String)>> {
    let mut found = processes_naming(dir)?;
    found.retain(|(_, command)| {
        let program = command.split(' ').next().unwrap_or_default();
        program.contains("containerd-shim")
    });
    Ok(found)
}

/// Children of this process that are alive, or dead and not reaped, as `pid command`.
pub fn children() -> Result<Vec<String>> {
    let me = std::process::id();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")
        .context("read /proc")?
        .filter_map(Result::ok)
    {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        // The command, in parentheses, may hold spaces: the fields after it are counted from its end.
        let Some((head, rest)) = stat.rsplit_once(')') else {
            continue;
        };
        let parent = rest
            .split_whitespace()
            .nth(1)
            .and_then(|field| field.parse::<u32>().ok());
        if parent == Some(me) {
            found.push(format!(
                "{pid} {}",
                head.split_once('(').map_or("", |(_, name)| name)
            ));
        }
    }
    Ok(found)
}

fn listening_under(dir: &Path) -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/net/unix").context("read /proc/net/unix")?;
    let mut found: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split_whitespace().nth(7))
        .map(PathBuf::from)
        .filter(|path| path.starts_with(dir))
        .filter(|path| fs::metadata(path).is_ok_and(|meta| meta.file_type().is_socket()))
        .collect();
    found.sort();
    found.dedup();
    Ok(found)
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .collect()
}
