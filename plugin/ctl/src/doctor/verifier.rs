//! The image verifier: whether containerd would execute it, and would not be blocked by what lies beside it.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use magi_install::VERIFIER_NAME;

use super::check::{Check, Question, causes};
use super::facts::Facts;

const VERIFIER: Question = Question {
    id: "verifier",
    proves: "containerd finds magi-verify, and nothing beside it that would block every pull",
};

/// Most entries of the folder that are looked at.
const MOST: usize = 1000;
/// What the kernel executes begins so.
const EXECUTABLE: [&[u8]; 2] = [b"\x7fELF", b"#!"];

/// The check, as far as it can be made without a pull.
pub(super) fn check(facts: &Facts) -> Check {
    let Some(version) = facts.version() else {
        return VERIFIER.skip("containerd's version is not known");
    };
    if !version.verifies() {
        return VERIFIER.skip(format!("containerd {version} calls none; 2.1 and later do"));
    }
    let config = match &facts.config {
        Ok(config) => config,
        Err(_) => return VERIFIER.skip("containerd's configuration is not known"),
    };
    let file = config.path.display();
    let found = match config.effective.verifier() {
        Ok(found) => found,
        Err(error) => return VERIFIER.fail(causes(&error), format!("repair {file}")),
    };
    if found.listed {
        return VERIFIER.fail(
            format!("its plugin stands in `disabled_plugins` of {file}"),
            "take io.containerd.image-verifier.v1.bindir out of it, and restart containerd",
        );
    }
    folder(&found.folder, found.limit, &config.install())
}

fn folder(folder: &Path, limit: Option<usize>, command: &str) -> Check {
    let shown = folder.display();
    let install = || format!("run `{command}`, which puts {VERIFIER_NAME} into {shown}");
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return VERIFIER.fail(
                format!("{VERIFIER_NAME} is missing: there is no {shown}"),
                install(),
            );
        }
        Err(error) => {
            return VERIFIER.fail(
                format!("{shown} cannot be listed: {error}"),
                "make it a folder that root can read: as it is, containerd refuses every pull",
            );
        }
    };
    let (mut names, mut blocking) = (Vec::new(), Vec::new());
    for entry in entries.take(MOST).flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Err(why) = executable(&entry.path()) {
            blocking.push(format!("{name} ({why})"));
        }
        names.push(name);
    }
    names.sort();
    let place = names.iter().position(|name| name == VERIFIER_NAME);
    if !blocking.is_empty() {
        let check = VERIFIER.fail(
            format!(
                "blocks every pull, because it cannot be executed: {}",
                blocking.join(", ")
            ),
            format!("remove it from {shown}, or make it executable: containerd executes whatever lies there"),
        );
        return if place.is_none() {
            check.or(install())
        } else {
            check
        };
    }
    match (place, limit) {
        (None, _) => VERIFIER.fail(format!("{VERIFIER_NAME} is missing from {shown}"), install()),
        (Some(place), Some(limit)) if place >= limit => VERIFIER.fail(
            format!("{place} verifiers come before {VERIFIER_NAME}, and `max_verifiers` is {limit}: it is not called"),
            "raise `max_verifiers` in containerd's configuration, and restart containerd",
        ),
        (Some(_), _) => {
            let others = names.len().saturating_sub(1);
            let others = if others == 0 { String::new() } else { format!(", {others} others beside it") };
            VERIFIER.ok(format!("{VERIFIER_NAME} is in {shown}{others}; --active proves that it is called"))
        }
    }
}

fn executable(path: &Path) -> Result<(), String> {
    let about: Metadata = path.metadata().map_err(|error| error.to_string())?;
    if !about.is_file() {
        return Err("no file".to_owned());
    }
    if about.permissions().mode() & 0o111 == 0 {
        return Err("not executable".to_owned());
    }
    let mut start = Vec::new();
    File::open(path)
        .and_then(|file| file.take(4).read_to_end(&mut start))
        .map_err(|error| error.to_string())?;
    if EXECUTABLE.iter().any(|magic| start.starts_with(magic)) {
        Ok(())
    } else {
        Err("neither a program nor a script".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions, write};

    use super::*;
    use crate::doctor::check::Outcome;

    #[test]
    fn the_folder_holds_programs_only() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("bin");
        let says = |outcome: Outcome, word: &str, advised: &str| {
            let check = folder(&place, Some(2), "magictl install containerd");
            assert_eq!(check.outcome, outcome, "{check:?}");
            assert!(check.seen.contains(word), "{check:?}");
            assert!(check.advice.concat().contains(advised), "{check:?}");
        };
        let put = |name: &str, text: &str, mode: u32| {
            let path = place.join(name);
            write(&path, text).unwrap();
            set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        };
        says(Outcome::Fail, "missing", "magictl install containerd");
        std::fs::create_dir(&place).unwrap();
        says(Outcome::Fail, "missing", "magictl install containerd");
        put(VERIFIER_NAME, "#!/bin/true", 0o644);
        says(Outcome::Fail, "magi-verify (not executable)", "remove it");
        put(VERIFIER_NAME, "", 0o755);
        says(Outcome::Fail, "neither a program nor a script", "remove it");
        put(VERIFIER_NAME, "\u{7f}ELF", 0o755);
        says(Outcome::Ok, "--active proves", "");
        put("README", "read me", 0o644);
        says(Outcome::Fail, "README (not executable)", "remove it");
        put("README", "#!/bin/true", 0o755);
        says(Outcome::Ok, "1 others", "");
        put("aaa", "#!/bin/true", 0o755);
        says(Outcome::Fail, "max_verifiers", "raise");
        std::fs::create_dir(place.join("folder")).unwrap();
        says(Outcome::Fail, "folder (no file)", "remove it");
    }
}
