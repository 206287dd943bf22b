//! The kernel: what it offers, what magi-node may do with it, and what came of it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use magi_config::ProbeMode;
use magi_engine::Source;
use magi_sys::{Capabilities, Capability};

use super::check::{Check, Question, causes};
use super::facts::Facts;
use super::node::is_up;

const KERNEL: Question = Question {
    id: "kernel",
    proves: "the kernel is new enough for the probes",
};
const BTF: Question = Question {
    id: "btf",
    proves: "the kernel's type information, which the probes need, can be read",
};
const CAPABILITIES: Question = Question {
    id: "capabilities",
    proves: "magi-node may load probes, end sockets and look at containerd",
};
const PROBES: Question = Question {
    id: "probes",
    proves: "the probes are loaded and attached: sockets are tied to layers by the kernel",
};
const REQUESTS: Question = Question {
    id: "requests",
    proves: "the probes that read CRI requests are attached: pulls have owners",
};

/// With BPF ring buffers; without them there are no probes.
const PROBES_SINCE: (u32, u32) = (5, 8);
/// What BTF begins with, on either kind of machine (kernel, Documentation/bpf/btf.rst).
const MAGIC: [[u8; 2]; 2] = [[0x9f, 0xeb], [0xeb, 0x9f]];
/// What probes and levers need at least; measured.
const NEEDED: [Capability; 4] = [
    Capability::Bpf,
    Capability::Perfmon,
    Capability::NetAdmin,
    Capability::SysPtrace,
];

/// All checks of the kernel.
pub(super) fn checks(facts: &Facts) -> Vec<Check> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let found = Capabilities::effective();
    let capabilities = match facts.node.as_ref().ok().and_then(|node| node.pid) {
        Some(pid) => capabilities(&format!("magi-node (pid {pid})"), Capabilities::of(pid)),
        None => capabilities("magi-node is not visible, but magictl", found),
    };
    vec![
        kernel(&release),
        btf(&facts.settings.probes.btf),
        capabilities,
        probes(facts),
        requests(facts),
    ]
}

fn kernel(release: &str) -> Check {
    let mut numbers = release
        .split(|letter: char| !letter.is_ascii_digit())
        .map_while(|number| number.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= PROBES_SINCE => KERNEL.ok(format!("Linux {release}")),
        (Some(_), Some(_)) => KERNEL.warn(
            format!("Linux {release}: too old for the probes; sockets are tied to layers by byte counts"),
            "run a kernel of 5.8 or later; 6.3 or later costs least",
        ),
        _ => KERNEL.warn(
            format!("Linux {release:?}: the version is not understood"),
            "see what the line `probes` says",
        ),
    }
}

fn btf(path: &Path) -> Check {
    let shown = path.display();
    let mut magic = [0; 2];
    match File::open(path).and_then(|mut file| file.read_exact(&mut magic)) {
        Ok(()) if MAGIC.contains(&magic) => BTF.ok(shown.to_string()),
        Ok(()) => BTF.fail(
            format!("{shown} is no BTF"),
            "set `probes.btf` in magi-node's settings to /sys/kernel/btf/vmlinux, or leave it out",
        ),
        Err(error) => BTF
            .fail(
                format!("cannot read {shown}: {error}"),
                "set `probes.btf` in magi-node's settings to the kernel's BTF (/sys/kernel/btf/vmlinux, which is the default), \
                 and restart magi-node",
            )
            .or("if the kernel has none, run one that is built with CONFIG_DEBUG_INFO_BTF=y: the usual distributions' are"),
    }
}

fn capabilities(whose: &str, found: Result<Capabilities, magi_sys::CapabilityError>) -> Check {
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            return CAPABILITIES.skip(format!(
                "the capabilities of {whose} are not known: {}",
                causes(&error)
            ));
        }
    };
    let stands_in = |one: &Capability| {
        matches!(one, Capability::Bpf | Capability::Perfmon) && found.has(Capability::SysAdmin)
    };
    let missing: Vec<_> = found
        .missing(&NEEDED)
        .filter(|one| !stands_in(one))
        .map(|one| one.to_string())
        .collect();
    if missing.is_empty() {
        let all = NEEDED.map(|one| one.to_string()).join(", ");
        return CAPABILITIES.ok(format!("{whose} has {all}"));
    }
    CAPABILITIES.fail(
        format!("{whose} lacks {}", missing.join(", ")),
        "run magi-node as root, or give it these capabilities (AmbientCapabilities= and CapabilityBoundingSet= of its \
         systemd unit, or securityContext.capabilities.add of its container)",
    )
}

fn probes(facts: &Facts) -> Check {
    let status = match facts.status() {
        Ok(status) => status,
        Err(why) => return PROBES.skip(why),
    };
    if is_up(status, Source::Probes) {
        return PROBES.ok(format!("attached: {}", status.probes));
    }
    if facts.settings_given && facts.settings.probes.mode == ProbeMode::Off {
        return PROBES.skip(
            "off by magi-node's settings; sockets are tied to layers by byte counts, which takes longer",
        );
    }
    if !status.containerd.up {
        return PROBES.skip("they are loaded when magi-node finds containerd");
    }
    let without = if is_up(status, Source::SocketTable) {
        "sockets are tied to layers by byte counts, which takes longer"
    } else {
        "nothing ties sockets to layers, so no download can be stopped"
    };
    PROBES
        .fail(
            format!("not attached ({}): {without}", status.probes),
            "repair what the lines `kernel`, `btf` and `capabilities` say, and restart magi-node",
        )
        .or("magi-node's log says why in its line \"no kernel probes\"")
}

fn requests(facts: &Facts) -> Check {
    let status = match facts.status() {
        Ok(status) => status,
        Err(why) => return REQUESTS.skip(why),
    };
    if is_up(status, Source::Requests) {
        return REQUESTS.ok("attached: requests on containerd's socket are read as they pass");
    }
    if facts.settings_given && facts.settings.requests == ProbeMode::Off {
        return REQUESTS.skip("off by magi-node's settings: pulls have no owners");
    }
    if !status.containerd.up {
        return REQUESTS.skip("they are loaded when magi-node finds containerd");
    }
    REQUESTS
        .fail(
            "not attached: whose pull it is stays unknown, and rules for namespaces never apply for sure",
            "repair what the lines `kernel`, `btf` and `capabilities` say, and restart magi-node",
        )
        .or("magi-node's log says why")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::check::Outcome;

    #[test]
    fn kernels_are_compared_by_number() {
        for (release, outcome) in [
            ("6.18.5", Outcome::Ok),
            ("5.8.0-63-generic", Outcome::Ok),
            ("5.10.0+deb", Outcome::Ok),
            ("5.7.19", Outcome::Warn),
            ("4.18.0-553.el8", Outcome::Warn),
            ("odd", Outcome::Warn),
        ] {
            assert_eq!(kernel(release).outcome, outcome, "{release}");
        }
    }

    #[test]
    fn type_information_is_looked_into() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("btf");
        assert_eq!(btf(&path).outcome, Outcome::Fail);
        for (bytes, outcome) in [
            (&b"\x9f\xeb\x01"[..], Outcome::Ok),
            (b"\xeb\x9f", Outcome::Ok),
            (b"\x7fELF", Outcome::Fail),
            (b"\x9f", Outcome::Fail),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let check = btf(&path);
            assert_eq!(check.outcome, outcome, "{bytes:?}");
            assert_eq!(check.advice.is_empty(), outcome == Outcome::Ok);
        }
    }

    #[test]
    fn our_own_capabilities_are_judged() {
        let ours = Capabilities::effective().unwrap();
        let all = NEEDED.iter().all(|one| ours.has(*one));
        let check = capabilities("magictl", Ok(ours));
        assert_eq!(
            check.outcome == Outcome::Ok,
            all || ours.has(Capability::SysAdmin),
            "{check:?}"
        );
    }
}
