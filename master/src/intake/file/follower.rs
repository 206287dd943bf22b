//! Reading on in a log, wherever it was moved to. Nothing here waits.
//!
//! Changed by: [`Follower::step`], and nothing else.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::FollowError;
use super::past;
use super::progress::{Head, Position};
use super::siblings::{self, Sibling};
use crate::intake::audit::MAX_LINE;
use crate::intake::lines::Line;

/// How much is read at a time.
const PIECE: usize = 1 << 20;
/// How many rotated files are remembered as done; more than a folder is looked at for.
const MAX_DONE: usize = 8192;

/// Whole lines of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    bytes: Vec<u8>,
    /// Lines that were too long and are not in it, by their lengths in bytes.
    too_long: Vec<u64>,
    /// Where the next batch begins.
    pub position: Position,
    /// All of it was handled before the restart: it is for the ledger, and gives no new verdict.
    pub is_past: bool,
}

impl Batch {
    /// The lines. One whose beginning was dropped comes last.
    pub fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        let text = self.bytes.strip_suffix(b"\n").unwrap_or(&self.bytes);
        let lines = text.split(|byte| *byte == b'\n');
        let lines = lines.filter(|_| !self.bytes.is_empty()).map(|line| {
            if line.len() > MAX_LINE {
                Line::TooLong(line.len() as u64 + 1)
            } else {
                Line::Whole(line)
            }
        });
        lines.chain(self.too_long.iter().map(|bytes| Line::TooLong(*bytes)))
    }
}

/// What a step came to.
#[derive(Debug)]
pub enum Step {
    /// There were lines. There may be more.
    Batch(Batch),
    /// Nothing to read at present.
    AtEnd,
}

/// What happened to the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// It was renamed, and another took its place.
    pub renamed: u64,
    /// It was truncated.
    pub truncated: u64,
    /// It was truncated and no copy of the rest was found, so lines may be lost.
    pub rest_not_found: u64,
    /// A saved position was of a file that is not there any more, so lines may be lost.
    pub position_lost: u64,
}

/// Follows one log.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    from: Option<Position>,
    open: Option<Open>,
    /// Rotated files to read before the log itself, each from an offset.
    earlier: VecDeque<(PathBuf, File, u64)>,
    /// The inodes of rotated files that are done, or need not be.
    done: Vec<u64>,
    /// The log was read, or a rotated part of it.
    has_begun: bool,
    counts: Counts,
}

#[derive(Debug)]
struct Open {
    path: PathBuf,
    file: File,
    inode: u64,
    /// It is the log, and not a rotated part of it.
    is_log: bool,
    /// Where the first line begins that was not handed out.
    offset: u64,
    /// Up to where it was read.
    read_to: u64,
    /// What was read of a line that is not whole yet.
    partial: Vec<u8>,
    /// It is longer than is kept, and its beginning was dropped.
    is_dropping: bool,
    head: Head,
    /// Up to where everything was handled before the restart.
    past: u64,
}

impl Follower {
    /// Follows the log at `path`. What came before `from` is read again, as the past; without it, all there is is new.
    #[must_use]
    pub const fn new(path: PathBuf, from: Option<Position>) -> Self {
        Self {
            path,
            from,
            open: None,
            earlier: VecDeque::new(),
            done: Vec::new(),
            has_begun: false,
            counts: Counts {
                renamed: 0,
                truncated: 0,
                rest_not_found: 0,
                position_lost: 0,
            },
        }
    }

    /// The log's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What happened to it so far.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// Reads on.
    ///
    /// # Errors
    /// Something cannot be read. The next step tries again from the same place.
    pub fn step(&mut self) -> Result<Step, FollowError> {
        loop {
            let Some(open) = &mut self.open else {
                if self.open_next()? {
                    continue;
                }
                return Ok(Step::AtEnd);
            };
            let read = open.read().map_err(|source| FollowError::Read {
                path: open.path.clone(),
                source,
            })?;
            match read {
                Read::Lines(batch) => return Ok(Step::Batch(batch)),
                Read::More => {}
                Read::End if !open.is_log => {
                    let rest = open.rest();
                    self.close();
                    if let Some(batch) = rest {
                        return Ok(Step::Batch(batch));
                    }
                }
                Read::End => match self.look_for_rotation()? {
                    None => return Ok(Step::AtEnd),
                    Some(Some(batch)) => return Ok(Step::Batch(batch)),
                    Some(None) => {}
                },
            }
        }
    }

    fn close(&mut self) {
        if let Some(open) = self.open.take()
            && !self.done.contains(&open.inode)
        {
            self.done.push(open.inode);
            let excess = self.done.len().saturating_sub(MAX_DONE);
            self.done.drain(..excess);
        }
    }

    /// Opens what is to be read next; `false` if nothing is there.
    fn open_next(&mut self) -> Result<bool, FollowError> {
        let failed = |path: &Path, source| FollowError::Open {
            path: path.to_owned(),
            source,
        };
        if let Some(from) = self.from.take()
            && let Err(problem) = self.resume(&from)
        {
            self.from = Some(from);
            return Err(problem);
        }
        if self.open.is_some() {
            return Ok(true);
        }
        if let Some((path, file, past)) = self.earlier.pop_front() {
            let open = Open::new(path.clone(), file, false, past).map_err(|source| failed(&path, source))?;
            self.open = Some(open);
            return Ok(true);
        }
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(problem) if problem.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(problem) => return Err(failed(&self.path, problem)),
        };
        let open =
            Open::new(self.path.clone(), file, true, 0).map_err(|source| failed(&self.path, source))?;
        let siblings = siblings::of(&self.path)?;
        if self.has_begun {
            // Rotated away before this one was opened, and never seen: they come first.
            let is_new =
                |sibling: &Sibling| sibling.inode != open.inode && !self.done.contains(&sibling.inode);
            let unseen: Vec<_> = siblings.into_iter().filter(is_new).collect();
            if !unseen.is_empty() {
                self.earlier.extend(
                    unseen
                        .iter()
                        .filter_map(|later| Some((later.path.clone(), later.open()?, 0))),
                );
                self.done.extend(unseen.iter().map(|sibling| sibling.inode));
                return Ok(true);
            }
        } else {
            // Whatever was rotated before is none of our business.
            self.has_begun = true;
            self.done = siblings.iter().map(|sibling| sibling.inode).collect();
        }
        self.open = Some(open);
        Ok(true)
    }

    /// Finds the file of a position, under whichever name it has now, and what came after it.
    fn resume(&mut self, from: &Position) -> Result<(), FollowError> {
        if let Ok(file) = File::open(&self.path)
            && from.is_in(&file)
            && let Ok(start) = past::start(&file, from.offset)
            && let Ok(mut open) = Open::new(self.path.clone(), file, true, from.offset)
        {
            if start > 0 {
                open.head = from.head.clone();
                open.go_to(start);
            }
            let siblings = siblings::of(&self.path)?;
            self.done = siblings.iter().map(|sibling| sibling.inode).collect();
            self.has_begun = true;
            self.open = Some(open);
            return Ok(());
        }
        let siblings = siblings::of(&self.path)?;
        let inodes: Vec<u64> = siblings.iter().map(|sibling| sibling.inode).collect();
        let mut files = siblings.into_iter();
        let found = files.find_map(|sibling| {
            let file = sibling.open().filter(|file| from.is_in(file))?;
            Some((sibling.path, file, from.offset))
        });
        self.counts.position_lost += u64::from(found.is_none());
        self.earlier.extend(found);
        if !self.earlier.is_empty() {
            self.has_begun = true;
            self.done = inodes;
            self.earlier
                .extend(files.filter_map(|later| Some((later.path.clone(), later.open()?, 0))));
        }
        Ok(())
    }

    /// At the end of the log: is it still the log? `None` if so; else a partial line that will not be completed.
    fn look_for_rotation(&mut self) -> Result<Option<Option<Batch>>, FollowError> {
        let Some(open) = &mut self.open else {
            return Ok(Some(None));
        };
        let size = open.file.metadata().map_or(0, |metadata| metadata.len());
        let is_truncated = size < open.read_to || (open.offset > 0 && !open.head.fits(&open.file));
        if is_truncated {
            self.counts.truncated += 1;
            // Whoever truncates makes a copy first; the rest of what was there is in it.
            let (done, head, offset, inode) = (&self.done, &open.head, open.offset, open.inode);
            let is_copy = |sibling: &Sibling| {
                sibling.size >= offset && sibling.inode != inode && !done.contains(&sibling.inode)
            };
            let copy = siblings::of(&self.path)?.into_iter().find_map(|sibling| {
                let file = sibling
                    .open()
                    .filter(|file| is_copy(&sibling) && head.fits(file))?;
                Some((sibling.path, file))
            });
            let rest = match copy {
                Some((path, file)) => {
                    let mut part = Open::new(path, file, false, 0).map_err(|source| FollowError::Open {
                        path: self.path.clone(),
                        source,
                    })?;
                    part.head = head.clone();
                    part.go_to(offset);
                    self.open = Some(part);
                    None
                }
                None => {
                    self.counts.rest_not_found += 1;
                    let rest = open.rest();
                    self.open = None;
                    rest
                }
            };
            return Ok(Some(rest));
        }
        let is_log_still = match fs::metadata(&self.path) {
            Ok(metadata) => metadata.ino() == open.inode,
            // Renamed away, and its successor is not there yet: it may still be written to.
            Err(_) => true,
        };
        if is_log_still {
            return Ok(None);
        }
        // Its writer went on to another file, so whatever it wrote here is here now.
        open.is_log = false;
        self.counts.renamed += 1;
        Ok(Some(None))
    }
}

impl Position {
    pub(super) fn is_in(&self, file: &File) -> bool {
        let Ok(metadata) = file.metadata() else {
            return false;
        };
        let is_file = self.head.fits(file) && (metadata.ino() == self.inode || self.head.is_full());
        is_file && metadata.len() >= self.offset
    }
}

enum Read {
    Lines(Batch),
    More,
    End,
}

impl Open {
    fn new(path: PathBuf, file: File, is_log: bool, past: u64) -> io::Result<Self> {
        let inode = file.metadata()?.ino();
        Ok(Self {
            path,
            file,
            inode,
            is_log,
            offset: 0,
            read_to: 0,
            partial: Vec::new(),
            is_dropping: false,
            head: Head::default(),
            past,
        })
    }

    const fn go_to(&mut self, offset: u64) {
        self.offset = offset;
        self.read_to = offset;
    }

    fn read(&mut self) -> io::Result<Read> {
        let kept = self.partial.len();
        // What was handled before and what was not do not share a batch.
        let until_past = self.past.checked_sub(self.read_to).filter(|bytes| *bytes > 0);
        let piece = until_past.map_or(PIECE, |bytes| {
            usize::try_from(bytes).map_or(PIECE, |n| n.min(PIECE))
        });
        self.partial.resize(kept + piece, 0);
        let read = self
            .file
            .read_at(self.partial.get_mut(kept..).unwrap_or_default(), self.read_to);
        self.partial
            .truncate(kept + read.as_ref().copied().unwrap_or_default());
        let read = match read {
            Ok(0) => return Ok(Read::End),
            Ok(read) => read,
            Err(problem) if problem.kind() == io::ErrorKind::Interrupted => return Ok(Read::More),
            Err(problem) => return Err(problem),
        };
        // Truncated, and grown beyond this place again: what was read is the middle of something else.
        if self.offset > 0 && !self.head.fits(&self.file) {
            self.partial.truncate(kept);
            return Ok(Read::End);
        }
        self.read_to += read as u64;
        let new = self.partial.get(kept..).unwrap_or_default();
        let Some(newline) = memchr::memrchr(b'\n', new) else {
            if self.partial.len() > MAX_LINE {
                self.partial.clear();
                self.is_dropping = true;
            }
            return Ok(Read::More);
        };
        let rest = self.partial.split_off(kept + newline + 1);
        let whole = std::mem::replace(&mut self.partial, rest);
        Ok(Read::Lines(self.batch(whole)))
    }

    /// The last line of a file that will not grow, if it has no newline.
    fn rest(&mut self) -> Option<Batch> {
        let rest = std::mem::take(&mut self.partial);
        if rest.is_empty() && !self.is_dropping {
            return None;
        }
        Some(self.batch(rest))
    }

    fn batch(&mut self, mut bytes: Vec<u8>) -> Batch {
        let end = self.read_to - self.partial.len() as u64;
        let mut too_long = Vec::new();
        if std::mem::take(&mut self.is_dropping) {
            let first = memchr::memchr(b'\n', &bytes).map_or(bytes.len(), |at| at + 1);
            let after = bytes.split_off(first);
            let dropped = end - self.offset - after.len() as u64;
            too_long.push(dropped);
            bytes = after;
        }
        self.offset = end;
        // If it cannot be read, the file was truncated just now, which the next look will find.
        if !self.head.is_full()
            && let Ok(head) = Head::of(&self.file, self.offset)
        {
            self.head = head;
        }
        Batch {
            bytes,
            too_long,
            position: Position {
                inode: self.inode,
                offset: self.offset,
                head: self.head.clone(),
            },
            is_past: self.offset <= self.past,
        }
    }
}
