//! `magi-master replay`: recorded audit logs → the verdicts that follow from them, without a cluster or a node.
//!
//! Several files are one stream, in the order in which they are given. A verdict is printed as it would be sent: an image
//! that another live pod of the same node wants is not in it, and is said later if that ends.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;

use crate::change::Change;
use crate::intake::audit::{Counts, MAX_LINE, Reader};
use crate::intake::lines::{Line, Lines};
use crate::ledger::{self, Ledger, Unknowable};
use crate::verdict::{Judge, Verdict, VerdictKind, Withheld};

/// Lines in, verdicts out: the whole of the master's thinking, with nothing that waits or is sent.
#[derive(Debug)]
pub struct Replay {
    reader: Reader,
    ledger: Ledger,
    judge: Judge,
    changes: Vec<Change>,
    turns: Vec<ledger::Turn>,
    verdicts: BTreeMap<VerdictKind, u64>,
}

impl Replay {
    /// An empty one.
    #[must_use]
    pub fn new(bounds: ledger::Bounds) -> Self {
        Self {
            reader: Reader::default(),
            ledger: Ledger::new(bounds),
            judge: Judge::default(),
            changes: Vec::new(),
            turns: Vec::new(),
            verdicts: BTreeMap::new(),
        }
    }

    /// Takes a line; appends the verdicts that follow from it.
    pub fn line(&mut self, line: &Line<'_>, verdicts: &mut Vec<Verdict>) {
        match line {
            Line::Whole(line) => self.reader.line(line, &mut self.changes),
            Line::TooLong(bytes) => self.reader.too_long(*bytes),
        }
        let before = verdicts.len();
        for change in self.changes.drain(..) {
            self.ledger.hear(change, &mut self.turns);
            self.judge.hear(&self.ledger, self.turns.drain(..), verdicts);
        }
        for verdict in verdicts.iter().skip(before) {
            *self.verdicts.entry(verdict.kind).or_default() += 1;
        }
    }

    /// What was heard and said so far, after `time`.
    #[must_use]
    pub fn summary(&self, time: Duration) -> Summary {
        let (live, gone) = self.ledger.size();
        let seconds = time.as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate for people to read")]
        let megabytes = self.reader.counts().bytes as f64 / 1e6;
        Summary {
            read: self.reader.counts().clone(),
            verdicts: self.verdicts.clone(),
            live_pods: live,
            gone_pods: gone,
            no_verdict: self.ledger.unknowable(),
            still_wanted: self.judge.counts(),
            ledger: self.ledger.counts(),
            seconds,
            megabytes_per_second: if seconds > 0.0 { megabytes / seconds } else { 0.0 },
        }
    }
}

/// What replaying came to.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Lines and events.
    #[serde(flatten)]
    pub read: Counts,
    /// Verdicts, by kind.
    pub verdicts: BTreeMap<VerdictKind, u64>,
    /// Pods that are there, as far as is known.
    pub live_pods: usize,
    /// Pods that are gone, and not yet forgotten.
    pub gone_pods: usize,
    /// Pods that are gone without a verdict, and why.
    pub no_verdict: Unknowable,
    /// Images left out of verdicts.
    pub still_wanted: Withheld,
    /// Changes that made nothing, and pods that were forgotten.
    pub ledger: ledger::Counts,
    /// How long it took.
    pub seconds: f64,
    /// Megabytes (10⁶ bytes) of log per second.
    pub megabytes_per_second: f64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let read = &self.read;
        writeln!(
            f,
            "lines: {}, {} bytes in {:.3} s: {:.0} MB/s; of no interest: {}; lists: {} with {} events",
            read.lines,
            read.bytes,
            self.seconds,
            self.megabytes_per_second,
            read.of_no_interest,
            read.lists,
            read.items
        )?;
        writeln!(f, "events: {}", counted(&read.kinds))?;
        writeln!(f, "unusable, or not in full: {}", counted(&read.unusable))?;
        let verdicts: BTreeMap<&str, u64> = self
            .verdicts
            .iter()
            .map(|(kind, n)| {
                let name = match kind {
                    VerdictKind::PodGone => "pod-gone",
                    VerdictKind::ImagesReplaced => "images-replaced",
                };
                (name, *n)
            })
            .collect();
        writeln!(f, "verdicts: {}", counted(&verdicts))?;
        writeln!(
            f,
            "pods: {} there, {} gone; gone without a verdict: {} never had a node, {} mirror static pods; not known of \
             others: {} uid, {} node, {} images",
            self.live_pods,
            self.gone_pods,
            self.no_verdict.never_bound,
            self.no_verdict.mirror,
            self.no_verdict.no_uid,
            self.no_verdict.no_node,
            self.no_verdict.no_images
        )?;
        writeln!(
            f,
            "images that other pods wanted: {} withheld, {} said later, {} given up",
            self.still_wanted.withheld, self.still_wanted.said_later, self.still_wanted.given_up
        )?;
        write!(
            f,
            "changes about an earlier pod: {}, contradictions: {}, replaced images without uid: {}; forgotten for lack of \
             room: {} live, {} gone",
            self.ledger.about_an_earlier_pod,
            self.ledger.contradictions,
            self.ledger.replaced_without_uid,
            self.ledger.forgotten_live,
            self.ledger.forgotten_gone
        )
    }
}

fn counted<K: fmt::Display>(counts: &BTreeMap<K, u64>) -> String {
    if counts.is_empty() {
        return "none".to_owned();
    }
    let each: Vec<String> = counts.iter().map(|(name, n)| format!("{name} {n}")).collect();
    each.join(", ")
}

/// Replays `files`, prints each verdict on `out` as a line of JSON, and the summary on `notes`: as JSON too, if asked.
///
/// # Errors
/// A file cannot be read, or a printed line cannot be written.
pub fn run(
    files: &[PathBuf],
    is_json: bool,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut replay = Replay::new(ledger::Bounds::default());
    let mut verdicts = Vec::new();
    for path in files {
        one(&mut replay, path, &mut verdicts, out)?;
    }
    out.flush().context("cannot print")?;
    let summary = replay.summary(begun.elapsed());
    let text = if is_json {
        serde_json::to_string(&summary).context("cannot write the summary")?
    } else {
        summary.to_string()
    };
    writeln!(notes, "{text}").context("cannot print the summary")
}

fn one(
    replay: &mut Replay,
    path: &Path,
    verdicts: &mut Vec<Verdict>,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut lines = Lines::new(file, MAX_LINE);
    while let Some(line) = lines
        .next_line()
        .with_context(|| format!("cannot read {}", path.display()))?
    {
        replay.line(&line, verdicts);
        for verdict in verdicts.drain(..) {
            serde_json::to_writer(&mut *out, &verdict).context("cannot print")?;
            out.write_all(b"\n").context("cannot print")?;
        }
    }
    Ok(())
}
