//! What the master said last, on disk, for a start at which it is not there: its last good policy, and its kill switch.
//!
//! The policy is one file, so that number and text cannot fall apart: a first line with the number and the digest, which YAML takes
//! for a comment, and behind it the text, byte for byte.
//!
//! ```text
//! # magi: from the master, revision 1763900000000, sha256 9f86…
//! version: 1
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use magi_master_api::bounds::MAX_POLICY;
use magi_master_api::policy::PolicyVersion;

use crate::files::open_regular;

const FILE: &str = "policy.yaml";
const SWITCH: &str = "kill-switch";
const BEFORE_REVISION: &str = "# magi: from the master, revision ";
const BEFORE_DIGEST: &str = ", sha256 ";
/// Bytes of the first line, at most.
const MAX_HEADER: usize = 256;

/// Bytes that say who set the kill switch, at most.
const MAX_HOLDER: usize = 4096;

/// What could not be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeptError {
    /// The folder cannot be made.
    #[error("cannot make the folder {}", path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The file is not as we left it.
    #[error("{} is no policy that was kept ({problem})", path.display())]
    Broken { path: PathBuf, problem: &'static str },
}

/// The policy's file.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    path: PathBuf,
}

impl Kept {
    pub(crate) fn in_folder(folder: &Path) -> Self {
        Self {
            path: folder.join(FILE),
        }
    }

    /// What is kept; none: nothing was.
    pub(crate) fn load(&self) -> Result<Option<(PolicyVersion, String)>, KeptError> {
        let Some(whole) = read(&self.path, MAX_POLICY.saturating_add(MAX_HEADER))? else {
            return Ok(None);
        };
        let broken = |problem| broken(&self.path, problem);
        let (header, text) = whole.split_once('\n').ok_or_else(|| broken("it has one line"))?;
        let version = version(header).ok_or_else(|| broken("its first line is another"))?;
        if PolicyVersion::of(version.revision, text.as_bytes()) != version {
            return Err(broken("its text has another digest"));
        }
        Ok(Some((version, text.to_owned())))
    }

    /// Replaces what is kept: whoever reads sees the old or the new, also after the machine lost its power.
    pub(crate) fn save(&self, version: &PolicyVersion, text: &[u8]) -> Result<(), KeptError> {
        replace(&self.path, &[header(version).as_bytes(), text])
    }
}

/// The file of the master's kill switch: it is there while the switch is on, and says who set it.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    path: PathBuf,
}

impl Held {
    pub(crate) fn in_folder(folder: &Path) -> Self {
        Self {
            path: folder.join(SWITCH),
        }
    }

    /// Who set it; none: it is off.
    pub(crate) fn load(&self) -> Result<Option<String>, KeptError> {
        read(&self.path, MAX_HOLDER)
    }

    /// `by` none: it is off.
    pub(crate) fn save(&self, by: Option<&str>) -> Result<(), KeptError> {
        let Some(by) = by else {
            return match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(KeptError::Write {
                    path: self.path.clone(),
                    source: error,
                }),
                Ok(()) | Err(_) => Ok(()),
            };
        };
        replace(&self.path, &[by.as_bytes()])
    }
}

fn broken(path: &Path, problem: &'static str) -> KeptError {
    KeptError::Broken {
        path: path.to_owned(),
        problem,
    }
}

/// The text of a regular file of at most so many bytes; none: it is not there.
fn read(path: &Path, most: usize) -> Result<Option<String>, KeptError> {
    let failed = |source| KeptError::Read {
        path: path.to_owned(),
        source,
    };
    let file = match open_regular(path) {
        Ok(Some(file)) => file,
        Ok(None) => return Err(broken(path, "not a regular file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > most {
        return Err(broken(path, "it is too large"));
    }
    let text = String::from_utf8(bytes).map_err(|_| broken(path, "it is no text"))?;
    Ok(Some(text))
}

/// Whoever reads sees the old or the new, also after the machine lost its power.
fn replace(path: &Path, parts: &[&[u8]]) -> Result<(), KeptError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|source| KeptError::Folder {
            path: folder.to_owned(),
            source,
        })?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .open(&beside)?;
        for part in parts {
            file.write_all(part)?;
        }
        file.sync_all()?;
        fs::rename(&beside, path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|source| KeptError::Write {
        path: path.to_owned(),
        source,
    })
}

fn header(version: &PolicyVersion) -> String {
    let digest = hex::encode(version.sha256);
    format!("{BEFORE_REVISION}{}{BEFORE_DIGEST}{digest}\n", version.revision)
}

fn version(header: &str) -> Option<PolicyVersion> {
    let (revision, digest) = header.strip_prefix(BEFORE_REVISION)?.split_once(BEFORE_DIGEST)?;
    let mut sha256 = [0; 32];
    hex::decode_to_slice(digest, &mut sha256).ok()?;
    Some(PolicyVersion {
        revision: revision.parse().ok()?,
        sha256,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back_to_the_byte() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::in_folder(&dir.path().join("a/b"));
        assert_eq!(kept.load().unwrap(), None);
        for (revision, text) in [(7, "version: 1\r\n\n# end"), (u64::MAX, ""), (9, "mode: observe")] {
            let version = PolicyVersion::of(revision, text.as_bytes());
            kept.save(&version, text.as_bytes()).unwrap();
            assert_eq!(kept.load().unwrap(), Some((version, text.to_owned())));
        }
        let names = fs::read_dir(dir.path().join("a/b")).unwrap().count();
        assert_eq!(names, 1, "nothing is left beside it");
    }

    #[test]
    fn the_kill_switch_is_kept_while_it_is_on() {
        let dir = tempfile::tempdir().unwrap();
        let held = Held::in_folder(&dir.path().join("a"));
        assert_eq!(held.load().unwrap(), None);
        held.save(None).unwrap();
        for by in ["anna: too many alarms", "ben"] {
            held.save(Some(by)).unwrap();
            assert_eq!(held.load().unwrap().as_deref(), Some(by));
        }
        held.save(None).unwrap();
        assert_eq!(held.load().unwrap(), None);
        fs::write(&held.path, [b'x'; MAX_HOLDER + 1]).unwrap();
        assert!(matches!(held.load(), Err(KeptError::Broken { .. })));
    }

    #[test]
    fn what_others_wrote_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::in_folder(dir.path());
        kept.save(&PolicyVersion::of(7, b"version: 1\n"), b"version: 1\n")
            .unwrap();
        let good = fs::read_to_string(&kept.path).unwrap();
        for text in [
            good.replace("version: 1", "version: 2"),
            good.replace("revision 7", "revision x"),
            good.replace("sha256 ", "sha256 0"),
            good.replace('\n', " "),
            "version: 1\n".to_owned(),
            String::new(),
            "x".repeat(MAX_POLICY + MAX_HEADER + 1),
        ] {
            fs::write(&kept.path, &text).unwrap();
            assert!(matches!(kept.load(), Err(KeptError::Broken { .. })));
        }
        fs::remove_file(&kept.path).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", &kept.path).unwrap();
        assert!(matches!(kept.load(), Err(KeptError::Read { .. })));
    }
}
