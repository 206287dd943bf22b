//! Install, decided: which files change and how, and what the operator should know. Nothing is touched here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::diff::unified;
use crate::document::{Document, DocumentError};
use crate::edit::{self, EditError, Undone};
use crate::effective::{Effective, NRI, SettingError, VERIFIER, forced_local};
use crate::files::{self, FileError, Links, Owner};
use crate::imports::{self, LONGEST, LoadError, Loaded};
use crate::journal::{Before, Edited, Journal, JournalError, Phase, Program};
use crate::place::{Place, PlaceError};
use crate::search::{New, Wanted, search};
use crate::unpack::{self, Processors, UnpackError};
use crate::verifier::{self, VerifierError};
use crate::version::Version;

/// The lines at a file's top that may say that it is generated.
const GENERATED_WITHIN: usize = 10;
const NEW_FILE: Owner = Owner {
    mode: 0o644,
    uid: 0,
    gid: 0,
};

/// What is wanted. All paths but `verifier` are the node's, and found below `place`.
#[derive(Clone, Debug)]
pub struct Request {
    /// Where the node's files are.
    pub place: Place,
    /// containerd's root configuration.
    pub config: PathBuf,
    /// Where the journal is kept.
    pub state: PathBuf,
    /// Which containerd it is.
    pub version: Version,
    /// Open NRI's socket.
    pub nri: bool,
    /// Put this program, found on this machine, where image verifiers are executed.
    pub verifier: Option<PathBuf>,
    /// Register this program, where it lies on the node, as the stream processor of compressed layers.
    pub unpack: Option<PathBuf>,
}

/// What will be done, and what to say about it.
#[derive(Debug, Serialize)]
pub struct Plan {
    /// Files, in the order in which they change.
    pub changes: Vec<Change>,
    /// What is as it should be, or cannot be had.
    pub notes: Vec<String>,
    /// What the operator should look at.
    pub warnings: Vec<String>,
    /// containerd must be restarted for the changes to count. magi never does that.
    pub restart: bool,
    /// An earlier run was interrupted; this one finishes it.
    pub unfinished: bool,
    #[serde(skip)]
    pub(crate) work: Work,
}

/// One file that changes.
#[derive(Debug, Serialize)]
pub struct Change {
    /// On the node.
    pub path: PathBuf,
    /// What happens to it.
    pub action: Action,
    /// A unified diff with credentials left out; one line that describes it for a program.
    pub diff: String,
    #[serde(skip)]
    pub(crate) found: Option<String>,
    #[serde(skip)]
    pub(crate) becomes: Option<Content>,
}

/// What happens to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It comes into being.
    Create,
    /// Some of it changes.
    Edit,
    /// It becomes what it was before install, to the byte.
    Restore,
    /// It goes.
    Remove,
}

/// What a file will hold.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) bytes: Vec<u8>,
    pub(crate) owner: Owner,
    /// On the node; what is written before it gets the file's name.
    pub(crate) temp: PathBuf,
}

/// What `apply` needs beside the changes.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) place: Place,
    pub(crate) state: PathBuf,
    /// The digest of the journal that the plan was made from.
    pub(crate) seen: Option<String>,
    /// What the journal will say.
    pub(crate) journal: Journal,
    /// What an interrupted run may have left half-written.
    pub(crate) temps: Vec<PathBuf>,
}

/// Why there is no plan. Each names what to do.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A path that leads nowhere.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// A file that cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A configuration that is not understood.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A file that is not understood.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// A setting that is not understood.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// A file that cannot be edited.
    #[error("cannot edit {}", path.display())]
    Edit {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: EditError,
    },
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The verifier cannot be put there.
    #[error(transparent)]
    Verifier(#[from] VerifierError),
    /// magi-unpack cannot be registered.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// Somebody turned it off on purpose.
    #[error(
        "`disabled_plugins` names {plugin:?}: somebody turned it off on purpose. Take it out of that list, or say --without {option}"
    )]
    Listed {
        /// The plugin.
        plugin: &'static str,
        /// Of magictl.
        option: &'static str,
    },
    /// Its plugins have other names.
    #[error("{} declares no version, or version 1, whose tables have other names; bring it to version 2 (containerd 2.x: `containerd config migrate`), and try again", .0.display())]
    VersionOne(PathBuf),
    /// No edit has the wanted effect, and that effect only.
    #[error("{} and its imports cannot be changed so that `{key} = {value}` of `plugins.{section:?}`, and nothing else, takes effect; set it by hand", path.display())]
    NoWay {
        /// The root file.
        path: PathBuf,
        /// The plugin's table.
        section: &'static str,
        /// The setting.
        key: &'static str,
        /// What it should be.
        value: bool,
    },
    /// The same, for tables of their own.
    #[error("{} and its imports cannot be changed so that the stream processors of magi-unpack, and nothing else, are added; add them by hand", .0.display())]
    NoWayForTables(PathBuf),
    /// containerd would read what is half-written.
    #[error("imports match {}, which exists for a moment while magictl writes; make the pattern end in `.toml`", .0.display())]
    Temporary(PathBuf),
}

/// Decides what is to be done so that magi is registered. Looks only.
pub fn plan_install(request: &Request) -> Result<Plan, PlanError> {
    let place = &request.place;
    let old = Journal::read(&place.real(&request.state)?)?;
    let (old, seen) = match old {
        Some((journal, digest)) => (Some(journal), Some(digest)),
        None => (None, None),
    };
    let loaded = imports::load(place, &request.config, request.version, &BTreeMap::new())?;
    let config = loaded.effective(request.version);
    let mut plan = Plan {
        changes: Vec::new(),
        notes: Vec::new(),
        warnings: Vec::new(),
        restart: false,
        unfinished: old.as_ref().is_some_and(|old| old.phase != Phase::Installed),
        work: Work {
            place: place.clone(),
            state: request.state.clone(),
            seen,
            temps: old.as_ref().map(Journal::temps).unwrap_or_default(),
            journal: old.unwrap_or_else(|| Journal::new(request.version.to_string())),
        },
    };
    plan.work.journal.containerd = request.version.to_string();
    // Also when an uninstall was interrupted: what is left of it is built upon.
    plan.work.journal.phase = Phase::Installing;
    plan.forget_undone()?;
    let versions: BTreeSet<i64> = loaded.files.iter().filter_map(Document::version).collect();
    if versions.len() > 1 && request.version.highest_config() < 4 {
        plan.warnings.push(
            "the imported files declare different versions, which containerd before 2.3 mixes up".to_owned(),
        );
    }
    if let Some(program) = &request.verifier {
        plan.verifier(request, program, &config)?;
    }
    let wanted = Wanted {
        nri: if request.nri {
            plan.nri(request, &config)?
        } else {
            Vec::new()
        },
        processors: plan.unpack(request, &config)?,
    };
    plan.configure(request, &loaded, &config, &wanted)?;
    plan.folders()?;
    Ok(plan)
}

impl PlanError {
    /// The line of a file that is not understood, with a caret below, in several lines.
    pub fn excerpt(&self) -> Option<&str> {
        match self {
            Self::Load(LoadError::Document(DocumentError::Syntax { excerpt, .. }))
            | Self::Document(DocumentError::Syntax { excerpt, .. }) => Some(excerpt),
            Self::Place(_)
            | Self::File(_)
            | Self::Load(_)
            | Self::Document(_)
            | Self::Setting(_)
            | Self::Edit { .. }
            | Self::Journal(_)
            | Self::Verifier(_)
            | Self::Unpack(_)
            | Self::Listed { .. }
            | Self::VersionOne(_)
            | Self::NoWay { .. }
            | Self::NoWayForTables(_)
            | Self::Temporary(_) => None,
        }
    }
}

impl Plan {
    /// Whether everything is as it should be.
    pub fn is_nothing(&self) -> bool {
        self.changes.is_empty() && !self.unfinished
    }

    /// Leaves out of the journal what an interrupted run wrote down and never did.
    fn forget_undone(&mut self) -> Result<(), PlanError> {
        let place = self.work.place.clone();
        let mut kept = Vec::new();
        for file in std::mem::take(&mut self.work.journal.files) {
            let now = files::read(&place.real(&file.path)?, LONGEST, Links::Refuse)?;
            let now = now.map(|found| files::digest(&found.bytes));
            if now.as_ref() != file.before.as_ref().map(|before| &before.sha256) {
                kept.push(file);
            }
        }
        self.work.journal.files = kept;
        if let Some(program) = &self.work.journal.program
            && !place.real(&program.path)?.exists()
        {
            self.work.journal.program = None;
        }
        Ok(())
    }

    fn verifier(&mut self, request: &Request, source: &Path, config: &Effective) -> Result<(), PlanError> {
        if !request.version.verifies() {
            self.notes.push(format!(
                "containerd {} calls no image verifiers (2.1 and later do): none is installed",
                request.version
            ));
            return Ok(());
        }
        let settings = config.verifier()?;
        if settings.listed {
            return Err(PlanError::Listed {
                plugin: VERIFIER,
                option: "verifier",
            });
        }
        for setting in forced_local(config) {
            self.warnings.push(format!(
                "`{setting}` makes containerd pull in process, where no verifier is called"
            ));
        }
        let program = verifier::program(source)?;
        let folder = verifier::folder(&settings, &request.place.real(&settings.folder)?)?;
        self.warnings.extend(folder.warnings);
        let path = settings.folder.join(verifier::NAME);
        let sha256 = files::digest(&program.bytes);
        let recorded = self.work.journal.program.as_ref();
        if let Some(moved) = recorded.filter(|recorded| recorded.path != path) {
            return Err(VerifierError::Moved(moved.path.clone()).into());
        }
        let found = match folder.ours {
            Some(ours) if files::digest(&ours.bytes) == sha256 && ours.owner.mode == verifier::MODE => {
                self.notes.push(match recorded {
                    Some(_) => format!("{} is in place", path.display()),
                    None => format!(
                        "{} is in place already; uninstall will leave it there",
                        path.display()
                    ),
                });
                return Ok(());
            }
            Some(ours) => {
                let digest = files::digest(&ours.bytes);
                if recorded.is_none_or(|recorded| recorded.sha256 != digest) {
                    return Err(VerifierError::Foreign(path).into());
                }
                Some(digest)
            }
            None => None,
        };
        let temp = verifier::temporary(&settings.folder);
        let (action, verb) = match found {
            Some(_) => (Action::Edit, "replaced"),
            None => (Action::Create, "new"),
        };
        self.changes.push(Change {
            diff: format!(
                "{}: {verb} program, {} bytes, mode 0755, a copy of {}, sha256 {sha256}\n",
                path.display(),
                program.bytes.len(),
                source.display()
            ),
            action,
            found,
            becomes: Some(Content {
                bytes: program.bytes,
                owner: NEW_FILE.executable(),
                temp: temp.clone(),
            }),
            path: path.clone(),
        });
        self.work.journal.program = Some(Program { path, temp, sha256 });
        Ok(())
    }

    /// The settings of NRI that have to be changed.
    fn nri(&mut self, request: &Request, config: &Effective) -> Result<Vec<&'static str>, PlanError> {
        let nri = config.nri(request.version)?;
        if nri.listed {
            return Err(PlanError::Listed {
                plugin: NRI,
                option: "nri",
            });
        }
        if nri.socket != Path::new("/var/run/nri/nri.sock") {
            self.notes.push(format!(
                "NRI's socket is {}; magi-node must be told, as it is not the usual place",
                nri.socket.display()
            ));
        }
        let wanted: Vec<&'static str> = [
            nri.disabled.then_some("disable"),
            nri.connections_disabled.then_some("disable_connections"),
        ]
        .into_iter()
        .flatten()
        .collect();
        if wanted.is_empty() {
            self.notes.push("NRI is open to plugins".to_owned());
        }
        Ok(wanted)
    }

    /// The stream processors that have to be added.
    fn unpack(&mut self, request: &Request, config: &Effective) -> Result<Option<Processors>, PlanError> {
        let Some(program) = &request.unpack else {
            return Ok(None);
        };
        let processors = Processors::of(program, &request.place.real(program)?)?;
        if processors.are_in(config)? {
            self.notes.push(format!("{} is registered", unpack::NAME));
            return Ok(None);
        }
        Ok(Some(processors))
    }

    fn configure(
        &mut self,
        request: &Request,
        loaded: &Loaded,
        config: &Effective,
        wanted: &Wanted,
    ) -> Result<(), PlanError> {
        if wanted.nri.is_empty() && wanted.processors.is_none() {
            return Ok(());
        }
        let edits = search(request, loaded, config, wanted)?;
        if loaded.files.is_empty() {
            self.notes.push(format!(
                "{} does not exist, and containerd runs on its defaults; a file with nothing but what is needed is made",
                request.config.display()
            ));
        }
        for (path, new) in edits.texts {
            self.edit(path, new, loaded)?;
        }
        self.restart = true;
        Ok(())
    }

    fn edit(&mut self, path: PathBuf, new: New, loaded: &Loaded) -> Result<(), PlanError> {
        let temp = files::temporary(&path);
        if loaded
            .patterns
            .iter()
            .any(|pattern| imports::fits(pattern, &temp))
        {
            return Err(PlanError::Temporary(temp));
        }
        let found = files::read(&self.work.place.real(&path)?, LONGEST, Links::Refuse)?;
        let digest = found.as_ref().map(|found| files::digest(&found.bytes));
        let owner = found.as_ref().map_or(NEW_FILE.mine(), |found| found.owner);
        let old = found.and_then(|found| String::from_utf8(found.bytes).ok());
        let head = old.iter().flat_map(|old| old.lines().take(GENERATED_WITHIN));
        if head
            .map(str::to_ascii_lowercase)
            .any(|line| line.contains("do not edit"))
        {
            self.warnings.push(format!(
                "{} says that it is generated: whoever does that may overwrite the edit",
                path.display()
            ));
        }
        let record = self.record(&path, old.as_deref(), digest.clone(), owner, &new)?;
        self.work.journal.files.retain(|file| file.path != path);
        self.work.journal.files.push(record);
        self.changes.push(Change {
            diff: unified(&path, old.as_deref(), Some(&new.text)),
            action: if old.is_some() {
                Action::Edit
            } else {
                Action::Create
            },
            found: digest,
            becomes: Some(Content {
                bytes: new.text.into_bytes(),
                owner,
                temp,
            }),
            path,
        });
        Ok(())
    }

    /// What the journal says of a file: what it was before any install, not before this one.
    fn record(
        &self,
        path: &Path,
        old: Option<&str>,
        digest: Option<String>,
        owner: Owner,
        new: &New,
    ) -> Result<Edited, PlanError> {
        let fresh = |text: &str| Before {
            sha256: files::digest(text.as_bytes()),
            text: text.to_owned(),
            owner,
        };
        let after = files::digest(new.text.as_bytes());
        let Some(earlier) = self.work.journal.file(path) else {
            return Ok(Edited {
                path: path.to_owned(),
                before: old.map(fresh),
                after,
                settings: new.settings.clone(),
                tables: new.tables.clone(),
            });
        };
        let mut settings = earlier.settings.clone();
        settings.retain(|setting| {
            new.settings
                .iter()
                .all(|new| (&new.section, &new.key) != (&setting.section, &setting.key))
        });
        let mut tables = earlier.tables.clone();
        let before = if digest.as_ref() == Some(&earlier.after) {
            earlier.before.clone()
        } else {
            // Somebody edited it since: their edits belong to what it was before.
            let mut original = old.unwrap_or_default().to_owned();
            let mut present = Vec::new();
            for setting in settings.iter().rev() {
                let (text, undone) = edit::unset(&original, setting).map_err(|source| PlanError::Edit {
                    path: path.to_owned(),
                    source,
                })?;
                original = text;
                if undone == Undone::Back {
                    present.insert(0, setting.clone());
                }
            }
            settings = present;
            if let Some(earlier) = &earlier.tables {
                let (text, undone) = unpack::take_out(&original, earlier);
                original = text;
                tables = tables.filter(|_| undone == Undone::Back);
            }
            old.map(|_| fresh(&original))
        };
        settings.extend(new.settings.iter().cloned());
        Ok(Edited {
            path: path.to_owned(),
            before,
            after,
            settings,
            tables: new.tables.clone().or(tables),
        })
    }

    /// Writes down which folders will have to be made.
    fn folders(&mut self) -> Result<(), PlanError> {
        let place = &self.work.place;
        let wanted = self
            .changes
            .iter()
            .filter_map(|change| change.path.parent())
            .chain([self.work.state.as_path()]);
        let mut missing = Vec::new();
        for folder in wanted {
            for ancestor in folder.ancestors() {
                if place.real(ancestor)?.exists() {
                    break;
                }
                missing.push(ancestor.to_owned());
            }
        }
        missing.retain(|folder| !self.work.journal.folders.contains(folder));
        self.work.journal.folders.extend(missing);
        self.work.journal.folders.sort();
        self.work.journal.folders.dedup();
        Ok(())
    }
}

impl Owner {
    fn executable(self) -> Self {
        Self {
            mode: verifier::MODE,
            ..self.mine()
        }
    }

    /// Owned by whoever runs this.
    fn mine(self) -> Self {
        Self {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            ..self
        }
    }
}
