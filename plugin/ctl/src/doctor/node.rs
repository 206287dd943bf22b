//! magi-node: whether it answers, hears its sources, and can write down what it does.

use std::path::{Path, PathBuf};

use magi_config::ProbeMode;
use magi_engine::Source;
use magi_engine::policy::Mode;
use magi_node_api::NodeStatus;
use rustix::fs::{Access, AtFlags, CWD, StatVfsMountFlags, accessat, statvfs};

use super::check::{Check, Question, causes};
use super::facts::{Config, Facts};
use crate::show::time;

const NODE: Question = Question {
    id: "magi-node",
    proves: "magi-node runs, answers, and is of the same version as magictl",
};
const WATCHES: Question = Question {
    id: "watches-containerd",
    proves: "magi-node is connected to the containerd of this node",
};
const POLICY: Question = Question {
    id: "policy",
    proves: "a policy is in force, and is the one in its file",
};
const AUDIT: Question = Question {
    id: "audit",
    proves: "audit records can be written, without which no lever is pulled",
};
const NRI: Question = Question {
    id: "nri",
    proves: "magi-node is registered as an NRI plugin: it knows the node's pods",
};

const GATEWAY: Question = Question {
    id: "gateway",
    proves: "magi-gateway is connected to magi-node: pulls that go through it are stopped in every stage",
};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// All checks of magi-node.
pub(super) fn checks(facts: &Facts) -> Vec<Check> {
    vec![
        node(facts),
        watches(facts),
        policy(facts),
        audit(facts),
        nri(facts),
        gateway(facts),
    ]
}

fn node(facts: &Facts) -> Check {
    let node = match &facts.node {
        Ok(node) => node,
        Err(error) if error.is_unreachable() => {
            return NODE
                .fail(causes(error), "start magi-node: systemctl start magi-node")
                .or("if it listens elsewhere, say --socket, or --settings with the file that it was started with");
        }
        Err(error) => {
            return NODE.fail(
                causes(error),
                "restart magi-node; if that does not help, its log says what it does",
            );
        }
    };
    let status = &node.status;
    let up = time::short(status.now.since(status.started));
    if status.version == VERSION {
        NODE.ok(format!(
            "version {VERSION} answers at {}, up for {up}",
            facts.socket.display()
        ))
    } else {
        NODE.fail(
            format!("magi-node has version {}, magictl {VERSION}", status.version),
            "restart magi-node after an upgrade, and use the magictl that came with it",
        )
    }
}

fn watches(facts: &Facts) -> Check {
    let status = match facts.status() {
        Ok(status) => status,
        Err(why) => return WATCHES.skip(why),
    };
    let theirs = &status.containerd;
    if !theirs.up {
        return WATCHES.fail(
            format!("magi-node is not connected to containerd at {}", theirs.address),
            "start containerd, or set `containerd.address` in magi-node's settings, and restart magi-node",
        );
    }
    let ours = facts.containerd.as_ref().ok();
    let pid = |pid: Option<u32>| pid.map_or_else(|| "?".to_owned(), |pid| pid.to_string());
    match ours {
        Some(ours) if Some(ours.pid) != theirs.pid => WATCHES.fail(
            format!(
                "magi-node watches containerd (pid {}), which is not the one at {} (pid {})",
                pid(theirs.pid),
                ours.address.display(),
                ours.pid
            ),
            "say --settings with the file that magi-node was started with; if it is the right one, restart magi-node",
        ),
        Some(_) | None => WATCHES.ok(format!("containerd (pid {}) at {}", pid(theirs.pid), theirs.address)),
    }
}

fn policy(facts: &Facts) -> Check {
    let status = match facts.status() {
        Ok(status) => status,
        Err(why) => return POLICY.skip(why),
    };
    let revision = &status.policy.revision;
    if revision.is_empty() {
        return POLICY.fail(
            "no policy is in force, so nothing is judged",
            "repair the policy file that magi-node's log complains of (magi-node check), and send SIGHUP",
        );
    }
    let seen = format!("{}, revision {revision}", status.policy.mode);
    let path = &facts.settings.policy;
    match magi_config::load_policy(path) {
        Ok(policy) if policy.revision == *revision => {}
        // Without its settings it is not known which file is meant.
        Ok(_) | Err(_) if !facts.settings_given => {}
        Ok(policy) => {
            return POLICY.warn(
                format!(
                    "{seen}; {} has revision {} by now",
                    path.display(),
                    policy.revision
                ),
                "send SIGHUP to magi-node (systemctl reload magi-node)",
            );
        }
        Err(problem) => {
            let first = problem.to_string().lines().next().unwrap_or_default().to_owned();
            return POLICY.fail(
                format!("{seen}; but {} is no good: {first}", path.display()),
                "repair it (`magi-node check` shows every mistake), and send SIGHUP to magi-node",
            );
        }
    }
    match status.policy.mode {
        Mode::Enforce => POLICY.ok(seen),
        Mode::Observe => POLICY.ok(format!("{seen}: records what it would stop")),
    }
}

fn audit(facts: &Facts) -> Check {
    let settings = &facts.settings.audit;
    let path = match facts.status() {
        Ok(status) => PathBuf::from(&status.audit),
        Err(_) if facts.settings_given => settings.path.clone(),
        Err(why) => return AUDIT.skip(why),
    };
    let shown = path.display();
    let folder = path.parent().unwrap_or(Path::new("/"));
    let wanted = if path.exists() { path.as_path() } else { folder };
    let advice = "make room and see that root can write there, or set `audit.path` in magi-node's settings; until then no \
                  lever is pulled";
    let writable = accessat(CWD, wanted, Access::WRITE_OK, AtFlags::EACCESS);
    let about = statvfs(folder);
    let (about, ()) = match (about, writable) {
        (Ok(about), Ok(())) if !about.f_flag.contains(StatVfsMountFlags::RDONLY) => (about, ()),
        (Ok(_), Ok(())) => return AUDIT.fail(format!("{shown} is on a read-only file system"), advice),
        (Err(errno), _) | (_, Err(errno)) => {
            return AUDIT.fail(format!("{shown} cannot be written: {errno}"), advice);
        }
    };
    let free = about.f_bavail.saturating_mul(about.f_frsize);
    let free_text = magi_config::human_bytes(free);
    if free == 0 {
        return AUDIT.fail(format!("no room is left for {shown}"), advice);
    }
    let most = settings
        .rotate
        .saturating_mul(u64::from(settings.keep).saturating_add(1));
    let most_text = magi_config::human_bytes(most);
    if free < most {
        return AUDIT.warn(
            format!(
                "{shown} can be written, but only {free_text} are free where the trail may take {most_text}"
            ),
            "make room, or lower `audit.rotate` or `audit.keep` in magi-node's settings",
        );
    }
    AUDIT.ok(format!(
        "{shown} can be written, {free_text} are free; it takes {most_text} at most"
    ))
}

/// Whether the kubelet asks it, only its pulls show.
fn gateway(facts: &Facts) -> Check {
    match facts.status() {
        Err(why) => GATEWAY.skip(why),
        Ok(status) if status.gateway.connected > 0 => {
            GATEWAY.ok(format!("connected; {} pulls go through it now", status.gateway.pulls))
        }
        Ok(_) => GATEWAY.skip(
            "no magi-gateway is connected; to use one, start it and point the kubelet's `imageServiceEndpoint` to it",
        ),
    }
}

fn nri(facts: &Facts) -> Check {
    let settings = &facts.settings.nri;
    if facts.settings_given && settings.mode == ProbeMode::Off {
        return NRI.skip("off by magi-node's settings; pods are known by their pulls only");
    }
    if let Ok(config) = &facts.config
        && let Some(check) = closed(facts, config)
    {
        return check;
    }
    let status = match facts.status() {
        Ok(status) => status,
        Err(why) => return NRI.skip(why),
    };
    if is_up(status, Source::Nri) {
        let pods = facts.node.as_ref().ok().and_then(|node| node.pods);
        let pods = pods.map_or_else(String::new, |pods| format!("; {pods} pods"));
        return NRI.ok(format!("registered{pods}"));
    }
    let shown = settings.socket.display();
    if facts.settings_given && !settings.socket.exists() {
        return NRI.fail(
            format!("there is no {shown}"),
            "restart containerd if NRI was enabled after it was started",
        );
    }
    NRI.fail(
        "magi-node is not registered",
        "see magi-node's log: its line on NRI says why",
    )
    .or("set `nri.socket` in magi-node's settings to containerd's, if that is not the default")
}

/// What in containerd's configuration keeps everybody out.
fn closed(facts: &Facts, config: &Config) -> Option<Check> {
    let file = config.path.display();
    let found = match config.effective.nri(config.version) {
        Ok(found) => found,
        Err(error) => {
            return Some(NRI.fail(causes(&error), format!("repair {file}")));
        }
    };
    let why = if found.listed {
        "its plugin stands in `disabled_plugins`"
    } else if found.disabled {
        "`disable` is true, or was never set, which means the same on 1.7"
    } else if found.connections_disabled {
        "`disable_connections` is true"
    } else {
        let ours = &facts.settings.nri.socket;
        let same = same_file(&found.socket, ours);
        return (facts.settings_given && !same).then(|| {
            NRI.fail(
                format!(
                    "containerd listens at {}, magi-node connects to {}",
                    found.socket.display(),
                    ours.display()
                ),
                format!(
                    "set `nri.socket` in magi-node's settings to {}, and restart magi-node",
                    found.socket.display()
                ),
            )
        });
    };
    Some(
        NRI.fail(
            format!("NRI is closed in {file}: {why}"),
            format!(
                "run `{}`, which opens it, and restart containerd",
                config.install()
            ),
        )
        .or("or set `nri.mode: off` in magi-node's settings, and do without the pods' labels"),
    )
}

/// `/var/run` is a link to `/run`.
fn same_file(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    one == other || real(one) == real(other)
}

pub(super) fn is_up(status: &NodeStatus, source: Source) -> bool {
    status.sources.iter().any(|one| one.source == source && one.up)
}
