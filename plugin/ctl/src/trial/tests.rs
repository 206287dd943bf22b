//! Files of records, judged by policies.

use std::fs;

use serde_json::{Value, json};

use super::*;

const MIB: u64 = 1 << 20;

fn owner(namespace: &str, image: &str) -> Value {
    json!({
        "image": image,
        "pod": {"uid": format!("uid-{namespace}"), "namespace": namespace, "name": "web-0"},
        "proof": ["requests"],
    })
}

fn digest(number: u64) -> String {
    format!("sha256:{number:064}")
}

fn record(seq: u64, pull: &Value, entry: &Value) -> Value {
    let mut record = json!({
        "schema": "magi.audit/1", "at": "2026-01-01T00:00:00.000000Z", "host": "node-1", "run": 1, "seq": seq,
        "pull": pull, "policy": "sha256:0",
    });
    let fields = entry.as_object().unwrap().clone();
    record.as_object_mut().unwrap().extend(fields);
    record
}

fn pull(id: u64, owner: Option<Value>, declared: Option<u64>) -> Value {
    json!({
        "id": id, "lease": {"namespace": "k8s.io", "id": format!("lease-{id}")}, "repositories": ["registry.example/app"],
        "owner": owner, "declared": declared, "stored": MIB,
    })
}

fn too_large(declared: u64) -> Value {
    json!({
        "kind": "would-abort", "reason": "image-too-large", "rule": null,
        "evidence": [{"kind": "declared-image", "manifest": digest(1), "declared": declared, "limit": 1}],
    })
}

fn audit(lines: &[Value]) -> Cases {
    let mut cases = Cases::default();
    for line in lines {
        cases.audit(Some(line.to_string().as_bytes()));
    }
    cases
}

fn tried(policy: &str, cases: &Cases) -> Outcome {
    let policy = magi_config::parse_policy("policy", policy).unwrap_or_else(|error| panic!("{error}"));
    outcome(&policy, cases)
}

#[test]
fn records_of_one_pull_are_one_pull_and_files_may_overlap() {
    let app = "registry.example/app:1";
    let would = record(
        5,
        &pull(1, Some(owner("team", app)), Some(3 * MIB)),
        &too_large(3 * MIB),
    );
    let clean = record(6, &pull(1, None, None), &json!({"kind": "clean", "removed": 0}));
    let stored = json!({"node": "node-1", "run": 1, "seq": 5, "stored": 7, "record": would});
    let refused = json!({
        "kind": "refused", "image": app, "digest": digest(2), "reason": "image-too-large", "rule": null,
        "mode": "enforce", "unrecorded": 4,
        "evidence": [{"kind": "declared-image", "manifest": digest(3), "declared": 9 * MIB, "limit": 1}],
    });
    let refused = record(9, &Value::Null, &refused);
    let source = record(
        10,
        &Value::Null,
        &json!({"kind": "source-changed", "source": "nri", "up": true}),
    );
    let cases = audit(&[
        would,
        clean,
        stored,
        refused.clone(),
        refused,
        source,
        json!({"other": 1}),
    ]);
    let outcome = tried("version: 1\nmode: enforce\nlimits: { image: 2MiB }\n", &cases);
    assert_eq!((outcome.pulls, outcome.spared), (6, 0));
    let rows: Vec<_> = outcome
        .would_abort
        .iter()
        .map(|row| (row.namespace.as_deref(), row.said.reason, row.pulls, row.bytes))
        .collect();
    assert_eq!(
        rows,
        [
            (None, Reason::ImageTooLarge, 5, 45 * MIB),
            (Some("team"), Reason::ImageTooLarge, 1, 3 * MIB),
        ]
    );
    assert_eq!(outcome.would_abort[1].examples, [app]);
    assert_eq!(
        (outcome.skipped.unreadable_lines, outcome.skipped.about_no_pull),
        (1, 1)
    );
    assert_eq!(outcome.left_out, ["denyFor"]);
}

#[test]
fn what_a_record_does_not_tell_is_said_and_not_guessed() {
    let cases = audit(&[
        record(
            1,
            &pull(1, Some(owner("a", "registry.example/app:1")), Some(3 * MIB)),
            &too_large(3 * MIB),
        ),
        record(2, &pull(2, None, Some(3 * MIB)), &too_large(3 * MIB)),
    ]);
    let policy = "version: 1\nrules:\n- { name: one, match: { namespaces: [a] }, mode: enforce, limits: { layer: 1MiB } }\n\
                  - { name: two, match: { podLabels: [tier=x] }, deny: true }\n";
    let outcome = tried(policy, &cases);
    assert_eq!((outcome.pulls, outcome.spared), (2, 0));
    assert!(outcome.would_abort.is_empty());
    let missing: Vec<_> = outcome
        .not_judged
        .iter()
        .map(|row| (row.namespace.as_deref(), row.said.missing.clone()))
        .collect();
    use Missing::{Labels, LayerSize, Owner};
    assert_eq!(
        missing,
        [
            (None, vec![Owner, Labels, LayerSize]),
            (Some("a"), vec![Labels, LayerSize])
        ]
    );
    let shown = show::trial::outcome(&outcome, crate::terminal::Room::default()).join("\n");
    assert!(shown.contains("its pod's labels, its largest layer"), "{shown}");
}

#[test]
fn reports_of_one_pull_are_one_pull_as_last_seen() {
    let report = |stage: &str, stored: u64, layer: u64| {
        json!({"now": 5, "ended": [], "pulls": [{
            "id": 3, "lease": {"namespace": "k8s.io", "id": "lease-3"}, "repositories": ["registry.example/app"],
            "owner": owner("team", "registry.example/app:1"), "owner_candidates": [], "manifest": digest(1),
            "stage": stage, "since": 1, "ended": null, "declared": 3 * MIB, "stored": stored,
            "layers": [{"digest": digest(4), "declared": layer, "stored": stored, "socket": null}], "verdict": null,
        }]})
        .to_string()
    };
    let mut cases = Cases::default();
    let path = std::path::Path::new("pulls");
    cases.pulls(path, Some(report("downloading", 1, 3 * MIB).as_bytes()));
    cases.pulls(path, Some(report("unpacking", 3 * MIB, 3 * MIB).as_bytes()));
    cases.pulls(path, Some(b"nonsense"));
    cases.pulls(path, None);
    assert_eq!(cases.skipped.unreadable_lines, 2);
    let by_layer = tried("version: 1\nmode: enforce\nlimits: { layer: 2MiB }\n", &cases);
    assert_eq!(by_layer.would_abort[0].said.reason, Reason::LayerTooLarge);
    assert_eq!(tried("version: 1\nlimits: { image: 3MiB }\n", &cases).spared, 1);
    cases.pulls(path, Some(report("downloading", 4 * MIB, 3 * MIB).as_bytes()));
    let lie = tried("version: 1\n", &cases);
    assert_eq!(lie.would_abort[0].said.reason, Reason::LayerOverrunsManifest);
    assert_eq!((lie.pulls, lie.would_abort[0].said.mode), (1, Mode::Observe));
}

#[test]
fn lines_are_read_with_and_without_their_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lines");
    fs::write(&path, "one\n\n  \ntwo").unwrap();
    let mut seen = Vec::new();
    read::lines(&path, |line| seen.push(line.map(<[u8]>::to_vec))).unwrap();
    assert_eq!(seen, [Some(b"one".to_vec()), Some(b"two".to_vec())]);
    let missing = read::lines(&folder.path().join("missing"), |_| {});
    assert!(matches!(missing, Err(read::ReadError::Open { .. })));
}
