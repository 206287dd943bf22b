//! The doctor where there is little to examine. On real nodes it is tried by `integration/tests/doctor.rs`.

use std::path::Path;

use serde_json::Value;

use crate::node::FakeNode;
use crate::run::{magictl, outcome};

/// Settings that lead nowhere, so that nothing of this machine is asked.
fn settings(folder: &Path, socket: &Path) -> String {
    let path = folder.join("settings.yaml");
    let at = |name: &str| folder.join(name).display().to_string();
    let text = format!(
        "version: 1\ncontainerd: {{ address: {} }}\ncontrol: {{ socket: {} }}\naudit: {{ path: {} }}\nprobes: {{ btf: {} }}\n",
        at("no-containerd.sock"),
        socket.display(),
        at("audit.jsonl"),
        at("no-btf"),
    );
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn examine(settings: &str, more: &[&str]) -> (i32, Value) {
    let arguments = [&["doctor", "--json", "--settings", settings], more].concat();
    let (code, out, err) = outcome(magictl(&arguments).output().unwrap());
    assert_eq!(err, "");
    (code, serde_json::from_str(&out).unwrap())
}

fn check<'a>(report: &'a Value, id: &str) -> &'a Value {
    let checks = report["checks"].as_array().unwrap();
    checks
        .iter()
        .find(|check| check["id"] == id)
        .unwrap_or_else(|| panic!("no {id} in {report}"))
}

#[test]
fn where_nothing_runs_each_failure_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path(), &folder.path().join("no-node.sock"));
    for more in [&[][..], &["--active"]] {
        let (code, report) = examine(&settings, more);
        assert_eq!((code, &report["ok"]), (6, &Value::Bool(false)));
        for id in ["btf", "containerd", "magi-node"] {
            assert_eq!(check(&report, id)["outcome"], "fail", "{id}");
        }
        for id in [
            "probes",
            "requests",
            "policy",
            "pull-path",
            "nri",
            "verifier",
            "active-pull",
            "owner-known",
        ] {
            assert_eq!(check(&report, id)["outcome"], "skip", "{id}: {report}");
        }
        // These need no node, but the rights that these tests have.
        for id in ["destroy-socket", "audit"] {
            assert_eq!(check(&report, id)["outcome"], "ok", "{id}: {report}");
        }
        for check in report["checks"].as_array().unwrap() {
            let advised = !check["advice"].as_array().unwrap().is_empty();
            let wanted = check["outcome"] == "fail" || check["outcome"] == "warn";
            assert_eq!(advised, wanted, "{check}");
        }
        let stages = report["stages"].as_array().unwrap();
        assert_eq!(stages.len(), 3);
        assert!(stages.iter().all(|stage| stage["covered"] == false), "{stages:?}");
    }
    let output = magictl(&["doctor", "--settings", &settings])
        .env("COLUMNS", "80")
        .output()
        .unwrap();
    let (code, text, _) = outcome(output);
    assert_eq!(code, 6);
    assert!(
        text.contains("FAIL  magi-node") && text.contains("-> start magi-node: systemctl start magi-node"),
        "{text}"
    );
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn what_a_node_says_of_itself_is_heard() {
    let node = FakeNode::with_pulls();
    let folder = tempfile::tempdir().unwrap();
    let (code, report) = examine(&settings(folder.path(), &node.socket), &[]);
    assert_eq!(code, 6);
    let of = |id| check(&report, id);
    assert!(
        of("magi-node")["outcome"] == "fail"
            && of("magi-node")["seen"].as_str().unwrap().contains("0.0.0-fake"),
        "another version: {report}"
    );
    assert_eq!(of("requests")["outcome"], "ok");
    assert_eq!(of("probes")["outcome"], "fail");
    assert_eq!(of("capabilities")["outcome"], "ok");
}

#[test]
fn settings_that_cannot_be_read_are_a_usage_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("settings.yaml");
    std::fs::write(&path, "version: 1\nprobez: {}\n").unwrap();
    let (code, out, err) = outcome(
        magictl(&["doctor", "--settings", path.to_str().unwrap()])
            .output()
            .unwrap(),
    );
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("probez"), "{err}");
}
