//! What this process may do, before it tries: which of the capabilities that magi uses are in effect.

use std::fmt;
use std::io;

use thiserror::Error;

use crate::proc_file;

const STATUS: &str = "/proc/self/status";

/// A capability that some part of magi needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capability {
    /// Look into any process's files.
    DacReadSearch,
    /// Destroy sockets.
    NetAdmin,
    /// Take a duplicate of another process's descriptor, and list its descriptors.
    SysPtrace,
    /// Join namespaces; also stands for `Bpf` and `Perfmon`.
    SysAdmin,
    /// Read the kernel's memory by probes.
    Perfmon,
    /// Load probes.
    Bpf,
}

impl Capability {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::DacReadSearch,
        Self::NetAdmin,
        Self::SysPtrace,
        Self::SysAdmin,
        Self::Perfmon,
        Self::Bpf,
    ];

    /// The kernel's number for it.
    const fn bit(self) -> u64 {
        1 << match self {
            Self::DacReadSearch => 2,
            Self::NetAdmin => 12,
            Self::SysPtrace => 19,
            Self::SysAdmin => 21,
            Self::Perfmon => 38,
            Self::Bpf => 39,
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::DacReadSearch => "CAP_DAC_READ_SEARCH",
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::SysPtrace => "CAP_SYS_PTRACE",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::Perfmon => "CAP_PERFMON",
            Self::Bpf => "CAP_BPF",
        })
    }
}

/// Why our capabilities are not known.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CapabilityError {
    /// The status file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The status file says nothing that can be understood.
    #[error("{path} does not tell the effective capabilities")]
    Malformed {
        /// The file.
        path: String,
    },
}

/// A set of capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    bits: u64,
}

impl Capabilities {
    /// Those in effect for this process (for its main thread, to be exact), in its own user namespace.
    ///
    /// # Errors
    /// Where `/proc` is not as it should be.
    pub fn effective() -> Result<Self, CapabilityError> {
        Self::in_file(STATUS.to_owned())
    }

    /// Those in effect for another process, which means for its main thread, in the user namespace that it is in.
    ///
    /// # Errors
    /// There is no such process, or `/proc` is not as it should be.
    pub fn of(pid: u32) -> Result<Self, CapabilityError> {
        Self::in_file(format!("/proc/{pid}/status"))
    }

    fn in_file(path: String) -> Result<Self, CapabilityError> {
        match proc_file::read(&path) {
            Ok(status) => Self::in_status(&status).ok_or(CapabilityError::Malformed { path }),
            Err(source) => Err(CapabilityError::Read { path, source }),
        }
    }

    fn in_status(status: &str) -> Option<Self> {
        let bits = u64::from_str_radix(proc_file::field(status, "CapEff")?, 16).ok()?;
        Some(Self { bits })
    }

    /// Whether the capability is in the set.
    #[must_use]
    pub fn has(self, capability: Capability) -> bool {
        self.bits & capability.bit() != 0
    }

    /// Those of `needed` that are not in the set, in the order given.
    pub fn missing(self, needed: &[Capability]) -> impl Iterator<Item = Capability> {
        needed
            .iter()
            .copied()
            .filter(move |capability| !self.has(*capability))
    }
}

#[cfg(test)]
mod tests {
    use rustix::thread::CapabilitySet;

    use super::*;

    #[test]
    fn the_set_is_what_the_kernel_says_by_its_system_call_too() {
        let ours = Capabilities::effective().unwrap();
        let theirs = rustix::thread::capabilities(rustix::process::Pid::from_raw(
            i32::try_from(std::process::id()).unwrap(),
        ))
        .unwrap()
        .effective;
        for (capability, flag) in [
            (Capability::DacReadSearch, CapabilitySet::DAC_READ_SEARCH),
            (Capability::NetAdmin, CapabilitySet::NET_ADMIN),
            (Capability::SysPtrace, CapabilitySet::SYS_PTRACE),
            (Capability::SysAdmin, CapabilitySet::SYS_ADMIN),
            (Capability::Perfmon, CapabilitySet::PERFMON),
            (Capability::Bpf, CapabilitySet::BPF),
        ] {
            assert_eq!(capability.bit(), flag.bits(), "{capability}");
            assert_eq!(ours.has(capability), theirs.contains(flag), "{capability}");
        }
    }

    #[test]
    fn another_process_has_its_own() {
        let ours = Capabilities::of(std::process::id()).unwrap();
        assert_eq!(ours, Capabilities::effective().unwrap());
        assert!(matches!(
            Capabilities::of(u32::MAX),
            Err(CapabilityError::Read { .. })
        ));
    }

    #[test]
    fn what_is_missing_is_named() {
        let set = Capabilities::in_status("CapPrm:\tffffffffffffffff\nCapEff:\t0000000000001000\n").unwrap();
        let missing: Vec<String> = set
            .missing(&[Capability::NetAdmin, Capability::Bpf])
            .map(|missing| missing.to_string())
            .collect();
        assert_eq!(missing, ["CAP_BPF"]);
        for odd in ["", "CapEff:", "CapEff:\txyz", "CapEff:\t10000000000000000"] {
            assert_eq!(Capabilities::in_status(odd), None, "{odd}");
        }
    }
}
