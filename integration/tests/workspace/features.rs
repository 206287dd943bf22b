//! Which dependencies are really built. Cargo's metadata also lists optional packages that are only spoken of
//! (`ring?/std` names `ring` without asking for it), and what those would bring; here features are followed as
//! cargo's own resolver does, all kinds of builds taken together.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use cargo_metadata::{Dependency, DependencyKind, Metadata, Node, Package};

use crate::graph::{Id, Link};

/// The packages that the workspace's members lead to, each with what it depends on.
pub(crate) fn built(metadata: &Metadata) -> Result<BTreeMap<Id, Vec<Link>>> {
    let resolve = metadata.resolve.as_ref().context("cargo resolved nothing")?;
    let packages: BTreeMap<&str, &Package> = metadata
        .packages
        .iter()
        .map(|package| (package.id.repr.as_str(), package))
        .collect();
    let mut walk = Walk {
        nodes: resolve
            .nodes
            .iter()
            .map(|node| (node.id.repr.as_str(), node))
            .collect(),
        packages,
        active: BTreeMap::new(),
    };
    for member in &metadata.workspace_members {
        walk.active
            .insert(&member.repr, BTreeSet::from(["default".to_owned()]));
    }
    // Each round may switch on what an earlier package only spoke of; features are only ever added.
    while walk.round() {}
    let ids: Vec<&str> = walk.active.keys().copied().collect();
    Ok(ids
        .into_iter()
        .map(|id| {
            let links = walk.dependencies(id).into_iter().map(|(dependency, to)| Link {
                to: to.to_owned(),
                is_normal: dependency.kind == DependencyKind::Normal,
            });
            (id.to_owned(), links.collect())
        })
        .collect())
}

struct Walk<'m> {
    packages: BTreeMap<&'m str, &'m Package>,
    nodes: BTreeMap<&'m str, &'m Node>,
    /// Packages reached, with the features that were asked of them.
    active: BTreeMap<&'m str, BTreeSet<String>>,
}

impl<'m> Walk<'m> {
    /// Goes over everything reached so far; whether that reached more.
    fn round(&mut self) -> bool {
        let before = self.reached();
        let ids: Vec<&str> = self.active.keys().copied().collect();
        for id in ids {
            let Some(package) = self.packages.get(id).copied() else {
                continue;
            };
            let mut within: Vec<String> = Vec::new();
            let mut asked: Vec<(&str, Vec<String>)> = Vec::new();
            let values = self.values(id);
            for (dependency, to) in self.dependencies(id) {
                let mut features = dependency.features.clone();
                if dependency.uses_default_features {
                    features.push("default".to_owned());
                }
                let of_this = values.iter().filter_map(|value| {
                    let (name, feature) = value.split_once('/')?;
                    (name.trim_end_matches('?') == called(dependency)).then(|| feature.to_owned())
                });
                features.extend(of_this);
                asked.push((to, features));
            }
            within.extend(
                values
                    .into_iter()
                    .filter(|value| package.features.contains_key(value)),
            );
            asked.push((package.id.repr.as_str(), within));
            for (to, features) in asked {
                self.active.entry(to).or_default().extend(features);
            }
        }
        before != self.reached()
    }

    /// Packages and features; grows with either.
    fn reached(&self) -> usize {
        self.active.values().map(|features| features.len() + 1).sum()
    }

    /// What the active features of a package switch on.
    fn values(&self, id: &str) -> Vec<String> {
        let (Some(package), Some(active)) = (self.packages.get(id), self.active.get(id)) else {
            return Vec::new();
        };
        active
            .iter()
            .filter_map(|feature| package.features.get(feature))
            .flatten()
            .cloned()
            .collect()
    }

    /// The dependencies of a package that are built, with the packages that they resolve to.
    fn dependencies(&self, id: &str) -> Vec<(&'m Dependency, &'m str)> {
        let (Some(package), Some(node)) = (self.packages.get(id), self.nodes.get(id)) else {
            return Vec::new();
        };
        let values = self.values(id);
        let is_member = package.source.is_none();
        let is_on = |dependency: &Dependency| {
            // Tests of others are not built, and a condition that never holds only keeps two versions in step.
            let is_idle = dependency.kind == DependencyKind::Development && !is_member
                || dependency
                    .target
                    .as_ref()
                    .is_some_and(|target| target.to_string() == "cfg(any())");
            if is_idle {
                return false;
            }
            let name = called(dependency);
            !dependency.optional
                || values.iter().any(|value| {
                    value.strip_prefix("dep:") == Some(name)
                        || value.split_once('/').is_some_and(|(what, _)| what == name)
                })
        };
        package
            .dependencies
            .iter()
            .filter(|dependency| is_on(dependency))
            .flat_map(|dependency| {
                let fits = move |linked: &&Package| {
                    linked.name.as_str() == dependency.name && dependency.req.matches(&linked.version)
                };
                node.dependencies
                    .iter()
                    .filter_map(|to| self.packages.get(to.repr.as_str()).copied())
                    .filter(fits)
                    .map(move |linked| (dependency, linked.id.repr.as_str()))
            })
            .collect()
    }
}

/// The name by which a manifest speaks of a dependency.
fn called(dependency: &Dependency) -> &str {
    dependency.rename.as_deref().unwrap_or(&dependency.name)
}

#[test]
fn what_is_only_spoken_of_is_not_built() {
    let package = |name: &str, dependencies: &str, features: &str| {
        format!(
            r#"{{"name":"{name}","version":"1.0.0","id":"{name}","source":null,"dependencies":[{dependencies}],
            "features":{features},"targets":[],"manifest_path":"/{name}/Cargo.toml","edition":"2024"}}"#
        )
    };
    let dependency = |name: &str, optional: bool, features: &str| {
        format!(
            r#"{{"name":"{name}","source":null,"req":"^1","kind":null,"rename":null,"optional":{optional},
            "uses_default_features":true,"features":[{features}],"target":null,"registry":null}}"#
        )
    };
    let metadata = |asked: &str| {
        let tls = [
            dependency("ring", true, ""),
            dependency("lc", true, ""),
            dependency("pki", false, ""),
        ];
        let packages = [
            package("ours", &dependency("tls", false, asked), "{}"),
            package(
                "tls",
                &tls.join(","),
                r#"{"default":["std"],"std":["ring?/std"],"ring":["dep:ring"],"fips":["lc/strict"]}"#,
            ),
            package("ring", &dependency("old", false, ""), r#"{"std":[]}"#),
            package(
                "lc",
                &dependency("old", true, ""),
                r#"{"default":[],"strict":["dep:old"]}"#,
            ),
            package("pki", "", "{}"),
            package("old", "", "{}"),
        ];
        let node =
            |id: &str, to: &str| format!(r#"{{"id":"{id}","dependencies":[{to}],"deps":[],"features":[]}}"#);
        let nodes = [
            node("ours", r#""tls""#),
            node("tls", r#""ring","lc","pki""#),
            node("ring", r#""old""#),
            node("lc", r#""old""#),
            node("pki", ""),
            node("old", ""),
        ];
        let text = format!(
            r#"{{"packages":[{}],"workspace_members":["ours"],"resolve":{{"nodes":[{}],"root":null}},
            "workspace_root":"/","target_directory":"/t","version":1}}"#,
            packages.join(","),
            nodes.join(",")
        );
        serde_json::from_str::<Metadata>(&text).expect("metadata")
    };
    let names = |asked: &str| {
        let built = built(&metadata(asked)).expect("a walk");
        built.into_keys().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(""), "ours pki tls");
    assert_eq!(names(r#""ring""#), "old ours pki ring tls");
    assert_eq!(names(r#""fips""#), "lc old ours pki tls");
}
