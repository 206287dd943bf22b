//! What a folder holds, line by line: to compare what two ways of unpacking left.

use std::collections::HashMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest as _, Sha256};

/// Longest list, and longest value, of extended attributes that are read.
const ATTRIBUTES: usize = 64 << 10;

/// A line for everything below `root`, in the order of names: name, type, mode, owner, extended attributes, and what
/// belongs to the type: digest of the content and other names of the same file, target, device. Times of what is no folder.
pub fn list(root: &Path) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut first_names = HashMap::new();
    walk(root, root, &mut first_names, &mut lines)?;
    Ok(lines)
}

fn walk(
    root: &Path,
    path: &Path,
    first_names: &mut HashMap<u64, String>,
    lines: &mut Vec<String>,
) -> Result<()> {
    let at = || format!("look at {}", path.display());
    let meta = path.symlink_metadata().with_context(at)?;
    let name = path.strip_prefix(root).unwrap_or(path).as_os_str().as_bytes();
    let name = name.escape_ascii().to_string();
    let kind = meta.file_type();
    let what = if kind.is_dir() {
        "folder".to_owned()
    } else if let (true, Some(first)) = (meta.nlink() > 1, first_names.get(&meta.ino())) {
        format!("same file as {first}")
    } else if kind.is_file() {
        let mut hash = Sha256::new();
        let mut file = fs::File::open(path).with_context(at)?;
        let mut piece = vec![0; 1 << 16];
        loop {
            let count = file.read(&mut piece).with_context(at)?;
            let Some(read) = piece.get(..count).filter(|read| !read.is_empty()) else {
                break;
            };
            hash.update(read);
        }
        format!("file of {}, {}", meta.len(), hex::encode(hash.finalize()))
    } else if kind.is_symlink() {
        format!("link to {:?}", fs::read_link(path).with_context(at)?)
    } else if kind.is_block_device() || kind.is_char_device() {
        format!("device {:x}", meta.rdev())
    } else {
        "pipe or socket".to_owned()
    };
    // A whiteout is made when the layer is unpacked, and has no time of its own.
    let has_time = !kind.is_dir() && meta.rdev() == 0 && !kind.is_char_device();
    let time = if has_time { meta.mtime() } else { 0 };
    lines.push(format!(
        "{name}: {what}; mode {:o}, {}:{}, {} names, time {time}, {:?}",
        meta.mode(),
        meta.uid(),
        meta.gid(),
        if kind.is_dir() { 1 } else { meta.nlink() },
        attributes(path)?
    ));
    first_names.entry(meta.ino()).or_insert(name);
    if kind.is_dir() {
        let mut entries = fs::read_dir(path)
            .with_context(at)?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<Vec<_>>>()?;
        entries.sort();
        for entry in entries {
            walk(root, &entry, first_names, lines)?;
        }
    }
    Ok(())
}

fn attributes(path: &Path) -> Result<Vec<(String, String)>> {
    let mut names = vec![0_u8; ATTRIBUTES];
    let length = rustix::fs::llistxattr(path, &mut names)
        .with_context(|| format!("list the attributes of {}", path.display()))?;
    let mut all = Vec::new();
    for name in names.get(..length).unwrap_or_default().split(|byte| *byte == 0) {
        if name.is_empty() {
            continue;
        }
        let mut value = vec![0_u8; ATTRIBUTES];
        let length = rustix::fs::lgetxattr(path, name, &mut value)
            .with_context(|| format!("read an attribute of {}", path.display()))?;
        let value = hex::encode(value.get(..length).unwrap_or_default());
        all.push((String::from_utf8_lossy(name).into_owned(), value));
    }
    all.sort();
    Ok(all)
}
