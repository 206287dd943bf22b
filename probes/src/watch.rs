//! Whom the kernel side watches: process ids as this process's pid namespace numbers them.

use std::os::unix::fs::MetadataExt;

use aya::maps::MapError;

use crate::load::LoadError;

/// How many processes can be watched at once.
pub const MAX_TARGETS: usize = 4;

const PID_NAMESPACE: &str = "/proc/self/ns/pid";
/// The inode of the namespace in which every process has its global number.
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// `struct targets` of `bpf/watch.h`, in words.
pub(crate) type Targets = [u32; 10];

/// Why the watched processes could not be set.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// More processes than the kernel side has room for.
    #[error("{given} processes to watch, at most {MAX_TARGETS} are possible")]
    TooMany {
        /// How many were asked for.
        given: usize,
    },
    /// Pid 0 is nobody.
    #[error("pid 0 cannot be watched")]
    Zero,
    /// The kernel refused.
    #[error("the map {name} refused an update")]
    Map {
        /// Which.
        name: &'static str,
        /// What the kernel said.
        #[source]
        source: Box<MapError>,
    },
}

pub(crate) fn map_error(name: &'static str) -> impl Fn(MapError) -> WatchError {
    move |source| WatchError::Map {
        name,
        source: Box::new(source),
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct PidNamespace {
    dev: u64,
    inode: u64,
}

impl PidNamespace {
    pub(crate) fn own() -> Result<Self, LoadError> {
        let found = std::fs::metadata(PID_NAMESPACE).map_err(|source| LoadError::PidNamespace {
            path: PID_NAMESPACE,
            source,
        })?;
        Ok(Self {
            dev: found.dev(),
            inode: found.ino(),
        })
    }

    /// The namespace's inode, which the kernel knows it by.
    pub(crate) fn inode(self) -> u64 {
        self.inode
    }

    /// The list as the kernel side reads it.
    pub(crate) fn targets(self, pids: &[u32]) -> Result<Targets, WatchError> {
        if pids.len() > MAX_TARGETS {
            return Err(WatchError::TooMany { given: pids.len() });
        }
        if pids.contains(&0) {
            return Err(WatchError::Zero);
        }
        // In the initial namespace the global numbers are right, also for processes of nested namespaces.
        let (dev, inode) = if self.inode == INITIAL_PID_NAMESPACE {
            (0, 0)
        } else {
            let (major, minor) = (libc::major(self.dev), libc::minor(self.dev));
            (u64::from(major << 20 | minor), self.inode)
        };
        // The object is little-endian, and so is every machine that takes it.
        let halves = |value: u64| [(value & u64::from(u32::MAX)) as u32, (value >> 32) as u32];
        let count = u32::try_from(pids.len()).unwrap_or(u32::MAX);
        let fields = halves(dev)
            .into_iter()
            .chain(halves(inode))
            .chain([count])
            .chain(pids.iter().copied());
        let mut targets = Targets::default();
        for (slot, field) in targets.iter_mut().zip(fields) {
            *slot = field;
        }
        Ok(targets)
    }
}

#[cfg(test)]
mod tests {
    use super::PidNamespace;

    #[test]
    fn targets_are_laid_out_as_the_kernel_side_reads_them() {
        let nested = PidNamespace {
            dev: libc::makedev(1, 300),
            inode: 0x1_0000_0002,
        };
        assert_eq!(
            nested.targets(&[7, 8]).ok(),
            Some([1 << 20 | 300, 0, 2, 1, 2, 7, 8, 0, 0, 0])
        );
        let initial = PidNamespace {
            dev: 4,
            inode: super::INITIAL_PID_NAMESPACE,
        };
        assert_eq!(initial.targets(&[7]).ok(), Some([0, 0, 0, 0, 1, 7, 0, 0, 0, 0]));
        assert_eq!(initial.targets(&[]).ok(), Some([0; 10]));
    }
}
