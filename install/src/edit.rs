//! Settings spliced into a file's text, and out of it again. Nothing but the spliced bytes ever changes.

use serde::{Deserialize, Serialize};
use toml::{Table, Value};
use toml_edit::{InlineTable, Item, TableLike};

use crate::document::{body, places};

pub(crate) const WHO: &str =
    "# Added by `magictl install containerd`; `magictl uninstall containerd` takes it away.";

/// One setting of a plugin that magi made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Setting {
    /// The plugin's table.
    pub(crate) section: String,
    pub(crate) key: String,
    /// What it says now.
    pub(crate) value: bool,
    pub(crate) how: How,
}

/// What was done to the text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum How {
    /// A value took the place of this one.
    Replaced(String),
    /// This came in: a line, or a table of its own with what introduces it.
    Inserted(String),
}

/// Why a file cannot be edited.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The parser refused what it took before, or what came out.
    #[error("the edited text would be no TOML: {0}")]
    Syntax(String),
    /// A way to write tables that is not understood well enough to splice into.
    #[error(
        "`plugins.{section:?}` is written in a way that is not understood well enough to edit; set `{key} = {value}` there by hand"
    )]
    Form {
        /// The plugin's table.
        section: String,
        /// The setting.
        key: String,
        /// What it should be.
        value: bool,
    },
    /// The same, for tables of their own.
    #[error(
        "`{key}` is written in a way that cannot be added to; write it as tables of their own, and try again"
    )]
    Tables {
        /// The table above them.
        key: &'static str,
    },
    /// The result would say something else than wanted.
    #[error(
        "the edit would change more than `{key}` of `plugins.{section:?}`; set `{key} = {value}` there by hand"
    )]
    Meaning {
        /// The plugin's table.
        section: String,
        /// The setting.
        key: String,
        /// What it should be.
        value: bool,
    },
}

struct Splice {
    at: std::ops::Range<usize>,
    new: String,
    how: How,
}

/// Makes a plugin's setting say `value`. The result differs from `text` in nothing else, in bytes and in meaning.
pub(crate) fn set(text: &str, section: &str, key: &str, value: bool) -> Result<(String, Setting), EditError> {
    let form = || EditError::Form {
        section: section.to_owned(),
        key: key.to_owned(),
        value,
    };
    let splice = find(body(text), section, key, value)?.ok_or_else(form)?;
    let mark = text.len() - body(text).len();
    let mut edited = text.to_owned();
    let at = splice.at.start + mark..splice.at.end + mark;
    if !edited.is_char_boundary(at.start) || !edited.is_char_boundary(at.end) {
        return Err(form());
    }
    edited.replace_range(at, &splice.new);

    let mut wanted = values(text)?;
    let tables = wanted
        .entry("plugins")
        .or_insert_with(|| Value::Table(Table::new()))
        .as_table_mut()
        .map(|plugins| {
            plugins
                .entry(section)
                .or_insert_with(|| Value::Table(Table::new()))
        });
    if let Some(Value::Table(table)) = tables {
        table.insert(key.to_owned(), Value::Boolean(value));
    }
    if values(&edited)? != wanted {
        return Err(EditError::Meaning {
            section: section.to_owned(),
            key: key.to_owned(),
            value,
        });
    }
    let setting = Setting {
        section: section.to_owned(),
        key: key.to_owned(),
        value,
        how: splice.how,
    };
    Ok((edited, setting))
}

pub(crate) fn values(text: &str) -> Result<Table, EditError> {
    toml::from_str(body(text)).map_err(|error| EditError::Syntax(error.message().to_owned()))
}

fn find(text: &str, section: &str, key: &str, value: bool) -> Result<Option<Splice>, EditError> {
    let document = places(text).map_err(|error| EditError::Syntax(error.message().to_owned()))?;
    let line = format!("{key} = {value}");
    let table = format!("plugins.{}", quoted(section));
    let end = newline(text);
    let appended = || {
        let start = if text.is_empty() || text.ends_with('\n') {
            ""
        } else {
            end
        };
        let blank = if text.trim().is_empty() { "" } else { end };
        insert(
            text.len(),
            format!("{start}{blank}{WHO}{end}[{table}]{end}{line}{end}"),
        )
    };
    let plugins = match document.as_table().get("plugins") {
        None => return Ok(Some(appended())),
        Some(Item::Value(value)) => {
            let Some(plugins) = value.as_inline_table() else {
                return Ok(None);
            };
            return Ok(in_inline(plugins, section, key, value_of(section, &line), &line));
        }
        Some(Item::Table(plugins)) => plugins,
        Some(Item::None | Item::ArrayOfTables(_)) => return Ok(None),
    };
    match plugins.get(section) {
        None if plugins.is_dotted() => {
            let prefix = dotted_prefix(text, plugins);
            Ok(prefix.map(|(at, prefix)| insert(at, format!("{prefix}{}.{line}{end}", quoted(section)))))
        }
        None => Ok(Some(appended())),
        Some(Item::Value(value)) => Ok(value
            .as_inline_table()
            .and_then(|table| in_inline(table, key, key, line.clone(), &line))),
        Some(Item::Table(found)) => match found.get(key) {
            Some(old) => Ok(replace(text, old, value)),
            None if found.is_dotted() => {
                let prefix = dotted_prefix(text, found);
                Ok(prefix.map(|(at, prefix)| insert(at, format!("{prefix}{line}{end}"))))
            }
            None if found.is_implicit() => Ok(Some(appended())),
            None => Ok(found.span().map(|header| {
                let rest = text.get(header.end..).unwrap_or_default();
                let indent = child_indent(text, found).unwrap_or_else(|| indent_at(text, header.start));
                match rest.find('\n') {
                    Some(length) => insert(header.end + length + 1, format!("{indent}{line}{end}")),
                    None => insert(text.len(), format!("{end}{indent}{line}")),
                }
            })),
        },
        Some(Item::None | Item::ArrayOfTables(_)) => Ok(None),
    }
}

fn value_of(section: &str, line: &str) -> String {
    format!("{} = {{ {line} }}", quoted(section))
}

/// In an inline table: its entry `name`, or that entry's own `key`.
fn in_inline(table: &InlineTable, name: &str, key: &str, entry: String, line: &str) -> Option<Splice> {
    match table.get(name) {
        None => table.span().map(|span| {
            let more = if table.is_empty() { " " } else { "," };
            insert(span.start + 1, format!(" {entry}{more}"))
        }),
        Some(value) if name == key => {
            let span = value.span()?;
            let old = value.as_bool()?;
            let new = line.rsplit(' ').next()?.to_owned();
            Some(Splice {
                at: span,
                new,
                how: How::Replaced(old.to_string()),
            })
        }
        Some(value) => in_inline(value.as_inline_table()?, key, key, line.to_owned(), line),
    }
}

fn insert(at: usize, new: String) -> Splice {
    Splice {
        at: at..at,
        how: How::Inserted(new.clone()),
        new,
    }
}

fn replace(text: &str, old: &Item, value: bool) -> Option<Splice> {
    let at = old.span()?;
    old.as_bool()?;
    Some(Splice {
        how: How::Replaced(text.get(at.clone())?.to_owned()),
        at,
        new: value.to_string(),
    })
}

/// The start of the line that holds the first key of a table made of dotted keys, and what stands before that key.
fn dotted_prefix<'a>(text: &'a str, table: &dyn TableLike) -> Option<(usize, &'a str)> {
    let (first, _) = table.iter().next()?;
    let key = table.key(first)?.span()?;
    let start = line_start(text, key.start);
    let prefix = text.get(start..key.start)?;
    (!prefix.contains(['{', '#', '='])).then_some((start, prefix))
}

fn child_indent(text: &str, table: &toml_edit::Table) -> Option<String> {
    let (first, item) = table.iter().next()?;
    item.as_value()?;
    let key = table.key(first)?.span()?;
    Some(indent_at(text, key.start))
}

fn indent_at(text: &str, at: usize) -> String {
    let before = text.get(line_start(text, at)..at).unwrap_or_default();
    before
        .chars()
        .take_while(|letter| matches!(letter, ' ' | '\t'))
        .collect()
}

fn line_start(text: &str, at: usize) -> usize {
    let before = text.get(..at).unwrap_or_default();
    before.rfind('\n').map_or(0, |end| end + 1)
}

/// How this file ends its lines.
pub(crate) fn newline(text: &str) -> &'static str {
    match text.split_once('\n') {
        Some((first, _)) if first.ends_with('\r') => "\r\n",
        Some(_) | None => "\n",
    }
}

/// A TOML key; the ids of plugins hold nothing that needs an escape.
fn quoted(name: &str) -> String {
    format!("\"{name}\"")
}

/// What became of a setting when it was to be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Undone {
    /// It is as it was before.
    Back,
    /// Somebody removed or changed it since; it was left alone.
    Changed,
}

/// Takes a setting out of a text that somebody edited since, and leaves all else as it is.
pub(crate) fn unset(text: &str, setting: &Setting) -> Result<(String, Undone), EditError> {
    let refused = || EditError::Meaning {
        section: setting.section.clone(),
        key: setting.key.clone(),
        value: setting.value,
    };
    let before = values(text)?;
    let found = before
        .get("plugins")
        .and_then(|plugins| plugins.get(&setting.section)?.get(&setting.key));
    if found != Some(&Value::Boolean(setting.value)) {
        return Ok((text.to_owned(), Undone::Changed));
    }
    let mut wanted = before.clone();
    let old = match &setting.how {
        How::Replaced(old) => Some(Value::Boolean(old == "true")),
        How::Inserted(_) => None,
    };
    write(&mut wanted, setting, old);
    for candidate in candidates(text, setting) {
        let same =
            values(&candidate).is_ok_and(|after| after == wanted || without_empty(after, setting) == wanted);
        if same {
            return Ok((candidate, Undone::Back));
        }
    }
    Err(refused())
}

fn write(values: &mut Table, setting: &Setting, value: Option<Value>) {
    let Some(Value::Table(plugins)) = values.get_mut("plugins") else {
        return;
    };
    if let Some(Value::Table(section)) = plugins.get_mut(&setting.section) {
        match value {
            Some(value) => {
                section.insert(setting.key.clone(), value);
            }
            None => {
                section.remove(&setting.key);
            }
        }
    }
    drop_empty(values, setting);
}

fn without_empty(mut values: Table, setting: &Setting) -> Table {
    drop_empty(&mut values, setting);
    values
}

/// An empty table of the plugin means the same as none, and so do empty `plugins`.
fn drop_empty(values: &mut Table, setting: &Setting) {
    let Some(Value::Table(plugins)) = values.get_mut("plugins") else {
        return;
    };
    let empty = |value: Option<&Value>| value.and_then(Value::as_table).is_some_and(Table::is_empty);
    if empty(plugins.get(&setting.section)) {
        plugins.remove(&setting.section);
    }
    if plugins.is_empty() {
        values.remove("plugins");
    }
}

/// Texts without the setting, the most thorough first.
fn candidates(text: &str, setting: &Setting) -> Vec<String> {
    let mark = text.len() - body(text).len();
    let spans = || {
        let document = places(text).ok()?;
        let table = document.as_table().get("plugins")?.as_table_like()?;
        let table = table.get(&setting.section)?.as_table_like()?;
        let key = table.key(&setting.key)?.span()?;
        let value = table.get(&setting.key)?.span()?;
        Some((key.start + mark, value.start + mark..value.end + mark))
    };
    let Some((key, value)) = spans() else {
        return Vec::new();
    };
    let without = |range: std::ops::Range<usize>, new: &str| {
        let mut edited = text.to_owned();
        (edited.get(range.clone()).is_some()).then(|| {
            edited.replace_range(range, new);
            edited
        })
    };
    let inserted = match &setting.how {
        How::Replaced(old) => return without(value, old).into_iter().collect(),
        How::Inserted(inserted) => inserted,
    };
    let mut all = Vec::new();
    // What was inserted, as it was inserted, around the key's present place.
    if let Some(offset) = inserted.rfind(&setting.key)
        && let Some(start) = key.checked_sub(offset)
        && text
            .get(start..)
            .is_some_and(|rest| rest.starts_with(inserted.as_str()))
    {
        all.extend(without(start..start + inserted.len(), ""));
    }
    // Its line, if nothing else stands on it.
    let start = line_start(text, key);
    let rest = text.get(value.end..).unwrap_or_default();
    let end = rest
        .find('\n')
        .map_or(text.len(), |length| value.end + length + 1);
    let alone = rest.lines().next().unwrap_or_default().trim().is_empty()
        && text
            .get(start..key)
            .is_some_and(|before| !before.contains(['{', ',']));
    if alone {
        all.extend(without(start..end, ""));
    }
    all
}
