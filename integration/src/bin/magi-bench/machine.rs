//! The machine that a figure belongs to, and how busy others kept it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

/// In which `/proc/stat` counts, whatever the kernel's own tick is.
pub(crate) const TICKS_PER_SECOND: f64 = 100.0;

/// What it is.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: String,
    /// Kind of the file system on which the containerds live.
    pub(crate) filesystem: String,
}

impl Machine {
    /// Looks.
    pub(crate) fn look() -> Result<Self> {
        let system = rustix::system::uname();
        let cpu = fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo")?;
        let cpu = cpu
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.to_owned());
        let memory = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
        Ok(Self {
            cpu,
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mib: field_kib(&memory, "MemTotal:").unwrap_or_default() >> 10,
            kernel: format!(
                "{} {} {}",
                system.sysname().to_string_lossy(),
                system.release().to_string_lossy(),
                system.machine().to_string_lossy()
            ),
            filesystem: filesystem_of(&std::env::temp_dir()).unwrap_or_else(|| "unknown".to_owned()),
        })
    }
}

/// The load averages over 1, 5 and 15 minutes.
pub(crate) fn load() -> [f64; 3] {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut fields = text.split(' ').filter_map(|field| field.parse().ok());
    std::array::from_fn(|_| fields.next().unwrap_or_default())
}

/// The number of KiB that a `/proc` file gives after `name`.
pub(crate) fn field_kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().trim_end_matches(" kB").trim().parse().ok()
}

fn filesystem_of(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mounts = table.lines().filter_map(|line| {
        let (mount, rest) = line.split_once(" - ")?;
        Some((
            PathBuf::from(mount.split(' ').nth(4)?),
            rest.split(' ').next()?.to_owned(),
        ))
    });
    // Of several mounts on one point, the last one is on top.
    mounts
        .filter(|(point, _)| path.starts_with(point))
        .max_by_key(|(point, _)| point.components().count())
        .map(|(_, kind)| kind)
}

/// Processor time that the whole machine has spent on anything, in seconds, waiting for disks not included.
pub(crate) fn busy_seconds() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let Some(total) = text.lines().next().and_then(|line| line.strip_prefix("cpu ")) else {
        return 0.0;
    };
    let ticks: f64 = total
        .split_whitespace()
        .take(8)
        .enumerate()
        .filter(|(column, _)| ![3, 4].contains(column))
        .filter_map(|(_, field)| field.parse::<f64>().ok())
        .sum();
    ticks / TICKS_PER_SECOND
}

/// Processor time of all processes that this one started and that have ended, in seconds.
pub(crate) fn children_seconds() -> Result<f64> {
    let text = fs::read_to_string("/proc/self/stat").context("read /proc/self/stat")?;
    let ticks = children_ticks(&text).context("/proc/self/stat is not understood")?;
    Ok(ticks / TICKS_PER_SECOND)
}

fn children_ticks(stat: &str) -> Option<f64> {
    // The name, in brackets, may hold anything; after it come single words.
    let (_, words) = stat.rsplit_once(')')?;
    let mut words = words.split_whitespace().skip(13);
    let user: f64 = words.next()?.parse().ok()?;
    let system: f64 = words.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::{busy_seconds, children_seconds, children_ticks, field_kib, load};

    #[test]
    fn proc_is_understood() {
        assert_eq!(field_kib("A:   12 kB\nVmRSS:\t   7 kB\n", "VmRSS:"), Some(7));
        assert!(busy_seconds() > 0.0);
        assert!(children_seconds().is_ok());
        let stat = "1 (a) 0 (b) S 1 1 1 0 -1 4194560 1 2 3 4 5 6 70 8 20 0 1 0 9";
        assert_eq!(children_ticks(stat), Some(78.0));
        assert!(load().iter().all(|load| load.is_finite()));
    }
}
