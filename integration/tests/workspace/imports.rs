//! Who may import whom among the crates of this workspace, and that the engine stays pure all the way down.

use std::collections::BTreeSet;

use crate::graph::Graph;

/// Crates of ours that each crate may depend on, its tests and build script included. ARCHITECTURE.md shows the same.
///
/// `integration` sees the product as an operator does, as processes and JSON: what it measures would mean little if
/// magi's own code read it.
pub(crate) const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("magi-config", &["magi-engine"]),
    (
        "magi-ctl",
        &[
            "magi-config",
            "magi-engine",
            "magi-install",
            "magi-master-api",
            "magi-node-api",
            "magi-sys",
            "magi-wire",
        ],
    ),
    ("magi-engine", &[]),
    ("magi-gateway", &["magi-engine", "magi-node-api"]),
    ("magi-install", &[]),
    ("magi-integration", &["magi-config", "magi-wire"]),
    ("magi-master", &["magi-config", "magi-engine", "magi-master-api"]),
    ("magi-master-api", &[]),
    ("magi-node-api", &["magi-engine"]),
    (
        "magi-plugin",
        &[
            "magi-config",
            "magi-engine",
            "magi-master-api",
            "magi-node-api",
            "magi-probes",
            "magi-snoop",
            "magi-sys",
            "magi-wire",
        ],
    ),
    ("magi-probes", &[]),
    ("magi-snoop", &[]),
    ("magi-sys", &[]),
    ("magi-unpack", &[]),
    ("magi-verify", &[]),
    ("magi-wire", &[]),
];

/// All that the engine may carry into a program: descriptions of data, text, and patterns. Nothing here can reach a clock,
/// a file, a socket or a random number.
const ENGINE_CARRIES: &[&str] = &[
    "itoa",
    "memchr",
    "serde",
    "serde_core",
    "serde_json",
    "thiserror",
    "wildmatch",
    "zmij",
];

/// Complains about imports that the table does not grant, and about a table that is out of date.
pub(crate) fn against_the_table(graph: &Graph, table: &[(&str, &[&str])]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (_, package) in graph.ours() {
        let Some((_, granted)) = table.iter().find(|(name, _)| *name == package.name) else {
            complaints.push(format!("{} is not in the import table", package.name));
            continue;
        };
        for (_, linked) in graph.linked(package) {
            if linked.ours && !granted.contains(&linked.name.as_str()) {
                complaints.push(format!("{} must not import {}", package.name, linked.name));
            }
        }
    }
    let named = table
        .iter()
        .flat_map(|(name, granted)| granted.iter().chain([name]));
    let gone: BTreeSet<&&str> = named.filter(|name| graph.our(name).is_none()).collect();
    complaints.extend(
        gone.iter()
            .map(|name| format!("the import table names {name}, which is no crate of this workspace")),
    );
    complaints
}

/// Complains about anything that the engine carries beyond [`ENGINE_CARRIES`].
pub(crate) fn in_the_engine(graph: &Graph) -> Vec<String> {
    let Some(engine) = graph.our("magi-engine") else {
        return vec!["there is no magi-engine".to_owned()];
    };
    graph
        .carried(engine)
        .into_iter()
        .filter(|name| !ENGINE_CARRIES.contains(name))
        .map(|name| format!("magi-engine carries {name}: it must stay pure"))
        .collect()
}

#[test]
fn crates_import_what_the_table_grants() {
    crate::nothing_to_complain(against_the_table(crate::graph(), MAY_IMPORT));
}

#[test]
fn the_engine_carries_nothing_impure() {
    crate::nothing_to_complain(in_the_engine(crate::graph()));
}

#[test]
fn a_forbidden_import_is_seen() {
    let graph = Graph::toy(&["magi-engine > magi-wire"]);
    let table: &[(&str, &[&str])] = &[("magi-engine", &[]), ("magi-wire", &[])];
    assert_eq!(
        against_the_table(&graph, table),
        ["magi-engine must not import magi-wire"]
    );
}

#[test]
fn a_table_out_of_date_is_seen() {
    let graph = Graph::toy(&["magi-engine"]);
    assert_eq!(
        against_the_table(&graph, &[("magi-gone", &[])]),
        [
            "magi-engine is not in the import table",
            "the import table names magi-gone, which is no crate of this workspace"
        ]
    );
}

#[test]
fn impurity_is_seen_through_others() {
    let graph = Graph::toy(&["magi-engine > serde", "serde > harmless", "harmless > tokio"]);
    assert_eq!(
        in_the_engine(&graph),
        [
            "magi-engine carries harmless: it must stay pure",
            "magi-engine carries tokio: it must stay pure"
        ]
    );
}
