//! Every way in which a configuration may be written.

use super::*;

/// What somebody does to a file.
type Edit<'a> = &'a dyn Fn(&str) -> String;

/// The lines that came and went.
fn changed(diff: &str) -> Vec<&str> {
    let lines = diff.lines();
    lines
        .filter(|line| {
            (line.starts_with('+') || line.starts_with('-'))
                && !line.starts_with("+++")
                && !line.starts_with("---")
        })
        .collect()
}

#[test]
fn the_default_of_1_7_changes_in_one_line() {
    let (edited, diff) = there_and_back("1.7.24", DEFAULT_1_7);
    assert_eq!(
        diff,
        "--- a/etc/containerd/config.toml\n\
         +++ b/etc/containerd/config.toml\n\
         @@ -188,7 +188,7 @@\n     stats_collect_period = \"1s\"\n \n   [plugins.\"io.containerd.nri.v1.nri\"]\n\
         -    disable = true\n\
         +    disable = false\n     disable_connections = false\n     plugin_config_path = \"/etc/nri/conf.d\"\n     plugin_path = \"/opt/nri/plugins\"\n"
            .replace("stats_collect_period = \"1s\"", DEFAULT_1_7.lines().nth(187).unwrap().trim())
    );
    assert_eq!(edited.len(), DEFAULT_1_7.len() + 1);
}

#[test]
fn the_default_of_2_1_needs_nothing() {
    let (edited, diff) = there_and_back("2.1.9", DEFAULT_2_1);
    assert_eq!((edited.as_str(), diff.as_str()), (DEFAULT_2_1, ""));
    let node = Node::with(DEFAULT_2_1);
    let plan = node.plan("2.1.9").unwrap();
    assert!(!plan.restart && plan.warnings.is_empty(), "{plan:?}");
    assert_eq!(plan.notes, ["NRI is open to plugins"]);
}

#[test]
fn a_file_of_version_4_keeps_its_comments() {
    // Its own import must exist, or containerd would not start.
    let node = Node::with(V4);
    node.write("/etc/containerd/debug.toml", "[debug]\nlevel = \"debug\"\n");
    let before = node.contents();
    let plan = node.install("2.3.4");
    // The imports cover a drop-in, which is preferred to an edit.
    let drop_in = "/etc/containerd/runtime_90-magi.toml";
    assert_eq!(plan.changes.len(), 1);
    assert_eq!(plan.changes[0].path, Path::new(drop_in));
    assert!(plan.restart);
    assert_eq!(
        node.read(drop_in),
        "version = 4\n\n\
         # Added by `magictl install containerd`; `magictl uninstall containerd` takes it away.\n\
         [plugins.\"io.containerd.nri.v1.nri\"]\ndisable_connections = false\ndisable = false\n"
    );
    assert!(node.plan("2.3.4").unwrap().is_nothing());
    node.uninstall();
    assert_eq!(node.contents(), before);

    let alone = V4.replace("imports = [", "# imports = [");
    let (edited, diff) = there_and_back("2.3.4", &alone);
    assert_eq!(
        changed(&diff),
        [
            "-    disable = true # for now",
            "-    disable_connections = true",
            "+    disable = false # for now",
            "+    disable_connections = false"
        ]
    );
    assert!(edited.contains("# Somebody's choice, to be found again."));
}

#[test]
fn sections_are_found_in_every_form() {
    const NRI: &str = "\"io.containerd.nri.v1.nri\"";
    let cases = [
        (
            "[plugins]\n  [plugins.NRI]\n    socket_path = \"/x.sock\" # ours\n",
            vec!["+    disable = false"],
        ),
        ("[plugins.NRI]\n", vec!["+disable = false"]),
        (
            "[plugins.NRI] # no line end",
            vec![
                "-[plugins.NRI] # no line end",
                "+[plugins.NRI] # no line end",
                "+disable = false",
            ],
        ),
        (
            "[plugins]\nNRI = { disable = true }\n",
            vec!["-NRI = { disable = true }", "+NRI = { disable = false }"],
        ),
        (
            "[plugins]\nNRI = { socket_path = \"/x.sock\" }\n",
            vec![
                "-NRI = { socket_path = \"/x.sock\" }",
                "+NRI = { disable = false, socket_path = \"/x.sock\" }",
            ],
        ),
        (
            "[plugins]\nNRI = {}\n",
            vec!["-NRI = {}", "+NRI = { disable = false }"],
        ),
        (
            "[plugins]\nNRI.socket_path = \"/x.sock\"\n",
            vec!["+NRI.disable = false"],
        ),
        (
            "plugins.NRI.disable = true\n",
            vec!["-plugins.NRI.disable = true", "+plugins.NRI.disable = false"],
        ),
        ("plugins.\"a.b\".c = 1\n", vec!["+plugins.NRI.disable = false"]),
        (
            "plugins = { \"a.b\" = { c = 1 } }\n",
            vec![
                "-plugins = { \"a.b\" = { c = 1 } }",
                "+plugins = { NRI = { disable = false }, \"a.b\" = { c = 1 } }",
            ],
        ),
        (
            "plugins = { NRI = { disable = true } }\n",
            vec![
                "-plugins = { NRI = { disable = true } }",
                "+plugins = { NRI = { disable = false } }",
            ],
        ),
        (
            "['plugins'.'io.containerd.nri.v1.nri']\n'disable' = true\n",
            vec!["-'disable' = true", "+'disable' = false"],
        ),
        (
            "[plugins.NRI.deeper]\nx = 1\n",
            vec![
                "+",
                "+# Added by `magictl install containerd`; `magictl uninstall containerd` takes it away.",
                "+[plugins.NRI]",
                "+disable = false",
            ],
        ),
    ];
    for (body, expected) in cases {
        let config = format!("version = 2 # two\n\n{body}").replace("NRI", NRI);
        let (_, diff) = there_and_back("1.7.24", &config);
        let expected: Vec<String> = expected.iter().map(|line| line.replace("NRI", NRI)).collect();
        assert_eq!(changed(&diff), expected, "{config}");
    }
}

#[test]
fn line_ends_marks_and_missing_line_ends_stay() {
    let (edited, _) = there_and_back("1.7.24", "version = 2\r\n[debug]\r\nlevel = \"info\"\r\n");
    assert_eq!(edited.matches('\n').count(), edited.matches("\r\n").count());
    let (edited, _) = there_and_back("1.7.24", "version = 2\n[debug]\nlevel = \"info\"");
    assert!(
        edited.starts_with("version = 2\n[debug]\nlevel = \"info\"\n\n# Added"),
        "{edited}"
    );
    let (edited, _) = there_and_back(
        "1.7.24",
        "\u{feff}version = 2\n[plugins.\"io.containerd.nri.v1.nri\"]\ndisable = true\n",
    );
    assert_eq!(
        edited,
        "\u{feff}version = 2\n[plugins.\"io.containerd.nri.v1.nri\"]\ndisable = false\n"
    );
    there_and_back(
        "1.7.24",
        "version = 2 # \u{1F433} wäl\n[plugins.\"x.y\"]\n'ö' = \"ü\"\n",
    );
}

#[test]
fn foreign_plugins_stay_as_they_are() {
    let config = "version = 2\n# above\n[plugins.\"io.containerd.grpc.v1.cri\"] # CRI\n  sandbox_image = 'x' # pinned\n\n\n[proxy_plugins.stargz]\n type = \"snapshot\"\n address = \"/s.sock\"\n[stream_processors.\"a.b\"]\n accepts = [ \"x\",\n   \"y\" ]\n# the end\n";
    let (edited, _) = there_and_back("1.7.24", config);
    assert!(edited.starts_with(config));
}

#[test]
fn a_missing_file_is_made_where_it_is_needed() {
    let node = Node::empty();
    let before = node.contents();
    assert!(node.plan("2.1.9").unwrap().is_nothing());
    let plan = node.install("1.7.24");
    assert_eq!(
        plan.changes[0].diff.lines().next(),
        Some("--- /dev/null"),
        "{}",
        plan.changes[0].diff
    );
    assert!(plan.notes.iter().any(|note| note.contains("does not exist")));
    assert!(node.config().starts_with("version = 2\n\n# Added by"));
    assert!(node.plan("1.7.24").unwrap().is_nothing());
    node.uninstall();
    assert_eq!(node.contents(), before);
}

#[test]
fn a_drop_in_is_made_only_where_it_counts() {
    // 1.7 replaces the whole table by that of a later file: a drop-in would lose the socket's path.
    let root = "version = 2\nimports = [\"conf.d/*.toml\"]\n[plugins.\"io.containerd.nri.v1.nri\"]\nsocket_path = \"/x.sock\"\n";
    let node = Node::with(root);
    let plan = node.install("1.7.24");
    assert_eq!(plan.changes[0].path, Path::new(DEFAULT_CONFIG));
    assert_eq!(plan.changes.len(), 1);
    node.uninstall();
    assert_eq!(node.config(), root);

    // Where nobody has the table, a drop-in does.
    let node = Node::with("version = 2\nimports = [\"conf.d/*.toml\"]\n");
    let before = node.contents();
    let plan = node.install("1.7.24");
    assert_eq!(
        plan.changes[0].path,
        Path::new("/etc/containerd/conf.d/90-magi.toml")
    );
    assert_eq!(node.config(), "version = 2\nimports = [\"conf.d/*.toml\"]\n");
    node.uninstall();
    assert_eq!(node.contents(), before, "the folder that was made is still there");

    // Where a later file wins, that one is edited.
    let node = Node::with("version = 2\nimports = [\"conf.d/*.toml\"]\n");
    let last = "/etc/containerd/conf.d/99-last.toml";
    node.write(
        last,
        "version = 2\n[plugins.\"io.containerd.nri.v1.nri\"]\n  disable = true\n",
    );
    let plan = node.install("1.7.24");
    assert_eq!(plan.changes[0].path, Path::new(last));
    node.uninstall();

    // 2.x merges key by key: there the drop-in does, and keeps the path.
    let node = Node::with(
        &root
            .replace("socket", "disable = true\nsocket")
            .replace("version = 2", "version = 3"),
    );
    let plan = node.install("2.1.9");
    assert_eq!(
        plan.changes[0].path,
        Path::new("/etc/containerd/conf.d/90-magi.toml")
    );
    assert!(
        node.read("/etc/containerd/conf.d/90-magi.toml")
            .starts_with("version = 3\n")
    );
}

#[test]
fn edits_of_others_survive_uninstall() {
    let nri = "[plugins.\"io.containerd.nri.v1.nri\"]";
    let edits: &[(&str, Edit<'_>, &str)] = &[
        (
            "version = 2\n",
            &|text| format!("{text}[debug]\nlevel = \"debug\"\n"),
            "version = 2\n[debug]\nlevel = \"debug\"\n",
        ),
        (
            "version = 2\n",
            &|text| format!("{text}socket_path = \"/x.sock\"\n"),
            "version = 2\n\n# Added by `magictl install containerd`; `magictl uninstall containerd` takes it away.\n\
             [plugins.\"io.containerd.nri.v1.nri\"]\nsocket_path = \"/x.sock\"\n",
        ),
        (
            "version = 2\n",
            &|text| text.replace("disable = false", "disable = true"),
            "",
        ),
        (
            &format!("version = 2\n{nri}\n  disable = true # why\n"),
            &|text| {
                text.replace("# why", "# because")
                    .replace("version", "# new\nversion")
            },
            &format!("# new\nversion = 2\n{nri}\n  disable = true # because\n"),
        ),
        (
            &format!("version = 2\n{nri}\n  socket_path = '/x'\n"),
            &|text| text.replace("'/x'", "'/y'"),
            &format!("version = 2\n{nri}\n  socket_path = '/y'\n"),
        ),
    ];
    for (original, edit, expected) in edits {
        let node = Node::with(original);
        node.install("1.7.24");
        let edited = edit(&node.config());
        node.write(DEFAULT_CONFIG, &edited);
        let plan = node.uninstall();
        let expected = if expected.is_empty() { &edited } else { *expected };
        assert_eq!(&node.config(), expected);
        assert!(
            plan.notes.iter().any(|note| note.contains("since")),
            "{original}: {:?}",
            plan.notes
        );
        assert!(!node.real("/var/lib/magi").exists(), "state is left");
    }
}

#[test]
fn what_others_edit_in_between_is_not_lost_by_a_second_install() {
    let node = Node::with("version = 2\n");
    node.install("1.7.24");
    let edited = node.config().replace("disable = false", "disable = true") + "[debug]\nlevel = \"debug\"\n";
    node.write(DEFAULT_CONFIG, &edited);
    node.install("1.7.24");
    assert!(node.config().contains("disable = false") && node.config().contains("debug"));
    node.uninstall();
    assert_eq!(node.config(), edited);
}

#[test]
fn generated_files_are_warned_of() {
    let node = Node::with("# File generated by k3s. DO NOT EDIT.\nversion = 2\n");
    let plan = node.plan("1.7.24").unwrap();
    assert!(plan.warnings[0].contains("is generated"), "{:?}", plan.warnings);
}

#[test]
fn credentials_are_not_shown() {
    let config = "version = 2\n[plugins.\"a.b\".registry.configs.\"r\".auth]\npassword = \"hunter2\"\n";
    let node = Node::with(config);
    let plan = node.plan("1.7.24").unwrap();
    let diff = &plan.changes[0].diff;
    assert!(
        !diff.contains("hunter2") && diff.contains("password = (not shown)"),
        "{diff}"
    );
    node.write(DEFAULT_CONFIG, "version = 2\npassword = \"hunter2\n");
    let error = node.plan("1.7.24").unwrap_err();
    assert!(!error.excerpt().unwrap().contains("hunter2"), "{error}");
    let state = node.real(DEFAULT_STATE);
    node.write(DEFAULT_CONFIG, config);
    node.install("1.7.24");
    assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
    let journal = fs::metadata(state.join("manifest.json")).unwrap();
    assert_eq!(journal.permissions().mode() & 0o777, 0o600);
}
