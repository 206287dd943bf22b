//! Loading the conversations' object, and its maps in words.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray, RingBuf};
use aya::programs::links::FdLink;
use aya::{Btf, Ebpf};

use super::piece::Lost;
use super::{ConversationOptions, Hooks};
use crate::load::{LoadError, Strategy, attach_btf, attach_raw, map_refused, open, take};
use crate::object::Object;
use crate::watch::{PidNamespace, Targets};

/// How many paths can be given.
pub const MAX_PATHS: usize = 4;

/// How many connections are followed at once; `bpf/conversations.bpf.c` has the same bound.
pub const MAX_CONVERSATIONS: usize = 1024;

/// How long a path can be: what Linux lets a unix socket be bound to, without the zero byte at its end.
pub const MAX_PATH_BYTES: usize = SUN_PATH - 1;

/// `sun_path` of `sockaddr_un`.
const SUN_PATH: usize = 108;

const OPEN: u64 = 1;

pub(super) struct Maps {
    pub(super) targets: Array<MapData, Targets>,
    pub(super) pieces: RingBuf<MapData>,
    conversations: HashMap<MapData, u64, [u64; 4]>,
    losses: PerCpuArray<MapData, u64>,
}

pub(super) struct Loaded {
    pub(super) attachments: Vec<FdLink>,
    pub(super) maps: Maps,
    pub(super) hooks: Hooks,
    pub(super) fell_back: Option<LoadError>,
}

/// A connection in the kernel's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) inode: u64,
    pub(super) tgid: u32,
    /// Its end was not told, and its bytes are copied.
    pub(super) is_open: bool,
}

impl Entry {
    /// `struct conversation`, in words. The object is little-endian, and so is every machine that takes it.
    fn from_words([_, _, inode, tgid_and_state]: [u64; 4]) -> Self {
        Self {
            inode,
            tgid: (tgid_and_state & u64::from(u32::MAX)) as u32,
            is_open: tgid_and_state >> 32 == OPEN,
        }
    }
}

impl Maps {
    /// Everything in the table. Only this process takes entries out, so none is missed.
    pub(super) fn entries(&self) -> Result<Vec<(u64, Entry)>, MapError> {
        self.conversations
            .iter()
            .take(MAX_CONVERSATIONS)
            .map(|entry| entry.map(|(connection, words)| (connection, Entry::from_words(words))))
            .collect()
    }

    pub(super) fn remove(&mut self, connection: u64) -> Result<(), MapError> {
        self.conversations.remove(&connection)
    }

    pub(super) fn lost(&self) -> Result<Lost, MapError> {
        let sum = |index: u32| -> Result<u64, MapError> {
            let counts = self.losses.get(&index, 0)?;
            Ok(counts.iter().fold(0_u64, |sum, count| sum.saturating_add(*count)))
        };
        Ok(Lost {
            ring_full: sum(0)?,
            not_copied: sum(1)?,
            no_room: sum(2)?,
        })
    }
}

pub(super) fn load(options: &ConversationOptions, namespace: PidNamespace) -> Result<Loaded, LoadError> {
    let paths = keys(&options.paths)?;
    let ring = options.ring_bytes.map(|bytes| ("pieces", bytes));
    let (mut ebpf, btf) = open(Object::Conversations, options.btf.as_deref(), ring.as_slice())?;
    // Before anything is attached.
    let mut listeners: HashMap<MapData, [u8; SUN_PATH], u32> = take(&mut ebpf, "paths")?;
    for path in paths {
        listeners.insert(path, 1, 0).map_err(map_refused("paths"))?;
    }
    let mut own: Array<MapData, [u64; 2]> = take(&mut ebpf, "self")?;
    own.set(0, [u64::from(options.own_tgid), namespace.inode()], 0)
        .map_err(map_refused("self"))?;

    let (attachments, hooks, fell_back) = match options.strategy {
        Strategy::Only(hooks) => (attach(hooks, &mut ebpf, &btf)?, hooks, None),
        Strategy::Best => match attach(Hooks::SocketTracepoints, &mut ebpf, &btf) {
            Ok(links) => (links, Hooks::SocketTracepoints, None),
            Err(refusal) => {
                let links = attach(Hooks::SyscallTracepoints, &mut ebpf, &btf)?;
                (links, Hooks::SyscallTracepoints, Some(refusal))
            }
        },
    };
    let maps = Maps {
        targets: take(&mut ebpf, "targets")?,
        pieces: take(&mut ebpf, "pieces")?,
        conversations: take(&mut ebpf, "conversations")?,
        losses: take(&mut ebpf, "losses")?,
    };
    Ok(Loaded {
        attachments,
        maps,
        hooks,
        fell_back,
    })
}

fn attach(hooks: Hooks, ebpf: &mut Ebpf, btf: &Btf) -> Result<Vec<FdLink>, LoadError> {
    Ok(match hooks {
        Hooks::SocketTracepoints => vec![
            attach_btf(ebpf, btf, "magi_heard", "sock_recv_length")?,
            attach_btf(ebpf, btf, "magi_answered", "sock_send_length")?,
        ],
        Hooks::SyscallTracepoints => vec![attach_raw(ebpf, "magi_talked", "sys_exit")?],
    })
}

/// The paths as the kernel side looks them up.
fn keys(paths: &[PathBuf]) -> Result<Vec<[u8; SUN_PATH]>, LoadError> {
    if paths.len() > MAX_PATHS {
        return Err(LoadError::TooManyPaths { given: paths.len() });
    }
    paths
        .iter()
        .map(|path| key(path).ok_or_else(|| LoadError::ListenerPath { path: path.clone() }))
        .collect()
}

fn key(path: &Path) -> Option<[u8; SUN_PATH]> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() || bytes.contains(&0) {
        return None;
    }
    let mut key = [0; SUN_PATH];
    key.get_mut(..MAX_PATH_BYTES)?
        .get_mut(..bytes.len())?
        .copy_from_slice(bytes);
    Some(key)
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{Entry, MAX_PATH_BYTES, MAX_PATHS, key, keys};
    use crate::load::LoadError;

    #[test]
    fn a_path_is_looked_up_with_zeroes_after_it() {
        let found = key(Path::new("/run/c.sock")).unwrap();
        assert!(found.starts_with(b"/run/c.sock\0"));
        assert!(found.iter().skip(11).all(|byte| *byte == 0));
        let longest = "x".repeat(MAX_PATH_BYTES);
        assert_eq!(key(Path::new(&longest)).unwrap().last(), Some(&0));
        for unusable in ["", "a\0b", &format!("{longest}x")] {
            let paths = [PathBuf::from(unusable)];
            let error = keys(&paths).unwrap_err();
            assert!(
                matches!(&error, LoadError::ListenerPath { path } if *path == paths[0]),
                "{error:?}"
            );
        }
        let many = vec![PathBuf::from("/run/c.sock"); MAX_PATHS + 1];
        assert!(matches!(keys(&many), Err(LoadError::TooManyPaths { given: 5 })));
    }

    #[test]
    fn an_entry_is_laid_out_as_the_kernel_side_writes_it() {
        for (state, is_open) in [(1_u64, true), (2, false), (3, false)] {
            let entry = Entry {
                inode: 12,
                tgid: 7,
                is_open,
            };
            assert_eq!(Entry::from_words([1, 2, 12, state << 32 | 7]), entry);
        }
    }
}
