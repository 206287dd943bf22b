//! What all files together say to containerd, and what follows for NRI, the verifier and the way of a pull.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::document::Document;
use crate::version::{Merge, Version};

pub(crate) const NRI: &str = "io.containerd.nri.v1.nri";
pub(crate) const VERIFIER: &str = "io.containerd.image-verifier.v1.bindir";
const IMAGES: &str = "io.containerd.cri.v1.images";
const CRI: &str = "io.containerd.grpc.v1.cri";
/// containerd 2.1.9 internal/cri/config/config.go:597, CRI's default.
const DOWNLOADS: i64 = 3;
/// The path of a unix socket fits into 108 bytes, the last of them zero.
const LONGEST_SOCKET: usize = 107;

/// The merged configuration: the settings that the files make, without containerd's own defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct Effective {
    pub(crate) version: Option<i64>,
    /// Some file is written in the tables of version 2, which containerd 2.x migrates.
    pub(crate) old_tables: bool,
    pub(crate) values: Table,
}

/// NRI as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nri {
    /// The whole of it is off.
    pub disabled: bool,
    /// Plugins from outside, as magi-node is one, are refused.
    pub connections_disabled: bool,
    /// Its name stands in `disabled_plugins`.
    pub listed: bool,
    /// Where plugins connect.
    pub socket: PathBuf,
}

/// The image verifier as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verifier {
    /// Its name stands in `disabled_plugins`.
    pub listed: bool,
    /// Whatever is in there is executed at every pull.
    pub folder: PathBuf,
    /// How many are executed at most, in the order of names; `None` is no limit.
    pub limit: Option<usize>,
}

/// A setting that magi must understand, and does not.
#[derive(Debug, thiserror::Error)]
pub enum SettingError {
    /// Of another type than containerd expects.
    #[error("`{key}` of `plugins.{section:?}` is no {expected}; containerd would refuse it as well")]
    Type {
        /// The plugin's table.
        section: &'static str,
        /// The setting.
        key: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// Relative to a folder that only containerd knows, or too long for a socket.
    #[error("`{key}` of `plugins.{section:?}` is {value:?}, which is no usable path; write an absolute one")]
    Path {
        /// The plugin's table.
        section: &'static str,
        /// The setting.
        key: &'static str,
        /// What it is.
        value: String,
    },
}

impl Effective {
    /// Merges files in the order in which containerd loads them.
    pub(crate) fn merge(files: &[Document], merge: Merge) -> Self {
        let mut all = Table::new();
        for file in files {
            match merge {
                Merge::Keys => deep(&mut all, &file.values),
                Merge::Sections => sections(&mut all, &file.values),
            }
        }
        all.remove("imports");
        Self {
            version: files.first().and_then(Document::version),
            old_tables: files
                .iter()
                .enumerate()
                .any(|(number, file)| file.version().unwrap_or(if number == 0 { 1 } else { i64::MAX }) < 3),
            values: all,
        }
    }

    fn section(&self, name: &str) -> Option<&Table> {
        self.values.get("plugins")?.get(name)?.as_table()
    }

    fn is_disabled(&self, plugin: &str) -> bool {
        let list = self.values.get("disabled_plugins").and_then(Value::as_array);
        list.into_iter()
            .flatten()
            .any(|name| name.as_str() == Some(plugin))
    }

    fn get<'a, T>(
        &'a self,
        section: &'static str,
        key: &'static str,
        expected: &'static str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, SettingError> {
        let value = self.section(section).and_then(|section| section.get(key));
        let wrong = SettingError::Type {
            section,
            key,
            expected,
        };
        value.map(|value| read(value).ok_or(wrong)).transpose()
    }

    fn path(&self, section: &'static str, key: &'static str, default: &str) -> Result<PathBuf, SettingError> {
        let path = self.get(section, key, "string", Value::as_str)?;
        let path = path.filter(|path| !path.is_empty()).unwrap_or(default);
        if Path::new(path).is_absolute() && !path.contains('\0') {
            return Ok(PathBuf::from(path));
        }
        Err(SettingError::Path {
            section,
            key,
            value: path.to_owned(),
        })
    }

    /// What it says of NRI, by the defaults of this version.
    pub fn nri(&self, version: Version) -> Result<Nri, SettingError> {
        let flag = |key| self.get(NRI, key, "boolean", Value::as_bool);
        let socket = self.path(NRI, "socket_path", "/var/run/nri/nri.sock")?;
        if socket.as_os_str().len() > LONGEST_SOCKET {
            return Err(SettingError::Path {
                section: NRI,
                key: "socket_path",
                value: socket.display().to_string(),
            });
        }
        Ok(Nri {
            disabled: flag("disable")?.unwrap_or(version.nri_is_off()),
            connections_disabled: flag("disable_connections")?.unwrap_or(false),
            listed: self.is_disabled(NRI),
            socket,
        })
    }

    /// What it says of the image verifier.
    pub fn verifier(&self) -> Result<Verifier, SettingError> {
        let limit = self.get(VERIFIER, "max_verifiers", "whole number", Value::as_integer)?;
        Ok(Verifier {
            listed: self.is_disabled(VERIFIER),
            folder: self.path(VERIFIER, "bin_dir", "/opt/containerd/image-verifier/bin")?,
            // containerd 2.1.9 pkg/imageverifier/bindir/bindir.go:81: less than zero is no limit; 10 by default.
            limit: usize::try_from(limit.unwrap_or(10)).ok(),
        })
    }
}

/// The settings that make CRI of containerd 2.1 and later pull in process, where no verifier is called; empty if it pulls
/// through the transfer service. Each names the setting and its value's meaning.
///
/// Seven force it silently (containerd 2.1.9 internal/cri/config/config.go:535-603), the eighth asks for it. Tables of
/// version 2 count as containerd migrates them (plugins/cri/images/plugin.go:184-240).
pub fn forced_local(config: &Effective) -> Vec<String> {
    let images = images(config);
    let flag = |key: &str| images.get(key).and_then(Value::as_bool);
    let mut why = Vec::new();
    if flag("use_local_image_pull") == Some(true) {
        why.push("use_local_image_pull = true".to_owned());
    }
    if flag("disable_snapshot_annotations") == Some(false) {
        why.push("disable_snapshot_annotations = false".to_owned());
    }
    for key in ["discard_unpacked_layers", "image_pull_with_sync_fs"] {
        if flag(key) == Some(true) {
            why.push(format!("{key} = true"));
        }
    }
    for key in ["mirrors", "configs", "auths"] {
        let table = images
            .get("registry")
            .and_then(|registry| registry.get(key)?.as_table());
        if table.is_some_and(|table| !table.is_empty()) {
            why.push(format!("registry.{key}"));
        }
    }
    let downloads = images.get("max_concurrent_downloads").and_then(Value::as_integer);
    if let Some(downloads) = downloads.filter(|downloads| *downloads != DOWNLOADS) {
        why.push(format!("max_concurrent_downloads = {downloads}"));
    }
    why
}

/// CRI's settings for images, whichever version of the configuration they are written in.
fn images(config: &Effective) -> Table {
    let mut images = config.section(IMAGES).cloned().unwrap_or_default();
    let old = config.section(CRI).filter(|_| config.old_tables);
    let Some(old) = old else { return images };
    for key in ["registry", "max_concurrent_downloads", "image_pull_with_sync_fs"] {
        if let Some(value) = old.get(key) {
            images.insert(key.to_owned(), value.clone());
        }
    }
    let snapshots = old.get("containerd").and_then(Value::as_table);
    // Without runtimes containerd forgets these two.
    if let Some(snapshots) = snapshots.filter(|table| table.contains_key("runtimes")) {
        for key in ["disable_snapshot_annotations", "discard_unpacked_layers"] {
            if let Some(value) = snapshots.get(key) {
                images.insert(key.to_owned(), value.clone());
            }
        }
    }
    images
}

/// 2.x: tables key by key; lists at the top grow, others are replaced.
fn deep(to: &mut Table, from: &Table) {
    for (key, value) in from {
        match (to.get_mut(key), value) {
            (Some(Value::Table(to)), Value::Table(from)) => tables(to, from),
            (Some(Value::Array(to)), Value::Array(from)) => grow(to, from),
            (_, value) => {
                to.insert(key.clone(), value.clone());
            }
        }
    }
}

fn tables(to: &mut Table, from: &Table) {
    for (key, value) in from {
        match (to.get_mut(key), value) {
            (Some(Value::Table(to)), Value::Table(from)) => tables(to, from),
            (_, value) => {
                to.insert(key.clone(), value.clone());
            }
        }
    }
}

/// 1.7: as above, but each plugin's table of a later file replaces the earlier one.
fn sections(to: &mut Table, from: &Table) {
    let plugins = from.get("plugins").and_then(Value::as_table);
    let mut rest = from.clone();
    rest.remove("plugins");
    deep(to, &rest);
    if let Some(plugins) = plugins {
        let merged = to.entry("plugins").or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(merged) = merged {
            merged.extend(plugins.clone());
        }
    }
}

fn grow(to: &mut Vec<Value>, from: &[Value]) {
    for value in from {
        if !to.contains(value) {
            to.push(value.clone());
        }
    }
}
