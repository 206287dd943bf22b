//! Which sockets there still are, by the kernel's own list of unix sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind};
use std::path::PathBuf;

use aya::maps::MapError;

use super::kernel_side::Entry;

/// Why it could not be told which connections are gone.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The kernel side's own table.
    #[error("reading the table of conversations")]
    Table(#[source] Box<MapError>),
    /// The kernel's list.
    #[error("reading the list of unix sockets at {}", path.display())]
    Sockets {
        /// Where it was looked for.
        path: PathBuf,
        /// What came instead.
        #[source]
        source: io::Error,
    },
}

impl SweepError {
    pub(super) fn table(source: MapError) -> Self {
        Self::Table(Box::new(source))
    }
}

/// Those of the entries whose sockets the kernel lists, as (process, inode).
pub(super) fn listed(entries: &[(u64, Entry)]) -> Result<BTreeSet<(u32, u64)>, SweepError> {
    let mut wanted: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
    for (_, entry) in entries {
        wanted.entry(entry.tgid).or_default().insert(entry.inode);
    }
    let mut listed = BTreeSet::new();
    for (tgid, inodes) in wanted {
        // The list of the process's own network namespace.
        let path = PathBuf::from(format!("/proc/{tgid}/net/unix"));
        let found = match File::open(&path) {
            Ok(file) => inodes_in(BufReader::new(file), &inodes),
            Err(error) => Err(error),
        };
        match found {
            Ok(found) => listed.extend(found.into_iter().map(|inode| (tgid, inode))),
            Err(error) if is_gone(&error) => {}
            Err(source) => return Err(SweepError::Sockets { path, source }),
        }
    }
    Ok(listed)
}

/// The process ended, and its sockets with it.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

fn inodes_in(list: impl BufRead, wanted: &BTreeSet<u64>) -> io::Result<BTreeSet<u64>> {
    let mut found = BTreeSet::new();
    for line in list.split(b'\n') {
        // A path may be any bytes, and comes last.
        if let Some(inode) = inode_of(&line?).filter(|inode| wanted.contains(inode)) {
            found.insert(inode);
        }
    }
    Ok(found)
}

/// `Num RefCount Protocol Flags Type St Inode Path`
fn inode_of(line: &[u8]) -> Option<u64> {
    let field = line
        .split(|byte| *byte == b' ')
        .filter(|field| !field.is_empty())
        .nth(6)?;
    std::str::from_utf8(field).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{inode_of, inodes_in};

    #[test]
    fn inodes_are_read_from_the_kernels_list() {
        let list = b"Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000073997508: 00000003 00000000 00000000 0001 03 1631571\n\
            000000000f6094d7: 00000003 00000000 00000000 0001 03    12 /run/\xff c.sock\n\
            000000000f6094d8: 00000003 00000000 00000000 0001 03 99 77\n\n";
        let wanted = BTreeSet::from([12, 77, 1_631_571]);
        let found = inodes_in(list.as_slice(), &wanted).unwrap();
        assert_eq!(found, BTreeSet::from([12, 1_631_571]));
        assert_eq!(inode_of(b""), None);
    }
}
