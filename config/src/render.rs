//! One problem as text for a terminal: message, place, source line, caret, hint.

use std::ops::Range;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet, normalize_untrusted_str};

use crate::problem::Problem;

/// Longer source lines are not shown: no person wrote them, and a caret far to the right helps nobody.
const MAX_LINE: usize = 1000;

/// One line of text that moves no cursor and changes no colour.
pub(crate) fn safe(text: &str) -> String {
    without_controls(&normalize_untrusted_str(text)).replace('\n', "␊")
}

/// The renderer shows the control characters of ASCII as pictures, and lets those of Latin-1 through.
fn without_controls(text: &str) -> String {
    text.replace(|c: char| c.is_control() && c != '\n', "\u{fffd}")
}

/// Renders `problem`, which is about `bytes` of `text`.
pub(crate) fn problem(file: &str, text: &str, problem: &Problem, bytes: &Range<usize>) -> String {
    let message = if problem.path.is_empty() {
        problem.message.clone()
    } else {
        format!("{}: {}", problem.path, problem.message)
    };
    let mut group = Group::with_title(Level::ERROR.primary_title(message));
    let file = safe(file);
    if let Some(place) = problem.place {
        group = match line_around(text, bytes) {
            Some((line, caret)) => group.element(
                Snippet::source(line)
                    .line_start(place.line)
                    .path(file)
                    .annotation(AnnotationKind::Primary.span(caret)),
            ),
            None => group.element(Origin::path(file).line(place.line).char_column(place.column)),
        };
    }
    if let Some(hint) = &problem.hint {
        group = group.element(Level::HELP.message(safe(hint)));
    }
    without_controls(&Renderer::plain().decor_style(DecorStyle::Ascii).render(&[group]))
}

/// The line in which `bytes` begin, and the part of it that they cover; `None` if it is too long to be shown.
fn line_around<'t>(text: &'t str, bytes: &Range<usize>) -> Option<(&'t str, Range<usize>)> {
    let before = text.get(..bytes.start)?;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let rest = text.get(start..)?;
    let line = rest.split('\n').next()?;
    if line.len() > MAX_LINE {
        return None;
    }
    let from = bytes.start - start;
    let to = bytes.end.saturating_sub(start).clamp(from, line.len().max(from));
    Some((line, from..to))
}
