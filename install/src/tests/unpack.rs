//! magi-unpack's tables in containerd's configuration.

use super::*;
use crate::Action;

const PROGRAM: &str = "/usr/libexec/magi/magi-unpack";

fn node_and_request(config: Option<&str>, version: &str) -> (Node, Request) {
    let node = match config {
        Some(config) => Node::with(config),
        None => Node::empty(),
    };
    node.write(PROGRAM, "#!/bin/sh\nexit 0\n");
    fs::set_permissions(node.real(PROGRAM), fs::Permissions::from_mode(0o755)).unwrap();
    let mut request = node.request(version);
    request.unpack = Some(PROGRAM.into());
    (node, request)
}

/// What the configuration says of one of the processors.
fn processor(node: &Node, version: &str, id: &str) -> toml::Value {
    let place = Place::new(node.folder.path());
    let effective = crate::effective(&place, Path::new(DEFAULT_CONFIG), version.parse().unwrap()).unwrap();
    effective.values["stream_processors"][id].clone()
}

#[test]
fn its_tables_come_and_go_without_a_trace_in_every_version() {
    let v4 = V4.replace("imports = [", "# imports = [");
    let without_end = format!("{}\n# no line end", DEFAULT_2_1.trim_end());
    for (version, config) in [
        ("1.7.24", Some(DEFAULT_1_7)),
        ("1.7.24", Some("version = 2\n")),
        ("2.1.9", Some(DEFAULT_2_1)),
        ("2.1.9", Some(without_end.as_str())),
        ("2.1.9", Some("version = 3\r\nroot = \"/r\"\r\n")),
        ("2.3.4", Some(v4.as_str())),
        ("2.1.9", None),
    ] {
        let (node, request) = node_and_request(config, version);
        let before = node.contents();
        let plan = plan_install(&request).unwrap();
        assert!(plan.restart);
        assert!(
            plan.changes[0]
                .diff
                .contains("+[stream_processors.\"magi.unpack.gzip\"]")
        );
        plan.apply().unwrap();
        for (id, accepts) in [
            ("magi.unpack.gzip", "application/vnd.oci.image.layer.v1.tar+gzip"),
            (
                "magi.unpack.gzip",
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
            ),
            ("magi.unpack.zstd", "application/vnd.oci.image.layer.v1.tar+zstd"),
            (
                "magi.unpack.zstd",
                "application/vnd.docker.image.rootfs.diff.tar.zstd",
            ),
        ] {
            let found = processor(&node, version, id);
            let all = found["accepts"].as_array().unwrap();
            assert!(all.iter().any(|one| one.as_str() == Some(accepts)), "{found:?}");
            assert_eq!(
                found["returns"].as_str(),
                Some("application/vnd.oci.image.layer.v1.tar")
            );
            assert_eq!(found["path"].as_str(), Some(PROGRAM));
        }
        let installed = node.snapshot();
        let again = plan_install(&request).unwrap();
        assert!(again.is_nothing(), "{:?}", again.changes);
        again.apply().unwrap();
        assert_eq!(node.snapshot(), installed);
        node.uninstall();
        assert_eq!(node.contents(), before, "{version}: {config:?}");
    }
}

#[test]
fn a_drop_in_is_preferred_and_holds_both() {
    let root = "version = 3\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n[plugins.\"io.containerd.nri.v1.nri\"]\ndisable = true\n";
    let (node, request) = node_and_request(Some(root), "2.1.9");
    let before = node.contents();
    let plan = plan_install(&request).unwrap();
    let drop_in = Path::new("/etc/containerd/conf.d/90-magi.toml");
    assert_eq!(
        plan.changes
            .iter()
            .map(|change| change.path.as_path())
            .collect::<Vec<_>>(),
        [drop_in]
    );
    plan.apply().unwrap();
    assert_eq!(node.config(), root);
    let text = node.read(drop_in);
    assert!(
        text.contains("disable = false") && text.contains("magi.unpack.zstd"),
        "{text}"
    );
    assert!(plan_install(&request).unwrap().is_nothing());
    node.uninstall();
    assert_eq!(node.contents(), before);
}

#[test]
fn nobody_gets_them_unasked() {
    let node = Node::with(DEFAULT_1_7);
    node.install("1.7.24");
    assert!(!node.config().contains("magi.unpack"));
}

#[test]
fn they_can_be_asked_for_later() {
    let (node, request) = node_and_request(Some(DEFAULT_1_7), "1.7.24");
    let before = node.contents();
    node.install("1.7.24");
    plan_install(&request).unwrap().apply().unwrap();
    // Not asking for it once more does not take it away: that is what uninstall is for.
    assert!(node.plan("1.7.24").unwrap().is_nothing());
    assert!(node.config().contains("magi.unpack.zstd"));
    node.uninstall();
    assert_eq!(node.contents(), before);
}

#[test]
fn from_a_file_that_was_edited_since_only_they_are_taken() {
    let (node, request) = node_and_request(Some(DEFAULT_1_7), "1.7.24");
    plan_install(&request).unwrap().apply().unwrap();
    let theirs = "\n[stream_processors.\"theirs\"]\naccepts = [\"x\"]\nreturns = \"y\"\npath = \"/z\"\n";
    node.write(DEFAULT_CONFIG, format!("# theirs\n{}{theirs}", node.config()));
    let plan = node.uninstall();
    assert_eq!(plan.changes[0].action, Action::Edit);
    assert_eq!(node.config(), format!("# theirs\n{DEFAULT_1_7}{theirs}"));

    let (node, request) = node_and_request(Some(DEFAULT_1_7), "1.7.24");
    plan_install(&request).unwrap().apply().unwrap();
    node.write(DEFAULT_CONFIG, node.config().replace(PROGRAM, "/elsewhere"));
    let plan = node.uninstall();
    assert!(
        plan.notes.iter().any(|note| note.contains("left as they are")),
        "{:?}",
        plan.notes
    );
    assert!(node.config().contains("/elsewhere"));
}

#[test]
fn what_would_break_pulls_is_refused() {
    let (node, mut request) = node_and_request(Some(DEFAULT_1_7), "1.7.24");
    let refused = |request: &Request| plan_install(request).unwrap_err().to_string();
    fs::set_permissions(node.real(PROGRAM), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(refused(&request).contains("would fail every pull"));
    node.write("/empty", "");
    fs::set_permissions(node.real("/empty"), fs::Permissions::from_mode(0o755)).unwrap();
    for (program, why) in [
        ("/empty", "would fail every pull"),
        ("/nowhere", "does not exist"),
        ("relative", "absolute"),
    ] {
        request.unpack = Some(program.into());
        let said = refused(&request);
        assert!(said.contains(why), "{said}");
    }
    for (table, why) in [
        (
            "[stream_processors.\"x\"]\naccepts = [\"application/vnd.oci.image.layer.v1.tar+gzip\"]\n",
            "accepts application/vnd.oci.image.layer.v1.tar+gzip already",
        ),
        (
            "[stream_processors.\"magi.unpack.gzip\"]\naccepts = [\"x\"]\n",
            "says something else",
        ),
    ] {
        let (_node, request) = node_and_request(Some(&format!("version = 3\n{table}")), "2.1.9");
        let said = refused(&request);
        assert!(said.contains(why), "{said}");
    }
    let inline =
        "version = 3\nstream_processors = { x = { accepts = [], returns = \"y\", path = \"/z\" } }\n";
    let (_node, request) = node_and_request(Some(inline), "2.1.9");
    let error = plan_install(&request).unwrap_err();
    assert!(
        std::error::Error::source(&error)
            .unwrap()
            .to_string()
            .contains("cannot be added to")
    );
}
