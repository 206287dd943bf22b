//! Which third-party crates may come in: licences, unwanted crates, duplicates, origins, and the compiler they need.
//!
//! The lists are those of deny.toml, read here so that they stand once.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use cargo_metadata::semver::{Version, VersionReq};
use serde::Deserialize;
use spdx::{Expression, ParseMode};

use crate::graph::{Graph, Package};

/// The parts of deny.toml that are enforced here. A key that is not known here is refused, so that nothing stands in
/// the file that only cargo-deny would check.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Deny {
    pub(crate) graph: Systems,
    pub(crate) licenses: Licences,
    pub(crate) bans: Bans,
    pub(crate) sources: Sources,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Systems {
    pub(crate) targets: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Licences {
    pub(crate) allow: Vec<String>,
    unused_allowed_license: Always,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Bans {
    pub(crate) deny: Vec<Entry>,
    pub(crate) skip: Vec<Entry>,
    multiple_versions: Always,
    multiple_versions_include_dev: bool,
    wildcards: Always,
    allow_wildcard_paths: bool,
    workspace_dependencies: WorkspaceDependencies,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WorkspaceDependencies {
    duplicates: Always,
    unused: Always,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Sources {
    unknown_registry: Always,
    unknown_git: Always,
}

/// `name` or `name:requirement`, and why.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    #[serde(rename = "crate")]
    pub(crate) spec: String,
    pub(crate) reason: String,
}

/// The one level that is enforced here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Always {
    Deny,
}

impl Deny {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let deny: Self = toml::from_str(text).context("read deny.toml")?;
        // Named, so that the compiler knows that they were looked at: each has one legal value.
        let Licences {
            unused_allowed_license: Always::Deny,
            ..
        } = deny.licenses;
        let Bans {
            multiple_versions: Always::Deny,
            wildcards: Always::Deny,
            workspace_dependencies:
                WorkspaceDependencies {
                    duplicates: Always::Deny,
                    unused: Always::Deny,
                },
            ..
        } = deny.bans;
        let Sources {
            unknown_registry: Always::Deny,
            unknown_git: Always::Deny,
        } = deny.sources;
        if !deny.bans.multiple_versions_include_dev || !deny.bans.allow_wildcard_paths {
            bail!("deny.toml is laxer, or stricter, than this test");
        }
        let silent = deny
            .bans
            .deny
            .iter()
            .chain(&deny.bans.skip)
            .find(|entry| entry.reason.is_empty());
        if let Some(entry) = silent {
            bail!("deny.toml gives no reason for {}", entry.spec);
        }
        Ok(deny)
    }
}

impl Entry {
    fn covers(&self, package: &Package) -> bool {
        let (name, requirement) = self.spec.split_once(':').unwrap_or((&self.spec, "*"));
        name == package.name
            && VersionReq::parse(requirement).is_ok_and(|wanted| wanted.matches(&package.version))
    }
}

/// Complains about licences that are not allowed, and about allowed ones that nothing needs.
pub(crate) fn licences(graph: &Graph, allowed: &[String]) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut needed = BTreeSet::new();
    for package in graph.packages.values() {
        let Some(text) = &package.licence else {
            complaints.push(format!("{} {} names no licence", package.name, package.version));
            continue;
        };
        match satisfied(text, allowed) {
            Err(error) => complaints.push(format!("{}: licence {text:?}: {error}", package.name)),
            Ok(false) => complaints.push(format!("{}: licence {text:?} is not allowed", package.name)),
            Ok(true) => needed.extend(allowed.iter().filter(|one| {
                let without: Vec<String> = allowed.iter().filter(|other| other != one).cloned().collect();
                !satisfied(text, &without).unwrap_or(false)
            })),
        }
    }
    complaints.extend(
        allowed
            .iter()
            .filter(|one| !needed.contains(one))
            .map(|one| format!("licence {one} is allowed, and nothing needs it")),
    );
    complaints
}

fn satisfied(text: &str, allowed: &[String]) -> Result<bool> {
    // Old manifests write a slash for "or".
    let expression =
        Expression::parse_mode(text, ParseMode::LAX).map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(expression.evaluate(|required| allowed.contains(&required.to_string())))
}

/// Complains about crates that must not come in.
pub(crate) fn unwanted(graph: &Graph, unwanted: &[Entry]) -> Vec<String> {
    let mut complaints = Vec::new();
    for package in graph.foreign() {
        for entry in unwanted.iter().filter(|entry| entry.covers(package)) {
            let users = graph.users(&package.name, &package.version);
            complaints.push(format!(
                "{} comes in through {users}: {}",
                package.name, entry.reason
            ));
        }
    }
    complaints
}

/// Complains about crates that come in two versions without an excuse, and about excuses that are not needed.
pub(crate) fn duplicates(graph: &Graph, excused: &[Entry]) -> Vec<String> {
    let mut by_name: BTreeMap<&str, Vec<&Package>> = BTreeMap::new();
    for package in graph.foreign() {
        by_name.entry(&package.name).or_default().push(package);
    }
    by_name.retain(|_, versions| versions.len() > 1);
    let is_excused = |package: &Package| excused.iter().any(|entry| entry.covers(package));
    let mut complaints = Vec::new();
    for (name, versions) in &by_name {
        if versions.iter().filter(|package| !is_excused(package)).count() > 1 {
            let each = versions
                .iter()
                .map(|package| format!("{} of {}", package.version, graph.users(name, &package.version)));
            complaints.push(format!(
                "{name} comes twice: {}",
                each.collect::<Vec<_>>().join("; ")
            ));
        }
    }
    complaints.extend(
        excused
            .iter()
            .filter(|entry| !by_name.values().flatten().any(|package| entry.covers(package)))
            .map(|entry| format!("{} is excused from being a duplicate, and is none", entry.spec)),
    );
    complaints
}

/// Complains about crates from anywhere but crates.io and this workspace.
pub(crate) fn origins(graph: &Graph) -> Vec<String> {
    let registry = |source: &str| {
        ["registry+", "sparse+"]
            .iter()
            .any(|kind| source.starts_with(kind))
    };
    graph
        .foreign()
        .filter(|package| !package.source.as_deref().is_some_and(registry))
        .map(|package| {
            let source = package
                .source
                .as_deref()
                .unwrap_or("a folder outside the workspace");
            format!("{} comes from {source}", package.name)
        })
        .collect()
}

/// Complains about crates that want a newer compiler than the workspace does.
pub(crate) fn compilers(graph: &Graph) -> Vec<String> {
    let mut complaints = Vec::new();
    let ours: BTreeSet<Option<&Version>> = graph
        .ours()
        .map(|(_, package)| package.rust_version.as_ref())
        .collect();
    let [Some(limit)] = ours.iter().copied().collect::<Vec<_>>()[..] else {
        return vec![format!(
            "the crates of this workspace want different compilers: {ours:?}"
        )];
    };
    for package in graph.foreign() {
        if package.rust_version.as_ref().is_some_and(|wanted| wanted > limit) {
            complaints.push(format!(
                "{} {} wants a newer compiler than {limit}",
                package.name, package.version
            ));
        }
    }
    complaints
}

#[test]
fn every_licence_is_allowed() {
    crate::nothing_to_complain(licences(crate::graph(), &crate::deny().licenses.allow));
}

#[test]
fn no_unwanted_crate_comes_in() {
    crate::nothing_to_complain(unwanted(crate::graph(), &crate::deny().bans.deny));
}

#[test]
fn no_crate_comes_twice_without_an_excuse() {
    crate::nothing_to_complain(duplicates(crate::graph(), &crate::deny().bans.skip));
}

#[test]
fn every_crate_comes_from_a_registry() {
    crate::nothing_to_complain(origins(crate::graph()));
}

#[test]
fn one_compiler_builds_everything() {
    crate::nothing_to_complain(compilers(crate::graph()));
}

fn entry(spec: &str) -> Entry {
    Entry {
        spec: spec.to_owned(),
        reason: "because".to_owned(),
    }
}

#[test]
fn licences_are_read_as_expressions() {
    let allowed = ["MIT".to_owned(), "ISC".to_owned()];
    let complaints_about = |licence: Option<&str>| {
        let mut graph = Graph::toy(&["magi-engine > good isc bad"]);
        graph.get_mut("isc").licence = Some("ISC".to_owned());
        graph.get_mut("bad").licence = licence.map(ToOwned::to_owned);
        licences(&graph, &allowed).join("; ")
    };
    for good in [
        "GPL-3.0-only OR MIT",
        "MIT/Apache-2.0",
        "ISC AND (MIT OR Apache-2.0)",
    ] {
        assert_eq!(complaints_about(Some(good)), "", "{good}");
    }
    for bad in [
        "GPL-3.0-only",
        "MIT AND OpenSSL",
        "MIT WITH LLVM-exception",
        "no licence",
    ] {
        assert!(complaints_about(Some(bad)).starts_with("bad: licence"), "{bad}");
    }
    assert_eq!(complaints_about(None), "bad 1.0.0 names no licence");
}

#[test]
fn a_licence_that_nothing_needs_is_seen() {
    let graph = Graph::toy(&["magi-engine > serde"]);
    assert_eq!(
        licences(&graph, &["MIT".to_owned(), "Zlib".to_owned()]),
        ["licence Zlib is allowed, and nothing needs it"]
    );
}

#[test]
fn an_unwanted_crate_is_seen() {
    let graph = Graph::toy(&["magi-wire > tonic", "tonic > openssl"]);
    assert_eq!(
        unwanted(&graph, &[entry("openssl")]),
        ["openssl comes in through tonic: because"]
    );
    assert!(unwanted(&graph, &[entry("openssl:^2")]).is_empty());
}

#[test]
fn duplicates_and_idle_excuses_are_seen() {
    let graph = Graph::toy(&["magi-wire > rand@0.9.1 other", "other > rand@0.10.0"]);
    assert_eq!(
        duplicates(&graph, &[]),
        ["rand comes twice: 0.10.0 of other; 0.9.1 of magi-wire"]
    );
    assert!(duplicates(&graph, &[entry("rand:^0.9")]).is_empty());
    assert_eq!(
        duplicates(&graph, &[entry("rand:^0.9"), entry("rand:^0.8")]),
        ["rand:^0.8 is excused from being a duplicate, and is none"]
    );
}

#[test]
fn other_origins_are_seen() {
    let mut graph = Graph::toy(&["magi-wire > a b c"]);
    graph.get_mut("a").source = Some("git+https://host.invalid/a".to_owned());
    graph.get_mut("b").source = None;
    assert_eq!(
        origins(&graph),
        [
            "a comes from git+https://host.invalid/a",
            "b comes from a folder outside the workspace"
        ]
    );
}

#[test]
fn a_newer_compiler_is_seen() {
    let mut graph = Graph::toy(&["magi-wire > modern old"]);
    graph.get_mut("magi-wire").rust_version = Some(Version::new(1, 95, 0));
    graph.get_mut("old").rust_version = Some(Version::new(1, 60, 0));
    assert!(compilers(&graph).is_empty());
    graph.get_mut("modern").rust_version = Some(Version::new(1, 96, 0));
    assert_eq!(
        compilers(&graph),
        ["modern 1.0.0 wants a newer compiler than 1.95.0"]
    );
    graph.get_mut("magi-wire").rust_version = None;
    assert_eq!(compilers(&graph).len(), 1);
}

#[test]
fn a_deny_file_that_says_more_or_less_is_refused() {
    let text = std::fs::read_to_string(crate::graph::root().join("deny.toml")).expect("deny.toml");
    assert!(Deny::parse(&text).is_ok());
    for (from, to) in [
        ("multiple-versions = \"deny\"", "multiple-versions = \"warn\""),
        (
            "multiple-versions-include-dev = true",
            "multiple-versions-include-dev = false",
        ),
        ("[sources]", "[sources]\nallow-git = []"),
        ("reason = \"one runtime: tokio\"", "reason = \"\""),
        ("unused = \"deny\"\n", ""),
    ] {
        assert!(text.contains(from), "{from}");
        assert!(Deny::parse(&text.replace(from, to)).is_err(), "{to}");
    }
}
