//! Columns of text, coloured after they are aligned, cut where the room ends.

use anstyle::Style;

use crate::terminal::{PLAIN, Room};

/// Blanks between columns.
pub(crate) const GAP: usize = 2;

/// A text and its colour. The text holds one column per character.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    pub(crate) fn new(text: impl Into<String>, style: Style) -> Self {
        Self {
            text: text.into(),
            style,
        }
    }

    pub(crate) fn plain(text: impl Into<String>) -> Self {
        Self::new(text, PLAIN)
    }

    pub(crate) fn width(&self) -> usize {
        self.text.chars().count()
    }
}

/// How a column fills its width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fill {
    /// From the left; too long a text loses its end.
    Left,
    /// From the left; too long a text loses its start, where it says least.
    LeftKeepEnd,
    /// Numbers, from the right.
    Right,
}

/// The width that each column needs for all its rows.
pub(crate) fn natural_widths(rows: &[Vec<Cell>]) -> Vec<usize> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    (0..columns)
        .map(|column| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(Cell::width)
                .max()
                .unwrap_or(0)
        })
        .collect()
}

/// The width of a whole line.
pub(crate) fn total(widths: &[usize]) -> usize {
    widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1)
}

/// All rows as lines that fit into the room's columns. What says least is at the right: it goes first, and what is last
/// then is cut.
pub(crate) fn lines(rows: Vec<Vec<Cell>>, fills: &[Fill], room: Room) -> Vec<String> {
    let mut widths = natural_widths(&rows);
    if let Some(columns) = room.columns {
        fit(&mut widths, columns);
    }
    let whole = |mut row: Vec<Cell>| {
        row.truncate(widths.len());
        line(&row, fills, &widths)
    };
    rows.into_iter().map(whole).collect()
}

fn fit(widths: &mut Vec<usize>, columns: usize) {
    while let Some(last) = widths.pop() {
        let before = if widths.is_empty() { 0 } else { total(widths) + GAP };
        if before < columns {
            widths.push(last.min(columns - before));
            return;
        }
    }
}

/// One line, without its end. Blanks at the end of a line are not printed.
pub(crate) fn line(row: &[Cell], fills: &[Fill], widths: &[usize]) -> String {
    let mut out = String::new();
    let mut blanks = 0;
    for (at, cell) in row.iter().enumerate() {
        let fill = fills.get(at).copied().unwrap_or(Fill::Left);
        let width = widths.get(at).copied().unwrap_or(usize::MAX);
        let text = cut(&cell.text, width, fill);
        let spare = if width == usize::MAX {
            0
        } else {
            width.saturating_sub(text.chars().count())
        };
        let (before, after) = if fill == Fill::Right {
            (spare, 0)
        } else {
            (0, spare)
        };
        blanks += before;
        if !text.is_empty() {
            out.extend(std::iter::repeat_n(' ', blanks));
            blanks = 0;
            out.push_str(&paint(&text, cell.style));
        }
        blanks += after + GAP;
    }
    out
}

/// Colours a text.
pub(crate) fn paint(text: &str, style: Style) -> String {
    format!("{style}{text}{style:#}")
}

/// At most `width` characters of a text, an ellipsis where some are missing.
pub(crate) fn cut(text: &str, width: usize, fill: Fill) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let kept = width.saturating_sub(1);
    let dots = if width == 0 { "" } else { "…" };
    match fill {
        Fill::LeftKeepEnd => dots.chars().chain(text.chars().skip(length - kept)).collect(),
        Fill::Left | Fill::Right => text.chars().take(kept).chain(dots.chars()).collect(),
    }
}

/// Lines of at most `width` characters, broken at blanks where there are any in reach.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some((end, _)) = rest.char_indices().nth(width.max(1)) {
        let (fits, beyond) = rest.split_at(end);
        // A blank right behind what fits is the best place of all.
        let at = if beyond.starts_with(' ') {
            Some(end)
        } else {
            fits.trim_start().contains(' ').then(|| fits.rfind(' ')).flatten()
        };
        let (line, next) = rest.split_at(at.filter(|at| *at > 0).unwrap_or(end));
        lines.push(line.trim_end().to_owned());
        rest = next.trim_start_matches(' ');
    }
    if !rest.is_empty() {
        lines.push(rest.to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_wrapped_at_blanks_and_elsewhere_only_if_it_must() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("one two three", 8), ["one two", "three"]);
        assert_eq!(wrap("one two three", 6), ["one", "two", "three"]);
        assert_eq!(wrap("abcdefgh ij", 3), ["abc", "def", "gh", "ij"]);
        assert_eq!(wrap("  →→→→", 3), ["  →", "→→→"]);
        assert_eq!(wrap("", 3), [""; 0]);
        assert_eq!(wrap("ab", 0), ["a", "b"]);
        assert_eq!(wrap("one two", usize::MAX), ["one two"]);
    }

    #[test]
    fn texts_lose_the_end_that_says_least() {
        assert_eq!(cut("registry/app", 6, Fill::LeftKeepEnd), "…y/app");
        assert_eq!(cut("registry/app", 6, Fill::Left), "regis…");
        assert_eq!(cut("registry/app", 12, Fill::Left), "registry/app");
        assert_eq!(cut("registry/app", 1, Fill::LeftKeepEnd), "…");
        assert_eq!(cut("registry/app", 0, Fill::LeftKeepEnd), "");
    }

    #[test]
    fn columns_align_and_lines_end_without_blanks() {
        let rows = [
            vec![Cell::plain("a"), Cell::plain("7"), Cell::plain("")],
            vec![Cell::plain("bcd"), Cell::plain("10"), Cell::plain("x")],
        ];
        let widths = natural_widths(&rows);
        assert_eq!((widths.as_slice(), total(&widths)), ([3, 2, 1].as_slice(), 10));
        let fills = [Fill::Left, Fill::Right, Fill::Left];
        let lines: Vec<_> = rows.iter().map(|row| line(row, &fills, &widths)).collect();
        assert_eq!(lines, ["a     7", "bcd  10  x"]);
    }
}
