//! The compiled kernel side, embedded. The ELF parser reads it in place and wants it aligned.

#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

static PROBES: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/magi.bpf.o")));
static CONVERSATIONS: &Aligned<[u8]> =
    &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/conversations.bpf.o")));

/// Why the build embedded no kernel side; empty if it did.
const MISSING: &str = env!("MAGI_PROBES_MISSING");

/// What can be loaded, each by itself.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Object {
    Probes,
    Conversations,
}

impl Object {
    /// The object's bytes, or the reason why there are none.
    pub(crate) fn bytes(self) -> Result<&'static [u8], &'static str> {
        if !MISSING.is_empty() {
            return Err(MISSING);
        }
        Ok(match self {
            Self::Probes => &PROBES.0,
            Self::Conversations => &CONVERSATIONS.0,
        })
    }
}
