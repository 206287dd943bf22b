//! Gives memory back to the system after a transient peak.

/// What an arena may keep at its end; glibc's own first value.
#[cfg(target_env = "gnu")]
const KEPT: libc::c_int = 128 << 10;

/// Lets the allocator return what is freed at the end of an arena, whichever thread's it is.
///
/// Left alone, glibc raises what it keeps there to twice the largest piece ever freed, which is the kernel's BTF here,
/// and [`release_memory`] does not reach the end of other arenas than the first: a thread that loads the probes
/// would keep more than ten megabytes for ever. Call once, first of all, while no other thread runs.
#[expect(unsafe_code, reason = "mallopt has no safe wrapper")]
pub fn return_freed_memory() {
    // SAFETY: mallopt takes no pointer; it locks the first arena and sets two integers, which the allocator only
    // compares sizes with.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
    }
}

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
