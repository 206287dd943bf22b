//! Within a crate: what the code of a folder may name. Sources, levers and the audit trail meet in the node's wiring
//! and nowhere else; the engine reaches neither clock nor file; generated types stay where they are decoded.

use crate::files::{self, File};
use crate::source::{paths, tokens, without_tests};

/// Parts of the node agent that know nothing of one another.
const SEPARATE: &[(&str, &[&str])] = &[
    (
        "plugin/src/sources/",
        &["levers", "audit", "core", "node", "recorder", "replay"],
    ),
    (
        "plugin/src/levers/",
        &["sources", "audit", "core", "node", "recorder", "replay"],
    ),
    (
        "plugin/src/audit/",
        &["sources", "levers", "core", "node", "recorder", "replay"],
    ),
];

/// Crates that only some files of the node agent may name.
const ONLY_IN: &[(&str, &[&str])] = &[
    (
        "magi_wire",
        &[
            "plugin/src/containerd.rs",
            "plugin/src/levers/",
            "plugin/src/sources/",
        ],
    ),
    ("magi_probes", &["plugin/src/sources/"]),
    ("magi_sys", &["plugin/src/levers/", "plugin/src/sources/"]),
];

/// What the engine may take from the standard library's less innocent modules: plain values and traits.
const ENGINE_VALUES: &[(&str, &[&str])] = &[
    (
        "net",
        &[
            "IpAddr",
            "Ipv4Addr",
            "Ipv6Addr",
            "SocketAddr",
            "SocketAddrV4",
            "SocketAddrV6",
        ],
    ),
    ("time", &["Duration"]),
    ("env", &[]),
    ("fs", &[]),
    // What a trace is read from and written to is the caller's.
    (
        "io",
        &["BufRead", "Error", "ErrorKind", "Read", "Result", "Write"],
    ),
    ("os", &[]),
    ("process", &[]),
    ("sync", &["Arc"]),
    ("thread", &[]),
];

/// Names that the engine must not use: their order differs from run to run, they read a clock, or they print.
const ENGINE_NEVER: &[&str] = &[
    "HashMap",
    "HashSet",
    "RandomState",
    "Instant",
    "SystemTime",
    "print",
    "println",
    "eprint",
    "eprintln",
];

/// Complains about names that do not belong into the file's folder. Tests may name more.
pub(crate) fn rooms(file: &File) -> Vec<String> {
    if file.is_test() || !file.is_rust() {
        return Vec::new();
    }
    let tokens = match tokens(file) {
        Ok(tokens) => without_tests(&tokens),
        Err(problem) => return vec![problem],
    };
    let mut complaints = Vec::new();
    for (segments, line) in paths(&tokens) {
        let mut complain = |why: &str| {
            complaints.push(format!(
                "{}:{line}: names {}: {why}",
                file.path,
                segments.join("::")
            ));
        };
        let first = segments.first().map_or("", String::as_str);
        let inner = segments
            .iter()
            .find(|segment| !["crate", "super", "self"].contains(&segment.as_str()));
        for (room, strangers) in SEPARATE {
            let is_stranger = inner.is_some_and(|inner| strangers.contains(&inner.as_str()));
            // Its own module may have a part of the same name.
            let is_ours = first == "crate" || segments.iter().filter(|one| *one == "super").count() > 1;
            if file.path.starts_with(room) && is_ours && is_stranger {
                complain("these parts meet in the wiring only");
            }
        }
        for (name, rooms) in ONLY_IN {
            let is_agent = file.path.starts_with("plugin/src/");
            if first == *name && is_agent && !rooms.iter().any(|room| file.path.starts_with(room)) {
                complain("it may be named at the edges only");
            }
        }
        if file.path.starts_with("plugin/engine/src/") && is_impure(&segments) {
            complain("the engine is pure");
        }
    }
    complaints
}

fn is_impure(segments: &[String]) -> bool {
    if segments
        .iter()
        .any(|segment| ENGINE_NEVER.contains(&segment.as_str()))
    {
        return true;
    }
    let [library, module, rest @ ..] = segments else {
        return false;
    };
    library == "std"
        && ENGINE_VALUES
            .iter()
            .find(|(name, _)| name == module)
            .is_some_and(|(_, values)| !rest.first().is_some_and(|value| values.contains(&value.as_str())))
}

#[test]
fn code_names_what_its_folder_may() {
    let files = files::all().expect("the files");
    for room in SEPARATE
        .iter()
        .map(|(room, _)| *room)
        .chain(["plugin/engine/src/", "plugin/src/"])
    {
        assert!(
            files.iter().any(|file| file.path.starts_with(room)),
            "{room} is gone: the rules must follow"
        );
    }
    crate::nothing_to_complain(files.iter().flat_map(rooms).collect());
}

#[test]
fn strangers_are_seen() {
    for (path, text) in [
        ("plugin/src/sources/x.rs", "use crate::levers::Sockets;"),
        (
            "plugin/src/sources/deep/x.rs",
            "use crate::{clock, audit::AuditLog};",
        ),
        (
            "plugin/src/sources/deep/x.rs",
            "fn f() { super::super::core::g() }",
        ),
        (
            "plugin/src/levers/x.rs",
            "fn f(x: &crate::sources::containerd::Attached) {}",
        ),
        ("plugin/src/audit/mod.rs", "use crate::node;"),
        ("plugin/src/core.rs", "use magi_wire::containerd;"),
        ("plugin/src/node.rs", "fn f() { magi_sys::disconnect() }"),
        ("plugin/engine/src/x.rs", "use std::fs;"),
        ("plugin/engine/src/x.rs", "use std::{fmt, net};"),
        ("plugin/engine/src/x.rs", "use std::net::TcpStream;"),
        ("plugin/engine/src/x.rs", "use std::io::{self};"),
        ("plugin/engine/src/x.rs", "fn f() { std::io::stdin() }"),
        ("plugin/engine/src/x.rs", "fn f() { std::time::Instant::now(); }"),
        (
            "plugin/engine/src/x.rs",
            "use std::collections::{BTreeMap, HashMap};",
        ),
        ("plugin/engine/src/x.rs", "fn f() { println!(\"x\") }"),
    ] {
        assert_eq!(rooms(&File::new(path, text)).len(), 1, "{path}: {text}");
    }
}

#[test]
fn neighbours_are_welcome() {
    for (path, text) in [
        (
            "plugin/src/sources/x.rs",
            "use crate::inbox::Inbox; use super::core; use magi_wire::a;",
        ),
        (
            "plugin/src/levers/x.rs",
            "use crate::containerd::Api; fn f() { magi_sys::disconnect() }",
        ),
        ("plugin/src/core.rs", "use crate::{levers, sources};"),
        (
            "plugin/src/sources/x.rs",
            "#[cfg(test)] mod tests { use crate::levers; }",
        ),
        ("plugin/src/sources/tests.rs", "use crate::levers;"),
        (
            "plugin/engine/src/x.rs",
            "use std::net::{IpAddr, SocketAddr}; use std::{fmt, time::Duration};",
        ),
        (
            "plugin/engine/src/x.rs",
            "// std::fs\nuse std::collections::BTreeMap;",
        ),
    ] {
        assert_eq!(
            rooms(&File::new(path, text)),
            Vec::<String>::new(),
            "{path}: {text}"
        );
    }
}
