//! The terminal, if there is one: its size and our colours.

use std::io::IsTerminal;

use anstyle::{AnsiColor, Style};

pub(crate) const BOLD: Style = Style::new().bold();
pub(crate) const DIM: Style = Style::new().dimmed();
pub(crate) const PLAIN: Style = Style::new();
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
pub(crate) const BUSY: Style = AnsiColor::Cyan.on_default();
pub(crate) const WARN: Style = AnsiColor::Yellow.on_default();
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();

/// Narrower is no terminal for people.
const NARROWEST: usize = 20;

/// Columns and rows to fit into; `None` is no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) columns: Option<usize>,
    pub(crate) rows: Option<usize>,
}

/// The room on standard output: that of the terminal, none in a pipe. `COLUMNS` overrules both.
pub(crate) fn room() -> Room {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    let wish = std::env::var("COLUMNS")
        .ok()
        .and_then(|text| text.parse::<usize>().ok());
    let columns = wish.or(size.map(|size| usize::from(size.ws_col)));
    Room {
        columns: columns.filter(|columns| *columns >= NARROWEST),
        rows: size.map(|size| usize::from(size.ws_row)).filter(|rows| *rows > 2),
    }
}

/// Whether standard output is a terminal.
pub(crate) fn on_terminal() -> bool {
    std::io::stdout().is_terminal()
}
