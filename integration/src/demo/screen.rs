//! The terminal: lines with colours where there is one, plain text in a pipe or under `NO_COLOR`, and a status line
//! that is overwritten in place while something takes long.

use std::fmt;
use std::io::{self, IsTerminal, Write};

use anstream::AutoStream;
use anstyle::{AnsiColor, Style};

/// The widest status line; a longer one would wrap and could not be overwritten.
const STATUS: usize = 78;

/// Colours, by what they mean.
pub mod style {
    use super::{AnsiColor, Style};

    /// Headings.
    pub const HEAD: Style = Style::new().bold();
    /// What matters less.
    pub const DIM: Style = Style::new().dimmed();
    /// As it should be.
    pub const GOOD: Style = AnsiColor::Green.on_default().bold();
    /// Not as it should be.
    pub const BAD: Style = AnsiColor::Red.on_default().bold();
    /// What magi says.
    pub const MAGI: Style = AnsiColor::Magenta.on_default();
    /// What was measured from outside.
    pub const MEASURED: Style = AnsiColor::Cyan.on_default();
    /// An attacker.
    pub const ATTACK: Style = AnsiColor::Yellow.on_default();
}

/// Text in a style, for use in a format string.
#[derive(Debug, Clone, Copy)]
pub struct Styled<T>(pub Style, pub T);

impl<T: fmt::Display> fmt::Display for Styled<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(style, text) = self;
        write!(out, "{style}")?;
        text.fmt(out)?;
        write!(out, "{style:#}")
    }
}

/// Where the demo writes. A reader that went away is no error: the report is written all the same.
pub struct Screen {
    out: Box<dyn Write + Send>,
    live: bool,
    shown: usize,
}

impl fmt::Debug for Screen {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Screen")
            .field("live", &self.live)
            .finish_non_exhaustive()
    }
}

impl Screen {
    /// Standard output.
    pub fn stdout() -> Self {
        let stdout = io::stdout();
        let live = stdout.is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Self {
            out: Box::new(AutoStream::auto(stdout)),
            live,
            shown: 0,
        }
    }

    /// Any writer, as a pipe would be.
    pub fn plain(out: impl Write + Send + 'static) -> Self {
        Self {
            out: Box::new(anstream::StripStream::new(Box::new(out) as Box<dyn Write + Send>)),
            live: false,
            shown: 0,
        }
    }

    /// Writes a line.
    pub fn line(&mut self, text: impl fmt::Display) {
        self.wipe();
        let _ = writeln!(self.out, "{text}");
        let _ = self.out.flush();
    }

    /// Shows what is going on; only a terminal does, and the next line or status replaces it.
    pub fn status(&mut self, text: &str) {
        if self.live {
            self.wipe();
            let short: String = text.chars().take(STATUS).collect();
            self.shown = short.chars().count();
            let _ = write!(self.out, "{short}");
            let _ = self.out.flush();
        }
    }

    fn wipe(&mut self) {
        if self.shown > 0 {
            // Spaces, not an escape sequence: those do not come through where colours are off.
            let _ = write!(self.out, "\r{:1$}\r", "", self.shown);
            self.shown = 0;
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.wipe();
        let _ = self.out.flush();
    }
}

/// Bytes for people: `24 MiB`, `1.4 MiB`, `312 KiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let Some((unit, name)) = UNITS.into_iter().find(|(unit, _)| bytes >= *unit) else {
        return format!("{bytes} B");
    };
    // In tenths, rounded.
    let tenths = (u128::from(bytes) * 10 + u128::from(unit) / 2) / u128::from(unit);
    match (tenths / 10, tenths % 10) {
        (whole, part) if part == 0 || whole >= 100 => format!("{whole} {name}"),
        (whole, part) => format!("{whole}.{part} {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_short() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1 << 20, "1 MiB"),
            ((1 << 20) + (400 << 10), "1.4 MiB"),
            ((24 << 20) + 9000, "24 MiB"),
            (12 << 30, "12 GiB"),
            (u64::MAX, "17179869184 GiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
    }
}
