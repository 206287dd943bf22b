//! What all documents have in common: normalising the text, bounds, reading, and the verdict.

use crate::error::{ConfigError, Invalid};
use crate::file::MAX_FILE;
use crate::problem::{Mark, Problem, Sink};
use crate::schema::{Path, Read};
use crate::tree::{self, Node, Value};
use crate::values::{Scalar, Version};

/// The text without what editors of other systems add: a byte-order mark, other line ends than `\n`.
pub(crate) fn normalised(text: &str) -> String {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.contains('\r') {
        text.replace("\r\n", "\n").replace('\r', "\n")
    } else {
        text.to_owned()
    }
}

/// Reads the normalised `text` as a `R` and lets `check` make a `C` of it.
///
/// `check` runs although values are wrong, to find what else is: its result counts only if nothing was reported.
pub(crate) fn read<R: Read, C>(
    file: &str,
    text: &str,
    check: impl FnOnce(R, &mut Sink) -> Option<C>,
) -> Result<C, ConfigError> {
    let mut sink = Sink::default();
    let checked = read_into(text, check, &mut sink);
    match checked {
        Some(checked) if sink.is_empty() => Ok(checked),
        _ => {
            if sink.is_empty() {
                sink.report(&Mark::START, Problem::new("", "the document makes no sense"));
            }
            Err(Invalid::new(file, text, sink).into())
        }
    }
}

fn read_into<R: Read, C>(
    text: &str,
    check: impl FnOnce(R, &mut Sink) -> Option<C>,
    sink: &mut Sink,
) -> Option<C> {
    if text.len() > MAX_FILE {
        let message = format!("the document has {} bytes, {MAX_FILE} are allowed", text.len());
        sink.report(
            &Mark::START,
            Problem::new("", message).hint("use patterns with `*` instead of long lists"),
        );
        return None;
    }
    let root = tree::read(text, sink)?;
    if is_of_another_version(&root, sink) {
        return None;
    }
    let raw = R::read(&root, &Path::ROOT, sink)?;
    check(raw, sink)
}

/// Whether the document says that it is of a version that is not ours; its other keys are then none of our business.
fn is_of_another_version(root: &Node, sink: &mut Sink) -> bool {
    let Value::Map(entries) = &root.value else {
        return false;
    };
    let Some(entry) = entries.iter().find(|entry| entry.key == "version") else {
        return false;
    };
    let Value::Text(text) = &entry.node.value else {
        return false;
    };
    let another = text.parse::<u64>().is_ok() && Version::parse(text).is_err();
    another && Version::read(&entry.node, &Path::ROOT.key("version"), sink).is_none()
}
