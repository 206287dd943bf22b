//! What a change looks like, as a unified diff that `patch` would take, without other people's credentials.

use std::path::Path;

use similar::TextDiff;

use crate::document::without_secrets;

/// Lines of context.
const AROUND: usize = 3;

/// The change of a file from one text to another; `None` is no file.
pub(crate) fn unified(path: &Path, old: Option<&str>, new: Option<&str>) -> String {
    let name = |side: &str, text: Option<&str>| match text {
        Some(_) => format!("{side}{}", path.display()),
        None => "/dev/null".to_owned(),
    };
    let diff = TextDiff::from_lines(old.unwrap_or_default(), new.unwrap_or_default());
    let text = diff
        .unified_diff()
        .context_radius(AROUND)
        .header(&name("a", old), &name("b", new))
        .to_string();
    without_secrets(&text)
}
