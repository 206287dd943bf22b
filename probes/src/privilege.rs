//! Which capability is missing, asked before the kernel answers everything with a bare EPERM.

use std::fmt;

use rustix::thread::{CapabilitySet, capabilities};

/// A capability that loading the probes needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// `CAP_BPF`: creating maps.
    Bpf,
    /// `CAP_PERFMON`: loading tracing programs.
    Perfmon,
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bpf => "CAP_BPF",
            Self::Perfmon => "CAP_PERFMON",
        })
    }
}

/// The first capability that the calling thread lacks. `CAP_SYS_ADMIN` stands for both.
///
/// # Errors
/// The kernel's, if it does not say.
pub(crate) fn missing() -> std::io::Result<Option<Capability>> {
    let effective = capabilities(None)?.effective;
    Ok(if effective.contains(CapabilitySet::SYS_ADMIN) {
        None
    } else if !effective.contains(CapabilitySet::BPF) {
        Some(Capability::Bpf)
    } else if !effective.contains(CapabilitySet::PERFMON) {
        Some(Capability::Perfmon)
    } else {
        None
    })
}
