//! The running probes: whom they watch, and what they say.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use aya::maps::{Array, MapData, MapError, PerCpuArray, RingBuf};
use aya::programs::links::FdLink;

use crate::decode::decode;
use crate::load::{self, Level, LoadError, Options};
use crate::record::Record;
use crate::watch::{PidNamespace, Targets, WatchError, map_error};

pub(crate) struct Maps {
    pub(crate) targets: Array<MapData, Targets>,
    pub(crate) epoch: Array<MapData, u64>,
    pub(crate) lost: PerCpuArray<MapData, u64>,
    pub(crate) records: RingBuf<MapData>,
}

/// Why the loss counter could not be read.
#[derive(Debug, thiserror::Error)]
#[error("reading the count of lost records")]
pub struct ReadError(#[source] pub(crate) Box<MapError>);

/// Loaded and attached probes; dropping them detaches them.
///
/// Watches nobody until [`watch`](Self::watch). The descriptor is readable while records wait: put the whole
/// value into an `AsyncFd`, or poll [`fd`](Self::fd), then [`drain`](Self::drain).
pub struct Probes {
    maps: Maps,
    level: Level,
    fell_back: Option<LoadError>,
    namespace: PidNamespace,
    epoch: Option<u32>,
    undecodable: u64,
    _attachments: Vec<FdLink>,
}

impl std::fmt::Debug for Probes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probes")
            .field("level", &self.level)
            .finish_non_exhaustive()
    }
}

impl Probes {
    /// Loads and attaches. Takes tens of milliseconds and, for that moment, tens of megabytes: see
    /// [`release_memory`](crate::release_memory).
    ///
    /// # Errors
    /// See [`LoadError`]; nothing stays attached then.
    pub fn load(options: &Options) -> Result<Self, LoadError> {
        let loaded = load::load(options)?;
        let namespace = PidNamespace::own()?;
        Ok(Self {
            maps: loaded.maps,
            level: loaded.level,
            fell_back: loaded.fell_back,
            namespace,
            epoch: None,
            undecodable: 0,
            _attachments: loaded.attachments,
        })
    }

    /// Watches these processes, named as this process's pid namespace numbers them, instead of those before;
    /// none at all switches every program off. Takes effect at once. Whatever still holds for a process that
    /// stays watched is said again, after a [`Record::Gap`].
    ///
    /// # Errors
    /// If the list is unusable or the kernel refuses; the list before stays then.
    pub fn watch(&mut self, pids: &[u32]) -> Result<(), WatchError> {
        let targets = self.namespace.targets(pids)?;
        self.maps
            .targets
            .set(0, targets, 0)
            .map_err(map_error("targets"))?;
        self.repeat()
    }

    /// Makes the kernel side say everything again that still holds, after a [`Record::Gap`].
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn repeat(&mut self) -> Result<(), WatchError> {
        let now = self.maps.epoch.get(&0, 0).map_err(map_error("epoch"))?;
        self.maps
            .epoch
            .set(0, now.wrapping_add(1), 0)
            .map_err(map_error("epoch"))
    }

    /// The descriptor to poll for records.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.maps.records.as_fd()
    }

    /// Hands over at most `max` waiting records, oldest first, and returns how many were taken from the ring.
    /// Less than `max` means that none is left. Where the kernel side lost records, [`Record::Gap`] comes in
    /// their place, uncounted. Never blocks.
    pub fn drain(&mut self, max: usize, f: &mut dyn FnMut(Record)) -> usize {
        for taken in 0..max {
            let Some(item) = self.maps.records.next() else {
                return taken;
            };
            match decode(&item) {
                Ok((epoch, record)) => {
                    // Records of several processors may pass one another, so a smaller epoch means nothing.
                    let before = *self.epoch.get_or_insert(epoch);
                    if epoch.wrapping_sub(before).cast_signed() > 0 {
                        self.epoch = Some(epoch);
                        f(Record::Gap);
                    }
                    f(record);
                }
                Err(_) => self.undecodable = self.undecodable.saturating_add(1),
            }
        }
        max
    }

    /// How many records the kernel side could not place, since loading.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn lost(&mut self) -> Result<u64, ReadError> {
        let counts = self
            .maps
            .lost
            .get(&0, 0)
            .map_err(|error| ReadError(Box::new(error)))?;
        Ok(counts.iter().fold(0, |sum, count| sum.saturating_add(*count)))
    }

    /// How many ring-buffer items were no records of this version: anything but 0 is a defect.
    #[must_use]
    pub fn undecodable(&self) -> u64 {
        self.undecodable
    }

    /// The variant that is running.
    #[must_use]
    pub fn level(&self) -> Level {
        self.level
    }

    /// Why the better variant is not running, if it was tried.
    #[must_use]
    pub fn fell_back(&self) -> Option<&LoadError> {
        self.fell_back.as_ref()
    }
}

impl AsFd for Probes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd()
    }
}

impl AsRawFd for Probes {
    fn as_raw_fd(&self) -> RawFd {
        self.fd().as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::Probes;

    /// A runtime may move them between its threads.
    const _: fn() = || {
        fn is_send<T: Send>() {}
        is_send::<Probes>();
    };
}
