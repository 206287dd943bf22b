//! The least edit that has the wanted effect and no other, proven by loading the result as containerd would.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::edit::{self, EditError, Setting};
use crate::effective::{Effective, NRI};
use crate::files;
use crate::imports::{self, Loaded};
use crate::plan::{PlanError, Request};
use crate::unpack::{Processors, Tables};
use crate::version::Merge;

/// What takes the place of the star in a pattern of imports: sorted behind most names.
const DROP_IN: &str = "90-magi";

/// What the configuration is to say.
pub(crate) struct Wanted {
    /// Settings of NRI that are to be false.
    pub(crate) nri: Vec<&'static str>,
    /// Stream processors that are to be there.
    pub(crate) processors: Option<Processors>,
}

/// Files as they would be.
pub(crate) struct Edits {
    pub(crate) texts: BTreeMap<PathBuf, New>,
}

/// A file's new text, and what was made in it.
#[derive(Default)]
pub(crate) struct New {
    pub(crate) text: String,
    pub(crate) settings: Vec<Setting>,
    pub(crate) tables: Option<Tables>,
}

/// Looks for the least edit that has the wanted effect and no other: a new file, a drop-in, else an edit in place.
pub(crate) fn search(
    request: &Request,
    loaded: &Loaded,
    config: &Effective,
    wanted: &Wanted,
) -> Result<Edits, PlanError> {
    let Some(root) = loaded.files.first() else {
        let version = request.version.highest_config();
        let mut edits = Edits::new();
        edits.start(&request.config, &format!("version = {version}\n"), wanted)?;
        return edits.proven(request, config, wanted, Some(version));
    };
    let version = root.version().unwrap_or(1);
    if version < 2 {
        return Err(PlanError::VersionOne(root.path.clone()));
    }
    for pattern in loaded.patterns.iter() {
        let Some(path) = drop_in(pattern) else { continue };
        let exists = request.place.real(&path)?.symlink_metadata().is_ok();
        let seen = loaded
            .patterns
            .iter()
            .any(|pattern| imports::fits(pattern, &files::temporary(&path)));
        if exists || seen {
            continue;
        }
        let mut edits = Edits::new();
        edits.start(&path, &format!("version = {version}\n"), wanted)?;
        if let Ok(edits) = edits.proven(request, config, wanted, None) {
            return Ok(edits);
        }
    }
    let mut edits = Edits::new();
    for key in &wanted.nri {
        let says = |key: Option<&str>| {
            loaded.files.iter().rev().find(|file| {
                let plugins = file.values.get("plugins");
                let section = plugins.and_then(|plugins| plugins.get(NRI)?.as_table());
                section.is_some_and(|section| key.is_none_or(|key| section.contains_key(key)))
            })
        };
        let target = match request.version.merge() {
            Merge::Sections => says(None),
            Merge::Keys => says(Some(key)).or_else(|| says(None)),
        };
        let target = target.unwrap_or(root);
        edits.set(&target.path, &target.text, key)?;
    }
    edits.append(&root.path, &root.text, wanted)?;
    edits.proven(request, config, wanted, None)
}

/// The path of a drop-in that this pattern covers.
fn drop_in(pattern: &Path) -> Option<PathBuf> {
    let name = pattern.file_name()?.to_str()?;
    let stars = pattern.to_str()?.matches('*').count();
    (stars == 1 && name.contains('*')).then(|| pattern.with_file_name(name.replace('*', DROP_IN)))
}

impl Edits {
    fn new() -> Self {
        Self {
            texts: BTreeMap::new(),
        }
    }

    fn start(&mut self, path: &Path, text: &str, wanted: &Wanted) -> Result<(), PlanError> {
        let each = |key: &&'static str| self.set(path, text, key);
        wanted.nri.iter().try_for_each(each)?;
        self.append(path, text, wanted)
    }

    fn set(&mut self, path: &Path, text: &str, key: &str) -> Result<(), PlanError> {
        self.change(path, text, |new| {
            let (text, setting) = edit::set(&new.text, NRI, key, false)?;
            new.text = text;
            new.settings.push(setting);
            Ok(())
        })
    }

    fn append(&mut self, path: &Path, text: &str, wanted: &Wanted) -> Result<(), PlanError> {
        let Some(processors) = &wanted.processors else {
            return Ok(());
        };
        self.change(path, text, |new| {
            let (text, tables) = processors.append(&new.text)?;
            new.text = text;
            new.tables = Some(tables);
            Ok(())
        })
    }

    /// Changes a file that has this text, or what became of it.
    fn change(
        &mut self,
        path: &Path,
        text: &str,
        make: impl FnOnce(&mut New) -> Result<(), EditError>,
    ) -> Result<(), PlanError> {
        let new = self.texts.entry(path.to_owned()).or_insert_with(|| New {
            text: text.to_owned(),
            ..New::default()
        });
        make(new).map_err(|source| PlanError::Edit {
            path: path.to_owned(),
            source,
        })
    }

    /// Loads the configuration with these edits as containerd would, and compares.
    fn proven(
        self,
        request: &Request,
        config: &Effective,
        wanted: &Wanted,
        version: Option<i64>,
    ) -> Result<Self, PlanError> {
        let overlay = self
            .texts
            .iter()
            .map(|(path, new)| (path.clone(), new.text.clone()))
            .collect();
        let edited = imports::load(&request.place, &request.config, request.version, &overlay)?;
        let mut expected = config.clone();
        if let Some(version) = version {
            expected.version = Some(version);
            expected.old_tables = version < 3;
            expected
                .values
                .insert("version".to_owned(), Value::Integer(version));
        }
        if let Some(processors) = &wanted.processors {
            processors.put_into(&mut expected.values);
        }
        let table = |value: &mut Table, key: &str| {
            let entry = value.entry(key).or_insert_with(|| Value::Table(Table::new()));
            entry.as_table_mut().map(std::mem::take)
        };
        if !wanted.nri.is_empty() {
            let mut plugins = table(&mut expected.values, "plugins").unwrap_or_default();
            let mut section = table(&mut plugins, NRI).unwrap_or_default();
            for key in &wanted.nri {
                section.insert((*key).to_owned(), Value::Boolean(false));
            }
            plugins.insert(NRI.to_owned(), Value::Table(section));
            expected
                .values
                .insert("plugins".to_owned(), Value::Table(plugins));
        }
        if edited.effective(request.version) == expected {
            return Ok(self);
        }
        Err(match wanted.nri.first() {
            Some(key) => PlanError::NoWay {
                path: request.config.clone(),
                section: NRI,
                key,
                value: false,
            },
            None => PlanError::NoWayForTables(request.config.clone()),
        })
    }
}
