//! Our own memory: how much it is, and giving back what the allocator only keeps in stock.

use std::io;

use thiserror::Error;

use crate::proc_file;

const STATUS: &str = "/proc/self/status";

/// Why our own size is not known.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The status file could not be read.
    #[error("cannot read {STATUS}")]
    Read {
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The status file says nothing that can be understood.
    #[error("{STATUS} does not tell the resident size")]
    Malformed,
}

/// Gives memory that is free inside the allocator back to the system; useful after a peak, such as loading
/// programs into the kernel. Takes milliseconds; does nothing where the allocator is not that of glibc.
pub fn release_free_memory() {
    #[cfg(target_env = "gnu")]
    {
        #[expect(unsafe_code, reason = "the allocator's own function has no safe wrapper")]
        // SAFETY: malloc_trim takes a number, touches only free memory, and may be called by any thread at any time.
        let _whether_any_was_given_back: i32 = unsafe { libc::malloc_trim(0) };
    }
}

/// Bytes of memory that this process occupies, to within some pages per thread.
///
/// # Errors
/// Where `/proc` is not as it should be.
pub fn rss_bytes() -> Result<u64, MemoryError> {
    let status = proc_file::read(STATUS).map_err(|source| MemoryError::Read { source })?;
    resident_in(&status).ok_or(MemoryError::Malformed)
}

fn resident_in(status: &str) -> Option<u64> {
    let kibibytes: u64 = proc_file::field(status, "VmRSS")?
        .strip_suffix("kB")?
        .trim_end()
        .parse()
        .ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: usize = 64 * 1024;
    const BLOCKS: usize = 512;

    #[cfg(target_env = "gnu")]
    #[test]
    fn freed_memory_is_given_back() {
        // Blocks below the size that glibc maps separately stay in its stock when freed, as long as the last
        // one, which ends the heap, lives on.
        let blocks: Vec<Vec<u8>> = (0..BLOCKS).map(|_| vec![1; BLOCK]).collect();
        let last = vec![1_u8; BLOCK];
        let full = rss_bytes().unwrap();
        drop(blocks);
        release_free_memory();
        let after = rss_bytes().unwrap();
        assert!(
            after + (BLOCK * BLOCKS / 2) as u64 <= full,
            "{full} bytes before, {after} after"
        );
        drop(last);
    }

    #[test]
    fn the_resident_size_is_read_in_bytes() {
        assert_eq!(resident_in("Name:\tx\nVmRSS:\t   12 kB\n"), Some(12 * 1024));
        for odd in [
            "",
            "VmRSS:\n",
            "VmRSS: 12 MB",
            "VmRSS: -1 kB",
            "VmRSS: 18446744073709551615 kB",
        ] {
            assert_eq!(resident_in(odd), None, "{odd}");
        }
    }
}
