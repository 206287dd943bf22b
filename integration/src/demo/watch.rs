//! Watches a scenario while it runs: reads magi's trail and the registry's log every few milliseconds, and tells the
//! timeline what is new.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::screen::size;
use super::timeline::{Entry, Origin, Stage, Timeline};
use super::trail::{self, Teller};
use crate::Magi;
use crate::registry::Log;

/// How often to look. What is read has its own time stamps, so this is the delay of the display, not an error of it.
pub(super) const TICK: Duration = Duration::from_millis(20);

/// A smaller pull is over before its progress is worth a line.
const SLOW: u64 = 4 << 20;

/// One of the pulls watched.
#[derive(Debug)]
struct Subject {
    who: &'static str,
    repository: String,
    total: u64,
    first_byte_told: bool,
    quarters_told: u64,
}

/// The watch over one scenario.
#[derive(Debug)]
pub(super) struct Watch<'w> {
    magi: &'w Magi,
    log: &'w Log,
    timeline: &'w mut Timeline,
    subjects: Vec<Subject>,
    read: usize,
    teller: Teller,
}

impl<'w> Watch<'w> {
    /// Begins now: older audit records are not told.
    pub(super) fn new(magi: &'w Magi, log: &'w Log, timeline: &'w mut Timeline) -> Result<Self> {
        Ok(Self {
            magi,
            log,
            timeline,
            subjects: Vec::new(),
            read: magi.audit()?.len(),
            teller: Teller::default(),
        })
    }

    /// Adds a pull of `total` declared bytes.
    pub(super) fn add(&mut self, who: &'static str, repository: &str, total: u64) {
        self.subjects.push(Subject {
            who,
            repository: repository.to_owned(),
            total,
            first_byte_told: false,
            quarters_told: 0,
        });
    }

    /// The timeline, for what the scenario itself has to tell.
    pub(super) fn timeline(&mut self) -> &mut Timeline {
        self.timeline
    }

    /// Looks once.
    pub(super) fn tick(&mut self) -> Result<()> {
        self.read_trail()?;
        let mut status = Vec::new();
        for subject in &mut self.subjects {
            let sent = self.log.layer_bytes(&subject.repository);
            status.push(format!(
                "{} {} of {}",
                subject.who,
                size(sent),
                size(subject.total)
            ));
            if !subject.first_byte_told
                && let Some(at) = self.log.first_layer_byte(&subject.repository)
            {
                subject.first_byte_told = true;
                let text = "registry: first layer byte sent";
                self.timeline.measured(at, Stage::Flow, subject.who, text);
            }
            let quarters = sent * 4 / subject.total.max(1);
            if subject.total >= SLOW && quarters > subject.quarters_told && quarters < 4 {
                subject.quarters_told = quarters;
                let text = format!("registry: {} of {} sent", size(sent), size(subject.total));
                self.timeline
                    .measured(Instant::now(), Stage::Flow, subject.who, text);
            }
        }
        self.timeline.show_settled();
        self.timeline
            .screen()
            .status(&format!("            … {}", status.join(" · ")));
        Ok(())
    }

    /// Whether magi has recorded `kind` about `repository`, in records that were read so far.
    pub(super) fn has_recorded(&self, kind: &str, repository: &str) -> Result<bool> {
        let mut records = self.magi.audit_of(kind)?;
        records.retain(|record| trail::is_about(record, repository));
        Ok(!records.is_empty())
    }

    fn read_trail(&mut self) -> Result<()> {
        let records = self.magi.audit()?;
        for record in records.iter().skip(self.read) {
            let subject = self
                .subjects
                .iter()
                .find(|subject| trail::is_about(record, &subject.repository));
            let (Some(subject), Some(at)) = (subject, trail::time(record)) else {
                continue;
            };
            for (stage, text) in self.teller.tell(record) {
                self.timeline.add(Entry {
                    at: self.timeline.instant(at),
                    origin: Origin::Magi,
                    stage,
                    who: subject.who,
                    text,
                });
            }
        }
        self.read = records.len();
        Ok(())
    }
}
