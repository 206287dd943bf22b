//! Ring-buffer bytes to [`Passed`]: pure and bounds-checked; the layout is that of `bpf/piece.h`.

use super::piece::{Direction, Passed, Piece};

/// Why bytes are nothing that passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Malformed {
    Truncated,
    Kind(u32),
    Direction(u32),
    Empty,
}

/// Decodes one ring-buffer item. What follows its bytes is not looked at: it is left over from earlier items.
pub(super) fn decode(item: &[u8]) -> Result<Passed<'_>, Malformed> {
    let (kind, rest) = word(item)?;
    let (direction, rest) = word(rest)?;
    let (connection, rest) = double(rest)?;
    let (offset, rest) = double(rest)?;
    let (at_ns, rest) = double(rest)?;
    let (length, rest) = word(rest)?;
    let (tgid, rest) = word(rest)?;
    match kind {
        1 => {
            let length = usize::try_from(length).map_err(|_| Malformed::Truncated)?;
            let bytes = rest.get(..length).ok_or(Malformed::Truncated)?;
            if bytes.is_empty() {
                return Err(Malformed::Empty);
            }
            let direction = match direction {
                0 => Direction::ToServer,
                1 => Direction::FromServer,
                other => return Err(Malformed::Direction(other)),
            };
            Ok(Passed::Piece(Piece {
                connection,
                tgid,
                direction,
                offset,
                at_ns,
                bytes,
            }))
        }
        2 => Ok(Passed::Closed { connection, at_ns }),
        other => Err(Malformed::Kind(other)),
    }
}

fn word(bytes: &[u8]) -> Result<(u32, &[u8]), Malformed> {
    let (head, rest) = bytes.split_first_chunk().ok_or(Malformed::Truncated)?;
    Ok((u32::from_ne_bytes(*head), rest))
}

fn double(bytes: &[u8]) -> Result<(u64, &[u8]), Malformed> {
    let (head, rest) = bytes.split_first_chunk().ok_or(Malformed::Truncated)?;
    Ok((u64::from_ne_bytes(*head), rest))
}

#[cfg(test)]
mod tests {
    use super::{Malformed, decode};
    use crate::conversations::piece::{Direction, Passed, Piece};

    fn item(kind: u32, direction: u32, length: u32, bytes: &[u8]) -> Vec<u8> {
        let mut item = Vec::new();
        item.extend(kind.to_ne_bytes());
        item.extend(direction.to_ne_bytes());
        for number in [77_u64, 5, 9] {
            item.extend(number.to_ne_bytes());
        }
        item.extend(length.to_ne_bytes());
        item.extend(4_u32.to_ne_bytes());
        item.extend(bytes);
        item
    }

    #[test]
    fn a_piece_ends_where_its_length_says() {
        let whole = item(1, 1, 3, b"abc left over");
        let piece = Piece {
            connection: 77,
            tgid: 4,
            direction: Direction::FromServer,
            offset: 5,
            at_ns: 9,
            bytes: b"abc",
        };
        assert_eq!(decode(&whole), Ok(Passed::Piece(piece)));
        let closed = Passed::Closed {
            connection: 77,
            at_ns: 9,
        };
        assert_eq!(decode(&item(2, 0, 0, b"")), Ok(closed));
    }

    #[test]
    fn what_is_no_item_is_refused() {
        let whole = item(1, 0, 3, b"abc");
        for length in 0..whole.len() {
            assert_eq!(decode(&whole[..length]), Err(Malformed::Truncated), "{length}");
        }
        assert_eq!(decode(&item(1, 0, u32::MAX, b"abc")), Err(Malformed::Truncated));
        assert_eq!(decode(&item(3, 0, 3, b"abc")), Err(Malformed::Kind(3)));
        assert_eq!(decode(&item(1, 2, 3, b"abc")), Err(Malformed::Direction(2)));
        assert_eq!(decode(&item(1, 0, 0, b"abc")), Err(Malformed::Empty));
    }

    #[test]
    fn bytes_are_never_printed() {
        let whole = item(1, 0, 6, b"secret");
        let printed = format!("{:?} {:#?}", decode(&whole), decode(&whole));
        assert!(printed.contains("length: 6"), "{printed}");
        // As text, as a list of numbers, over one line or several.
        for shown in ["secret", "115"] {
            assert!(!printed.contains(shown), "{printed}");
        }
    }
}
