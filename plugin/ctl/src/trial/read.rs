//! Files of JSON lines, read with a bound.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// Bytes of a line: a report of a thousand pulls with their layers, with room to spare. A longer one is skipped.
const MAX_LINE: u64 = 64 << 20;

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// It cannot be opened.
    #[error("cannot open {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// It cannot be read to its end.
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Hands each line of a file to `take`, without its end; none in place of one that is too long.
pub(crate) fn lines(path: &Path, mut take: impl FnMut(Option<&[u8]>)) -> Result<(), ReadError> {
    let file = File::open(path).map_err(|source| ReadError::Open {
        path: path.to_owned(),
        source,
    })?;
    let failed = |source| ReadError::Read {
        path: path.to_owned(),
        source,
    };
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut reader)
            .take(MAX_LINE)
            .read_until(b'\n', &mut line)
            .map_err(failed)?;
        if read == 0 {
            return Ok(());
        }
        if line.pop_if(|last| *last == b'\n').is_none() && read as u64 == MAX_LINE {
            reader.skip_until(b'\n').map_err(failed)?;
            take(None);
        } else if !line.trim_ascii().is_empty() {
            take(Some(&line));
        }
    }
}
