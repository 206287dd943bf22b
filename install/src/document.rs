//! One file of containerd's configuration: its bytes, its places, its values.

use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// Starts a file that some editors write. containerd 1.7 reads it, 2.x refuses it (measured).
const BYTE_ORDER_MARK: &str = "\u{feff}";
/// Words in the name of a setting whose value nobody should read over a shoulder, or in a log.
const SECRETS: &[&str] = &["auth", "password", "passwd", "secret", "token", "credential"];

/// A file that could be parsed.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    /// On the node.
    pub(crate) path: PathBuf,
    /// All of it, byte order mark included.
    pub(crate) text: String,
    /// What the text says.
    pub(crate) values: Table,
}

/// Why a file is not understood.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// TOML is UTF-8.
    #[error("{} is not UTF-8 from byte {at} on", path.display())]
    Encoding {
        /// The file.
        path: PathBuf,
        /// Bytes before it.
        at: usize,
    },
    /// No TOML, a key that stands twice, a table defined twice.
    #[error("{}, line {line}: {reason}; nothing was changed. Repair the file first", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where, from 1.
        line: usize,
        /// The parser's words.
        reason: String,
        /// The line with a caret below, in several lines.
        excerpt: String,
    },
    /// A setting of another type than containerd expects.
    #[error("{}: `{key}` is no {expected}; containerd would refuse it as well", path.display())]
    Type {
        /// The file.
        path: PathBuf,
        /// The setting.
        key: String,
        /// What it should be.
        expected: &'static str,
    },
}

impl Document {
    pub(crate) fn parse(path: &Path, bytes: Vec<u8>) -> Result<Self, DocumentError> {
        let text = String::from_utf8(bytes).map_err(|error| DocumentError::Encoding {
            path: path.to_owned(),
            at: error.utf8_error().valid_up_to(),
        })?;
        let syntax = |at: Option<Range<usize>>, reason: &str, excerpt: String| DocumentError::Syntax {
            path: path.to_owned(),
            line: 1 + body(&text)
                .bytes()
                .take(at.unwrap_or_default().start)
                .filter(|byte| *byte == b'\n')
                .count(),
            reason: reason.lines().collect::<Vec<_>>().join("; "),
            excerpt: without_secrets(excerpt.trim_end()),
        };
        // Both parsers are one inside; the first has the places, the second the values.
        places(&text).map_err(|error| syntax(error.span(), error.message(), error.to_string()))?;
        let values: Table = toml::from_str(body(&text))
            .map_err(|error| syntax(error.span(), error.message(), error.to_string()))?;
        let document = Self {
            path: path.to_owned(),
            text,
            values,
        };
        document.check()?;
        Ok(document)
    }

    fn check(&self) -> Result<(), DocumentError> {
        let wrong = |key: &str, expected| DocumentError::Type {
            path: self.path.clone(),
            key: key.to_owned(),
            expected,
        };
        if self
            .values
            .get("version")
            .is_some_and(|value| !value.is_integer())
        {
            return Err(wrong("version", "whole number"));
        }
        for key in ["imports", "disabled_plugins"] {
            let strings = |value: &Value| value.as_array().is_some_and(|all| all.iter().all(Value::is_str));
            if self.values.get(key).is_some_and(|value| !strings(value)) {
                return Err(wrong(key, "list of strings"));
            }
        }
        match self.values.get("plugins") {
            None => Ok(()),
            Some(Value::Table(plugins)) => match plugins.iter().find(|(_, value)| !value.is_table()) {
                None => Ok(()),
                Some((name, _)) => Err(wrong(&format!("plugins.{name:?}"), "table")),
            },
            Some(_) => Err(wrong("plugins", "table")),
        }
    }

    /// The version it declares; a file without one is of version 1, or, if imported, of its importer's.
    pub(crate) fn version(&self) -> Option<i64> {
        self.values.get("version").and_then(Value::as_integer)
    }

    /// The strings of a list.
    pub(crate) fn strings(&self, key: &str) -> impl Iterator<Item = &str> {
        let list = self.values.get(key).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str)
    }

    pub(crate) fn has_byte_order_mark(&self) -> bool {
        self.text.starts_with(BYTE_ORDER_MARK)
    }
}

/// The text without its byte order mark.
pub(crate) fn body(text: &str) -> &str {
    text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)
}

/// The text as a tree that knows the place of each key and value in [`body`].
pub(crate) fn places(text: &str) -> Result<toml_edit::Document<&str>, toml_edit::TomlError> {
    toml_edit::Document::parse(body(text))
}

/// The same lines, with the values of settings that look like credentials taken out.
pub(crate) fn without_secrets(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        match line.split_once('=') {
            Some((key, _)) if SECRETS.iter().any(|word| key.to_ascii_lowercase().contains(word)) => {
                shown.push_str(key);
                shown.push_str("= (not shown)");
                if line.ends_with('\n') {
                    shown.push('\n');
                }
            }
            Some(_) | None => shown.push_str(line),
        }
    }
    shown
}
