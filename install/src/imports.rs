//! The files of a configuration, found as containerd finds them: breadth first, with globs, each once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use crate::document::{Document, DocumentError};
use crate::effective::Effective;
use crate::files::{self, FileError, Links};
use crate::place::{Place, PlaceError, clean};
use crate::version::Version;

/// Longest file that is read, and most of them.
pub(crate) const LONGEST: u64 = 1 << 20;
const MOST_FILES: usize = 256;
/// Most entries of a folder that a glob is compared with.
const MOST_ENTRIES: usize = 10_000;

/// What containerd would read.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    /// In the order in which they are merged; none if there is no configuration.
    pub(crate) files: Vec<Document>,
    /// Every pattern with a star, in the order of reading; absolute.
    pub(crate) patterns: Vec<PathBuf>,
}

/// Why a configuration is not understood.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A path that leads nowhere.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// A file that cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file that cannot be parsed.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// containerd refuses this as well.
    #[error("{} imports {}, which does not exist; containerd would not start. Repair that first", by.display(), path.display())]
    Missing {
        /// The file that imports.
        by: PathBuf,
        /// The file that is missing.
        path: PathBuf,
    },
    /// Characters that mean something to Go's globs.
    #[error("{} imports {pattern:?}; only `*` is understood in such patterns", by.display())]
    Pattern {
        /// The file that imports.
        by: PathBuf,
        /// The pattern.
        pattern: String,
    },
    /// More than anybody has.
    #[error("more than {MOST_FILES} files, or {MOST_ENTRIES} entries in one folder, are imported")]
    Many,
    /// The file cannot be used by that containerd.
    #[error("{} has `version = {found}`, and containerd {version} reads {highest} at most; is that the containerd of this node?", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// Of containerd.
        version: Version,
        /// What that reads.
        highest: i64,
    },
    /// No such version ever was.
    #[error("{} has `version = {found}`, which no containerd reads", path.display())]
    Strange {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
    /// containerd refuses this, or mistakes one file's tables.
    #[error("{} has `version = {found}`, more than the {root} of the file that imports it", path.display())]
    ImportNewer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// Of the root file.
        root: i64,
    },
    /// containerd 2.x refuses this as well.
    #[error("{} begins with a byte order mark, which containerd {version} refuses; save it without", path.display())]
    ByteOrderMark {
        /// The file.
        path: PathBuf,
        /// Of containerd.
        version: Version,
    },
}

/// Reads a node's configuration as this version of containerd would. A missing file is an empty configuration.
pub fn effective(place: &Place, config: &Path, version: Version) -> Result<Effective, LoadError> {
    let loaded = load(place, config, version, &BTreeMap::new())?;
    Ok(loaded.effective(version))
}

impl Loaded {
    pub(crate) fn effective(&self, version: Version) -> Effective {
        Effective::merge(&self.files, version.merge())
    }
}

/// Reads `config` and what it imports. A file in `overlay` is as it says there, whether it exists or not.
pub(crate) fn load(
    place: &Place,
    config: &Path,
    version: Version,
    overlay: &BTreeMap<PathBuf, String>,
) -> Result<Loaded, LoadError> {
    let config = clean(config);
    let mut loaded = Loaded {
        files: Vec::new(),
        patterns: Vec::new(),
    };
    let mut seen = BTreeSet::new();
    let mut waiting = VecDeque::from([(config.clone(), config.clone())]);
    while let Some((path, by)) = waiting.pop_front() {
        if !seen.insert(path.clone()) {
            continue;
        }
        if seen.len() > MOST_FILES {
            return Err(LoadError::Many);
        }
        let is_root = path == config;
        let links = if is_root { Links::Refuse } else { Links::Follow };
        let bytes = match overlay.get(&path) {
            Some(text) => Some(text.clone().into_bytes()),
            None => files::read(&place.real(&path)?, LONGEST, links)?.map(|found| found.bytes),
        };
        let Some(bytes) = bytes else {
            if is_root {
                return Ok(loaded);
            }
            return Err(LoadError::Missing { by, path });
        };
        let document = Document::parse(&path, bytes)?;
        check(&document, loaded.files.first(), version)?;
        for import in document.strings("imports") {
            let full = if Path::new(import).is_absolute() {
                clean(Path::new(import))
            } else {
                clean(&path.parent().unwrap_or(Path::new("/")).join(import))
            };
            if !import.contains('*') {
                waiting.push_back((full, path.clone()));
                continue;
            }
            if import.contains(['?', '[', '\\']) {
                return Err(LoadError::Pattern {
                    by: path,
                    pattern: import.to_owned(),
                });
            }
            for found in glob(place, &full, overlay)? {
                waiting.push_back((found, path.clone()));
            }
            loaded.patterns.push(full);
        }
        loaded.files.push(document);
    }
    Ok(loaded)
}

fn check(document: &Document, root: Option<&Document>, version: Version) -> Result<(), LoadError> {
    let path = document.path.clone();
    if document.has_byte_order_mark() && version.major > 1 {
        return Err(LoadError::ByteOrderMark { path, version });
    }
    let Some(found) = document.version() else {
        return Ok(());
    };
    if !(0..=4).contains(&found) {
        return Err(LoadError::Strange { path, found });
    }
    let highest = version.highest_config();
    if found > highest {
        return Err(LoadError::Newer {
            path,
            found,
            version,
            highest,
        });
    }
    match root.map(|root| root.version().unwrap_or(1)) {
        Some(root) if found > root => Err(LoadError::ImportNewer { path, found, root }),
        Some(_) | None => Ok(()),
    }
}

/// What Go's `filepath.Glob` finds, in its order, with stars only.
fn glob(
    place: &Place,
    pattern: &Path,
    overlay: &BTreeMap<PathBuf, String>,
) -> Result<Vec<PathBuf>, LoadError> {
    let mut found = vec![PathBuf::from("/")];
    for part in pattern.components().skip(1) {
        let part = part.as_os_str().to_string_lossy();
        let mut next = Vec::new();
        for folder in found {
            if !part.contains('*') {
                next.push(folder.join(&*part));
                continue;
            }
            let mut names: BTreeSet<String> = overlay
                .keys()
                .filter(|path| path.parent() == Some(&folder))
                .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
                .collect();
            // A folder that is not there, or is none, holds nothing; Go's glob ignores such errors too.
            for entry in std::fs::read_dir(place.real(&folder)?)
                .into_iter()
                .flatten()
                .flatten()
            {
                names.extend(entry.file_name().to_str().map(ToOwned::to_owned));
                if names.len() > MOST_ENTRIES {
                    return Err(LoadError::Many);
                }
            }
            next.extend(
                names
                    .iter()
                    .filter(|name| matches(&part, name))
                    .map(|name| folder.join(name)),
            );
        }
        if next.len() > MOST_ENTRIES {
            return Err(LoadError::Many);
        }
        found = next;
    }
    let there = |path: &PathBuf| {
        overlay.contains_key(path) || place.real(path).is_ok_and(|real| real.symlink_metadata().is_ok())
    };
    Ok(found.into_iter().filter(there).collect())
}

/// Whether a path fits a pattern, part by part.
pub(crate) fn fits(pattern: &Path, path: &Path) -> bool {
    pattern.components().count() == path.components().count()
        && pattern
            .components()
            .zip(path.components())
            .all(|(pattern, part)| {
                matches(
                    &pattern.as_os_str().to_string_lossy(),
                    &part.as_os_str().to_string_lossy(),
                )
            })
}

/// A star is any text, the empty one too; leading dots are nothing special, as in Go.
fn matches(pattern: &str, name: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(mut rest) = pieces.next().and_then(|first| name.strip_prefix(first)) else {
        return false;
    };
    let mut pieces = pieces.peekable();
    if pieces.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return rest.ends_with(piece);
        }
        match rest.split_once(piece) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    true
}
