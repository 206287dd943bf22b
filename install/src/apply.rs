//! A plan carried out: under a lock, behind a journal, each file whole or not at all.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::files::{self, FileError, Links, failed};
use crate::journal::{Journal, JournalError, Phase};
use crate::place::PlaceError;
use crate::plan::{Change, Plan};

const FOLDER: u32 = 0o755;
/// The journal holds whole configurations, and those may hold credentials.
const STATE: u32 = 0o700;
/// Longest file that is compared before it is replaced: a program.
const LONGEST: u64 = 256 << 20;

/// Why it was not done, or not to the end. Whatever was done is in the journal: the same command finishes it, and
/// uninstall takes it back.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A path that leads nowhere.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// A file that could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The journal could not be written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Two at once.
    #[error("another magictl is at work in {}; try again when it is done", .0.display())]
    Busy(PathBuf),
    /// What was shown is not what would happen.
    #[error("{} changed since the plan was made; nothing was done, try again", .0.display())]
    Changed(PathBuf),
    /// A test ends it here, as a crash would.
    #[cfg(test)]
    #[error("crashed")]
    Crash,
}

impl ApplyError {
    /// Whether something may have been done before it failed.
    pub fn is_partial(&self) -> bool {
        !matches!(self, Self::Busy(_) | Self::Changed(_))
    }
}

/// Called before every step that changes something on disk.
type Step<'a> = &'a mut dyn FnMut() -> Result<(), ApplyError>;

impl Plan {
    /// Does what the plan says.
    pub fn apply(&self) -> Result<(), ApplyError> {
        self.apply_in_steps(&mut || Ok(()))
    }

    pub(crate) fn apply_in_steps(&self, step: Step<'_>) -> Result<(), ApplyError> {
        if self.is_nothing() {
            return Ok(());
        }
        let state = self.work.place.real(&self.work.state)?;
        let removing = self.work.journal.phase == Phase::Removing;
        if !removing {
            self.make(&state, STATE)?;
        }
        let _lock = lock(&state)?;
        let seen = Journal::read(&state)?.map(|(_, digest)| digest);
        if seen != self.work.seen {
            return Err(ApplyError::Changed(self.work.state.clone()));
        }
        for change in &self.changes {
            self.check(change)?;
        }
        let mut journal = self.work.journal.clone();
        step()?;
        journal.write(&state)?;
        for change in &self.changes {
            step()?;
            self.carry_out(change)?;
        }
        step()?;
        for temp in &self.work.temps {
            files::remove(&self.work.place.real(temp)?)?;
        }
        if removing {
            step()?;
            return self.forget(&state, &journal);
        }
        journal.phase = Phase::Installed;
        step()?;
        Ok(journal.write(&state)?)
    }

    fn check(&self, change: &Change) -> Result<(), ApplyError> {
        let real = self.work.place.real(&change.path)?;
        let now = files::read(&real, LONGEST, Links::Refuse)?;
        if now.map(|now| files::digest(&now.bytes)) == change.found {
            Ok(())
        } else {
            Err(ApplyError::Changed(change.path.clone()))
        }
    }

    fn carry_out(&self, change: &Change) -> Result<(), ApplyError> {
        let real = self.work.place.real(&change.path)?;
        let Some(content) = &change.becomes else {
            files::remove(&real)?;
            return Ok(files::sync_folder_of(&real)?);
        };
        self.make(real.parent().unwrap_or(Path::new("/")), FOLDER)?;
        let temp = self.work.place.real(&content.temp)?;
        let like = change.found.is_some().then_some(real.as_path());
        Ok(files::replace(&real, &temp, &content.bytes, content.owner, like)?)
    }

    fn make(&self, folder: &Path, mode: u32) -> Result<(), ApplyError> {
        for missing in files::missing_folders(folder) {
            let mode = if missing == folder { mode } else { FOLDER };
            DirBuilder::new()
                .mode(mode)
                .create(&missing)
                .map_err(failed("make the folder", &missing))?;
            files::sync_folder_of(&missing)?;
        }
        Ok(())
    }

    /// Takes away the folders that install made, and the journal, last.
    fn forget(&self, state: &Path, journal: &Journal) -> Result<(), ApplyError> {
        let place = &self.work.place;
        let folders = journal.folders.iter().rev();
        let (of_state, others): (Vec<&PathBuf>, Vec<&PathBuf>) =
            folders.partition(|folder| self.work.state.starts_with(folder));
        for folder in others {
            files::remove_empty_folder(&place.real(folder)?)?;
        }
        Journal::remove(state)?;
        // Nothing else is kept in there, whoever made it.
        files::remove_empty_folder(state)?;
        for folder in of_state {
            files::remove_empty_folder(&place.real(folder)?)?;
        }
        Ok(())
    }
}

/// Locks the state folder itself, so that no file is left of it.
fn lock(state: &Path) -> Result<File, ApplyError> {
    let folder = File::open(state).map_err(failed("open", state))?;
    let busy = || ApplyError::Busy(state.to_owned());
    flock(&folder, FlockOperation::NonBlockingLockExclusive).map_err(|_| busy())?;
    // Whoever had it before may have removed it.
    let ours = folder.metadata().map_err(failed("look at", state))?;
    let there = fs::metadata(state).map_err(|_| busy())?;
    if (ours.dev(), ours.ino()) == (there.dev(), there.ino()) {
        Ok(folder)
    } else {
        Err(busy())
    }
}
