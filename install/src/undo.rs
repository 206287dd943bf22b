//! Uninstall, decided: the original bytes where nobody touched them since, else only magi's own additions out.

use std::path::Path;

use crate::diff::unified;
use crate::edit::{self, Undone};
use crate::files::{self, Links};
use crate::imports::LONGEST;
use crate::journal::{Edited, Journal, Phase};
use crate::place::Place;
use crate::plan::{Action, Change, Content, Plan, PlanError, Work};
use crate::unpack;

/// Longest program that is compared.
const PROGRAM: u64 = 256 << 20;

/// Decides what is to be done so that nothing of magi is left. `state` is where install kept its journal. Looks only.
pub fn plan_uninstall(place: &Place, state: &Path) -> Result<Plan, PlanError> {
    let found = Journal::read(&place.real(state)?)?;
    let (journal, seen) = match found {
        Some((journal, digest)) => (Some(journal), Some(digest)),
        None => (None, None),
    };
    let mut plan = Plan {
        changes: Vec::new(),
        notes: Vec::new(),
        warnings: Vec::new(),
        restart: false,
        unfinished: journal.is_some(),
        work: Work {
            place: place.clone(),
            state: state.to_owned(),
            seen,
            temps: journal.as_ref().map(Journal::temps).unwrap_or_default(),
            journal: journal.unwrap_or_else(|| Journal::new(String::new())),
        },
    };
    if !plan.unfinished {
        plan.notes.push(format!(
            "{} holds no journal: magictl installed nothing here",
            state.display()
        ));
        return Ok(plan);
    }
    plan.work.journal.phase = Phase::Removing;
    for file in plan.work.journal.files.clone() {
        plan.undo_file(&file)?;
    }
    plan.undo_program()?;
    Ok(plan)
}

impl Plan {
    fn undo_file(&mut self, file: &Edited) -> Result<(), PlanError> {
        let path = &file.path;
        let Some(found) = files::read(&self.work.place.real(path)?, LONGEST, Links::Refuse)? else {
            if file.before.is_some() {
                self.notes
                    .push(format!("{} is gone; it is not brought back", path.display()));
            }
            return Ok(());
        };
        let digest = files::digest(&found.bytes);
        if file.before.as_ref().is_some_and(|before| before.sha256 == digest) {
            return Ok(());
        }
        let now = crate::document::Document::parse(path, found.bytes)?.text;
        let (action, text) = if digest == file.after {
            match &file.before {
                Some(before) => (Action::Restore, Some(before.text.clone())),
                None => (Action::Remove, None),
            }
        } else {
            let mut text = now.clone();
            for setting in file.settings.iter().rev() {
                let (undone, how) = edit::unset(&text, setting).map_err(|source| PlanError::Edit {
                    path: path.clone(),
                    source,
                })?;
                text = undone;
                if how == Undone::Changed {
                    self.notes.push(format!(
                        "{}: `{}` of `plugins.{:?}` was changed since and is left as it is",
                        path.display(),
                        setting.key,
                        setting.section
                    ));
                }
            }
            if let Some(tables) = &file.tables {
                let (without, how) = unpack::take_out(&text, tables);
                text = without;
                if how == Undone::Changed {
                    self.notes.push(format!(
                        "{}: the tables of {} were changed since and are left as they are",
                        path.display(),
                        unpack::NAME
                    ));
                }
            }
            if text == now {
                return Ok(());
            }
            self.notes.push(format!(
                "{} was edited since: only magi's own additions are taken out",
                path.display()
            ));
            (Action::Edit, Some(text))
        };
        self.restart = true;
        self.changes.push(Change {
            diff: unified(path, Some(&now), text.as_deref()),
            path: path.clone(),
            action,
            found: Some(digest),
            becomes: text.map(|text| Content {
                bytes: text.into_bytes(),
                owner: found.owner,
                temp: files::temporary(path),
            }),
        });
        Ok(())
    }

    fn undo_program(&mut self) -> Result<(), PlanError> {
        let Some(program) = &self.work.journal.program else {
            return Ok(());
        };
        let real = self.work.place.real(&program.path)?;
        let Some(found) = files::read(&real, PROGRAM, Links::Refuse)? else {
            return Ok(());
        };
        let digest = files::digest(&found.bytes);
        if digest != program.sha256 {
            self.notes.push(format!(
                "{} is not the program that was installed; it is left there, and containerd goes on executing it",
                program.path.display()
            ));
            return Ok(());
        }
        self.changes.push(Change {
            path: program.path.clone(),
            action: Action::Remove,
            diff: format!("{}: program removed\n", program.path.display()),
            found: Some(digest),
            becomes: None,
        });
        Ok(())
    }
}
