//! The compressed layer as it comes through containerd's pipe, and a look ahead at how much more of it there is.

use std::collections::VecDeque;
use std::io::{self, Read};

/// The size asked for pipes, in bytes: what Linux grants everybody (`/proc/sys/fs/pipe-max-size`).
pub(crate) const PIPE: usize = 1 << 20;

/// Bytes taken from the pipe at once.
const CHUNK: usize = 256 << 10;

/// How far ahead of the decoder may be read, in bytes, before its next output goes out. It bounds the memory that this takes.
pub(crate) const AHEAD: u64 = 32 << 20;

/// How many of the first bytes are remembered, by which the layer is known again.
const REMEMBERED: usize = 64 << 10;

/// Compressed bytes, in pieces.
pub(crate) struct Input {
    source: Box<dyn Read>,
    chunk: Vec<u8>,
    /// What is left of the chunk: from here
    start: usize,
    /// to here.
    end: usize,
    ahead: VecDeque<Vec<u8>>,
    /// Bytes in `ahead`.
    waiting: u64,
    read: u64,
    ended: bool,
    first: Vec<u8>,
}

impl Input {
    pub(crate) fn new(source: Box<dyn Read>) -> Self {
        Self {
            source,
            chunk: Vec::new(),
            start: 0,
            end: 0,
            ahead: VecDeque::new(),
            waiting: 0,
            read: 0,
            ended: false,
            first: Vec::new(),
        }
    }

    /// The first bytes, as far as they are remembered and were read.
    pub(crate) fn beginning(&self) -> &[u8] {
        &self.first
    }

    /// Bytes that are known to exist, decoded or not.
    pub(crate) fn known(&self) -> u64 {
        self.read
    }

    /// Whether there is nothing beyond [`Self::known`].
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether there are `wanted` bytes at least; as far as [`AHEAD`] allows to tell. Reads on until it is clear.
    pub(crate) fn has(&mut self, wanted: u64) -> io::Result<bool> {
        while self.read < wanted && self.waiting < AHEAD && !self.ended {
            let mut piece = vec![0; CHUNK];
            let count = self.take(&mut piece)?;
            piece.truncate(count);
            piece.shrink_to_fit();
            self.waiting += count as u64;
            self.ahead.push_back(piece);
        }
        Ok(self.read >= wanted)
    }

    /// The next bytes, as many as are at hand; none at the end.
    pub(crate) fn fill(&mut self) -> io::Result<&[u8]> {
        while self.start >= self.end && !(self.ended && self.ahead.is_empty()) {
            self.start = 0;
            match self.ahead.pop_front() {
                Some(piece) => {
                    self.waiting -= piece.len() as u64;
                    self.end = piece.len();
                    self.chunk = piece;
                }
                None => {
                    self.end = 0;
                    self.more()?;
                }
            }
        }
        Ok(self.rest())
    }

    /// The first bytes, `wanted` of them unless there are fewer. To be called before anything else.
    pub(crate) fn peek(&mut self, wanted: usize) -> io::Result<&[u8]> {
        while self.end < wanted && !self.ended {
            self.more()?;
        }
        Ok(self.rest())
    }

    /// Takes note that the first `count` bytes of what [`Self::fill`] gave are done with.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start += count;
    }

    /// One byte; `None` at the end.
    pub(crate) fn byte(&mut self) -> io::Result<Option<u8>> {
        let byte = self.fill()?.first().copied();
        self.start += usize::from(byte.is_some());
        Ok(byte)
    }

    fn rest(&self) -> &[u8] {
        self.chunk.get(self.start..self.end).unwrap_or_default()
    }

    /// Reads behind what the chunk holds.
    fn more(&mut self) -> io::Result<()> {
        let mut chunk = std::mem::take(&mut self.chunk);
        chunk.resize(CHUNK, 0);
        let count = self.take(chunk.get_mut(self.end..).unwrap_or_default());
        self.chunk = chunk;
        self.end += count?;
        Ok(())
    }

    fn take(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.source.read(into) {
                Ok(count) => {
                    self.ended = count == 0;
                    self.read += count as u64;
                    let wanted = REMEMBERED - self.first.len();
                    self.first.extend(into.iter().take(count.min(wanted)));
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}
