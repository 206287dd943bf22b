//! Settings that keep pulls from the verifiers.

use super::*;
use crate::{effective, forced_local};

fn forced(version: &str, config: &str) -> Vec<String> {
    let node = Node::with(config);
    let request = node.request(version);
    forced_local(&effective(&request.place, &request.config, request.version).unwrap())
}

#[test]
fn defaults_force_nothing() {
    assert_eq!(forced("2.1.9", DEFAULT_2_1), Vec::<String>::new());
    assert_eq!(
        forced("2.1.9", DEFAULT_1_7),
        Vec::<String>::new(),
        "of version 2, migrated"
    );
    assert_eq!(forced("2.1.9", ""), Vec::<String>::new());
}

#[test]
fn each_setting_is_told() {
    let images = "version = 3\n[plugins.'io.containerd.cri.v1.images']\n";
    for (setting, expected) in [
        ("use_local_image_pull = true", "use_local_image_pull = true"),
        (
            "disable_snapshot_annotations = false",
            "disable_snapshot_annotations = false",
        ),
        ("discard_unpacked_layers = true", "discard_unpacked_layers = true"),
        ("image_pull_with_sync_fs = true", "image_pull_with_sync_fs = true"),
        ("max_concurrent_downloads = 5", "max_concurrent_downloads = 5"),
        (
            "registry.mirrors.\"docker.io\".endpoint = [\"x\"]",
            "registry.mirrors",
        ),
        (
            "registry.configs.\"docker.io\".auth.password = \"x\"",
            "registry.configs",
        ),
        ("registry.auths.\"docker.io\".password = \"x\"", "registry.auths"),
    ] {
        assert_eq!(forced("2.1.9", &format!("{images}{setting}\n")), [expected]);
    }
    assert_eq!(
        forced(
            "2.1.9",
            &format!(
                "{images}max_concurrent_downloads = 3\nregistry.config_path = \"x\"\nregistry.mirrors = {{}}\n"
            )
        ),
        Vec::<String>::new()
    );
}

#[test]
fn version_2_counts_as_it_is_migrated() {
    let cri = "version = 2\n[plugins.'io.containerd.grpc.v1.cri']\nmax_concurrent_downloads = 10\ncontainerd.discard_unpacked_layers = true\n";
    assert_eq!(
        forced("2.1.9", cri),
        ["max_concurrent_downloads = 10"],
        "forgotten without runtimes"
    );
    let cri = format!("{cri}containerd.runtimes.runc.runtime_type = 'x'\n");
    assert_eq!(
        forced("2.1.9", &cri),
        ["discard_unpacked_layers = true", "max_concurrent_downloads = 10"]
    );
    assert_eq!(
        forced("2.1.9", &cri.replace("version = 2", "version = 3")),
        Vec::<String>::new()
    );
}
