//! The rules of the workspace, as tests: who imports whom, what may be depended on, and what no file may contain.
//!
//! Each rule is a function from what it looks at to complaints. One test applies it to this workspace, and at least
//! one feeds it something bad, so that a rule that sees nothing is noticed.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test may stop at the first surprise"
)]

mod dependencies;
mod documents;
mod features;
mod files;
mod graph;
mod imports;
mod machine;
mod manifests;
mod rooms;
mod source;
mod style;

use std::fs;
use std::sync::OnceLock;

use dependencies::Deny;
use graph::{Graph, root};

/// The workspace's graph, asked for once.
fn graph() -> &'static Graph {
    static GRAPH: OnceLock<Graph> = OnceLock::new();
    GRAPH.get_or_init(|| Graph::load(root(), &deny().graph.targets).expect("cargo's metadata"))
}

/// deny.toml, read once.
fn deny() -> &'static Deny {
    static DENY: OnceLock<Deny> = OnceLock::new();
    DENY.get_or_init(|| {
        let text = fs::read_to_string(root().join("deny.toml")).expect("deny.toml");
        Deny::parse(&text).expect("deny.toml in the form that is enforced here")
    })
}

/// Fails with every complaint on a line of its own.
#[track_caller]
fn nothing_to_complain(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n  {}\n", complaints.join("\n  "));
}
