//! Lines of a watch, out of the pieces in which it comes.
//!
//! Changed by: [`Cut::feed`] and [`Cut::take_too_long`].

use crate::intake::audit::MAX_LINE;

#[derive(Debug, Default)]
pub(super) struct Cut {
    partial: Vec<u8>,
    is_dropping: bool,
    too_long: u64,
}

impl Cut {
    /// Hands each line that `piece` completes to `take`.
    pub(super) fn feed(&mut self, piece: &[u8], mut take: impl FnMut(&[u8])) {
        let mut rest = piece;
        while let Some(newline) = memchr::memchr(b'\n', rest) {
            let (end, after) = rest.split_at_checked(newline).unwrap_or((rest, &[]));
            rest = after.get(1..).unwrap_or_default();
            self.add(end);
            if std::mem::take(&mut self.is_dropping) {
                self.too_long += 1;
            } else if !self.partial.is_empty() {
                take(&self.partial);
            }
            self.partial.clear();
        }
        self.add(rest);
    }

    pub(super) const fn take_too_long(&mut self) -> u64 {
        let too_long = self.too_long;
        self.too_long = 0;
        too_long
    }

    fn add(&mut self, bytes: &[u8]) {
        if self.partial.len() + bytes.len() > MAX_LINE {
            self.partial.clear();
            self.is_dropping = true;
        }
        if !self.is_dropping {
            self.partial.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    //! Lines cut at every place.

    use super::{Cut, MAX_LINE};

    #[test]
    fn lines_are_whole_wherever_pieces_end() {
        let text = b"one\n\ntwo\nthree";
        for size in 1..text.len() {
            let (mut cut, mut lines) = (Cut::default(), Vec::new());
            for piece in text.chunks(size) {
                cut.feed(piece, |line| lines.push(line.to_vec()));
            }
            assert_eq!(lines, [&b"one"[..], b"two"], "{size}");
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_dropped_and_counted() {
        let (mut cut, mut lines) = (Cut::default(), Vec::new());
        for _ in 0..=(MAX_LINE >> 20) {
            cut.feed(&vec![b'x'; 1 << 20], |_| {});
        }
        assert!(cut.partial.len() <= MAX_LINE);
        cut.feed(b"x\nnext\n", |line| lines.push(line.to_vec()));
        assert_eq!((lines, cut.take_too_long()), (vec![b"next".to_vec()], 1));
    }
}
