//! The timeline: what happened when, said by whom, in the order in which it happened.
//!
//! Things become known in another order than they happen: magi's audit trail is read every few milliseconds, the
//! registry's log as well. So an entry waits a little before it is shown, and what is shown is sorted by time.

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use super::screen::{Screen, Styled, style};

/// How long an entry waits for others that happened before it.
const SETTLE: Duration = Duration::from_millis(150);

/// What kind of thing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// A pull began.
    Pull,
    /// Bytes flow.
    Flow,
    /// magi saw something.
    Seen,
    /// magi judged.
    Judge,
    /// magi acted.
    Act,
    /// Something ended.
    End,
}

impl fmt::Display for Stage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Pull => "pull",
            Self::Flow => "flow",
            Self::Seen => "seen",
            Self::Judge => "judge",
            Self::Act => "act",
            Self::End => "end",
        })
    }
}

/// Who says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// magi's audit trail.
    Magi,
    /// The demo, from outside.
    Measured,
}

/// One thing that happened.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// When.
    pub(super) at: Instant,
    /// Who says so.
    pub(super) origin: Origin,
    /// What kind of thing.
    pub(super) stage: Stage,
    /// Whom it is about.
    pub(super) who: &'static str,
    /// What happened.
    pub(super) text: String,
}

/// Sorts entries and shows them.
#[derive(Debug)]
pub(super) struct Timeline {
    begin: Instant,
    begin_by_wall_clock: SystemTime,
    pending: Vec<Entry>,
    screen: Screen,
}

impl Timeline {
    /// Starts the clock.
    pub(super) fn new(screen: Screen) -> Self {
        Self {
            begin: Instant::now(),
            begin_by_wall_clock: SystemTime::now(),
            pending: Vec::new(),
            screen,
        }
    }

    /// Sets the clock back to zero, for another run.
    pub(super) fn restart(&mut self) {
        self.begin = Instant::now();
        self.begin_by_wall_clock = SystemTime::now();
    }

    /// The instant of a time of the wall clock, as audit records have it.
    pub(super) fn instant(&self, time: SystemTime) -> Instant {
        match time.duration_since(self.begin_by_wall_clock) {
            Ok(after) => self.begin + after,
            Err(before) => self.begin.checked_sub(before.duration()).unwrap_or(self.begin),
        }
    }

    /// Adds something that happened at `at`.
    pub(super) fn add(&mut self, entry: Entry) {
        self.pending.push(entry);
    }

    /// Adds something measured.
    pub(super) fn measured(&mut self, at: Instant, stage: Stage, who: &'static str, text: impl Into<String>) {
        self.add(Entry {
            at,
            origin: Origin::Measured,
            stage,
            who,
            text: text.into(),
        });
    }

    /// Shows what has waited long enough.
    pub(super) fn show_settled(&mut self) {
        if let Some(until) = Instant::now().checked_sub(SETTLE) {
            self.show_until(until);
        }
    }

    /// Shows all.
    pub(super) fn show_all(&mut self) {
        self.show_until(Instant::now());
    }

    /// For headings, tables and the status line.
    pub(super) fn screen(&mut self) -> &mut Screen {
        &mut self.screen
    }

    fn show_until(&mut self, until: Instant) {
        self.pending.sort_by_key(|entry| entry.at);
        let settled = self.pending.partition_point(|entry| entry.at <= until);
        for entry in self.pending.drain(..settled) {
            self.screen.line(render(&entry, self.begin));
        }
    }
}

/// One line, with colours.
fn render(entry: &Entry, begin: Instant) -> String {
    let Entry {
        at,
        origin,
        stage,
        who,
        text,
    } = entry;
    let seconds = at.saturating_duration_since(begin).as_secs_f64();
    let (by, colour) = match origin {
        Origin::Magi => ("magi", style::MAGI),
        Origin::Measured => ("measured", style::MEASURED),
    };
    let weight = match stage {
        Stage::Judge | Stage::Act | Stage::End => style::HEAD,
        Stage::Pull | Stage::Flow | Stage::Seen => anstyle::Style::new(),
    };
    let name = if *who == "web" { style::GOOD } else { style::ATTACK };
    format!(
        "{seconds:>9.3} s  {}  {}  {}  {text}",
        Styled(colour, format_args!("{by:<8}")),
        Styled(weight, format_args!("{stage:<5}")),
        Styled(name, format_args!("{who:<8}")),
    )
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn entries_are_shown_by_time_and_plain_in_a_pipe() {
        let sink = Sink::default();
        let mut timeline = Timeline::new(Screen::plain(sink.clone()));
        timeline.begin = Instant::now() - Duration::from_secs(5);
        let begin = timeline.begin;
        timeline.measured(
            begin + Duration::from_millis(40),
            Stage::End,
            "gigantic",
            "it failed",
        );
        timeline.add(Entry {
            at: begin + Duration::from_millis(31),
            origin: Origin::Magi,
            stage: Stage::Judge,
            who: "gigantic",
            text: "too large".to_owned(),
        });
        // Too fresh to be shown yet.
        timeline.measured(Instant::now(), Stage::End, "web", "completed");
        timeline.show_settled();
        let shown = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert_eq!(
            shown,
            "    0.031 s  magi      judge  gigantic  too large\n    0.040 s  measured  end    gigantic  it failed\n"
        );
        timeline.show_all();
        let shown = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert_eq!(shown.lines().count(), 3);
    }

    #[test]
    fn the_wall_clock_maps_to_instants_on_both_sides_of_the_start() {
        let timeline = Timeline::new(Screen::plain(Sink::default()));
        let second = Duration::from_secs(1);
        assert_eq!(
            timeline.instant(timeline.begin_by_wall_clock + second),
            timeline.begin + second
        );
        assert_eq!(
            timeline.instant(timeline.begin_by_wall_clock - second),
            timeline.begin - second
        );
    }
}
