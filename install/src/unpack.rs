//! magi-unpack as containerd's stream processor: the tables that register it, put into a file and taken out again.
//!
//! containerd executes the program where it lies, for each layer of a type that a table accepts; a program that cannot be
//! executed fails the pull (2.1.9 core/diff/stream_unix.go). So it is looked at before it is registered.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::document::body;
use crate::edit::{EditError, Undone, WHO, newline, values};
use crate::effective::Effective;
use crate::files::{self, FileError, Links};
use crate::verifier;

/// Its name as a program.
pub const NAME: &str = "magi-unpack";
const KEY: &str = "stream_processors";
/// What comes out, for containerd to extract.
const RETURNS: &str = "application/vnd.oci.image.layer.v1.tar";
/// Longest program that is looked at.
const LONGEST: u64 = 256 << 20;

/// Each processor with the types that it accepts, which containerd compares as they are. Docker's type without a suffix
/// says nothing about compression: containerd looks at the first bytes, and so does magi-unpack.
const PROCESSORS: [(&str, &[&str]); 2] = [
    (
        "magi.unpack.gzip",
        &[
            "application/vnd.oci.image.layer.v1.tar+gzip",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "application/vnd.docker.image.rootfs.diff.tar",
            "application/vnd.docker.image.rootfs.foreign.diff.tar",
        ],
    ),
    (
        "magi.unpack.zstd",
        &[
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
            "application/vnd.docker.image.rootfs.diff.tar.zstd",
        ],
    ),
];

/// Why it cannot be registered.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// containerd would look for it somewhere else.
    #[error("{} is no absolute path; containerd executes {NAME} where it lies", .0.display())]
    Relative(PathBuf),
    /// Not text.
    #[error("{} is not UTF-8, and cannot be written into a configuration", .0.display())]
    Encoding(PathBuf),
    /// Nothing to execute.
    #[error("{} does not exist; say --unpack-binary", .0.display())]
    NoProgram(PathBuf),
    /// It would fail every pull.
    #[error("{} is no program that this machine can execute; registered, it would fail every pull", .0.display())]
    NotExecutable(PathBuf),
    /// containerd would take either of them, by chance.
    #[error(
        "`stream_processors.{id:?}` accepts {media_type} already, and containerd calls one of two by chance; take it out, or do without unpack"
    )]
    Taken {
        /// The other processor.
        id: String,
        /// The type.
        media_type: String,
    },
    /// Another program, or other types.
    #[error(
        "`stream_processors.{0:?}` says something else already; run `magictl uninstall containerd` first, or take it out"
    )]
    Differs(String),
}

/// Tables that were appended to a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tables {
    /// As they were inserted, with what introduces them.
    pub(crate) inserted: String,
}

/// What is wanted: both processors, by this program.
#[derive(Clone, Debug)]
pub(crate) struct Processors {
    program: String,
}

impl Processors {
    /// Looks at the program. `real` is where `program` is found.
    pub(crate) fn of(program: &Path, real: &Path) -> Result<Self, UnpackError> {
        if !program.is_absolute() {
            return Err(UnpackError::Relative(program.to_owned()));
        }
        let text = program
            .to_str()
            .ok_or_else(|| UnpackError::Encoding(program.to_owned()))?;
        let found = files::read(real, LONGEST, Links::Follow)?
            .ok_or_else(|| UnpackError::NoProgram(program.to_owned()))?;
        if found.owner.mode & 0o111 == 0 || !verifier::can_be_executed(&found.bytes)? {
            return Err(UnpackError::NotExecutable(program.to_owned()));
        }
        Ok(Self {
            program: text.to_owned(),
        })
    }

    /// Whether the configuration has all of it; an error if it has anything that is in its way.
    pub(crate) fn are_in(&self, config: &Effective) -> Result<bool, UnpackError> {
        let there = config.values.get(KEY).and_then(Value::as_table);
        let wanted = self.values();
        for (id, value) in there.into_iter().flatten() {
            match wanted.get(id) {
                Some(wanted) if wanted == value => {}
                Some(_) => return Err(UnpackError::Differs(id.clone())),
                None => {
                    let accepts = value.get("accepts").and_then(Value::as_array);
                    let taken = accepts
                        .into_iter()
                        .flatten()
                        .filter_map(Value::as_str)
                        .find(|other| {
                            let mut ours = PROCESSORS.iter().flat_map(|(_, accepts)| accepts.iter());
                            ours.any(|ours| ours == other)
                        });
                    if let Some(media_type) = taken {
                        return Err(UnpackError::Taken {
                            id: id.clone(),
                            media_type: media_type.to_owned(),
                        });
                    }
                }
            }
        }
        Ok(wanted
            .keys()
            .all(|id| there.is_some_and(|there| there.contains_key(id))))
    }

    /// Adds to a configuration what the tables say.
    pub(crate) fn put_into(&self, values: &mut Table) {
        let all = values.entry(KEY).or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(all) = all {
            all.extend(self.values());
        }
    }

    /// Appends the tables. The result differs from `text` in nothing else, in bytes and in meaning.
    pub(crate) fn append(&self, text: &str) -> Result<(String, Tables), EditError> {
        let end = newline(text);
        let start = match text {
            _ if body(text).trim().is_empty() => "",
            text if text.ends_with('\n') => end,
            _ => &end.repeat(2),
        };
        let mut inserted = format!("{start}{WHO}{end}");
        for (number, (id, accepts)) in PROCESSORS.iter().enumerate() {
            let blank = if number > 0 { end } else { "" };
            let accepts: String = accepts
                .iter()
                .map(|media_type| format!("    {},{end}", quoted(media_type)))
                .collect();
            inserted.push_str(&format!(
                "{blank}[{KEY}.{}]{end}accepts = [{end}{accepts}]{end}returns = {}{end}path = {}{end}",
                quoted(id),
                quoted(RETURNS),
                quoted(&self.program)
            ));
        }
        let edited = format!("{text}{inserted}");
        let mut wanted = values(text)?;
        self.put_into(&mut wanted);
        match values(&edited) {
            Ok(said) if said == wanted => Ok((edited, Tables { inserted })),
            Ok(_) | Err(_) => Err(EditError::Tables { key: KEY }),
        }
    }

    fn values(&self) -> Table {
        let string = |text: &str| Value::String(text.to_owned());
        PROCESSORS
            .iter()
            .map(|(id, accepts)| {
                let accepts = accepts.iter().map(|media_type| string(media_type));
                let processor = Table::from_iter([
                    ("accepts".to_owned(), Value::Array(accepts.collect())),
                    ("returns".to_owned(), string(RETURNS)),
                    ("path".to_owned(), string(&self.program)),
                ]);
                ((*id).to_owned(), Value::Table(processor))
            })
            .collect()
    }
}

/// A basic string of TOML. What it cannot hold shows when the result is read again.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Takes the tables out of a text that somebody edited since, and leaves all else as it is. Tables that were changed
/// since are left, too.
pub(crate) fn take_out(text: &str, tables: &Tables) -> (String, Undone) {
    let without = text.replacen(&tables.inserted, "", 1);
    let is_all = |said: &Table| {
        let left = said.get(KEY).and_then(Value::as_table);
        left.is_none_or(|left| PROCESSORS.iter().all(|(id, _)| !left.contains_key(*id)))
    };
    match values(&without) {
        Ok(said) if without != text && is_all(&said) => (without, Undone::Back),
        Ok(_) | Err(_) => (text.to_owned(), Undone::Changed),
    }
}
