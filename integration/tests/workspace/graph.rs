//! The dependency graph as cargo resolves it for the systems that magi runs on, without what is never built.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cargo_metadata::semver::Version;
use cargo_metadata::{Metadata, MetadataCommand, TargetKind};

use crate::features;

/// Every package that some build of the workspace compiles, tests included.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    pub(crate) packages: BTreeMap<Id, Package>,
}

/// Names a package among all others, as cargo writes it.
pub(crate) type Id = String;

/// One package.
#[derive(Debug, Clone)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: Version,
    /// Whether it is a member of this workspace.
    pub(crate) ours: bool,
    pub(crate) licence: Option<String>,
    pub(crate) rust_version: Option<Version>,
    /// Where it is fetched from; none: from a folder.
    pub(crate) source: Option<String>,
    /// Whether it only runs inside the compiler.
    pub(crate) is_macro: bool,
    pub(crate) manifest: PathBuf,
    pub(crate) links: Vec<Link>,
}

/// A package that another one depends on.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) to: Id,
    /// Whether the product itself carries it, not only a test or a build script.
    pub(crate) is_normal: bool,
}

impl Graph {
    /// Asks cargo. Target systems come from deny.toml.
    pub(crate) fn load(root: &Path, targets: &[String]) -> Result<Self> {
        let mut options = Vec::new();
        for target in targets {
            options.extend(["--filter-platform".to_owned(), target.clone()]);
        }
        let metadata = MetadataCommand::new()
            .manifest_path(root.join("Cargo.toml"))
            .other_options(options)
            .exec()
            .context("ask cargo for its metadata")?;
        let graph = Self::from_metadata(&metadata)?;
        ensure!(graph.ours().count() > 0, "cargo knows no crate of this workspace");
        Ok(graph)
    }

    fn from_metadata(metadata: &Metadata) -> Result<Self> {
        let mut built = features::built(metadata)?;
        let members: BTreeSet<&str> = metadata
            .workspace_members
            .iter()
            .map(|id| id.repr.as_str())
            .collect();
        let mut packages = BTreeMap::new();
        for package in &metadata.packages {
            let Some(links) = built.remove(&package.id.repr) else {
                continue;
            };
            let is_macro = package
                .targets
                .iter()
                .any(|target| target.kind.contains(&TargetKind::ProcMacro));
            let one = Package {
                name: package.name.to_string(),
                version: package.version.clone(),
                ours: members.contains(package.id.repr.as_str()),
                licence: package.license.clone(),
                rust_version: package.rust_version.clone(),
                source: package.source.as_ref().map(|source| source.repr.clone()),
                is_macro,
                manifest: package.manifest_path.clone().into(),
                links,
            };
            packages.insert(package.id.repr.clone(), one);
        }
        Ok(Self { packages })
    }

    /// The crates of this workspace.
    pub(crate) fn ours(&self) -> impl Iterator<Item = (&Id, &Package)> {
        self.packages.iter().filter(|(_, package)| package.ours)
    }

    /// Everything else.
    pub(crate) fn foreign(&self) -> impl Iterator<Item = &Package> {
        self.packages.values().filter(|package| !package.ours)
    }

    /// A crate of ours by name.
    pub(crate) fn our(&self, name: &str) -> Option<&Package> {
        self.packages
            .values()
            .find(|package| package.ours && package.name == name)
    }

    /// The packages that `package` depends on directly.
    pub(crate) fn linked<'g>(
        &'g self,
        package: &'g Package,
    ) -> impl Iterator<Item = (&'g Link, &'g Package)> {
        package
            .links
            .iter()
            .filter_map(|link| Some((link, self.packages.get(&link.to)?)))
    }

    /// What ends up in a program that uses `package`: normal dependencies, and theirs, but no macros.
    pub(crate) fn carried<'g>(&'g self, package: &'g Package) -> BTreeSet<&'g str> {
        let mut carried = BTreeSet::new();
        let mut open = vec![package];
        while let Some(package) = open.pop() {
            for (link, linked) in self.linked(package) {
                if link.is_normal && !linked.is_macro && carried.insert(linked.name.as_str()) {
                    open.push(linked);
                }
            }
        }
        carried
    }

    /// Who depends on `name` in this version, for messages.
    pub(crate) fn users(&self, name: &str, version: &Version) -> String {
        let mut users: Vec<&str> = self
            .packages
            .values()
            .filter(|package| {
                self.linked(package)
                    .any(|(_, linked)| linked.name == name && linked.version == *version)
            })
            .map(|package| package.name.as_str())
            .collect();
        users.dedup();
        users.join(", ")
    }
}

/// The workspace's folder.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("/"))
}

/// Standard output of a command run in the workspace's folder; an error if it fails.
pub(crate) fn output_of(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(args)
        .current_dir(root())
        .output()
        .with_context(|| format!("run {program}"))?;
    ensure!(
        output.status.success(),
        "{program} {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).with_context(|| format!("read what {program} says"))
}

/// Small graphs that the rules must complain about.
pub(crate) mod toy {
    use super::{Graph, Link, Package, Version};

    impl Graph {
        /// A graph from lines like `magi-engine > serde tokio`; crates whose names begin with `magi-` are ours, and a
        /// name may carry a version (`rand@0.9.0`).
        pub(crate) fn toy(lines: &[&str]) -> Self {
            let mut graph = Self::default();
            for line in lines {
                let (from, to) = line.split_once('>').unwrap_or((line, ""));
                let links = to.split_whitespace().map(|to| {
                    graph.packages.entry(to.to_owned()).or_insert_with(|| package(to));
                    Link {
                        to: to.to_owned(),
                        is_normal: true,
                    }
                });
                let links: Vec<Link> = links.collect();
                let from = from.trim();
                let package = graph
                    .packages
                    .entry(from.to_owned())
                    .or_insert_with(|| package(from));
                package.links.extend(links);
            }
            graph
        }

        /// The package of that name, to be spoiled.
        pub(crate) fn get_mut(&mut self, name: &str) -> &mut Package {
            self.packages.get_mut(name).expect("a package of the toy graph")
        }
    }

    fn package(spec: &str) -> Package {
        let (name, version) = spec.split_once('@').unwrap_or((spec, "1.0.0"));
        Package {
            name: name.to_owned(),
            version: Version::parse(version).expect("a version"),
            ours: name.starts_with("magi-"),
            licence: Some("MIT".to_owned()),
            rust_version: None,
            source: (!name.starts_with("magi-")).then(|| "registry+https://registry.invalid".to_owned()),
            is_macro: false,
            manifest: format!("{name}/Cargo.toml").into(),
            links: Vec::new(),
        }
    }
}
