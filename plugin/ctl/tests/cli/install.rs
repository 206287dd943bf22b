//! `magictl install` and `uninstall` in a folder that stands for a node.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;

use crate::run::{magictl, on_terminal, outcome};

const CONFIG: &str = "# kept\nversion = 2\n[plugins.\"io.containerd.nri.v1.nri\"]\n  disable = true\n";

struct Node(TempDir);

impl Node {
    fn new() -> Self {
        let node = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(node.0.path().join("etc/containerd")).unwrap();
        fs::write(node.config(), CONFIG).unwrap();
        node
    }

    fn config(&self) -> PathBuf {
        self.0.path().join("etc/containerd/config.toml")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.config()).unwrap()
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = magictl(arguments);
        command.arg("--root").arg(self.0.path());
        command
    }

    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        outcome(self.command(arguments).output().unwrap())
    }
}

const INSTALL: &[&str] = &["install", "containerd", "--containerd-version", "1.7.24"];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [INSTALL, more].concat()
}

#[test]
fn it_shows_and_does_and_undoes() {
    let node = Node::new();
    let (code, out, err) = node.run(&with(&["--dry-run"]));
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("-  disable = true\n+  disable = false\n"), "{out}");
    assert!(out.contains("would have to be restarted"), "{out}");
    assert_eq!(node.text(), CONFIG);

    let (code, out, _) = node.run(&with(&["--yes"]));
    assert!(code == 0 && out.contains("Restart containerd"), "{out}");
    assert!(node.text().contains("disable = false"));
    let (code, out, _) = node.run(&with(&["--yes"]));
    assert!(code == 0 && out.ends_with("Nothing to do.\n"), "{out}");

    let (code, out, _) = node.run(&["uninstall", "containerd", "--yes"]);
    assert!(code == 0 && out.contains("+  disable = true"), "{out}");
    assert_eq!(node.text(), CONFIG);
    assert!(!node.0.path().join("var").exists());
    let (code, out, _) = node.run(&["uninstall", "containerd", "--yes"]);
    assert!(code == 0 && out.ends_with("Nothing to do.\n"), "{out}");
}

#[test]
fn without_a_terminal_somebody_must_say_yes() {
    let node = Node::new();
    for arguments in [with(&[]), with(&["--json"]), vec!["uninstall", "containerd"]] {
        let (code, out, err) = node.run(&arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{err}");
        assert!(err.contains("--yes") && err.contains("--dry-run"), "{err}");
    }
    assert_eq!(node.text(), CONFIG);
}

#[test]
fn on_a_terminal_it_asks() {
    let node = Node::new();
    for (reply, code, changed) in [("\n", 1, false), ("n\n", 1, false), ("y\n", 0, true)] {
        let (exit, shown) = on_terminal(node.command(INSTALL), reply);
        assert!(shown.contains("Go on? [y/N]"), "{shown}");
        assert_eq!((exit, node.text() != CONFIG), (code, changed), "{shown}");
    }
}

#[test]
fn json_tells_plan_and_result() {
    let node = Node::new();
    let json = |arguments: &[&str]| -> Value {
        let (code, out, err) = node.run(arguments);
        assert_eq!((code, err.as_str()), (0, ""));
        serde_json::from_str(&out).unwrap()
    };
    let planned = json(&with(&["--json", "--diff"]));
    assert_eq!(planned["result"], "planned");
    assert_eq!(planned["containerd"], "1.7.24");
    assert_eq!(planned["changes"][0]["path"], "/etc/containerd/config.toml");
    assert_eq!(planned["changes"][0]["action"], "edit");
    assert_eq!(planned["restart"], true);
    assert_eq!(json(&with(&["--json", "--yes"]))["result"], "done");
    let again = json(&with(&["--json", "--yes"]));
    assert_eq!(
        (&again["result"], &again["restart"]),
        (&"nothing-to-do".into(), &false.into())
    );
    assert_eq!(
        json(&["uninstall", "containerd", "--json", "--yes"])["changes"][0]["action"],
        "restore"
    );
}

#[test]
fn mistakes_come_with_line_and_caret() {
    let node = Node::new();
    fs::write(node.config(), "version = 2\n[plugins\n").unwrap();
    let (code, out, err) = node.run(&with(&["--yes"]));
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(
        err.contains("2 | [plugins\n") && err.contains("config.toml, line 2"),
        "{err}"
    );
}

#[test]
fn the_version_is_asked_of_the_binary_itself() {
    let node = Node::new();
    let (code, _, err) = node.run(&["install", "containerd", "--yes"]);
    assert!(code == 2 && err.contains("--containerd-version"), "{err}");
    // Copied by another process: a file that this one still had open for writing could not be executed.
    let (text, binary) = (node.0.path().join("text"), node.0.path().join("containerd"));
    fs::write(
        &text,
        "#!/bin/sh\necho \"containerd example.com/containerd v1.7.99-$1 abc\"\n",
    )
    .unwrap();
    let copied = std::process::Command::new("cp").args([&text, &binary]).status();
    assert!(copied.unwrap().success());
    let run = |binary: &std::path::Path| {
        node.run(&[
            "install",
            "containerd",
            "--dry-run",
            "--containerd-binary",
            binary.to_str().unwrap(),
        ])
    };
    let (code, _, err) = run(&binary);
    assert!(code == 1 && err.contains("cannot run"), "{err}");
    fs::set_permissions(&binary, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (code, out, err) = run(&binary);
    assert!(code == 0 && out.starts_with("containerd 1.7.99\n"), "{out}{err}");
    let (code, _, err) = run("/bin/true".as_ref());
    assert!(code == 1 && err.contains("names no version"), "{err}");
}

#[test]
fn the_verifier_is_named_or_beside_magictl() {
    let node = Node::new();
    fs::write(node.config(), "version = 3\n").unwrap();
    let program = node.0.path().join("program");
    fs::write(&program, "#!/bin/sh\n").unwrap();
    let base = ["install", "containerd", "--containerd-version", "2.1.9", "--yes"];
    let (code, out, err) = node.run(&[&base[..], &["--verifier-binary", program.to_str().unwrap()]].concat());
    assert!(code == 0 && out.contains("need not be restarted"), "{out}{err}");
    let installed = node
        .0
        .path()
        .join("opt/containerd/image-verifier/bin/magi-verify");
    assert_eq!(fs::read(&installed).unwrap(), b"#!/bin/sh\n");
    let (code, _, err) = node.run(&[&base[..], &["--verifier-binary", "/gone"]].concat());
    assert!(code == 1 && err.contains("/gone does not exist"), "{err}");
    let (code, out, _) = node.run(&[&base[..], &["--without", "verifier", "--without", "nri"]].concat());
    assert!(code == 0 && out.contains("Nothing to do."), "{out}");
}

#[test]
fn control_characters_of_a_file_stay_harmless() {
    let node = Node::new();
    fs::write(node.config(), format!("{CONFIG}# \u{202e}\u{9b}31m\r\n")).unwrap();
    let (_, out, _) = node.run(&with(&["--dry-run"]));
    assert!(
        !out.contains('\u{202e}') && !out.contains('\u{9b}') && !out.contains('\r'),
        "{out:?}"
    );
}
