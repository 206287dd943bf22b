//! containerd: whether it answers, how it is configured, and which way its pulls go.

use super::check::{Check, Question, causes};
use super::facts::Facts;

const CONTAINERD: Question = Question {
    id: "containerd",
    proves: "containerd answers, and its pulls can be listed",
};
const CONFIG: Question = Question {
    id: "containerd-config",
    proves: "containerd's configuration is found and understood",
};
const SNAPSHOTTER: Question = Question {
    id: "snapshotter",
    proves: "the snapshotter of CRI's images works, and is one whose pulls magi sees",
};
const PATH: Question = Question {
    id: "pull-path",
    proves: "pulls go the way on which this containerd calls the image verifier, if it knows one",
};

/// Fetch layers themselves, piece by piece, past the content store.
const LAZY: [&str; 4] = ["stargz", "nydus", "soci", "overlaybd"];

/// All checks of containerd.
pub(super) fn checks(facts: &Facts) -> Vec<Check> {
    vec![containerd(facts), config(facts), snapshotter(facts), path(facts)]
}

fn containerd(facts: &Facts) -> Check {
    let found = match &facts.containerd {
        Ok(found) => found,
        Err(error) => {
            return CONTAINERD.fail(
                causes(error),
                "start containerd, or set `containerd.address` in magi-node's settings and say --settings",
            );
        }
    };
    let seen = format!(
        "version {} (pid {}) at {}, content in {}",
        found.version,
        found.pid,
        found.address.display(),
        found.store.as_deref().unwrap_or("an unknown folder")
    );
    match &found.leases {
        Ok(leases) if facts.version().is_some() => CONTAINERD.ok(format!("{seen}, {leases} leases")),
        Ok(_) => CONTAINERD.warn(
            format!("{seen}: magi was not tried with this version"),
            "use containerd 1.7 or 2.x",
        ),
        Err(error) => CONTAINERD.fail(
            format!("{seen}, but {}", causes(error)),
            "see containerd's log: without leases magi sees no pulls",
        ),
    }
}

fn config(facts: &Facts) -> Check {
    match &facts.config {
        Ok(config) if config.exists => {
            let version = config
                .written
                .map_or_else(|| "none".to_owned(), |version| version.to_string());
            CONFIG.ok(format!("{}, version {version}", config.path.display()))
        }
        Ok(config) => CONFIG.ok(format!(
            "there is no {}: containerd's defaults hold",
            config.path.display()
        )),
        Err(_) if facts.containerd.is_err() => CONFIG.skip("containerd cannot be asked"),
        Err(why) => CONFIG.fail(
            why.clone(),
            "say --containerd-config with the file that containerd was started with",
        ),
    }
}

fn snapshotter(facts: &Facts) -> Check {
    let Ok(found) = &facts.containerd else {
        return SNAPSHOTTER.skip("containerd cannot be asked");
    };
    let folder = match &found.images {
        Ok(folder) => folder,
        Err(error) => {
            return SNAPSHOTTER.fail(
                causes(error),
                "see containerd's log: its CRI plugin does not work (crictl info)",
            );
        }
    };
    // containerd 1.7 and 2.x name the folder after the plugin: `<root>/io.containerd.snapshotter.v1.<id>`.
    let last = folder.rsplit('/').next().unwrap_or_default();
    let name = last.strip_prefix("io.containerd.snapshotter.v1.").unwrap_or(last);
    if LAZY.contains(&name) {
        return SNAPSHOTTER.warn(
            format!("{name}: it fetches layers by itself, past the content store, where magi sees nothing"),
            "use overlayfs for namespaces whose pulls must be bounded",
        );
    }
    if found.snapshotters.iter().any(|one| one == name) {
        SNAPSHOTTER.ok(format!("{name}, in {folder}"))
    } else {
        SNAPSHOTTER.warn(
            format!(
                "{name:?} (of {folder:?}) is none of containerd's own: {}",
                found.snapshotters.join(", ")
            ),
            "a proxy snapshotter may fetch layers by itself, which magi does not see: prove that it does not",
        )
    }
}

fn path(facts: &Facts) -> Check {
    let Some(version) = facts.version() else {
        return PATH.skip("containerd's version is not known");
    };
    if !version.verifies() {
        return PATH.ok(format!(
            "in process: containerd {version} knows no other way, and no image verifier"
        ));
    }
    let Ok(config) = &facts.config else {
        return PATH.skip("containerd's configuration is not known");
    };
    let forced = magi_install::forced_local(&config.effective);
    if forced.is_empty() {
        return PATH.ok("the transfer service, by configuration; --active proves it");
    }
    PATH.warn(
        format!("in process, where no image verifier is called, because of {}", forced.join(", ")),
        format!(
            "take these settings out of {} (registry hosts go into `config_path`, the limit of downloads into \
             `plugins.\"io.containerd.transfer.v1.local\"`), and restart containerd",
            config.path.display()
        ),
    )
}
