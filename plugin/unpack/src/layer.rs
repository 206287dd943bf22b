//! Which layer it was. containerd gives neither digest nor name, but its process has the layer's blob open while we read
//! it: the open blob that begins as our input began is the layer, if there is just one.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

/// Most descriptors of containerd's that are looked at.
const MOST: usize = 1 << 16;
/// A digest's length as text, by the algorithm that the folder of its blobs is named after.
const ALGORITHMS: [(&str, usize); 2] = [("sha256", 64), ("sha512", 128)];

/// The digest of the layer that begins so, if the process `parent` has one such blob open.
pub(crate) fn digest(parent: u32, beginning: &[u8]) -> Option<String> {
    among(Path::new(&format!("/proc/{parent}/fd")), beginning)
}

/// As [`digest`], among the links in a folder.
fn among(folder: &Path, beginning: &[u8]) -> Option<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).ok()?.take(MOST) {
        // A descriptor may be closed meanwhile, and then it is not that of our layer.
        let Ok(entry) = entry else { continue };
        let digest = fs::read_link(entry.path()).ok().and_then(|blob| named(&blob));
        if let Some(digest) = digest
            && begins_with(&entry.path(), beginning)
        {
            found.insert(digest);
        }
    }
    let only = found.pop_first();
    only.filter(|_| found.is_empty())
}

/// The digest that the path of a blob ends with (`…/blobs/sha256/…`, in the content store).
fn named(blob: &Path) -> Option<String> {
    let digits = blob.file_name()?.to_str()?;
    let folder = blob.parent()?;
    let algorithm = folder.file_name()?.to_str()?;
    let is_digest = ALGORITHMS.contains(&(algorithm, digits.len()))
        && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
        && folder.parent()?.ends_with("blobs");
    is_digest.then(|| format!("{algorithm}:{digits}"))
}

/// Opened anew, so that containerd's own place in the file stays what it is.
fn begins_with(path: &Path, beginning: &[u8]) -> bool {
    let mut start = vec![0; beginning.len()];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && start == beginning
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_one_blob_that_begins_so_is_the_layer() {
        let folder = tempfile::tempdir().unwrap();
        let (blobs, open) = (folder.path().join("blobs/sha256"), folder.path().join("fd"));
        fs::create_dir_all(&blobs).unwrap();
        fs::create_dir(&open).unwrap();
        let links = [
            ("3", "a".repeat(64), "layer one"),
            ("4", "b".repeat(64), "layer two"),
            // Two descriptors of one blob are one blob.
            ("5", "b".repeat(64), "layer two"),
            ("6", "c".repeat(64), "lay"),
            ("7", "d".repeat(63), "layer one"),
            ("8", "metadata.db".to_owned(), "layer one"),
        ];
        for (number, name, content) in links {
            fs::write(blobs.join(&name), content).unwrap();
            symlink(blobs.join(&name), open.join(number)).unwrap();
        }
        let of = |beginning: &str| among(&open, beginning.as_bytes());
        assert_eq!(of("layer o"), Some(format!("sha256:{}", "a".repeat(64))));
        assert_eq!(of("layer two"), Some(format!("sha256:{}", "b".repeat(64))));
        assert_eq!(of("layer "), None, "two begin so");
        assert_eq!(of("layer three"), None);
        assert_eq!(among(Path::new("/nowhere"), b""), None);
    }
}
