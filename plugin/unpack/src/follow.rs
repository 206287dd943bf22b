//! Where in a tar its bytes stand: which block is a header, how much belongs to the entry, and what it takes on a disk.
//!
//! Sizes are declared before the data, so each entry is known before it costs anything. Go's reader (`archive/tar`) is
//! followed closely, for hostile archives would be read in two ways otherwise; where it would stop with an error, so does
//! this, and says that it is lost.

use crate::header::{BLOCK, Header, Pax};

/// Longest PAX header or GNU long name that Go takes, in bytes.
const LONGEST_META: u64 = 1 << 20;
/// What a file takes on a disk is a multiple of this, in bytes; a directory takes it once.
const DISK_BLOCK: u64 = 4096;
/// Names of more parts than this are made to create folders, each of which takes a block.
const PLAIN_DEPTH: u64 = 32;

/// What comes next, at a block's beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// An entry begins, or what describes the next one.
    Entry {
        /// Bytes of the tar from here to the end of its data, padding included.
        stored: u64,
        /// Bytes that it may take on a disk.
        disk: u64,
    },
    /// This many bytes, at most, are no header.
    Pass(u64),
    /// The archive has ended.
    Ended,
    /// It is no archive that Go would go on with.
    Lost,
}

#[derive(Debug)]
enum State {
    Header,
    /// Data and padding, in bytes.
    Data(u64),
    /// The body of a header that describes the next entry.
    Meta {
        kind: u8,
        body: Vec<u8>,
        size: usize,
    },
    /// More blocks of an old GNU sparse map, before this many bytes of data.
    Map(u64),
    /// One block of zeros.
    Zeros,
    Ended,
    Lost,
}

/// A place in a tar.
#[derive(Debug)]
pub(crate) struct Follower {
    state: State,
    pax: Pax,
    long_name: Option<Vec<u8>>,
}

impl Follower {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Header,
            pax: Pax::default(),
            long_name: None,
        }
    }

    /// Reads the block that comes next. [`Step::Pass`] spares the call for the blocks that follow: as many as it says, in
    /// whole blocks, need not be shown.
    pub(crate) fn step(&mut self, block: &[u8]) -> Step {
        match &mut self.state {
            State::Header if is_zero(block) => self.state = State::Zeros,
            State::Header => return self.header(block),
            State::Zeros if is_zero(block) => self.state = State::Ended,
            State::Zeros => self.state = State::Lost,
            State::Data(left) => {
                let left = *left;
                self.state = State::Header;
                return Step::Pass(left);
            }
            State::Map(data) => {
                let data = *data;
                if block.get(504).is_none_or(|continues| *continues == 0) {
                    self.state = data_of(data);
                }
            }
            State::Meta { kind, body, size } => {
                let wanted = *size - body.len();
                body.extend(block.iter().take(wanted));
                if body.len() == *size {
                    let (kind, body) = (*kind, std::mem::take(body));
                    self.state = State::Header;
                    self.described(kind, &body);
                }
            }
            State::Ended | State::Lost => {}
        }
        match self.state {
            State::Ended => Step::Ended,
            State::Lost => Step::Lost,
            State::Header | State::Data(_) | State::Meta { .. } | State::Map(_) | State::Zeros => {
                Step::Pass(BLOCK as u64)
            }
        }
    }

    fn header(&mut self, block: &[u8]) -> Step {
        let Some(header) = Header::parse(block) else {
            self.state = State::Lost;
            return Step::Lost;
        };
        match header.kind {
            kind @ (b'x' | b'g' | b'L' | b'K') => {
                if header.size > LONGEST_META {
                    self.state = State::Lost;
                    return Step::Lost;
                }
                let size = usize::try_from(header.size).unwrap_or(usize::MAX);
                self.state = State::Meta {
                    kind,
                    body: Vec::new(),
                    size,
                };
                if size == 0 {
                    self.state = State::Header;
                    self.described(kind, &[]);
                }
                Step::Entry {
                    stored: stored(header.size),
                    disk: 0,
                }
            }
            _ => self.entry(&header),
        }
    }

    fn entry(&mut self, header: &Header) -> Step {
        let pax = std::mem::take(&mut self.pax);
        let name = self
            .long_name
            .take()
            .or(pax.path)
            .unwrap_or_else(|| header.name.clone());
        // Before types there was no other way to write a folder.
        let is_folder = header.kind == b'5' || header.kind == 0 && name.ends_with(b"/");
        let size = if is_folder || Header::has_no_data(header.kind) {
            0
        } else {
            pax.size.unwrap_or(header.size)
        };
        let length = [pax.expanded, header.expanded]
            .into_iter()
            .flatten()
            .fold(size, u64::max);
        let disk = if is_folder {
            DISK_BLOCK
        } else {
            length.checked_next_multiple_of(DISK_BLOCK).unwrap_or(u64::MAX)
        };
        let depth = name.split(|byte| *byte == b'/').count() as u64;
        let folders = depth.saturating_sub(PLAIN_DEPTH) * DISK_BLOCK;
        self.state = if header.continues {
            State::Map(size)
        } else {
            data_of(size)
        };
        Step::Entry {
            stored: stored(size),
            disk: disk.saturating_add(folders),
        }
    }

    /// Takes note of what describes the next entry.
    fn described(&mut self, kind: u8, body: &[u8]) {
        match kind {
            b'x' => match Pax::parse(body) {
                Some(pax) => self.pax = pax,
                None => self.state = State::Lost,
            },
            b'L' => {
                let name = body.split(|byte| *byte == 0).next().unwrap_or_default();
                self.long_name = Some(name.to_vec()).filter(|name| !name.is_empty());
            }
            // To Go this is an entry of its own: what came before it describes nothing any more.
            b'g' => {
                self.pax = Pax::default();
                self.long_name = None;
            }
            _ => {}
        }
    }
}

/// Bytes of a header and the data after it.
fn stored(size: u64) -> u64 {
    padded(size).saturating_add(BLOCK as u64)
}

fn padded(size: u64) -> u64 {
    size.checked_next_multiple_of(BLOCK as u64).unwrap_or(u64::MAX)
}

fn data_of(size: u64) -> State {
    if size == 0 {
        State::Header
    } else {
        State::Data(padded(size))
    }
}

fn is_zero(block: &[u8]) -> bool {
    block.iter().all(|byte| *byte == 0)
}
