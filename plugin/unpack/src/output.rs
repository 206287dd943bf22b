//! The tar's way out, on a thread of its own: while containerd takes one piece, the next is decoded.

use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::{self, JoinHandle};

/// Bytes of a piece: whole tar blocks, and few enough to stay in a processor's cache on their way.
pub(crate) const PIECE: usize = 256 << 10;

/// Pieces that exist: one that is filled, one that is written, and what lies between.
const PIECES: usize = 4;

/// A writer that runs beside us.
pub(crate) struct Output {
    full: SyncSender<(Vec<u8>, usize)>,
    empty: Receiver<Vec<u8>>,
    writer: JoinHandle<io::Result<()>>,
}

impl Output {
    /// Starts the thread; with it the first piece to fill.
    pub(crate) fn start(mut to: impl Write + Send + 'static) -> io::Result<(Self, Vec<u8>)> {
        let (full, pieces) = mpsc::sync_channel::<(Vec<u8>, usize)>(PIECES);
        let (back, empty) = mpsc::sync_channel(PIECES);
        for _ in 1..PIECES {
            // As long as its receiver lives, and it lives here, a channel with room takes it.
            let _taken = back.send(vec![0; PIECE]);
        }
        let writer = thread::Builder::new().name("writer".to_owned()).spawn(move || {
            for (piece, len) in pieces {
                to.write_all(piece.get(..len).unwrap_or_default())?;
                // Nobody fills pieces any more once the last one is on its way.
                let _done = back.send(piece);
            }
            Ok(())
        })?;
        let output = Self { full, empty, writer };
        Ok((output, vec![0; PIECE]))
    }

    /// Hands the first `len` bytes of a piece over and gives another one; `None` if nobody takes them any more, which
    /// [`Self::finish`] explains.
    pub(crate) fn pass(&mut self, piece: Vec<u8>, len: usize) -> Option<Vec<u8>> {
        self.full.send((piece, len)).ok()?;
        self.empty.recv().ok()
    }

    /// Waits until everything is written.
    pub(crate) fn finish(self) -> io::Result<()> {
        let Self { full, empty, writer } = self;
        drop(full);
        let written = writer.join();
        drop(empty);
        written.unwrap_or_else(|_| Err(io::Error::other("a defect in the writer")))
    }
}
