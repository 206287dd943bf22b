//! The foreign programs that the harness runs: containerd 1.7 and 2.x, runc, pigz, Debian's docker-registry.
//!
//! They are taken by name from Debian through apt, unpacked into a cache, and never installed. Layout of the cache, and
//! of the folder that `MAGI_CONTAINERD_DIR` may name instead: `1.7/bin`, `2.x/bin`, and optionally `runc/bin`,
//! `pigz/bin`, `docker-registry/bin`. In the cache each part also holds a file `version`.

mod apt;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, bail};

use crate::process::on_path;

/// Names a folder with ready binaries, for systems without Debian's apt.
pub const CONTAINERD_DIR: &str = "MAGI_CONTAINERD_DIR";
/// Names the cache folder, instead of `parts` in cargo's target folder.
pub const PARTS_DIR: &str = "MAGI_PARTS_DIR";

/// Where the programs are.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Folder with `containerd`, its shim and `ctr`, version 1.7.
    pub containerd_1_7: PathBuf,
    /// The same for the newest 2.x.
    pub containerd_2: PathBuf,
    /// Folder with `runc`; `None` if only the one on PATH, or none, can be used.
    pub runc: Option<PathBuf>,
    /// pigz, which containerd decompresses with where it finds it as `unpigz`; if it could be had.
    pub pigz: Option<PathBuf>,
    /// Debian's docker-registry, if it could be had.
    pub docker_registry: Option<PathBuf>,
}

/// Finds or fetches the parts; the first call of a process may take a minute, the next ones nothing.
///
/// # Errors
/// Names what is missing and the variable to set.
pub fn obtain() -> Result<Parts> {
    static ONCE: OnceLock<Result<Parts, String>> = OnceLock::new();
    ONCE.get_or_init(|| obtain_saying(&mut |_| {}).map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(|message| anyhow!(message))
}

/// As [`obtain`], telling `say` what it does.
pub fn obtain_saying(say: &mut dyn FnMut(&str)) -> Result<Parts> {
    if let Some(dir) = std::env::var_os(CONTAINERD_DIR) {
        let dir = PathBuf::from(dir);
        say(&format!("{CONTAINERD_DIR} is set: using {}", dir.display()));
        return given(&dir);
    }
    let cache = cache_dir();
    fs::create_dir_all(&cache).with_context(|| format!("create {}", cache.display()))?;
    let lock_path = cache.join("lock");
    let lock = fs::File::create(&lock_path).with_context(|| format!("create {}", lock_path.display()))?;
    // Held until `lock` is dropped: a second process waits here, and then finds everything in place.
    lock.lock()
        .with_context(|| format!("lock {}", lock_path.display()))?;

    let missing: Vec<&apt::Wanted> = apt::WANTED
        .iter()
        .filter(|wanted| !wanted.is_in(&cache))
        .collect();
    if missing.is_empty() {
        say(&format!("all parts are in {}", cache.display()));
    } else {
        apt::fetch(&cache, &missing, say).with_context(|| {
            format!(
                "fetch {} through apt; on a system that is not Debian set {CONTAINERD_DIR} to a folder that holds \
                 1.7/bin and 2.x/bin, each with containerd, containerd-shim-runc-v2 and ctr",
                missing.iter().map(|wanted| wanted.part).collect::<Vec<_>>().join(", ")
            )
        })?;
    }
    for wanted in apt::WANTED {
        let version = fs::read_to_string(cache.join(wanted.part).join("version")).unwrap_or_default();
        say(&format!("{:<16} {}", wanted.part, version.trim()));
    }
    given(&cache)
}

fn given(dir: &Path) -> Result<Parts> {
    let bin = |part: &str| dir.join(part).join("bin");
    for part in ["1.7", "2.x"] {
        let program = bin(part).join("containerd");
        if !program.is_file() {
            bail!(
                "{} is missing ({CONTAINERD_DIR} must name a folder with 1.7/bin and 2.x/bin)",
                program.display()
            );
        }
    }
    let pigz = bin("pigz").join("pigz");
    let registry = bin("docker-registry").join("docker-registry");
    Ok(Parts {
        containerd_1_7: bin("1.7"),
        containerd_2: bin("2.x"),
        runc: Some(bin("runc")).filter(|dir| dir.join("runc").is_file()),
        pigz: Some(pigz)
            .filter(|file| file.is_file())
            .or_else(|| on_path("pigz")),
        docker_registry: Some(registry)
            .filter(|file| file.is_file())
            .or_else(|| on_path("docker-registry")),
    })
}

/// The workspace's target folder, as cargo would choose it.
pub fn target_dir() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
        .to_owned();
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => workspace.join(dir),
        None => workspace.join("target"),
    }
}

fn cache_dir() -> PathBuf {
    std::env::var_os(PARTS_DIR).map_or_else(|| target_dir().join("parts"), PathBuf::from)
}
