//! How much of a file system is in use: what was really written, whatever anybody says of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Bytes in use of the file system that holds `path`.
pub fn used(path: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(path).with_context(|| format!("look at {}", path.display()))?;
    Ok((stat.f_blocks - stat.f_bfree) * stat.f_frsize)
}

/// Looks at a file system all the time, for the most that was in use. Ends with itself.
#[derive(Debug)]
pub struct Watch {
    most: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Watch {
    /// Begins.
    pub fn start(path: PathBuf) -> Self {
        let (most, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let thread = std::thread::spawn({
            let (most, over) = (Arc::clone(&most), Arc::clone(&over));
            move || {
                while !over.load(Ordering::Relaxed) {
                    most.fetch_max(used(&path)?, Ordering::Relaxed);
                    std::thread::sleep(LOOK_EVERY);
                }
                Ok(())
            }
        });
        Self {
            most,
            over,
            thread: Some(thread),
        }
    }

    /// The most so far.
    pub fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }

    /// Ends, and gives the most that was in use.
    pub fn stop(mut self) -> Result<u64> {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok().context("the watch ended early")??;
        }
        Ok(self.most())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}
