//! Ring-buffer bytes to [`Record`]s: pure and bounds-checked; the layout is that of `bpf/record.h`.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::record::{Caller, FileId, IngestDirectory, IngestPart, Record, TcpState};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// Why bytes are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than the record's kind needs.
    #[error("the record is cut off")]
    Truncated,
    /// A kind that this version does not know.
    #[error("unknown record kind {0}")]
    Kind(u32),
    /// Neither IPv4 nor IPv6.
    #[error("unknown address family {0}")]
    Family(u16),
    /// A state that is never reported.
    #[error("unknown socket state {0}")]
    State(u32),
    /// A directory name that is not 64 hexadecimal digits.
    #[error("the directory is not named like an ingest")]
    Directory,
}

/// Decodes one ring-buffer item into its loss epoch and its record. A larger epoch than before means that
/// records were lost in between. Bytes after the record are ignored.
///
/// # Errors
/// If the bytes are not a record of this version. Never panics.
pub fn decode(bytes: &[u8]) -> Result<(u32, Record), DecodeError> {
    let mut rest = Cursor(bytes);
    let kind = rest.u32()?;
    let epoch = rest.u32()?;
    let at_ns = rest.u64()?;
    let goroutine = rest.u64()?;
    let by = Caller {
        goroutine,
        tgid: rest.u32()?,
        thread: rest.u32()?,
    };
    let record = match kind {
        1 => {
            let (inode, dev) = (rest.u64()?, rest.u32()?);
            let part = match rest.u32()? {
                1 => IngestPart::Ref,
                2 => IngestPart::StartedAt,
                3 => IngestPart::UpdatedAt,
                4 => IngestPart::Total,
                5 => IngestPart::Data,
                _ => IngestPart::Other,
            };
            let directory = rest.directory()?;
            Record::FileTouched {
                at_ns,
                by,
                file: FileId::from_kernel(dev, inode),
                directory,
                part,
            }
        }
        2 => {
            let (inode, dev, _unused) = (rest.u64()?, rest.u32()?, rest.u32()?);
            Record::FileLeft {
                at_ns,
                by,
                file: FileId::from_kernel(dev, inode),
            }
        }
        3 => {
            let (cookie, bytes_by_goroutine, bytes_total) = (rest.u64()?, rest.u64()?, rest.u64()?);
            let (local, remote) = rest.endpoints()?;
            Record::SocketRead {
                at_ns,
                by,
                cookie,
                local,
                remote,
                bytes_by_goroutine,
                bytes_total,
            }
        }
        4 => {
            let cookie = rest.u64()?;
            let (local, remote) = rest.endpoints()?;
            let state = match rest.u32()? {
                1 => TcpState::Established,
                7 => TcpState::Close,
                other => return Err(DecodeError::State(other)),
            };
            let owned = rest.u32()? != 0;
            Record::SocketState {
                at_ns,
                cookie,
                local,
                remote,
                state,
                owned,
            }
        }
        5 => {
            let (cookie, bytes, inode) = (rest.u64()?, rest.u64()?, rest.u64()?);
            let (dev, _unused) = (rest.u32()?, rest.u32()?);
            let directory = rest.directory()?;
            let file = FileId::from_kernel(dev, inode);
            Record::ThreadVote {
                at_ns,
                by,
                cookie,
                file,
                directory,
                bytes,
            }
        }
        6 => Record::SocketSent {
            at_ns,
            by,
            cookie: rest.u64()?,
        },
        other => return Err(DecodeError::Kind(other)),
    };
    Ok((epoch, record))
}

struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
        self.0 = tail;
        Ok(*head)
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        self.take().map(u16::from_ne_bytes)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.take().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        self.take().map(u64::from_ne_bytes)
    }

    fn directory(&mut self) -> Result<IngestDirectory, DecodeError> {
        IngestDirectory::new(self.take()?).ok_or(DecodeError::Directory)
    }

    fn endpoints(&mut self) -> Result<(SocketAddr, SocketAddr), DecodeError> {
        let (local, remote) = (self.take::<16>()?, self.take::<16>()?);
        let (local_port, remote_port) = (self.u16()?, self.u16()?);
        let family = self.u16()?;
        let _unused = self.u16()?;
        Ok((
            address(family, local, local_port)?,
            address(family, remote, remote_port)?,
        ))
    }
}

fn address(family: u16, bytes: [u8; 16], port: u16) -> Result<SocketAddr, DecodeError> {
    match family {
        AF_INET => {
            let [a, b, c, d, ..] = bytes;
            Ok(SocketAddr::from((Ipv4Addr::new(a, b, c, d), port)))
        }
        AF_INET6 => Ok(SocketAddr::from((Ipv6Addr::from(bytes), port))),
        other => Err(DecodeError::Family(other)),
    }
}

#[cfg(test)]
mod tests;
