//! A policy on its way to a node: its number, whether a node takes it, and how its pieces become one.

use std::fmt;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::bounds::{MAX_POLICY, POLICY_PART};
use crate::message::PolicyPart;

/// A policy's number and digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PolicyVersion {
    /// A later policy has a higher one, with every master: when the master first saw it, in milliseconds since the
    /// epoch, or one more than the last.
    pub revision: u64,
    /// SHA-256 of its bytes.
    pub sha256: [u8; 32],
}

impl PolicyVersion {
    /// The version of `bytes`.
    #[must_use]
    pub fn of(revision: u64, bytes: &[u8]) -> Self {
        Self {
            revision,
            sha256: Sha256::digest(bytes).into(),
        }
    }
}

impl fmt::Display for PolicyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (sha256:{})", self.revision, hex::encode(self.sha256))
    }
}

impl fmt::Debug for PolicyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PolicyVersion({self})")
    }
}

/// What a node does with a policy that it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is another one: read it.
    New,
    /// It is the one in force, perhaps with a higher number.
    Same,
}

/// Why a node does not take a policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// Its number is lower than that of the one in force, or equal with other bytes: somebody rolls back.
    #[error("revision {offered} is not after revision {in_force}, which is in force")]
    Older {
        /// Its number.
        offered: u64,
        /// The other's.
        in_force: u64,
    },
    /// Its bytes are not those of its digest.
    #[error("the bytes of revision {revision} do not have its digest")]
    Digest {
        /// Its number.
        revision: u64,
    },
    /// Its pieces do not fit together.
    #[error("piece at {offset} of revision {revision}, where {wanted} was to come")]
    OutOfOrder {
        /// Its number.
        revision: u64,
        /// Where the piece begins.
        offset: usize,
        /// Where it should.
        wanted: usize,
    },
    /// It is larger than any policy.
    #[error("revision {revision} has {bytes} bytes, {MAX_POLICY} are allowed")]
    TooLarge {
        /// Its number.
        revision: u64,
        /// Its bytes, or those that came already.
        bytes: usize,
    },
}

/// Whether a node takes the policy `offered`, whose whole text is `bytes`, while `in_force` is.
///
/// # Errors
/// It is older, or not what it says.
pub fn take(
    in_force: Option<&PolicyVersion>,
    offered: &PolicyVersion,
    bytes: &[u8],
) -> Result<Taken, NotTaken> {
    if PolicyVersion::of(offered.revision, bytes).sha256 != offered.sha256 {
        return Err(NotTaken::Digest {
            revision: offered.revision,
        });
    }
    let Some(in_force) = in_force else {
        return Ok(Taken::New);
    };
    let is_same = in_force.sha256 == offered.sha256;
    if offered.revision < in_force.revision || offered.revision == in_force.revision && !is_same {
        return Err(NotTaken::Older {
            offered: offered.revision,
            in_force: in_force.revision,
        });
    }
    Ok(if is_same { Taken::Same } else { Taken::New })
}

/// The piece of a policy that begins at `offset`; none: it has ended.
#[must_use]
pub fn part(version: PolicyVersion, whole: &Bytes, offset: usize) -> Option<PolicyPart> {
    if offset >= whole.len() {
        return None;
    }
    let end = offset.saturating_add(POLICY_PART).min(whole.len());
    Some(PolicyPart {
        version,
        total: whole.len(),
        offset,
        bytes: whole.slice(offset..end),
    })
}

/// Puts the pieces of a policy together.
///
/// Changed by: a piece (adds to it, or begins another), a piece that does not fit (forgets all).
#[derive(Debug, Default)]
pub struct Assembly {
    of: Option<PolicyVersion>,
    bytes: Vec<u8>,
}

impl Assembly {
    /// Adds a piece; gives the policy if it was the last one.
    ///
    /// # Errors
    /// It does not fit, or the whole is too large.
    pub fn add(&mut self, part: &PolicyPart) -> Result<Option<(PolicyVersion, Bytes)>, NotTaken> {
        let revision = part.version.revision;
        if part.offset == 0 {
            self.of = Some(part.version);
            self.bytes = Vec::new();
        }
        if self.of != Some(part.version) || part.offset != self.bytes.len() {
            let wanted = self.bytes.len();
            *self = Self::default();
            return Err(NotTaken::OutOfOrder {
                revision,
                offset: part.offset,
                wanted,
            });
        }
        let so_far = self.bytes.len().saturating_add(part.bytes.len());
        if part.total > MAX_POLICY || so_far > part.total {
            *self = Self::default();
            return Err(NotTaken::TooLarge {
                revision,
                bytes: so_far.max(part.total),
            });
        }
        self.bytes.extend_from_slice(&part.bytes);
        if so_far < part.total {
            return Ok(None);
        }
        self.of = None;
        Ok(Some((part.version, std::mem::take(&mut self.bytes).into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_and_forged_policies_are_not_taken() {
        let old = PolicyVersion::of(10, b"old");
        let new = PolicyVersion::of(11, b"new");
        assert_eq!(take(None, &old, b"old"), Ok(Taken::New));
        assert_eq!(take(Some(&old), &new, b"new"), Ok(Taken::New));
        assert_eq!(take(Some(&new), &new, b"new"), Ok(Taken::Same));
        let again = PolicyVersion { revision: 12, ..new };
        assert_eq!(take(Some(&new), &again, b"new"), Ok(Taken::Same));
        assert_eq!(
            take(Some(&new), &old, b"old"),
            Err(NotTaken::Older {
                offered: 10,
                in_force: 11
            })
        );
        let twin = PolicyVersion::of(11, b"twin");
        assert!(matches!(
            take(Some(&new), &twin, b"twin"),
            Err(NotTaken::Older { .. })
        ));
        assert_eq!(take(None, &new, b"not"), Err(NotTaken::Digest { revision: 11 }));
    }

    #[test]
    fn pieces_become_the_whole() {
        for length in [1, POLICY_PART, POLICY_PART + 1, MAX_POLICY] {
            let whole = Bytes::from(vec![7; length]);
            let version = PolicyVersion::of(1, &whole);
            let mut assembly = Assembly::default();
            let mut offset = 0;
            let mut done = None;
            while let Some(piece) = part(version, &whole, offset) {
                offset += piece.bytes.len();
                done = assembly.add(&piece).unwrap();
            }
            assert_eq!(done, Some((version, whole)), "{length}");
        }
    }

    #[test]
    fn pieces_that_do_not_fit_are_refused() {
        let whole = Bytes::from(vec![7; POLICY_PART * 3]);
        let version = PolicyVersion::of(1, &whole);
        let piece = |offset| part(version, &whole, offset).unwrap();
        let mut assembly = Assembly::default();
        assert!(matches!(
            assembly.add(&piece(POLICY_PART)),
            Err(NotTaken::OutOfOrder { .. })
        ));
        assert_eq!(assembly.add(&piece(0)), Ok(None));
        let long = PolicyPart {
            total: POLICY_PART + 1,
            ..piece(POLICY_PART)
        };
        assert!(matches!(assembly.add(&long), Err(NotTaken::TooLarge { .. })));
        let huge = PolicyPart {
            total: MAX_POLICY + 1,
            ..piece(0)
        };
        assert!(matches!(assembly.add(&huge), Err(NotTaken::TooLarge { .. })));
    }
}
