//! Install and uninstall in folders of their own: every form of a configuration, every step that may be the last.

mod crash;
mod forms;
mod local;
mod property;
mod refusals;
mod unpack;
mod verifier;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::{DEFAULT_CONFIG, DEFAULT_STATE, Place, Plan, PlanError, Request, plan_install, plan_uninstall};

const DEFAULT_1_7: &str = include_str!("../../tests/fixtures/default-1.7.24.toml");
const DEFAULT_2_1: &str = include_str!("../../tests/fixtures/default-2.1.9.toml");
const V4: &str = include_str!("../../tests/fixtures/v4.toml");
const BIN_DIR: &str = "/opt/containerd/image-verifier/bin";

/// A node's files, in a folder.
struct Node {
    folder: TempDir,
}

/// All that is below a folder: bytes, mode, time of change in nanoseconds.
type Snapshot = BTreeMap<PathBuf, (Option<Vec<u8>>, u32, i128)>;

impl Node {
    fn empty() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn with(config: &str) -> Self {
        let node = Self::empty();
        node.write(DEFAULT_CONFIG, config);
        node
    }

    fn real(&self, path: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(path.as_ref().strip_prefix("/").unwrap())
    }

    fn write(&self, path: impl AsRef<Path>, text: impl AsRef<[u8]>) {
        let real = self.real(path);
        fs::create_dir_all(real.parent().unwrap()).unwrap();
        fs::write(real, text).unwrap();
    }

    fn read(&self, path: impl AsRef<Path>) -> String {
        String::from_utf8(fs::read(self.real(path)).unwrap()).unwrap()
    }

    fn config(&self) -> String {
        self.read(DEFAULT_CONFIG)
    }

    fn request(&self, version: &str) -> Request {
        Request {
            place: Place::new(self.folder.path()),
            config: DEFAULT_CONFIG.into(),
            state: DEFAULT_STATE.into(),
            version: version.parse().unwrap(),
            nri: true,
            verifier: None,
            unpack: None,
        }
    }

    fn plan(&self, version: &str) -> Result<Plan, PlanError> {
        plan_install(&self.request(version))
    }

    fn install(&self, version: &str) -> Plan {
        let plan = self.plan(version).unwrap();
        plan.apply().unwrap();
        plan
    }

    fn plan_undo(&self) -> Result<Plan, PlanError> {
        plan_uninstall(&Place::new(self.folder.path()), Path::new(DEFAULT_STATE))
    }

    fn uninstall(&self) -> Plan {
        let plan = self.plan_undo().unwrap();
        plan.apply().unwrap();
        plan
    }

    fn snapshot(&self) -> Snapshot {
        let mut all = Snapshot::new();
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                let meta = path.symlink_metadata().unwrap();
                let bytes = meta.is_file().then(|| fs::read(&path).unwrap());
                let time = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
                all.insert(path.clone(), (bytes, meta.permissions().mode(), time));
                if meta.is_dir() {
                    folders.push(path);
                }
            }
        }
        all
    }

    /// Without times, which a way there and back may change.
    fn contents(&self) -> BTreeMap<PathBuf, (Option<Vec<u8>>, u32)> {
        let all = self.snapshot().into_iter();
        all.map(|(path, (bytes, mode, _))| (path, (bytes, mode)))
            .collect()
    }
}

/// Installs on a configuration, looks at what became of it, installs again, and undoes it.
fn there_and_back(version: &str, config: &str) -> (String, String) {
    let node = Node::with(config);
    fs::set_permissions(node.real(DEFAULT_CONFIG), fs::Permissions::from_mode(0o640)).unwrap();
    let before = node.contents();
    let plan = node.install(version);
    let installed = node.snapshot();
    let edited = node.config();

    let again = node.plan(version).unwrap();
    assert!(again.is_nothing(), "{:?}", again.changes);
    again.apply().unwrap();
    assert_eq!(node.snapshot(), installed, "the second run changed something");

    node.uninstall();
    assert_eq!(node.contents(), before, "not undone to the byte");
    let diff: String = plan.changes.iter().map(|change| change.diff.as_str()).collect();
    (edited, diff)
}
