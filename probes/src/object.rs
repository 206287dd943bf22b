//! The compiled kernel side, embedded. The ELF parser reads it in place and wants it aligned.

#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/magi.bpf.o")));

/// Why the build embedded no kernel side; empty if it did.
const MISSING: &str = env!("MAGI_PROBES_MISSING");

/// The object's bytes, or the reason why there are none.
pub(crate) fn bytes() -> Result<&'static [u8], &'static str> {
    if MISSING.is_empty() {
        Ok(&OBJECT.0)
    } else {
        Err(MISSING)
    }
}
