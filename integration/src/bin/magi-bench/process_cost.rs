//! What a process has used, by the kernel's own books.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::machine::field_kib;

/// Memory of a process, in KiB.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Memory {
    /// Resident: all pages, those of the program file included.
    pub(crate) rss_kib: u64,
    /// Of these: heap, stacks and other pages without a file.
    pub(crate) anonymous_kib: u64,
    /// The most that was ever resident.
    pub(crate) peak_kib: u64,
}

/// Counts what the threads of a process use from now on.
///
/// The kernel's books are to the nanosecond by thread, and to a hundredth of a second only by process, so threads are
/// added up. Of a thread that ends, what it used after the last look is missed.
#[derive(Debug)]
pub(crate) struct Meter {
    pid: u32,
    threads: BTreeMap<OsString, Used>,
    before: Used,
}

/// What was used.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Used {
    pub(crate) cpu: Duration,
    /// How often a thread went to sleep by itself: as often it was woken.
    pub(crate) sleeps: u64,
}

impl Meter {
    /// Begins.
    pub(crate) fn start(pid: u32) -> Result<Self> {
        let mut meter = Self {
            pid,
            threads: BTreeMap::new(),
            before: Used::default(),
        };
        meter.before = meter.total()?;
        Ok(meter)
    }

    /// What was used since the start.
    pub(crate) fn used(&mut self) -> Result<Used> {
        let total = self.total()?;
        Ok(Used {
            cpu: total.cpu.saturating_sub(self.before.cpu),
            sleeps: total.sleeps.saturating_sub(self.before.sleeps),
        })
    }

    fn total(&mut self) -> Result<Used> {
        let folder = PathBuf::from(format!("/proc/{}/task", self.pid));
        for thread in fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
            // A thread may end in between; then the last look at it counts.
            if let Ok(thread) = thread
                && let Some(used) = of_thread(&thread.path())
            {
                self.threads.insert(thread.file_name(), used);
            }
        }
        Ok(self.threads.values().fold(Used::default(), |sum, used| Used {
            cpu: sum.cpu + used.cpu,
            sleeps: sum.sleeps + used.sleeps,
        }))
    }
}

fn of_thread(folder: &Path) -> Option<Used> {
    let times = fs::read_to_string(folder.join("schedstat")).ok()?;
    let status = fs::read_to_string(folder.join("status")).ok()?;
    let sleeps = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
    Some(Used {
        cpu: Duration::from_nanos(times.split(' ').next()?.parse().ok()?),
        sleeps: sleeps.trim().parse().ok()?,
    })
}

/// Its memory now.
pub(crate) fn memory(pid: u32) -> Result<Memory> {
    let read = |file: &str| {
        let path = format!("/proc/{pid}/{file}");
        fs::read_to_string(&path).with_context(|| format!("read {path}"))
    };
    let status = read("status")?;
    let field = |name: &str| field_kib(&status, name).with_context(|| format!("no {name}"));
    Ok(Memory {
        rss_kib: field("VmRSS:")?,
        anonymous_kib: field("RssAnon:")?,
        peak_kib: field("VmHWM:")?,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::time::{ClockId, clock_gettime};

    use super::{Meter, memory};

    #[test]
    fn what_an_ended_thread_used_stays_counted() {
        let mut meter = Meter::start(std::process::id()).expect("start");
        let (seen, look) = std::sync::mpsc::channel();
        let (go, end) = std::sync::mpsc::channel::<()>();
        let busy = std::thread::spawn(move || {
            // By its own clock: on a busy machine time passes without it.
            while clock_gettime(ClockId::ThreadCPUTime).tv_nsec < 50_000_000 {}
            seen.send(()).expect("somebody looks");
            let _ = end.recv();
        });
        look.recv().expect("it was busy");
        let alive = meter.used().expect("look").cpu;
        assert!(alive >= Duration::from_millis(10), "{alive:?}");
        drop(go);
        busy.join().expect("it ends");
        assert!(meter.used().expect("look").cpu >= alive);
    }

    #[test]
    fn this_process_has_memory() {
        let memory = memory(std::process::id()).expect("status");
        assert!(memory.anonymous_kib > 0 && memory.rss_kib > memory.anonymous_kib);
        assert!(memory.peak_kib >= memory.rss_kib);
    }
}
