//! magi's audit trail, told in words for the timeline. Nothing of it goes into the report.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::Value;

use super::screen::size;
use super::timeline::Stage;

/// When a record was made.
pub(super) fn time(record: &Value) -> Option<SystemTime> {
    let stamp: jiff::Timestamp = record["at"].as_str()?.parse().ok()?;
    Some(stamp.into())
}

/// Whether a record is about a pull from `repository`.
pub(crate) fn is_about(record: &Value, repository: &str) -> bool {
    record
        .pointer("/pull/repositories")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .any(|name| {
            name.strip_suffix(repository)
                .is_some_and(|host| host.is_empty() || host.ends_with('/'))
        })
}

/// Tells one record after the other, and remembers what later ones refer to.
#[derive(Debug, Default)]
pub(super) struct Teller {
    /// The lever of each attempt so far.
    levers: BTreeMap<String, String>,
    /// The pulls whose evidence has been told.
    told: Vec<String>,
}

impl Teller {
    /// What a record says, as lines.
    pub(super) fn tell(&mut self, record: &Value) -> Vec<(Stage, String)> {
        let kind = record["kind"].as_str().unwrap_or_default();
        let attempt = record["attempt"].to_string();
        if kind == "intent" {
            let pull = record
                .pointer("/pull/id")
                .map_or_else(String::new, Value::to_string);
            let first = !self.told.contains(&pull);
            if first {
                self.told.push(pull);
            }
            self.levers
                .insert(attempt, record["lever"].as_str().unwrap_or("?").to_owned());
            return intent(record, first);
        }
        if kind == "outcome" {
            let lever = self.levers.get(&attempt).map_or("?", String::as_str);
            let outcome = record["outcome"].as_str().unwrap_or("?");
            let text = match outcome {
                "done: 1" if lever.ends_with("-socket") => "closed one active blob socket".to_owned(),
                _ => format!("{lever}: {outcome}"),
            };
            return vec![(Stage::Act, text)];
        }
        aftermath(kind, record)
    }
}

fn aftermath(kind: &str, record: &Value) -> Vec<(Stage, String)> {
    let text = |key: &str| record[key].as_str().unwrap_or("?").to_owned();
    match kind {
        "would-abort" => vec![(
            Stage::Judge,
            format!("{}: would stop it (observe mode)", text("reason")),
        )],
        "ended" => {
            let took = record["took_micros"].as_u64().map_or_else(String::new, |micros| {
                format!(" {:.1} ms after the lever", micros as f64 / 1000.0)
            });
            let attempts = record["attempts"].as_u64().unwrap_or(0);
            let levers = if attempts == 1 { "lever" } else { "levers" };
            vec![(
                Stage::End,
                format!("verified: its lease is gone{took} ({attempts} {levers})"),
            )]
        }
        "clean" => {
            let had = match record["removed"].as_u64() {
                Some(0) => "containerd had removed all of it itself".to_owned(),
                removed => format!("magi removed {} leftovers", removed.unwrap_or(0)),
            };
            vec![(Stage::End, format!("verified: no leftovers; {had}"))]
        }
        "not-stopped" => vec![(Stage::End, format!("could not stop it: {}", text("why")))],
        "not-clean" => vec![(Stage::End, format!("leftovers stayed: {}", record["what"]))],
        "taken-over" => vec![(
            Stage::Seen,
            format!("another pull goes on with {}", record["ingest"]),
        )],
        "manifest-unreadable" => vec![(Stage::Seen, format!("unreadable manifest: {}", text("problem")))],
        _ => Vec::new(),
    }
}

fn intent(record: &Value, first: bool) -> Vec<(Stage, String)> {
    let mut lines = Vec::new();
    let evidence = record["evidence"].as_array().map_or(&[][..], Vec::as_slice);
    let found = |kind: &str| evidence.iter().find(move |piece| piece["kind"] == kind);
    let bytes = |value: &Value| size(value.as_u64().unwrap_or(0));
    let mut why = String::new();
    for (kind, of) in [("declared-image", "the image"), ("declared-layer", "one layer")] {
        if let Some(piece) = found(kind) {
            let (declared, limit) = (bytes(&piece["declared"]), bytes(&piece["limit"]));
            lines.push((
                Stage::Seen,
                format!("containerd: the manifest declares {declared} for {of}"),
            ));
            why = format!("{declared} declared > {limit} allowed");
        }
    }
    if let Some(piece) = found("ingest-overrun") {
        let (offset, total) = (bytes(&piece["offset"]), bytes(&piece["total"]));
        lines.push((
            Stage::Seen,
            format!("containerd: its ingest holds {offset}, the manifest declares {total}"),
        ));
        why = format!("{offset} stored > {total} declared");
    }
    let mut second = "containerd";
    for piece in evidence.iter().filter(|piece| piece["kind"] == "socket-feeds") {
        let local = piece
            .pointer("/socket/local")
            .and_then(Value::as_str)
            .unwrap_or("?");
        let (by, how) = match piece["method"].as_str() {
            Some("goroutine") => ("kernel probes", "same goroutine"),
            Some("thread") => ("kernel probes", "same thread"),
            _ => ("socket table", "same byte count"),
        };
        second = by;
        lines.push((
            Stage::Seen,
            format!("{by}: socket {local} feeds {} ({how})", ingest(&piece["ingest"])),
        ));
    }
    lines.push((
        Stage::Judge,
        format!(
            "{}: {why}; two sources agree: containerd, {second}",
            record["reason"].as_str().unwrap_or("?")
        ),
    ));
    if !first {
        lines.clear();
    }
    let socket = record
        .pointer("/socket/local")
        .and_then(Value::as_str)
        .map_or_else(String::new, |local| format!(" on socket {local}"));
    let lever = record["lever"].as_str().unwrap_or("?");
    lines.push((Stage::Act, format!("intent recorded: {lever}{socket}")));
    lines
}

/// `layer-sha256:0123456789…` cut to what a person can compare.
fn ingest(reference: &Value) -> String {
    let text = reference.as_str().unwrap_or("?");
    let short: String = text.chars().take("layer-sha256:".len() + 8).collect();
    if short.len() < text.len() {
        format!("{short}…")
    } else {
        short
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record() -> Value {
        json!({
            "at": "2026-11-23T06:19:00.000001Z",
            "pull": { "repositories": ["127.0.0.1:5000/1.7/oversize/gigantic"] },
            "kind": "intent", "attempt": 3, "reason": "image-too-large", "lever": "destroy-socket",
            "socket": { "cookie": 1, "local": "127.0.0.1:4000", "remote": "127.0.0.1:5000" },
            "evidence": [
                { "kind": "declared-image", "declared": 12u64 << 30, "limit": 1 << 30 },
                { "kind": "socket-feeds", "method": "goroutine", "ingest": "layer-sha256:0123456789abcdef",
                  "socket": { "local": "127.0.0.1:4000" } }
            ]
        })
    }

    #[test]
    fn an_intent_tells_what_led_to_it_once() {
        let mut teller = Teller::default();
        let lines = teller.tell(&record());
        let stages: Vec<Stage> = lines.iter().map(|(stage, _)| *stage).collect();
        assert_eq!(stages, [Stage::Seen, Stage::Seen, Stage::Judge, Stage::Act]);
        assert_eq!(
            lines[2].1,
            "image-too-large: 12 GiB declared > 1 GiB allowed; two sources agree: containerd, kernel probes"
        );
        assert_eq!(teller.tell(&record()).len(), 1);
        let outcome = json!({ "kind": "outcome", "attempt": 3, "outcome": "done: 1" });
        assert_eq!(teller.tell(&outcome)[0].1, "closed one active blob socket");
    }

    #[test]
    fn a_record_is_about_its_repository_and_no_other() {
        assert!(is_about(&record(), "1.7/oversize/gigantic"));
        assert!(!is_about(&record(), "oversize/gigantic2"));
        assert!(!is_about(&record(), "versize/gigantic"));
        assert!(time(&record()).is_some());
    }
}
