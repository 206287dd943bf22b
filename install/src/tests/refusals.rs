//! What is not understood is refused, by name, and nothing changes.

use super::*;

fn refused(version: &str, config: &str) -> String {
    let node = Node::with(config);
    let before = node.snapshot();
    let error = node.plan(version).unwrap_err();
    assert_eq!(node.snapshot(), before);
    let error: &dyn std::error::Error = &error;
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

#[test]
fn each_refusal_names_its_reason() {
    const NRI: &str = "[plugins.\"io.containerd.nri.v1.nri\"]\n";
    let cases = [
        ("1.7.24", "version = 3\n", "containerd 1.7.24 reads 2 at most"),
        ("2.2.7", "version = 4\n", "containerd 2.2.7 reads 3 at most"),
        ("2.3.4", "version = 5\n", "which no containerd reads"),
        ("1.7.24", "version = \"2\"\n", "`version` is no whole number"),
        ("1.7.24", "", "declares no version"),
        (
            "1.7.24",
            "version = 1\n[plugins.cri]\n",
            "declares no version, or version 1",
        ),
        ("1.7.24", "version = 2\nplugins = 3\n", "`plugins` is no table"),
        ("1.7.24", "version = 2\n[[plugins]]\n", "`plugins` is no table"),
        (
            "1.7.24",
            "version = 2\n[plugins]\n\"io.containerd.nri.v1.nri\" = 1\n",
            "is no table",
        ),
        ("1.7.24", "version = 2\nversion = 2\n", "line 2: duplicate key"),
        (
            "1.7.24",
            "version = 2\n[plugins.x]\n[plugins.x]\n",
            "line 3: duplicate key",
        ),
        ("1.7.24", "version = 2\n\n[plugins\n", "line 3: "),
        (
            "1.7.24",
            "version = 2\nimports = [\"/gone.toml\"]\n",
            "imports /gone.toml, which does not exist",
        ),
        (
            "1.7.24",
            "version = 2\nimports = [\"/a/[0-9]*.toml\"]\n",
            "only `*` is understood",
        ),
        (
            "1.7.24",
            "version = 2\nimports = \"x\"\n",
            "`imports` is no list of strings",
        ),
        (
            "1.7.24",
            "version = 2\ndisabled_plugins = [\"io.containerd.nri.v1.nri\"]\n",
            "turned it off on purpose",
        ),
        (
            "1.7.24",
            &format!("version = 2\n{NRI}disable = \"yes\"\n"),
            "is no boolean",
        ),
        (
            "1.7.24",
            &format!("version = 2\n{NRI}socket_path = \"nri.sock\"\n"),
            "no usable path",
        ),
        (
            "1.7.24",
            &format!("version = 2\n{NRI}socket_path = \"/{}\"\n", "x".repeat(107)),
            "no usable path",
        ),
        ("2.1.9", "\u{feff}version = 3\n", "byte order mark"),
    ];
    for (version, config, expected) in cases {
        let message = refused(version, config);
        assert!(message.contains(expected), "{config:?}: {message}");
    }
}

#[test]
fn syntax_errors_come_with_line_and_caret() {
    let node = Node::with("version = 2\n[plugins.x]\nlevel == 3\n");
    let error = node.plan("1.7.24").unwrap_err();
    let excerpt = error.excerpt().unwrap();
    assert!(
        excerpt.contains("3 | level == 3\n") && excerpt.contains('^'),
        "{excerpt}"
    );
}

#[test]
fn bytes_that_are_no_text_are_refused() {
    let node = Node::empty();
    node.write(DEFAULT_CONFIG, b"version = 2\n# \xff\n");
    assert!(
        node.plan("1.7.24")
            .unwrap_err()
            .to_string()
            .contains("not UTF-8 from byte 14 on")
    );
    node.write(DEFAULT_CONFIG, vec![b'#'; 2 << 20]);
    assert!(
        node.plan("1.7.24")
            .unwrap_err()
            .to_string()
            .contains("longer than")
    );
}

#[test]
fn files_that_are_more_than_files_are_refused() {
    let node = Node::with("version = 2\n");
    let config = node.real(DEFAULT_CONFIG);
    let other = node.real("/etc/containerd/other");
    fs::hard_link(&config, &other).unwrap();
    assert!(node.plan("1.7.24").unwrap_err().to_string().contains("2 names"));
    fs::remove_file(&config).unwrap();
    std::os::unix::fs::symlink(&other, &config).unwrap();
    assert!(
        node.plan("1.7.24")
            .unwrap_err()
            .to_string()
            .contains("a symbolic link")
    );
    fs::remove_file(&config).unwrap();
    fs::create_dir(&config).unwrap();
    assert!(node.plan("1.7.24").unwrap_err().to_string().contains("a folder"));
    fs::remove_dir(&config).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &config,
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    assert!(
        node.plan("1.7.24")
            .unwrap_err()
            .to_string()
            .contains("a special file")
    );
}

#[test]
fn links_do_not_lead_out_of_the_prefix() {
    let node = Node::empty();
    std::os::unix::fs::symlink("/etc", node.real("/etc")).unwrap();
    assert!(
        node.plan("1.7.24")
            .unwrap_err()
            .to_string()
            .contains("leads out of")
    );
}

#[test]
fn imports_of_a_higher_version_are_refused() {
    let node = Node::with("version = 2\nimports = [\"a.toml\"]\n");
    node.write(
        "/etc/containerd/a.toml",
        "version = 3\nimports = [\"config.toml\"]\n",
    );
    assert!(
        node.plan("2.1.9")
            .unwrap_err()
            .to_string()
            .contains("more than the 2")
    );
    node.write(
        "/etc/containerd/a.toml",
        "imports = [\"config.toml\", \"a.toml\"]\n",
    );
    assert!(node.plan("2.1.9").unwrap().is_nothing(), "a circle ends");
}

#[test]
fn a_pattern_that_reads_half_written_files_is_refused() {
    let node = Node::with("version = 2\nimports = [\"conf.d/*\"]\n[plugins.\"io.containerd.nri.v1.nri\"]\n");
    node.install("1.7.24");
    let node = Node::with("version = 2\n");
    node.write(DEFAULT_CONFIG, "version = 2\nimports = [\"*\"]\n");
    assert!(
        node.plan("1.7.24")
            .unwrap_err()
            .to_string()
            .contains("exists for a moment")
    );
}

#[test]
fn what_changed_after_the_plan_was_shown_is_not_touched() {
    let node = Node::with("version = 2\n");
    let plan = node.plan("1.7.24").unwrap();
    node.write(DEFAULT_CONFIG, "version = 2\n# meanwhile\n");
    assert!(
        plan.apply()
            .unwrap_err()
            .to_string()
            .contains("changed since the plan")
    );
    assert_eq!(node.config(), "version = 2\n# meanwhile\n");

    let (one, two) = (node.plan("1.7.24").unwrap(), node.plan("1.7.24").unwrap());
    one.apply().unwrap();
    assert!(two.apply().is_err());
    node.uninstall();
    assert_eq!(node.config(), "version = 2\n# meanwhile\n");
}

#[test]
fn an_edit_that_cannot_be_taken_back_safely_is_refused() {
    let node = Node::with("version = 2\n");
    node.install("1.7.24");
    node.write(DEFAULT_CONFIG, node.config() + "[broken\n");
    assert!(node.plan_undo().unwrap_err().excerpt().is_some());
    // Two statements on one line of an inline table, where a line cannot be taken out.
    node.write(
        DEFAULT_CONFIG,
        "version = 2\nplugins = { \"io.containerd.nri.v1.nri\" = { x = 1, disable = false } }\n",
    );
    let error = node.plan_undo().unwrap_err();
    assert!(error.to_string().contains("cannot edit"), "{error}");
    // By hand, then.
    node.write(DEFAULT_CONFIG, "version = 2\n");
    node.uninstall();
    assert!(!node.real("/var/lib/magi").exists());
}

#[test]
fn a_damaged_journal_is_not_overwritten() {
    let node = Node::with("version = 2\n");
    for journal in ["", "{", "{\"format\":1}", "[]"] {
        node.write("/var/lib/magi/install/manifest.json", journal);
        assert!(
            node.plan("1.7.24")
                .unwrap_err()
                .to_string()
                .contains("cannot be understood"),
            "{journal}"
        );
        assert!(node.plan_undo().is_err());
    }
}

#[test]
fn a_program_that_hangs_is_not_waited_for() {
    let node = Node::empty();
    for (name, script) in [
        ("silent", "while :; do :; done"),
        ("closed", "exec >&-; while :; do :; done"),
        ("endless", "while :; do echo x; done"),
    ] {
        node.write(name_of(name), format!("#!/bin/sh\n{script}\n"));
        let path = node.real(name_of(name));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let patience = std::time::Duration::from_millis(200);
        let start = std::time::Instant::now();
        assert!(
            crate::Version::of_binary_within(&path, patience).is_err(),
            "{name}"
        );
        assert!(start.elapsed() < 20 * patience, "{name}");
    }
}

fn name_of(name: &str) -> String {
    format!("/bin/{name}")
}

#[test]
fn versions_are_read_as_containerd_prints_them() {
    for (text, expected) in [
        (
            "containerd github.com/containerd/containerd 1.7.24~ds1 1.7.24~ds1-6+deb13u1",
            "1.7.24",
        ),
        (
            "containerd github.com/containerd/containerd/v2 2.1.9+unknown \n",
            "2.1.9",
        ),
        ("containerd containerd.io 1.7.27 05044ec0a9a7", "1.7.27"),
        ("containerd github.com/k3s-io/containerd v2.1.5-k3s1 abc", "2.1.5"),
        ("v2.3", "2.3.0"),
        ("2.10.0-rc.1", "2.10.0"),
    ] {
        let version: crate::Version = text.parse().unwrap();
        assert_eq!(version.to_string(), expected);
    }
    for text in [
        "",
        "containerd",
        "1",
        "a b c",
        "x y 1.x z",
        "1.6.20",
        "3.0.0",
        "2.99999999999.0",
    ] {
        assert!(text.parse::<crate::Version>().is_err(), "{text}");
    }
}
