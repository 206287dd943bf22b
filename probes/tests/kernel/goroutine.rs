//! System calls made as a goroutine makes them: with its address in the register that Go reserves for it.

#![expect(unsafe_code, reason = "only inline assembly can choose the register")]

use std::arch::asm;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// An imitated goroutine; the number stands for its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Goroutine(pub(crate) u64);

#[cfg(target_arch = "x86_64")]
mod number {
    pub(super) const READ: i64 = 0;
    pub(super) const WRITE: i64 = 1;
    pub(super) const CLOSE: i64 = 3;
    pub(super) const UNLINKAT: i64 = 263;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub(super) const READ: i64 = 63;
    pub(super) const WRITE: i64 = 64;
    pub(super) const CLOSE: i64 = 57;
    pub(super) const UNLINKAT: i64 = 35;
}

impl Goroutine {
    pub(crate) fn read(self, from: &impl AsFd, buffer: &mut [u8]) -> usize {
        let descriptor = from.as_fd().as_raw_fd().into();
        // SAFETY: the descriptor is borrowed, and the kernel writes at most `buffer.len()` bytes to `buffer`.
        let result = unsafe {
            call(
                self.0,
                number::READ,
                descriptor,
                buffer.as_mut_ptr().expose_provenance(),
                buffer.len(),
            )
        };
        result.expect("a read")
    }

    pub(crate) fn write(self, to: &impl AsFd, bytes: &[u8]) {
        let descriptor = to.as_fd().as_raw_fd().into();
        // SAFETY: the descriptor is borrowed, and the kernel only reads from `bytes`.
        let result = unsafe {
            call(
                self.0,
                number::WRITE,
                descriptor,
                bytes.as_ptr().expose_provenance(),
                bytes.len(),
            )
        };
        assert_eq!(result.expect("a write"), bytes.len());
    }

    /// Removes a file by its absolute path.
    pub(crate) fn unlink(self, path: &Path) {
        assert!(path.is_absolute());
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: the path is absolute, so the folder's descriptor does not count, and it ends with a zero byte.
        let result = unsafe { call(self.0, number::UNLINKAT, -1, path.as_ptr().expose_provenance(), 0) };
        result.expect("an unlink");
    }

    pub(crate) fn close(self, file: File) {
        // SAFETY: the descriptor is owned, and given up here.
        unsafe { call(self.0, number::CLOSE, file.into_raw_fd().into(), 0, 0) }.expect("a close");
    }
}

/// # Safety
/// The arguments must be sound for that system call.
unsafe fn call(goroutine: u64, number: i64, first: i64, second: usize, third: usize) -> io::Result<usize> {
    let result: i64;
    // SAFETY: the registers are those of the kernel's calling convention, all that it may change are named, and
    // the caller answers for the arguments.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") first, in("rsi") second, in("rdx") third,
            in("r14") goroutine, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") first => result, in("x1") second, in("x2") third,
            in("x28") goroutine, options(nostack));
    }
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(i32::try_from(-result).unwrap_or(0)))
}
