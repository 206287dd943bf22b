//! The files of the project: what git tracks, and what it would track if it were added.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::graph::{output_of, root};

/// A text file.
#[derive(Debug, Clone)]
pub(crate) struct File {
    /// From the root of the project, with slashes.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl File {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    pub(crate) fn is_rust(&self) -> bool {
        Path::new(&self.path).extension().is_some_and(|end| end == "rs")
    }

    /// Written by others, and kept as it is.
    pub(crate) fn is_foreign(&self) -> bool {
        self.path == "Cargo.lock" || self.path == "LICENSE" || self.path.contains("/proto/")
    }

    /// Whether it is part of what runs on a node, and not of the harness.
    pub(crate) fn is_product(&self) -> bool {
        !self.path.starts_with("integration/")
    }

    /// Whether it holds nothing but tests.
    pub(crate) fn is_test(&self) -> bool {
        self.path
            .split('/')
            .any(|part| part == "tests" || part == "tests.rs" || part == "benches" || part == "examples")
    }
}

/// Every text file of the project. Files that hold a zero byte are no text.
pub(crate) fn all() -> Result<Vec<File>> {
    // The checkout may belong to another user than the one who runs the tests.
    let trust = format!("safe.directory={}", root().display());
    let args = [
        "-c",
        &trust,
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ];
    let list = output_of("git", &args).context("list the files of the project; is this a git checkout?")?;
    let mut files = Vec::new();
    for path in list.split('\0').filter(|path| !path.is_empty()) {
        // A file that is deleted but not yet so for git, or no file at all, has no content to look at.
        let Ok(bytes) = fs::read(root().join(path)) else {
            continue;
        };
        if let Ok(text) = String::from_utf8(bytes)
            && !text.contains('\0')
        {
            files.push(File::new(path, &text));
        }
    }
    ensure!(
        files.iter().any(|file| file.path == "Cargo.toml"),
        "git lists no Cargo.toml at the root"
    );
    Ok(files)
}
