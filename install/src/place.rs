//! Paths below a prefix: the node's own root, or that of a chroot.

use std::io;
use std::path::{Component, Path, PathBuf};

/// Everything that is read or written of a node is found below this folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    prefix: PathBuf,
}

/// Why a path leads nowhere.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// A node's path begins at its root.
    #[error("{} is not an absolute path", .0.display())]
    Relative(PathBuf),
    /// A symbolic link leads out of the prefix.
    #[error("{} leads out of {}, through a symbolic link", path.display(), prefix.display())]
    Outside {
        /// The path on the node.
        path: PathBuf,
        /// The prefix.
        prefix: PathBuf,
    },
    /// It could not be resolved.
    #[error("cannot resolve {}", path.display())]
    Resolve {
        /// The path on the machine.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Place {
    /// Below `prefix`; `/` is the node itself.
    pub fn new(prefix: impl Into<PathBuf>) -> Self {
        Self {
            prefix: prefix.into(),
        }
    }

    /// Whether it is the node itself.
    pub fn is_node(&self) -> bool {
        self.prefix == Path::new("/")
    }

    /// Where a node's path is found. Its last part may be a link; what is before it must not lead out of the prefix.
    pub(crate) fn real(&self, path: &Path) -> Result<PathBuf, PlaceError> {
        if !path.is_absolute() {
            return Err(PlaceError::Relative(path.to_owned()));
        }
        let path = clean(path);
        if self.is_node() {
            return Ok(path);
        }
        if path == Path::new("/") {
            return Ok(self.prefix.clone());
        }
        let inside = path.strip_prefix("/").unwrap_or(&path);
        let real = self.prefix.join(inside);
        let resolve = |path: &Path| {
            path.canonicalize().map_err(|source| PlaceError::Resolve {
                path: path.to_owned(),
                source,
            })
        };
        let prefix = resolve(&self.prefix)?;
        let existing = real
            .ancestors()
            .skip(1)
            .find(|folder| folder.symlink_metadata().is_ok())
            .unwrap_or(&self.prefix);
        if resolve(existing)?.starts_with(&prefix) {
            Ok(real)
        } else {
            Err(PlaceError::Outside { path, prefix })
        }
    }
}

/// Without `.`, `..` and doubled slashes, by the text alone, as Go's `filepath.Clean` does.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => {
                let _at_the_root = cleaned.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    cleaned
}
