//! Where decoded bytes go: past the guard, then out. Whole blocks leave only after the guard has seen them, so that an
//! entry can still be withheld when its header is read.

use std::io::Write;

use crate::decode::Failure;
use crate::guard::{Guard, Verdict};
use crate::header::BLOCK;
use crate::input::Input;
use crate::output::{Output, PIECE};
use crate::settings::Bounds;

/// Ends an archive: two blocks of zeros.
const END: usize = 2 * BLOCK;

/// Room for the end of the archive in the last piece.
const FILLED: usize = PIECE - END;

pub(crate) struct Sink {
    guard: Option<Guard>,
    /// `None` after the other end is gone.
    piece: Option<Vec<u8>>,
    filled: usize,
    /// Bytes of the piece that the guard has let pass; whole blocks.
    seen: usize,
    output: Output,
}

impl Sink {
    pub(crate) fn start(bounds: Option<Bounds>, to: impl Write + Send + 'static) -> Result<Self, Failure> {
        let (output, piece) = Output::start(to).map_err(Failure::Write)?;
        Ok(Self {
            guard: bounds.map(Guard::new),
            piece: Some(piece),
            filled: 0,
            seen: 0,
            output,
        })
    }

    /// Where the decoder may put its next bytes; never empty, unless nobody wants them.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        let from = self.filled;
        self.piece
            .as_mut()
            .and_then(|piece| piece.get_mut(from..FILLED))
            .unwrap_or_default()
    }

    /// Takes note that `count` bytes were put there.
    pub(crate) fn commit(&mut self, count: usize, input: &mut Input) -> Result<(), Failure> {
        self.filled += count;
        if let (Some(guard), Some(piece)) = (&mut self.guard, &mut self.piece) {
            let whole = self.filled - self.filled % BLOCK;
            let fresh = piece.get(self.seen..whole).unwrap_or_default();
            match guard.look(fresh, input).map_err(Failure::Read)? {
                Verdict::Pass => self.seen = whole,
                Verdict::Stop(stop) => {
                    self.filled = self.seen + stop.after;
                    if stop.end_archive
                        && let Some(end) = piece.get_mut(self.filled..self.filled + END)
                    {
                        end.fill(0);
                        self.filled += END;
                    }
                    return Err(Failure::Bound(stop.why));
                }
            }
        }
        if self.filled == FILLED {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        let filled = std::mem::take(&mut self.filled);
        self.seen = 0;
        self.piece = self
            .piece
            .take()
            .and_then(|piece| self.output.pass(piece, filled));
        self.piece.is_some().then_some(()).ok_or(Failure::Gone)
    }

    /// Lets everything out that was let through, and waits for it.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        let flushed = if self.filled > 0 { self.flush() } else { Ok(()) };
        self.output.finish().map_err(Failure::Write).and(flushed)
    }
}
