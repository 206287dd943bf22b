//! The way back to the present at the start: what is read again, what is held meanwhile, and when it is over. Reading aside,
//! this is pure code.
//!
//! Changed by: verdicts ([`CatchUp::hold`]), and batches of the log ([`CatchUp::took`]).

use std::collections::VecDeque;
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use crate::change::Change;
use crate::intake::audit::MAX_LINE;
use crate::intake::file::{Batch, FollowError, Position};
use crate::intake::lines::{Line, Lines};
use crate::verdict::Verdict;

/// Verdicts that are held at most; the oldest goes first.
const MAX_HELD: usize = 65_536;
/// When nothing is read for so long, there is nothing more to be read.
const SILENCE: Duration = Duration::from_secs(1);
/// After so long the other intakes have waited enough, wherever the log may be.
const LONGEST: Duration = Duration::from_secs(60);

/// Where a log ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogEnd {
    pub(super) inode: u64,
    pub(super) size: u64,
}

#[derive(Debug)]
pub(super) struct CatchUp {
    end: Option<LogEnd>,
    begun: Instant,
    read: Instant,
    held: VecDeque<Verdict>,
    position: Option<Position>,
}

impl CatchUp {
    pub(super) fn new(end: Option<LogEnd>) -> Self {
        let now = Instant::now();
        Self {
            end,
            begun: now,
            read: now,
            held: VecDeque::new(),
            position: None,
        }
    }

    /// When it is over, unless something is read before.
    pub(super) fn until(&self) -> Instant {
        (self.read + SILENCE).min(self.begun + LONGEST)
    }

    /// Holds a verdict; whether another was lost for it.
    pub(super) fn hold(&mut self, verdict: Verdict) -> bool {
        self.held.push_back(verdict);
        self.held.len() > MAX_HELD && self.held.pop_front().is_some()
    }

    /// A batch was taken; whether that was all.
    pub(super) fn took(&mut self, batch: &Batch) -> bool {
        self.read = Instant::now();
        if !batch.is_past {
            self.position = Some(batch.position.clone());
        }
        let Position { inode, offset, .. } = batch.position;
        self.end
            .is_some_and(|end| inode == end.inode && offset >= end.size)
    }

    /// What was held, and up to where all lines are handled when it is said.
    pub(super) fn end(self) -> (VecDeque<Verdict>, Option<Position>) {
        (self.held, self.position)
    }
}

/// Reads files line by line, and collects the last verdicts that follow, as many as may be held.
pub(super) fn read(
    files: Vec<(PathBuf, File)>,
    mut take: impl FnMut(&Line<'_>, &mut Vec<Change>) -> Vec<Verdict>,
) -> Result<VecDeque<Verdict>, FollowError> {
    let mut held = VecDeque::new();
    let mut changes = Vec::new();
    for (path, file) in files {
        let mut lines = Lines::new(file, MAX_LINE);
        let failed = |source| FollowError::Read {
            path: path.clone(),
            source,
        };
        while let Some(line) = lines.next_line().map_err(failed)? {
            held.extend(take(&line, &mut changes));
            let excess = held.len().saturating_sub(MAX_HELD);
            held.drain(..excess);
        }
    }
    Ok(held)
}
