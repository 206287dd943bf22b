//! Bytes that can be served from any offset: from memory, generated, repeated, or put together from these.
//!
//! A layer of gigabytes costs no memory, and every byte of it is the same each time it is asked for.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use sha2::{Digest, Sha256};

/// Prime-sized, so that two generated streams with different seeds soon differ at every offset.
const BLOCK: usize = 4_194_301;

/// A seekable source of bytes. Clones share their memory.
#[derive(Debug, Clone)]
pub enum Content {
    /// Bytes in memory.
    Memory(Bytes),
    /// Pseudo-random, incompressible for gzip and zstd: `len` bytes determined by `seed`.
    Generated {
        /// Which stream.
        seed: u64,
        /// How many bytes.
        len: u64,
    },
    /// A unit again and again.
    Repeated {
        /// The bytes repeated.
        unit: Bytes,
        /// How many bytes in all.
        len: u64,
    },
    /// One after the other.
    Joined(Arc<Vec<Content>>),
}

impl Content {
    /// Endless pseudo-random bytes.
    pub fn endless(seed: u64) -> Self {
        Self::Generated { seed, len: u64::MAX }
    }

    /// `len` zeros.
    pub fn zeros(len: u64) -> Self {
        static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
        Self::Repeated {
            unit: Bytes::from_static(&ZEROS),
            len,
        }
    }

    /// How many bytes there are.
    pub fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Generated { len, .. } | Self::Repeated { len, .. } => *len,
            Self::Joined(parts) => parts.iter().fold(0, |sum, part| sum.saturating_add(part.len())),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Between 1 and `most` bytes at `offset`, without copying; empty only at the end.
    pub fn slice(&self, offset: u64, most: usize) -> Bytes {
        let left = self.len().saturating_sub(offset);
        let most = most.min(usize::try_from(left).unwrap_or(usize::MAX));
        if most == 0 {
            return Bytes::new();
        }
        match self {
            Self::Memory(bytes) => cut(bytes, offset, most),
            Self::Generated { seed, .. } => cut(
                random_block(),
                seed.wrapping_mul(1_000_003) % BLOCK as u64 + offset % BLOCK as u64,
                most,
            ),
            Self::Repeated { unit, .. } => cut(unit, offset % unit.len() as u64, most),
            Self::Joined(parts) => {
                // Counted down, not up: the sum of the lengths may not fit where a part is endless.
                let mut rest = offset;
                for part in parts.iter() {
                    if rest < part.len() {
                        return part.slice(rest, most);
                    }
                    rest -= part.len();
                }
                Bytes::new()
            }
        }
    }

    /// Calls `take` with every byte in order.
    pub fn for_each(&self, mut take: impl FnMut(&[u8])) {
        let mut offset = 0;
        loop {
            let piece = self.slice(offset, BLOCK);
            if piece.is_empty() {
                return;
            }
            offset += piece.len() as u64;
            take(&piece);
        }
    }

    /// All bytes, in memory.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.for_each(|piece| bytes.extend_from_slice(piece));
        bytes
    }

    /// `sha256:…` over all bytes.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        self.for_each(|piece| hash.update(piece));
        digest_text(hash)
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Memory(bytes.into())
    }
}

/// `sha256:…` of some bytes.
pub fn digest_of(bytes: &[u8]) -> String {
    digest_text(Sha256::new_with_prefix(bytes))
}

fn digest_text(hash: Sha256) -> String {
    format!("sha256:{}", hex::encode(hash.finalize()))
}

/// `most` bytes of `bytes`, which is taken as a ring, or fewer up to where the ring begins anew.
fn cut(bytes: &Bytes, offset: u64, most: usize) -> Bytes {
    let len = bytes.len();
    let start = usize::try_from(offset % len as u64).unwrap_or(0);
    bytes.slice(start..len.min(start.saturating_add(most)))
}

fn random_block() -> &'static Bytes {
    static ONCE: OnceLock<Bytes> = OnceLock::new();
    ONCE.get_or_init(|| {
        let mut block = vec![0; BLOCK];
        SmallRng::seed_from_u64(0x6d61_6769).fill_bytes(&mut block);
        block.into()
    })
}

#[cfg(test)]
mod tests {
    use super::Content;

    #[test]
    fn every_offset_gives_the_same_bytes_as_the_whole() {
        let joined = Content::Joined(
            vec![
                Content::from(b"head".to_vec()),
                Content::Generated {
                    seed: 7,
                    len: 5_000_000,
                },
                Content::zeros(100_000),
            ]
            .into(),
        );
        let whole = joined.to_vec();
        assert_eq!(whole.len() as u64, joined.len());
        for offset in [0, 3, 4, 4_194_300, 4_999_999, 5_000_004, 5_099_999] {
            let piece = joined.slice(offset as u64, 1000);
            assert!(!piece.is_empty(), "nothing at {offset}");
            assert_eq!(&piece[..], &whole[offset..offset + piece.len()], "at {offset}");
        }
        assert!(joined.slice(joined.len(), 1).is_empty());
    }

    #[test]
    fn what_follows_the_honest_part_of_an_endless_body_has_no_end() {
        let joined = Content::Joined(vec![Content::zeros(10), Content::endless(1)].into());
        assert_eq!(joined.slice(5, 100).len(), 5);
        assert_eq!(joined.slice(1 << 60, 100).len(), 100);
        assert_eq!(joined.len(), u64::MAX);
    }

    #[test]
    fn seeds_differ() {
        let of = |seed| Content::Generated { seed, len: 1000 }.to_vec();
        assert_ne!(of(1), of(2));
        assert_eq!(of(1), of(1));
    }
}
