//! What the faults have done: each failure held against what was down meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::fault::{Fault, Kind};
use super::stage::Stage;
use super::work::{Attacked, HUNG, Pulled};
use crate::magi;
use crate::stats::{Summary, summary};
use crate::wait;

/// containerd's clients notice an end some time after it.
const NOTICED: Duration = Duration::from_millis(500);
/// magi-node is to have attached again.
const ATTACHED_WITHIN: Duration = Duration::from_secs(2);
const WRITTEN_WITHIN: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_millis(100);

/// What happened on one containerd.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Its version, as its API says.
    pub containerd: String,
    /// Faults by kind.
    pub faults: BTreeMap<Kind, usize>,
    /// Milliseconds until magi-node had attached again, after it or containerd was killed.
    pub attached_ms: Summary,
    /// Milliseconds that healthy pulls took that came through or failed, while containerd and the registry were killed,
    /// without magi.
    pub without_magi_ms: Summary,
    /// Healthy pulls made with it.
    pub healthy: usize,
    /// Milliseconds that those took that came through.
    pub healthy_ms: Summary,
    /// The same for those that failed.
    pub failed_ms: Summary,
    /// Failed while containerd or the registry was down.
    pub failed_without_magi: usize,
    /// Failed in flight through a gateway that was killed.
    pub failed_in_a_killed_gateway: usize,
    /// Failed for no such reason.
    pub failed_by_magi: Vec<String>,
    /// Bad pulls made.
    pub attacks: usize,
    /// Those that came through or were not stopped in 30 s.
    pub escapes: Vec<String>,
    /// Intents in the audit trail.
    pub intents: usize,
    /// Those without an outcome.
    pub open_intents: Vec<String>,
}

impl Report {
    /// What is not as it must be, in words.
    pub fn misses(&self) -> Vec<String> {
        let mut misses = Vec::new();
        for (what, found) in [
            ("failed because of magi", &self.failed_by_magi),
            ("escaped", &self.escapes),
            ("has no outcome", &self.open_intents),
        ] {
            misses.extend(
                found
                    .iter()
                    .map(|one| format!("{}: {what}: {one}", self.containerd)),
            );
        }
        misses
    }

    /// Whether magi-node always attached in time; a busy machine delays it.
    pub fn attached_in_time(&self) -> bool {
        self.attached_ms.max <= ATTACHED_WITHIN.as_secs_f64() * 1e3
    }
}

pub(super) async fn report(
    stage: &Stage,
    faults: &[Fault],
    without: &[Pulled],
    pulls: &[Pulled],
    attacks: &[Attacked],
) -> Result<Report> {
    let during = |from, to, kinds: &[Kind]| {
        faults
            .iter()
            .any(|fault| kinds.contains(&fault.kind) && from <= fault.over + NOTICED && to >= fault.at)
    };
    let (mut not_by_magi, mut in_gateway, mut by_magi) = (0, 0, Vec::new());
    for pull in pulls {
        let Some(failed) = &pull.failed else {
            continue;
        };
        let in_flight =
            |fault: &Fault| fault.kind == Kind::Gateway && pull.from <= fault.at && pull.to >= fault.at;
        if pull.took() < HUNG && during(pull.from, pull.to, &[Kind::Containerd, Kind::Registry]) {
            not_by_magi += 1;
        } else if pull.by_gateway && faults.iter().any(in_flight) {
            in_gateway += 1;
        } else {
            let way = if pull.by_gateway {
                "by the gateway"
            } else {
                "past it"
            };
            by_magi.push(format!("{} {way}: {failed}", pull.reference));
        }
    }
    let escapes = attacks.iter().filter_map(|attack| {
        let why = attack.escaped?;
        let took = attack.to.duration_since(attack.from);
        Some(format!("{}: {why}, {took:?}", attack.reference))
    });
    let open = || -> Result<Vec<String>> {
        let records = stage.magi().audit()?;
        Ok(magi::open_intents(&records).map(ToString::to_string).collect())
    };
    let closed = wait::until(
        "every intent to have its outcome",
        WRITTEN_WITHIN,
        STEP,
        async || open().ok()?.is_empty().then_some(()),
    );
    // What is open then is the answer.
    let _ = closed.await;
    let ms = |pull: &Pulled| pull.took().as_secs_f64() * 1e3;
    let mut by_kind = BTreeMap::new();
    for fault in faults {
        *by_kind.entry(fault.kind).or_default() += 1;
    }
    Ok(Report {
        containerd: stage.version().to_owned(),
        faults: by_kind,
        attached_ms: summary(
            faults
                .iter()
                .filter_map(|fault| Some(fault.attached?.as_secs_f64() * 1e3)),
        ),
        without_magi_ms: summary(without.iter().map(ms)),
        healthy: pulls.len(),
        healthy_ms: summary(pulls.iter().filter(|pull| pull.failed.is_none()).map(ms)),
        failed_ms: summary(pulls.iter().filter(|pull| pull.failed.is_some()).map(ms)),
        failed_without_magi: not_by_magi,
        failed_in_a_killed_gateway: in_gateway,
        failed_by_magi: by_magi,
        attacks: attacks.len(),
        escapes: escapes.collect(),
        intents: stage.magi().audit_of("intent")?.len(),
        open_intents: open()?,
    })
}
