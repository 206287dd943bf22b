//! Loading: what must be true first, which variant the kernel takes, and why not if it refuses.

use std::io;
use std::path::{Path, PathBuf};

use aya::maps::{Map, MapError, RingBuf};
use aya::programs::links::{FdLink, LinkError};
use aya::programs::{BtfTracePoint, ProgramError, RawTracePoint};
use aya::{Btf, BtfError, Ebpf, EbpfError, EbpfLoader, Endianness};

use crate::conversations::{MAX_PATH_BYTES, MAX_PATHS};
use crate::object::Object;
use crate::privilege::{self, Capability};
use crate::probes::Maps;

const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// How to load.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The kernel's type information; by default where the kernel publishes it. A path to nothing simulates
    /// a kernel without.
    pub btf: Option<PathBuf>,
    /// Which variant to take.
    pub strategy: Strategy,
    /// A path within the content stores to watch: tells [`Strategy::Best`] whether its file system lets the
    /// better variant see every write. Without it, that is assumed; elsewhere the better variant is silent.
    pub store: Option<PathBuf>,
}

/// File systems on which [`Level::InodeTracepoints`] sees every write; `bpf/magi.bpf.c` has the same list.
/// An overlay stands for the file system below it.
const COVERED: [i64; 4] = [0xEF53, 0x5846_5342, 0x9123_683E, OVERLAY];
const OVERLAY: i64 = 0x794C_7630;

/// Which variant to try, of those of the probes or of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strategy<L = Level> {
    /// The best that the kernel takes.
    #[default]
    Best,
    /// This one or none.
    Only(L),
}

/// The variant that is running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    /// BTF tracepoints on socket reads and inode changes: no cost for other processes. Linux 6.3 or newer.
    InodeTracepoints,
    /// Raw system call tracepoints: a small tax on every system call of the machine. Linux 5.12 or newer.
    /// Sockets older than the probes are seen only once something gave them a cookie, such as a dump of all
    /// sockets through `sock_diag`.
    SyscallTracepoints,
}

/// Why the probes cannot run. Names the missing thing; the caller goes on without probes.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The build had no clang.
    #[error("this build carries no kernel side: {reason}")]
    NoCompiledObject {
        /// What the build missed.
        reason: &'static str,
    },
    /// Without type information every field would be read at a wrong offset.
    #[error("the kernel offers no usable type information at {}", path.display())]
    NoBtf {
        /// Where it was looked for.
        path: PathBuf,
        /// What came instead.
        #[source]
        source: Box<BtfError>,
    },
    /// A capability is missing.
    #[error("not permitted: {missing} is missing")]
    NotPermitted {
        /// Which.
        missing: Capability,
    },
    /// The kernel does not tell the process's capabilities.
    #[error("reading the capabilities of this process")]
    Capabilities(#[source] io::Error),
    /// The pid namespace cannot be told, so the watched pid would be compared with foreign numbers.
    #[error("reading this process's pid namespace at {path}")]
    PidNamespace {
        /// Where it was looked for.
        path: &'static str,
        /// What came instead.
        #[source]
        source: io::Error,
    },
    /// Inode tracepoints miss writes on this file system.
    #[error("inode tracepoints do not see every write on the file system of {}, of type {kind:#x}", path.display())]
    FileSystem {
        /// The content store.
        path: PathBuf,
        /// The type, as `statfs` says it.
        kind: i64,
    },
    /// The file system of the content store cannot be told.
    #[error("asking for the file system of {}", path.display())]
    Store {
        /// The content store.
        path: PathBuf,
        /// What came instead.
        #[source]
        source: io::Error,
    },
    /// The object as a whole: relocations or the creation of its maps.
    #[error("the kernel refused the probes' maps or relocations")]
    ObjectRefused(#[source] Box<EbpfError>),
    /// One program.
    #[error("the kernel refused the program {name}")]
    ProgramRefused {
        /// Which.
        name: &'static str,
        /// What the kernel said.
        #[source]
        source: Box<ProgramError>,
    },
    /// The program ran, but its attachment could not be taken over.
    #[error("the attachment of the program {name} has an unexpected form")]
    Attachment {
        /// Which.
        name: &'static str,
        /// What aya said.
        #[source]
        source: Box<LinkError>,
    },
    /// The embedded object lacks a part: it does not belong to this version.
    #[error("the embedded object has no {name}")]
    Incomplete {
        /// Which map or program.
        name: &'static str,
    },
    /// No unix socket can be bound to it.
    #[error("{} is no path of a unix socket: empty, over {MAX_PATH_BYTES} bytes, or with a zero byte", path.display())]
    ListenerPath {
        /// The path.
        path: PathBuf,
    },
    /// More paths than the kernel side has room for.
    #[error("{given} paths of unix sockets, at most {MAX_PATHS} are possible")]
    TooManyPaths {
        /// How many were asked for.
        given: usize,
    },
    /// One map.
    #[error("the map {name} cannot be used")]
    MapRefused {
        /// Which.
        name: &'static str,
        /// What the kernel said.
        #[source]
        source: Box<MapError>,
    },
}

/// What stays after loading: attachments and maps. Everything else is dropped, as it is large.
pub(crate) struct Loaded {
    pub(crate) attachments: Vec<FdLink>,
    pub(crate) maps: Maps,
    pub(crate) level: Level,
    pub(crate) fell_back: Option<LoadError>,
}

/// Opens an object for this kernel: its relocations are done and its maps are there, `sizes` of them other than as
/// written, but nothing is attached.
pub(crate) fn open(
    object: Object,
    btf: Option<&Path>,
    sizes: &[(&'static str, u32)],
) -> Result<(Ebpf, Btf), LoadError> {
    let bytes = object
        .bytes()
        .map_err(|reason| LoadError::NoCompiledObject { reason })?;
    let path = btf.unwrap_or_else(|| Path::new(KERNEL_BTF));

    // The loader parses the kernel's types for itself first; dropping those before parsing our own halves the peak.
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    let btf = Btf::parse_file(path, Endianness::default()).map_err(|source| LoadError::NoBtf {
        path: path.to_owned(),
        source: Box::new(source),
    })?;
    if let Some(missing) = privilege::missing().map_err(LoadError::Capabilities)? {
        return Err(LoadError::NotPermitted { missing });
    }
    for (map, size) in sizes {
        loader.map_max_entries(map, *size);
    }
    let ebpf = loader
        .btf(Some(&btf))
        .load(bytes)
        .map_err(|error| LoadError::ObjectRefused(Box::new(error)))?;
    Ok((ebpf, btf))
}

pub(crate) fn load(options: &Options) -> Result<Loaded, LoadError> {
    let (mut ebpf, btf) = open(Object::Probes, options.btf.as_deref(), &[])?;
    let mut attachments = Vec::new();
    let (level, fell_back) = match options.strategy {
        Strategy::Only(level) => {
            attachments.extend(attach(level, &mut ebpf, &btf)?);
            (level, None)
        }
        Strategy::Best => match covers(options.store.as_deref())
            .and_then(|()| attach(Level::InodeTracepoints, &mut ebpf, &btf))
        {
            Ok(links) => {
                attachments.extend(links);
                (Level::InodeTracepoints, None)
            }
            Err(refusal) => {
                attachments.extend(attach(Level::SyscallTracepoints, &mut ebpf, &btf)?);
                (Level::SyscallTracepoints, Some(refusal))
            }
        },
    };
    attachments.push(attach_btf(&mut ebpf, &btf, "magi_state", "inet_sock_set_state")?);
    Ok(Loaded {
        attachments,
        maps: take_maps(&mut ebpf)?,
        level,
        fell_back,
    })
}

fn covers(store: Option<&Path>) -> Result<(), LoadError> {
    let Some(path) = store else { return Ok(()) };
    let kind = rustix::fs::statfs(path)
        .map_err(|error| LoadError::Store {
            path: path.to_owned(),
            source: error.into(),
        })?
        .f_type;
    if COVERED.contains(&kind) {
        Ok(())
    } else {
        Err(LoadError::FileSystem {
            path: path.to_owned(),
            kind,
        })
    }
}

fn attach(level: Level, ebpf: &mut Ebpf, btf: &Btf) -> Result<Vec<FdLink>, LoadError> {
    Ok(match level {
        Level::InodeTracepoints => vec![
            attach_btf(ebpf, btf, "magi_send", "sock_send_length")?,
            attach_btf(ebpf, btf, "magi_recv", "sock_recv_length")?,
            attach_btf(ebpf, btf, "magi_dirty", "writeback_mark_inode_dirty")?,
        ],
        Level::SyscallTracepoints => vec![
            attach_raw(ebpf, "magi_sys_enter", "sys_enter")?,
            attach_raw(ebpf, "magi_sys_exit", "sys_exit")?,
        ],
    })
}

fn refused(name: &'static str) -> impl Fn(ProgramError) -> LoadError + Copy {
    move |source| LoadError::ProgramRefused {
        name,
        source: Box::new(source),
    }
}

pub(crate) fn attach_btf(
    ebpf: &mut Ebpf,
    btf: &Btf,
    name: &'static str,
    tracepoint: &str,
) -> Result<FdLink, LoadError> {
    let program = ebpf.program_mut(name).ok_or(LoadError::Incomplete { name })?;
    let program: &mut BtfTracePoint = program.try_into().map_err(refused(name))?;
    program.load(tracepoint, btf).map_err(refused(name))?;
    let id = program.attach().map_err(refused(name))?;
    program.take_link(id).map(FdLink::from).map_err(refused(name))
}

pub(crate) fn attach_raw(ebpf: &mut Ebpf, name: &'static str, tracepoint: &str) -> Result<FdLink, LoadError> {
    let program = ebpf.program_mut(name).ok_or(LoadError::Incomplete { name })?;
    let program: &mut RawTracePoint = program.try_into().map_err(refused(name))?;
    program.load().map_err(refused(name))?;
    let id = program.attach(tracepoint).map_err(refused(name))?;
    program.take_link(id).map(FdLink::from).map_err(refused(name))
}

pub(crate) fn take<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, LoadError>
where
    T: TryFrom<Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or(LoadError::Incomplete { name })?;
    T::try_from(map).map_err(map_refused(name))
}

pub(crate) fn map_refused(name: &'static str) -> impl Fn(MapError) -> LoadError + Copy {
    move |source| LoadError::MapRefused {
        name,
        source: Box::new(source),
    }
}

fn take_maps(ebpf: &mut Ebpf) -> Result<Maps, LoadError> {
    Ok(Maps {
        targets: take(ebpf, "targets")?,
        epoch: take(ebpf, "epoch")?,
        lost: take(ebpf, "lost")?,
        records: take::<RingBuf<_>>(ebpf, "records")?,
    })
}
