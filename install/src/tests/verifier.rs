//! The verifier's program in containerd's folder.

use super::*;
use crate::Action;

fn node_and_request(config: &str) -> (Node, Request) {
    let node = Node::with(config);
    node.write("/src/magi-verify", "#!/bin/sh\nexit 0\n");
    let mut request = node.request("2.1.9");
    request.verifier = Some(node.real("/src/magi-verify"));
    (node, request)
}

#[test]
fn it_comes_and_goes_without_a_trace() {
    let (node, request) = node_and_request(DEFAULT_2_1);
    let before = node.contents();
    let plan = plan_install(&request).unwrap();
    assert!(!plan.restart, "the folder is read at each pull");
    plan.apply().unwrap();
    let program = node.real(format!("{BIN_DIR}/magi-verify"));
    assert_eq!(fs::read(&program).unwrap(), b"#!/bin/sh\nexit 0\n");
    assert_eq!(
        fs::metadata(&program).unwrap().permissions().mode() & 0o7777,
        0o755
    );
    assert_eq!(fs::read_dir(node.real(BIN_DIR)).unwrap().count(), 1);
    assert_eq!(
        fs::read_dir(node.real("/opt/containerd/image-verifier"))
            .unwrap()
            .count(),
        1
    );

    let installed = node.snapshot();
    let again = plan_install(&request).unwrap();
    assert!(again.is_nothing());
    again.apply().unwrap();
    assert_eq!(node.snapshot(), installed);

    let undo = node.uninstall();
    assert!(!undo.restart);
    assert_eq!(node.contents(), before);
    assert!(node.plan_undo().unwrap().is_nothing());
}

#[test]
fn a_newer_one_replaces_the_older() {
    let (node, request) = node_and_request(DEFAULT_2_1);
    plan_install(&request).unwrap().apply().unwrap();
    node.write("/src/magi-verify", "#!/bin/sh\nexit 1\n");
    let plan = plan_install(&request).unwrap();
    assert_eq!(plan.changes[0].action, Action::Edit);
    plan.apply().unwrap();
    assert_eq!(node.read(format!("{BIN_DIR}/magi-verify")), "#!/bin/sh\nexit 1\n");
    node.uninstall();
    assert!(!node.real("/opt").exists() && !node.real("/var").exists());
}

#[test]
fn others_stay_and_are_warned_of() {
    let (node, request) = node_and_request(
        "version = 3\n[plugins.'io.containerd.image-verifier.v1.bindir']\nbin_dir = '/v'\nmax_verifiers = 1\n",
    );
    node.write("/v/README", "hello");
    fs::set_permissions(node.real("/v"), fs::Permissions::from_mode(0o777)).unwrap();
    let before = node.contents();
    let plan = plan_install(&request).unwrap();
    let warnings = plan.warnings.join("\n");
    for expected in [
        "/v/README cannot be executed",
        "written by others",
        "containerd will not call it",
    ] {
        assert!(warnings.contains(expected), "{warnings}");
    }
    plan.apply().unwrap();
    assert_eq!(node.read("/v/README"), "hello");
    assert!(node.real("/v/magi-verify").exists());
    node.uninstall();
    assert_eq!(node.contents(), before);
}

#[test]
fn local_pulls_are_warned_of() {
    let (_node, request) = node_and_request(
        "version = 3\n[plugins.'io.containerd.cri.v1.images']\nuse_local_image_pull = true\n",
    );
    let plan = plan_install(&request).unwrap();
    assert!(
        plan.warnings[0].contains("use_local_image_pull = true"),
        "{:?}",
        plan.warnings
    );
}

#[test]
fn what_would_block_every_pull_is_refused() {
    let (node, mut request) = node_and_request(DEFAULT_2_1);
    for bytes in [
        &b""[..],
        b"text",
        b"#!/gone/interpreter\n",
        b"\x7fELF",
        b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xff\xff",
    ] {
        node.write("/src/magi-verify", bytes);
        let error = plan_install(&request).unwrap_err();
        assert!(
            error.to_string().contains("would block every pull"),
            "{bytes:?}: {error}"
        );
    }
    request.verifier = Some(node.real("/src/gone"));
    assert!(
        plan_install(&request)
            .unwrap_err()
            .to_string()
            .contains("does not exist")
    );
    request.verifier = Some("/proc/self/exe".into());
    assert_eq!(plan_install(&request).unwrap().changes.len(), 1);
}

#[test]
fn a_foreign_program_of_that_name_is_left_alone() {
    let (node, request) = node_and_request(DEFAULT_2_1);
    let path = format!("{BIN_DIR}/magi-verify");
    node.write(&path, "somebody's");
    assert!(
        plan_install(&request)
            .unwrap_err()
            .to_string()
            .contains("not put there by magictl")
    );
    fs::remove_file(node.real(&path)).unwrap();
    plan_install(&request).unwrap().apply().unwrap();
    node.write(&path, "somebody's");
    let undo = node.uninstall();
    assert!(undo.notes[0].contains("is left there"), "{:?}", undo.notes);
    assert_eq!(node.read(&path), "somebody's");
    assert!(!node.real("/var/lib/magi").exists());
}

#[test]
fn containerd_without_verifiers_gets_none() {
    let (node, mut request) = node_and_request("version = 2\n");
    for version in ["1.7.24", "2.0.11"] {
        request.version = version.parse().unwrap();
        request.nri = false;
        let plan = plan_install(&request).unwrap();
        assert!(plan.is_nothing() && plan.notes[0].contains("calls no image verifiers"));
    }
    node.write(
        DEFAULT_CONFIG,
        "version = 3\ndisabled_plugins = [\"io.containerd.image-verifier.v1.bindir\"]\n",
    );
    request.version = "2.1.9".parse().unwrap();
    assert!(
        plan_install(&request)
            .unwrap_err()
            .to_string()
            .contains("--without verifier")
    );
}
