//! `magictl policy test` with files, and what is said where no master is named.

use std::fs;

use crate::run::{magictl, outcome};

const RECORD: &str = r#"{"schema":"magi.audit/1","at":"2026-01-01T00:00:00.000000Z","host":"node-1","run":1,"seq":1,"pull":{"id":1,"lease":{"namespace":"k8s.io","id":"l"},"repositories":["registry.example/team/app"],"owner":{"image":"registry.example/team/app:1","pod":{"uid":"u","namespace":"team","name":"web-0"},"proof":["requests"]},"declared":3145728,"stored":1},"policy":"r","kind":"would-abort","reason":"image-too-large","rule":null,"evidence":[{"kind":"declared-image","manifest":"sha256:0000000000000000000000000000000000000000000000000000000000000001","declared":3145728,"limit":1}]}"#;

#[test]
fn a_policy_is_tried_on_records() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("audit.jsonl"), format!("{RECORD}\n")).unwrap();
    fs::write(
        path("policy.yaml"),
        "version: 1\nmode: enforce\nlimits: { image: 1MiB }\nbudgets: [{ name: b, bytes: 1GiB }]\n",
    )
    .unwrap();
    let (policy, audit) = (path("policy.yaml"), path("audit.jsonl"));
    let arguments = ["policy", "test", "--policy", &policy, "--audit", &audit];
    let (code, shown, told) = outcome(magictl(&arguments).output().unwrap());
    assert_eq!((code, told.as_str()), (0, ""));
    insta::assert_snapshot!(shown, @r"
    1 pull: 1 would be condemned, 0 would go on, 0 could not be judged.

    NAMESPACE  REASON           MODE     RULE  PULLS  BYTES  EXAMPLES
    team       image-too-large  enforce  -         1  3 MiB  registry.example/team/app:1

    Left out, as they hang on other pulls: budgets, denyFor.
    ");
    let (code, shown, _) = outcome(magictl(&[&arguments[..], &["--json"]].concat()).output().unwrap());
    let json: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(
        (code, &json["would_abort"][0]["bytes"], &json["left_out"][0]),
        (0, &3_145_728.into(), &"budgets".into())
    );
}

#[test]
fn a_wrong_policy_is_shown_in_its_lines_before_anybody_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.yaml");
    fs::write(&path, "version: 1\nmode: sometimes\nlimit: {}\n").unwrap();
    let file = path.display().to_string();
    for arguments in [
        &["policy", "push", &file][..],
        &["policy", "diff", &file],
        &["policy", "test", "--policy", &file, "--audit", "/nowhere"],
    ] {
        let (code, _, told) = outcome(magictl(arguments).output().unwrap());
        assert_eq!(code, 1, "{told}");
        assert!(
            told.contains("2 problems") && told.contains("3 |") && told.contains('^'),
            "{told}"
        );
    }
}

#[test]
fn without_a_master_it_is_said_how_to_name_one() {
    for arguments in [
        &["policy", "status"][..],
        &["audit", "tail"],
        &["audit", "query"],
        &["master", "status"],
        &["switch", "on"],
    ] {
        let (code, _, told) = outcome(magictl(arguments).output().unwrap());
        assert_eq!(code, 2, "{told}");
        assert!(told.contains("--master HOST:PORT"), "{told}");
    }
    let (code, _, told) = outcome(
        magictl(&["master", "status", "--master", "localhost:1"])
            .output()
            .unwrap(),
    );
    assert_eq!(code, 1, "{told}");
    assert!(told.contains("magi-master certs --operator"), "{told}");
    let (code, _, told) = outcome(magictl(&["policy", "test", "--policy", "p"]).output().unwrap());
    assert_eq!(code, 2, "{told}");
}
