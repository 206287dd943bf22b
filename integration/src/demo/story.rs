//! What a scenario tells and expects beyond the report: how each pull ended, and whether magi's trail says the same.

use std::time::Instant;

use anyhow::Result;
use serde_json::Value;

use super::check::{Checker, LYING_DECLARED, LYING_OVER};
use super::measure::{Sent, short_error};
use super::report::Name;
use super::screen::size;
use super::timeline::{Stage, Timeline};
use super::trail;
use crate::Magi;
use crate::cri::Pull;
use crate::image::Image;

/// Tells how the healthy pull ended.
pub(super) fn good_end(timeline: &mut Timeline, pull: Option<&Pull>, image: &Image) {
    let (at, text) = match pull {
        None => (
            Instant::now(),
            "PullImage: no answer in time, cancelled".to_owned(),
        ),
        Some(pull) => (
            pull.ended,
            match &pull.outcome {
                Ok(id) if id == image.id() => format!(
                    "PullImage: completed in {:.2} s, digest right",
                    pull.elapsed().as_secs_f64()
                ),
                Ok(id) => format!("PullImage: completed with the wrong digest {id}"),
                Err(error) => format!("PullImage: {}", short_error(&error.message)),
            },
        ),
    };
    timeline.measured(at, Stage::End, super::case::WEB, text);
}

/// Tells how the bad pull ended.
pub(super) fn bad_end(
    timeline: &mut Timeline,
    who: &'static str,
    pull: Option<&Pull>,
    first: Option<Instant>,
) {
    let Some(pull) = pull else {
        let text = "PullImage: nobody stopped it in time, so the demo cancels it";
        timeline.measured(Instant::now(), Stage::End, who, text);
        return;
    };
    let after = first.map_or_else(
        || "before the first layer byte".to_owned(),
        |first| {
            let after = pull.ended.saturating_duration_since(first);
            format!(
                "{:.1} ms after the first layer byte",
                after.as_secs_f64() * 1000.0
            )
        },
    );
    match &pull.outcome {
        Ok(_) => timeline.measured(
            pull.ended,
            Stage::End,
            who,
            "PullImage: completed, nobody stopped it",
        ),
        Err(error) => {
            timeline.measured(pull.ended, Stage::End, who, format!("PullImage: failed {after}"));
            timeline.measured(
                pull.ended,
                Stage::End,
                who,
                format!("PullImage: {}", short_error(&error.message)),
            );
        }
    }
}

/// Tells what the registry and, of a layer that grew too large, the content store counted for the bad pull.
pub(super) fn bytes(timeline: &mut Timeline, who: &'static str, sent: &Sent, declared: u64, in_ingest: u64) {
    let at = sent.last.unwrap_or_else(Instant::now);
    let over = sent.bytes.saturating_sub(declared);
    let beyond = if over > 0 {
        format!(", {} over; its ingest held up to {}", size(over), size(in_ingest))
    } else {
        String::new()
    };
    let (bytes, declared) = (size(sent.bytes), size(declared));
    let text = format!("registry: {bytes} of {declared} sent{beyond}");
    timeline.measured(at, Stage::End, who, text);
    let text = format!(
        "registry: {} of {} layer connections cut by the client",
        sent.cut, sent.connections
    );
    timeline.measured(at, Stage::End, who, text);
}

/// The bad pull began and ended within the healthy one, or nothing was shown of their independence.
pub(super) fn expect_overlap(checker: &mut Checker, bad: Option<&Pull>, good: Option<&Pull>) {
    if let (Some(bad), Some(good)) = (bad, good) {
        checker.expect(
            good.started <= bad.ended && bad.ended <= good.ended,
            "the healthy pull",
            "in flight when the other one was stopped",
            format!(
                "ended {:?} before",
                bad.ended.saturating_duration_since(good.ended)
            ),
        );
    }
}

/// The lying layer's ingest may not hold more than what it may be over.
pub(super) fn expect_ingest_bound(checker: &mut Checker, name: Name, offset: u64) {
    if name == Name::Lying {
        let most = LYING_DECLARED + LYING_OVER;
        checker.expect(
            offset <= most,
            "bytes in the ingest",
            format!("at most {most}"),
            offset,
        );
    }
}

/// magi must have stopped the bad pull for the right reason, have seen its end, and have touched no other.
pub(super) fn expect_trail(
    checker: &mut Checker,
    magi: &Magi,
    reason: &str,
    bad: &str,
    good: &str,
) -> Result<()> {
    checker.expect(
        magi.process().is_running(),
        "magi-node",
        "the process that was started",
        "it has ended",
    );
    let records = magi.audit()?;
    let of = |kind: &str, repository: &str| {
        let mut found = records.iter();
        found
            .find(|record| record["kind"] == kind && trail::is_about(record, repository))
            .cloned()
    };
    let intent = of("intent", bad).unwrap_or_default();
    let given = intent
        .get("reason")
        .and_then(Value::as_str)
        .unwrap_or("no intent");
    checker.expect(given == reason, "reason in the audit trail", reason, given);
    if reason == "layer-overruns-manifest" {
        let listed = intent.get("evidence").unwrap_or(&Value::Null);
        let mut evidence = listed.as_array().into_iter().flatten();
        let certain = evidence.any(|piece| {
            piece["kind"] == "ingest-overrun" && piece["offset"].as_u64() > piece["total"].as_u64()
        });
        checker.expect(certain, "evidence in the audit trail", "offset > total", listed);
    }
    let clean = of("clean", bad).is_some();
    checker.expect(clean, "end in the audit trail", "clean", "no such record");
    for kind in ["intent", "would-abort"] {
        let record = of(kind, good);
        let text = record.as_ref().map_or_else(String::new, ToString::to_string);
        checker.expect(
            record.is_none(),
            "audit trail about the healthy pull",
            "nothing",
            text,
        );
    }
    Ok(())
}
