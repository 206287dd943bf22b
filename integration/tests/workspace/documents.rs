//! ARCHITECTURE.md tells what the manifests say: the import table, and every third-party crate that is depended on.

use std::collections::{BTreeMap, BTreeSet};

use crate::graph::{Graph, root};
use crate::imports::MAY_IMPORT;

const IMPORTS: &str = "## Who may import whom";
const DEPENDENCIES: &str = "## Dependencies";

/// The tables of a section, row by row, without their heads. Cells lose their backticks.
fn rows(document: &str, heading: &str) -> Vec<Vec<String>> {
    document
        .lines()
        .skip_while(|line| *line != heading)
        .skip(1)
        .take_while(|line| !line.starts_with("## "))
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            line.trim_matches('|')
                .split('|')
                .map(|cell| cell.trim().replace('`', ""))
                .collect()
        })
        .collect()
}

/// Complains where the document's import table is not the one that is enforced.
pub(crate) fn imports(document: &str, table: &[(&str, &[&str])]) -> Vec<String> {
    let told: BTreeMap<String, BTreeSet<String>> = rows(document, IMPORTS)
        .into_iter()
        .map(|row| {
            let names = row.get(1).map_or("", String::as_str).split(", ");
            let names = names
                .filter(|name| name.starts_with("magi-"))
                .map(ToOwned::to_owned);
            (row.first().cloned().unwrap_or_default(), names.collect())
        })
        .collect();
    let held: BTreeMap<String, BTreeSet<String>> = table
        .iter()
        .map(|(name, granted)| {
            (
                (*name).to_owned(),
                granted.iter().map(|one| (*one).to_owned()).collect(),
            )
        })
        .collect();
    let names: BTreeSet<&String> = told.keys().chain(held.keys()).collect();
    names
        .into_iter()
        .filter(|name| told.get(*name) != held.get(*name))
        .map(|name| {
            format!(
                "ARCHITECTURE.md: {name} may import {:?}, and is told to import {:?}",
                held.get(name),
                told.get(name)
            )
        })
        .collect()
}

/// Complains where the document's table of dependencies is not what the crates depend on.
pub(crate) fn dependencies(document: &str, graph: &Graph) -> Vec<String> {
    let mut held: BTreeMap<&str, &str> = BTreeMap::new();
    for (_, package) in graph.ours() {
        for (_, linked) in graph.linked(package).filter(|(_, linked)| !linked.ours) {
            held.insert(&linked.name, linked.licence.as_deref().unwrap_or_default());
        }
    }
    let rows = rows(document, DEPENDENCIES);
    let mut complaints = Vec::new();
    for row in &rows {
        let [name, licence, reason] = &row[..] else {
            complaints.push(format!(
                "ARCHITECTURE.md: a row of three cells was expected: {row:?}"
            ));
            continue;
        };
        match held.remove(name.as_str()) {
            None => complaints.push(format!(
                "ARCHITECTURE.md: {name} is no direct dependency, or stands twice"
            )),
            Some(held) if held != licence => {
                complaints.push(format!(
                    "ARCHITECTURE.md: {name} has the licence {held}, not {licence}"
                ));
            }
            Some(_) if reason.is_empty() => {
                complaints.push(format!("ARCHITECTURE.md: {name} has no reason"));
            }
            Some(_) => {}
        }
    }
    complaints.extend(
        held.iter()
            .map(|(name, licence)| format!("ARCHITECTURE.md: {name} ({licence}) is missing")),
    );
    complaints
}

fn architecture() -> String {
    std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md")
}

#[test]
fn the_document_shows_the_import_table() {
    crate::nothing_to_complain(imports(&architecture(), MAY_IMPORT));
}

#[test]
fn the_document_gives_a_reason_for_every_dependency() {
    crate::nothing_to_complain(dependencies(&architecture(), crate::graph()));
}

#[test]
fn another_import_table_is_seen() {
    let document =
        format!("{IMPORTS}\n\n| crate | may import |\n|---|---|\n| `magi-a` | `magi-b`, `magi-c` |\n");
    let table: &[(&str, &[&str])] = &[("magi-a", &["magi-b", "magi-c"])];
    assert!(imports(&document, table).is_empty());
    assert_eq!(imports(&document, &[("magi-a", &["magi-b"])]).len(), 1);
    assert_eq!(imports(&document, &[]).len(), 1);
    assert_eq!(imports("", table).len(), 1);
}

#[test]
fn another_list_of_dependencies_is_seen() {
    let graph = Graph::toy(&["magi-a > serde tokio", "serde > itoa"]);
    let complaints =
        |rows: &str| dependencies(&format!("{DEPENDENCIES}\n{rows}\n## Next\n| `x` | | |\n"), &graph);
    assert!(complaints("| `serde` | MIT | reads |\n| `tokio` | MIT | runs |").is_empty());
    for bad in [
        "| `serde` | MIT | reads |",
        "| `serde` | MIT | reads |\n| `tokio` | ISC | runs |",
        "| `serde` | MIT | reads |\n| `tokio` | MIT | |",
        "| `serde` | MIT | reads |\n| `tokio` | MIT | runs |\n| `itoa` | MIT | counts |",
    ] {
        assert_eq!(complaints(bad).len(), 1, "{bad}");
    }
}
