//! What a person sees of a wrong document, kept as files beside the documents so that wording is reviewed.
//!
//! `MAGI_BLESS=1 cargo test -p magi-config --test errors` rewrites the expected texts.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test may stop at the first surprise"
)]

use std::fs;
use std::path::Path;

use magi_config::{ConfigError, parse_policy, parse_settings};

#[test]
fn wrong_documents_are_explained() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/errors");
    let bless = std::env::var_os("MAGI_BLESS").is_some();
    let mut documents = 0;
    let mut stale = Vec::new();
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        documents += 1;
        let name = path.file_name().unwrap().to_str().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let error = problems_of(name, &text);
        let seen = format!("{error}\n");
        let expected_path = path.with_extension("txt");
        if bless {
            fs::write(&expected_path, &seen).unwrap();
        } else if fs::read_to_string(&expected_path).ok().as_deref() != Some(&seen) {
            stale.push(seen);
        }
        in_order_and_placed(&error, &text);
    }
    assert!(documents >= 10, "only {documents} documents were found");
    assert!(
        stale.is_empty(),
        "these differ from their .txt files; if they are better, MAGI_BLESS=1 rewrites those:\n\n{}",
        stale.join("\n")
    );
}

fn problems_of(name: &str, text: &str) -> ConfigError {
    if name.starts_with("policy") {
        parse_policy(name, text).expect_err(name)
    } else {
        parse_settings(name, text).expect_err(name)
    }
}

fn in_order_and_placed(error: &ConfigError, text: &str) {
    assert!(!error.problems().is_empty());
    let places: Vec<_> = error
        .problems()
        .iter()
        .map(|problem| problem.place.unwrap())
        .collect();
    assert!(places.is_sorted(), "{places:?}");
    for place in places {
        assert!(place.line <= text.lines().count() + 1, "{place:?}");
        let width = text
            .lines()
            .nth(place.line - 1)
            .unwrap_or_default()
            .chars()
            .count();
        assert!(place.column <= width + 1, "{place:?}");
    }
}
