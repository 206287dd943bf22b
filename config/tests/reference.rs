//! `REFERENCE.md` says what the code does, and the examples show it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use magi_config::{MasterSettings, Settings, load_master_settings, load_policy, load_settings, reference};
use magi_engine::policy::{Limits, Mode, RuleVerdict};

fn here(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn the_reference_is_not_stale() {
    let path = here("REFERENCE.md");
    if std::env::var_os("MAGI_BLESS").is_some() {
        fs::write(&path, reference()).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == reference(),
        "config/REFERENCE.md is stale: run `MAGI_BLESS=1 cargo test -p magi-config --test reference`"
    );
}

#[test]
fn every_example_is_right() {
    let mut examples = 0;
    for entry in fs::read_dir(here("examples")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        examples += 1;
        assert!(
            reference().contains(&format!("examples/{name}")),
            "{name} is not mentioned in the reference"
        );
        if name.starts_with("policy-") {
            load_policy(&path).unwrap_or_else(|error| panic!("{error}"));
        } else if name.starts_with("settings-master") {
            let settings = load_master_settings(&path).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(settings, MasterSettings::default());
        } else {
            load_settings(&path).unwrap_or_else(|error| panic!("{error}"));
        }
    }
    assert!(examples >= 3);
}

#[test]
fn the_example_of_settings_shows_the_defaults() {
    assert_eq!(
        load_settings(&here("examples/settings-node.yaml")).unwrap(),
        Settings::default()
    );
}

#[test]
fn the_example_of_teams_means_what_it_says() {
    let policy = load_policy(&here("examples/policy-teams.yaml")).unwrap();
    let top = Limits {
        image: Some(10 << 30),
        layer: Some(5 << 30),
        overrun: Some(0),
    };
    assert_eq!(
        policy.fallback,
        RuleVerdict::Limit {
            mode: Mode::Observe,
            limits: top
        }
    );
    let verdicts: Vec<_> = policy
        .rules
        .iter()
        .map(|rule| (rule.name.as_str(), rule.verdict))
        .collect();
    let limit = |mode, limits| RuleVerdict::Limit { mode, limits };
    assert_eq!(
        verdicts,
        [
            ("banned", RuleVerdict::Deny { mode: Mode::Enforce }),
            ("not-from-there", RuleVerdict::Deny { mode: Mode::Observe }),
            ("platform", RuleVerdict::Exempt),
            (
                "models",
                limit(
                    Mode::Observe,
                    Limits {
                        image: Some(60 << 30),
                        layer: None,
                        ..top
                    }
                )
            ),
            (
                "team-a",
                limit(
                    Mode::Enforce,
                    Limits {
                        image: Some(1 << 30),
                        ..top
                    }
                )
            ),
            (
                "training",
                limit(
                    Mode::Observe,
                    Limits {
                        image: Some(100 << 30),
                        ..top
                    }
                )
            ),
            (
                "sandbox",
                limit(
                    Mode::Enforce,
                    Limits {
                        image: Some(500_000_000),
                        layer: Some(250_000_000),
                        ..top
                    }
                )
            ),
        ]
    );
    assert_eq!(policy.deny_for, Duration::from_secs(600));
    let [teams] = policy.budgets.as_slice() else {
        panic!("{:?}", policy.budgets);
    };
    assert_eq!(
        (teams.bytes, teams.pulls, teams.mode),
        (Some(100 << 30), Some(300), Mode::Observe)
    );
    assert_eq!(teams.window, Duration::from_secs(3600));
}

/// Whoever writes a policy finds each key in an example.
#[test]
fn the_examples_show_every_key_of_a_policy() {
    let example = fs::read_to_string(here("examples/policy-teams.yaml")).unwrap();
    let keys = "version mode limits image layer overrun denyFor orphanGrace orphanKeep for free budgets name namespaces window bytes pulls rules match \
                podLabels images digests exempt deny";
    for key in keys.split_whitespace() {
        assert!(example.contains(&format!("{key}:")), "{key} is in no example");
    }
}
