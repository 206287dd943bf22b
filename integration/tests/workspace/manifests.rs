//! The manifests: every version stands once, in the workspace's own, and every crate has the workspace's lints.

use std::collections::BTreeSet;

use toml::{Table, Value};

use crate::files::File;
use crate::graph::root;

/// Keys of `[package]` that a crate inherits.
const INHERITED: &[&str] = &["version", "edition", "rust-version", "license", "publish"];
/// A crate of generated code, which is not ours to shape.
const GENERATED: &str = "plugin/wire/Cargo.toml";
const KINDS: &[&str] = &["dependencies", "dev-dependencies", "build-dependencies"];

/// Complains about what a crate says itself and should inherit.
pub(crate) fn of_a_crate(file: &File) -> Vec<String> {
    let manifest = match file.text.parse::<Table>() {
        Ok(manifest) => manifest,
        Err(error) => return vec![format!("{}: {error}", file.path)],
    };
    let mut complaints = Vec::new();
    let inherits = |value: Option<&Value>| {
        value
            .and_then(|value| value.get("workspace"))
            .and_then(Value::as_bool)
            == Some(true)
    };
    for key in INHERITED {
        if !inherits(manifest.get("package").and_then(|package| package.get(key))) {
            complaints.push(format!("{}: {key} is not the workspace's", file.path));
        }
    }
    if !inherits(manifest.get("lints")) && file.path != GENERATED {
        complaints.push(format!("{}: the lints are not the workspace's", file.path));
    }
    for (name, dependency) in dependencies(&manifest) {
        if !inherits(Some(dependency)) {
            complaints.push(format!("{}: {name} has a version of its own", file.path));
        }
    }
    complaints
}

/// Every dependency of a crate's manifest, those for some systems only included.
fn dependencies(manifest: &Table) -> Vec<(&str, &Value)> {
    let systems = manifest
        .get("target")
        .and_then(Value::as_table)
        .into_iter()
        .flatten();
    let tables = systems
        .filter_map(|(_, system)| system.as_table())
        .chain([manifest]);
    tables
        .flat_map(|table| KINDS.iter().filter_map(|kind| table.get(*kind)))
        .filter_map(Value::as_table)
        .flatten()
        .map(|(name, dependency)| (name.as_str(), dependency))
        .collect()
}

/// Complains about lines of the workspace's manifest that no crate takes, and about versions that are none.
pub(crate) fn of_the_workspace(workspace: &File, crates: &[File]) -> Vec<String> {
    let parse = |file: &File| file.text.parse::<Table>().unwrap_or_default();
    let manifest = parse(workspace);
    let offered = manifest
        .get("workspace")
        .and_then(|workspace| workspace.get("dependencies"))
        .and_then(Value::as_table);
    let Some(offered) = offered else {
        return vec![format!("{}: offers no dependencies", workspace.path)];
    };
    let crates: Vec<Table> = crates.iter().map(parse).collect();
    let taken: BTreeSet<&str> = crates
        .iter()
        .flat_map(dependencies)
        .map(|(name, _)| name)
        .collect();
    let mut complaints = Vec::new();
    for (name, dependency) in offered {
        if !taken.contains(name.as_str()) {
            complaints.push(format!("{}: no crate takes {name}", workspace.path));
        }
        let version = dependency
            .as_str()
            .or_else(|| dependency.get("version").and_then(Value::as_str));
        let is_ours = dependency.get("path").is_some();
        if !is_ours && version.is_none_or(|version| version.contains('*')) {
            complaints.push(format!("{}: {name} may have any version", workspace.path));
        }
    }
    complaints
}

fn crates() -> Vec<File> {
    let graph = crate::graph();
    graph
        .ours()
        .map(|(_, package)| {
            let text = std::fs::read_to_string(&package.manifest).expect("a manifest that cargo named");
            let path = package.manifest.strip_prefix(root()).unwrap_or(&package.manifest);
            File::new(&path.display().to_string(), &text)
        })
        .collect()
}

#[test]
fn crates_inherit_from_the_workspace() {
    crate::nothing_to_complain(crates().iter().flat_map(of_a_crate).collect());
}

#[test]
fn the_workspace_offers_what_is_taken() {
    let text = std::fs::read_to_string(root().join("Cargo.toml")).expect("the workspace's manifest");
    crate::nothing_to_complain(of_the_workspace(&File::new("Cargo.toml", &text), &crates()));
}

const GOOD: &str = "[package]\nname = \"x\"\nversion.workspace = true\nedition.workspace = true\n\
                    rust-version.workspace = true\nlicense.workspace = true\npublish.workspace = true\n\
                    [lints]\nworkspace = true\n[dependencies]\na.workspace = true\n";

#[test]
fn a_version_of_its_own_is_seen() {
    let complaints = |text: &str| of_a_crate(&File::new("x/Cargo.toml", text)).join("; ");
    assert_eq!(complaints(GOOD), "");
    for (addition, wanted) in [
        ("b = \"1\"\n", "x/Cargo.toml: b has a version of its own"),
        (
            "[target.'cfg(unix)'.dev-dependencies]\nb = { version = \"1\", features = [] }\n",
            "x/Cargo.toml: b has a version of its own",
        ),
        (
            "[build-dependencies]\nb = { path = \"../b\" }\n",
            "x/Cargo.toml: b has a version of its own",
        ),
    ] {
        assert_eq!(complaints(&format!("{GOOD}{addition}")), wanted);
    }
    let own = GOOD.replace("rust-version.workspace = true", "rust-version = \"1.99\"");
    assert_eq!(
        complaints(&own),
        "x/Cargo.toml: rust-version is not the workspace's"
    );
    let free = GOOD.replace("[lints]\nworkspace = true\n", "");
    assert_eq!(
        complaints(&free),
        "x/Cargo.toml: the lints are not the workspace's"
    );
    assert!(complaints("[package").starts_with("x/Cargo.toml: "));
}

#[test]
fn offers_that_nobody_takes_are_seen() {
    let workspace = File::new(
        "Cargo.toml",
        "[workspace.dependencies]\na = \"1\"\nb = { version = \"*\" }\nc = { path = \"c\" }\n",
    );
    let member = File::new(
        "x/Cargo.toml",
        "[dependencies]\na.workspace = true\nc.workspace = true\n",
    );
    assert_eq!(
        of_the_workspace(&workspace, &[member]),
        [
            "Cargo.toml: no crate takes b",
            "Cargo.toml: b may have any version"
        ]
    );
    assert_eq!(of_the_workspace(&File::new("Cargo.toml", ""), &[]).len(), 1);
}
