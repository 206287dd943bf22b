//! What a node has to say and has not yet said, or not yet seen stored: bounded, whatever becomes of the master.

use std::collections::VecDeque;

use crate::bounds::{MAX_RECORD, MAX_RECORDS, RECORD_BYTES};
use crate::message::{AuditBatch, AuditMark, AuditRecord, PolicyAnswer, Pulls, Up, VerdictAnswer};

/// Answers to verdicts that are kept. An answer that is lost costs the master knowledge, and nothing else.
const MAX_ANSWERS: usize = 1024;
/// Audit records that are kept until they are stored.
const MAX_KEPT: usize = 8192;
/// Their bytes.
const MAX_KEPT_BYTES: usize = 8 << 20;

/// Changed by: something to say ([`Self::answer_policy`] to [`Self::record`]), the stream taking it ([`Self::next_up`]),
/// the master having stored records ([`Self::stored`]), and the stream's end ([`Self::cut`]).
#[derive(Debug, Default)]
pub struct Keep {
    pong: Option<u64>,
    policy: Option<PolicyAnswer>,
    kill_switch: Option<u64>,
    pulls: Option<Pulls>,
    verdicts: VecDeque<VerdictAnswer>,
    records: VecDeque<AuditRecord>,
    record_bytes: usize,
    records_lost: u64,
    /// Whether records are on their way, and not yet known to be stored.
    is_batch_out: bool,
}

impl Keep {
    /// To a ping; an older one's is not wanted any more.
    pub fn pong(&mut self, nonce: u64) {
        self.pong = Some(nonce);
    }

    /// To the last policy; an older one's is not wanted any more.
    pub fn answer_policy(&mut self, answer: PolicyAnswer) {
        self.policy = Some(answer);
    }

    /// The kill switch that is in force.
    pub fn answer_kill_switch(&mut self, revision: u64) {
        self.kill_switch = Some(revision);
    }

    /// What is being pulled now.
    pub fn pulls(&mut self, pulls: Pulls) {
        self.pulls = Some(pulls);
    }

    /// To a verdict. The oldest goes if there are too many.
    pub fn answer_verdict(&mut self, answer: VerdictAnswer) {
        if self.verdicts.len() >= MAX_ANSWERS {
            self.verdicts.pop_front();
        }
        self.verdicts.push_back(answer);
    }

    /// A record of the audit trail. The oldest go, and are counted, if there are too many or too large ones.
    pub fn record(&mut self, record: AuditRecord) {
        if record.json.len() > MAX_RECORD {
            self.records_lost = self.records_lost.saturating_add(1);
            return;
        }
        self.record_bytes = self.record_bytes.saturating_add(record.json.len());
        self.records.push_back(record);
        while self.records.len() > MAX_KEPT || self.record_bytes > MAX_KEPT_BYTES {
            self.drop_oldest();
            self.records_lost = self.records_lost.saturating_add(1);
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.records.pop_front() {
            self.record_bytes = self.record_bytes.saturating_sub(oldest.json.len());
        }
    }

    /// Records that were dropped, since the beginning.
    #[must_use]
    pub fn records_lost(&self) -> u64 {
        self.records_lost
    }

    /// Whether [`Self::next_up`] has something.
    #[must_use]
    pub fn has_something(&self) -> bool {
        self.pong.is_some()
            || self.policy.is_some()
            || self.kill_switch.is_some()
            || self.pulls.is_some()
            || !self.verdicts.is_empty()
            || !self.is_batch_out && !self.records.is_empty()
    }

    /// The next thing to say. Records stay until they are stored; all else is the stream's business from here.
    pub fn next_up(&mut self) -> Option<Up> {
        let short = (self.pong.take().map(Up::Pong))
            .or_else(|| self.policy.take().map(Up::Policy))
            .or_else(|| self.kill_switch.take().map(Up::KillSwitch))
            .or_else(|| self.verdicts.pop_front().map(Up::Verdict))
            .or_else(|| self.pulls.take().map(Up::Pulls));
        if short.is_some() || self.is_batch_out || self.records.is_empty() {
            return short;
        }
        self.is_batch_out = true;
        let mut bytes = 0_usize;
        let records = self.records.iter().take(MAX_RECORDS).take_while(|record| {
            let is_first = bytes == 0;
            bytes = bytes.saturating_add(record.json.len().max(1));
            is_first || bytes <= RECORD_BYTES
        });
        Some(Up::Audit(AuditBatch {
            records: records.cloned().collect(),
            lost: self.records_lost,
        }))
    }

    /// Everything up to `mark` is stored. Runs are not compared: a clock that was put back must not cost a record.
    pub fn stored(&mut self, mark: AuditMark) {
        self.is_batch_out = false;
        let is_stored =
            |record: &AuditRecord| record.mark.run == mark.run && record.mark.sequence <= mark.sequence;
        let stored = self.records.iter().rposition(is_stored);
        for _ in 0..stored.map_or(0, |last| last.saturating_add(1)) {
            self.drop_oldest();
        }
    }

    /// The stream is gone, and with it what was on its way.
    pub fn cut(&mut self) {
        self.is_batch_out = false;
        self.pong = None;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn record(sequence: u64, bytes: usize) -> AuditRecord {
        AuditRecord {
            mark: AuditMark { run: 1, sequence },
            json: Bytes::from(vec![b' '; bytes]),
        }
    }

    fn batch(keep: &mut Keep) -> Vec<u64> {
        match keep.next_up() {
            Some(Up::Audit(batch)) => batch.records.iter().map(|record| record.mark.sequence).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn records_stay_until_they_are_stored() {
        let mut keep = Keep::default();
        for sequence in 0..3 {
            keep.record(record(sequence, RECORD_BYTES / 2));
        }
        assert_eq!(batch(&mut keep), [0, 1]);
        assert_eq!(keep.next_up(), None, "one batch at a time");
        keep.cut();
        assert_eq!(batch(&mut keep), [0, 1], "the cut stream's batch is said again");
        keep.stored(AuditMark { run: 1, sequence: 1 });
        assert_eq!(batch(&mut keep), [2]);
        keep.stored(AuditMark { run: 1, sequence: 2 });
        assert!(!keep.has_something());
        assert_eq!(keep.record_bytes, 0);
    }

    #[test]
    fn an_earlier_run_says_nothing_about_this_one() {
        let mut keep = Keep::default();
        keep.record(record(0, 1));
        let later = AuditMark { run: 2, sequence: 9 };
        keep.stored(later);
        assert_eq!(batch(&mut keep), [0], "the clock was put back between two runs");
    }

    #[test]
    fn what_is_dropped_is_counted() {
        let mut keep = Keep::default();
        for sequence in 0..MAX_KEPT as u64 + 5 {
            keep.record(record(sequence, 10));
        }
        keep.record(record(0, MAX_RECORD + 1));
        assert_eq!((keep.records.len(), keep.records_lost()), (MAX_KEPT, 6));
        let mut keep = Keep::default();
        for sequence in 0..200 {
            keep.record(record(sequence, MAX_RECORD));
        }
        assert!(keep.record_bytes <= MAX_KEPT_BYTES);
        assert_eq!(keep.records.len() as u64 + keep.records_lost(), 200);
        assert_eq!(batch(&mut keep).len(), 1, "a large record goes alone");
    }
}
