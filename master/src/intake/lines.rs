//! Lines of any length out of a stream, in bounded memory.
//!
//! Changed by: [`Lines::next_line`], which reads on when it has no whole line.

use std::io::{ErrorKind, Read};

/// How much is asked of the stream at a time.
const PIECE: usize = 256 << 10;

/// Cuts a stream into lines of at most `max` bytes.
#[derive(Debug)]
pub struct Lines<R> {
    stream: R,
    max: usize,
    buffer: Vec<u8>,
    /// Where the current line begins, how far it was searched for its end, and where the buffer's content ends.
    start: usize,
    searched: usize,
    end: usize,
    /// How many bytes of a line that is too long were dropped.
    dropped: u64,
    is_at_end: bool,
}

/// A line, without its newline.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// It was longer than is kept. Its length in bytes, with the newline.
    TooLong(u64),
}

impl<R: Read> Lines<R> {
    /// Lines of `stream`, of at most `max` bytes each.
    pub fn new(stream: R, max: usize) -> Self {
        Self {
            stream,
            max,
            buffer: Vec::new(),
            start: 0,
            searched: 0,
            end: 0,
            dropped: 0,
            is_at_end: false,
        }
    }

    /// The next line; the last one may lack its newline.
    ///
    /// # Errors
    /// The stream fails.
    pub fn next_line(&mut self) -> std::io::Result<Option<Line<'_>>> {
        loop {
            let unsearched = self.buffer.get(self.searched..self.end).unwrap_or_default();
            if let Some(found) = memchr::memchr(b'\n', unsearched) {
                let newline = self.searched + found;
                let range = self.start..newline;
                self.start = newline + 1;
                self.searched = self.start;
                return Ok(Some(self.line(range, 1)));
            }
            self.searched = self.end;
            if self.is_at_end {
                let range = self.start..self.end;
                self.start = self.end;
                let is_empty = range.is_empty() && self.dropped == 0;
                return Ok((!is_empty).then(|| self.line(range, 0)));
            }
            if self.end - self.start > self.max {
                self.dropped += (self.end - self.start) as u64;
                self.start = self.end;
            }
            self.fill()?;
        }
    }

    fn line(&mut self, range: std::ops::Range<usize>, newline: u64) -> Line<'_> {
        let dropped = std::mem::take(&mut self.dropped);
        if dropped > 0 || range.len() > self.max {
            return Line::TooLong(dropped + range.len() as u64 + newline);
        }
        Line::Whole(self.buffer.get(range).unwrap_or_default())
    }

    fn fill(&mut self) -> std::io::Result<()> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.searched -= self.start;
            self.start = 0;
        }
        if self.buffer.len() < self.end + PIECE {
            self.buffer.resize(self.end + PIECE, 0);
        }
        let room = self.buffer.get_mut(self.end..).unwrap_or_default();
        match self.stream.read(room) {
            Ok(0) => self.is_at_end = true,
            Ok(read) => self.end += read,
            Err(problem) if problem.kind() == ErrorKind::Interrupted => {}
            Err(problem) => return Err(problem),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    //! Lines that meet the buffer's edges, and one that is never held.

    use std::io::Read;

    use super::{Line, Lines, PIECE};

    fn all(stream: impl Read, max: usize) -> Vec<Result<Vec<u8>, u64>> {
        let mut lines = Lines::new(stream, max);
        let mut all = Vec::new();
        while let Some(line) = lines.next_line().expect("no failing stream") {
            all.push(match line {
                Line::Whole(bytes) => Ok(bytes.to_vec()),
                Line::TooLong(bytes) => Err(bytes),
            });
        }
        all
    }

    #[test]
    fn lines_are_cut_at_newlines_only() {
        let text: &[u8] = b"one\n\ntwo";
        let expected = vec![Ok(b"one".to_vec()), Ok(Vec::new()), Ok(b"two".to_vec())];
        assert_eq!(all(text, 10), expected);
        assert_eq!(all(&b""[..], 10), vec![]);
        assert_eq!(all(&b"\n"[..], 10), vec![Ok(Vec::new())]);
    }

    #[test]
    fn lines_cross_the_edges_of_the_buffer() {
        let lines: Vec<Vec<u8>> = (0..50usize)
            .map(|n| vec![b'a' + u8::try_from(n % 26).unwrap(); n * 37_123 % (2 * PIECE)])
            .collect();
        let text = lines.join(&b'\n');
        let expected: Vec<_> = lines.into_iter().map(Ok).collect();
        assert_eq!(all(&text[..], 2 * PIECE), expected);
    }

    #[test]
    fn a_line_over_the_bound_is_counted_and_not_held() {
        let huge = std::io::repeat(b'x').take(100 << 20);
        let stream = (&b"a\n"[..]).chain(huge).chain(&b"\nb\n"[..]);
        let mut lines = Lines::new(stream, 1 << 20);
        assert_eq!(lines.next_line().unwrap(), Some(Line::Whole(b"a")));
        assert_eq!(lines.next_line().unwrap(), Some(Line::TooLong((100 << 20) + 1)));
        assert_eq!(lines.next_line().unwrap(), Some(Line::Whole(b"b")));
        assert_eq!(lines.next_line().unwrap(), None);
        assert!(lines.buffer.len() <= 4 << 20, "{}", lines.buffer.len());
    }

    #[test]
    fn the_bound_itself_is_kept() {
        let text: &[u8] = b"12345\n123456\n12345";
        let expected = vec![Ok(b"12345".to_vec()), Err(7), Ok(b"12345".to_vec())];
        assert_eq!(all(text, 5), expected);
    }
}
