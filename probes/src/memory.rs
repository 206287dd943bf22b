//! Gives memory back to the system after a transient peak.

/// Returns freed heap pages to the kernel.
///
/// Parsing the kernel's BTF takes tens of megabytes in small pieces for a moment; glibc keeps the pages of
/// freed small pieces for later. Worth calling once after start; takes a few milliseconds.
#[expect(unsafe_code, reason = "malloc_trim has no safe wrapper")]
pub fn release_memory() {
    // SAFETY: malloc_trim takes no pointer and locks the allocator itself; any thread may call it at any time.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
