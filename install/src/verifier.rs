//! The verifier's program: whether containerd can execute it, and what else it would execute beside it.
//!
//! Whatever is in the folder is executed at each pull, in the order of names, and one that cannot be executed blocks every
//! pull (containerd 2.1.9 pkg/imageverifier/bindir/bindir.go:58-111). So nothing half-written may ever have a name there.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::StatVfsMountFlags;

use crate::effective::Verifier;
use crate::files::{self, FileError, Found, Links, failed};

/// Its name in the verifiers' folder.
pub const NAME: &str = "magi-verify";
/// Longest program that is copied.
const LONGEST: u64 = 256 << 20;
pub(crate) const MODE: u32 = 0o755;
/// Most entries of the folder that are looked at.
const MOST: usize = 1000;
/// An ELF header's first bytes, and where it names the machine.
const ELF: &[u8] = b"\x7fELF";
const ELF_MACHINE: std::ops::Range<usize> = 18..20;

/// Why the program cannot be put there.
#[derive(Debug, thiserror::Error)]
pub enum VerifierError {
    /// It, or the folder, cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Nothing to copy.
    #[error("{} does not exist; say --verifier-binary, or --without verifier", .0.display())]
    NoProgram(PathBuf),
    /// It would block every pull.
    #[error("{} is no program that this machine can execute; as a verifier it would block every pull", .0.display())]
    NotExecutable(PathBuf),
    /// It would block every pull.
    #[error("{} is mounted noexec: a verifier in there would block every pull. Set another bin_dir", .0.display())]
    NoExec(PathBuf),
    /// Somebody else's.
    #[error("{} exists and was not put there by magictl; remove it if nobody needs it, and try again", .0.display())]
    Foreign(PathBuf),
    /// The folder was changed in the configuration since.
    #[error("{} was installed, and the configuration names another folder now; run `magictl uninstall containerd` first", .0.display())]
    Moved(PathBuf),
    /// It is executed where it lies, and must come in by renaming.
    #[error("{} is a mount of its own, into which no finished file can be moved; copy {NAME} there by hand, or say --without verifier", .0.display())]
    Mount(PathBuf),
    /// Not a folder.
    #[error("{} is not a folder, and containerd would refuse every pull", .0.display())]
    NotAFolder(PathBuf),
}

/// Reads the program that is to be copied.
pub(crate) fn program(path: &Path) -> Result<Found, VerifierError> {
    let found = files::read(path, LONGEST, Links::Follow)?
        .ok_or_else(|| VerifierError::NoProgram(path.to_owned()))?;
    if can_be_executed(&found.bytes)? {
        Ok(found)
    } else {
        Err(VerifierError::NotExecutable(path.to_owned()))
    }
}

/// Whether these are the bytes of a program, or of a script, that this machine can execute.
pub(crate) fn can_be_executed(bytes: &[u8]) -> Result<bool, FileError> {
    let own = files::read(Path::new("/proc/self/exe"), u64::from(u32::MAX), Links::Follow)?;
    let machine = |bytes: &[u8]| bytes.get(ELF_MACHINE).map(<[u8]>::to_vec);
    let elf = bytes.starts_with(ELF) && own.is_none_or(|own| machine(&own.bytes) == machine(bytes));
    Ok(elf || has_interpreter(bytes))
}

fn has_interpreter(bytes: &[u8]) -> bool {
    let line = bytes
        .strip_prefix(b"#!")
        .and_then(|rest| rest.split(|byte| *byte == b'\n').next());
    let line = line.and_then(|line| std::str::from_utf8(line).ok());
    let interpreter = line.and_then(|line| line.split_whitespace().next());
    interpreter.is_some_and(|path| {
        Path::new(path)
            .metadata()
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    })
}

/// What is in the verifiers' folder now.
#[derive(Debug, Default)]
pub(crate) struct Folder {
    /// The file of our name.
    pub(crate) ours: Option<Found>,
    /// What the operator should know of the others.
    pub(crate) warnings: Vec<String>,
}

/// Looks at the folder. `real` is where `verifier.folder` is found.
pub(crate) fn folder(verifier: &Verifier, real: &Path) -> Result<Folder, VerifierError> {
    let shown = &verifier.folder;
    let Ok(meta) = real.metadata() else {
        return Ok(Folder::default());
    };
    if !meta.is_dir() {
        return Err(VerifierError::NotAFolder(shown.clone()));
    }
    let mount = rustix::fs::statvfs(real).map_err(|error| failed("look at", real)(error.into()))?;
    if mount.f_flag.contains(StatVfsMountFlags::NOEXEC) {
        return Err(VerifierError::NoExec(shown.clone()));
    }
    let parent = real.parent().and_then(|parent| parent.metadata().ok());
    if parent.is_some_and(|parent| parent.dev() != meta.dev()) {
        return Err(VerifierError::Mount(shown.clone()));
    }
    let mut folder = Folder {
        ours: files::read(&real.join(NAME), LONGEST, Links::Refuse)?,
        warnings: Vec::new(),
    };
    if meta.permissions().mode() & 0o022 != 0 {
        folder.warnings.push(format!(
            "{} can be written by others than its owner: whoever can put a file there has it executed by containerd",
            shown.display()
        ));
    }
    let mut names = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(real).map_err(failed("list", real))?.take(MOST) {
        let entry = entry.map_err(failed("list", real))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let executable = entry
            .path()
            .metadata()
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
        if name != NAME && !executable {
            folder.warnings.push(format!(
                "{} cannot be executed: it blocks every pull already",
                shown.join(&name).display()
            ));
        }
        names.insert(name);
    }
    names.insert(NAME.to_owned());
    let place = names.iter().position(|name| name == NAME).unwrap_or_default();
    if let Some(limit) = verifier.limit.filter(|limit| place >= *limit) {
        folder.warnings.push(format!(
            "{place} verifiers come before {NAME}, and max_verifiers is {limit}: containerd will not call it"
        ));
    }
    Ok(folder)
}

/// Where it is written before it is moved in: beside the folder, where nothing is executed.
pub(crate) fn temporary(folder: &Path) -> PathBuf {
    folder
        .parent()
        .unwrap_or(Path::new("/"))
        .join(format!(".{NAME}.magi-tmp"))
}
