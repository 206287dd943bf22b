//! What documents mean: inheritance, defaults, revisions, what is taken as text, and what a machine is told of problems.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

use magi_config::{Settings, parse_policy, parse_settings};
use magi_engine::policy::{Limits, Mode, Policy, RuleVerdict};
use serde_json::json;

fn policy(text: &str) -> Policy {
    parse_policy("policy.yaml", text).unwrap_or_else(|error| panic!("{error}"))
}

fn messages(text: &str) -> Vec<String> {
    let error = parse_policy("policy.yaml", text).expect_err("this is wrong");
    error
        .problems()
        .iter()
        .map(|problem| format!("{}: {}", problem.path, problem.message))
        .collect()
}

#[test]
fn the_least_policy_is_the_built_in_one() {
    let least = policy("version: 1");
    assert_eq!(least.fallback, Policy::default().fallback);
    assert_eq!(least.rules, []);
}

#[test]
fn rules_inherit_what_they_leave_out() {
    let policy = policy(
        "version: 1\nmode: enforce\nlimits: { image: 10GiB, layer: none, overrun: none }\nrules:\n\
         - { name: a, match: { images: ['*'] }, limits: { layer: 1KB } }\n\
         - { name: b, match: { images: ['*'] }, mode: observe }\n\
         - { name: c, match: { images: ['*'] }, exempt: false, limits: { image: none, overrun: 7 } }\n",
    );
    let limits = |image, layer, overrun| Limits {
        image,
        layer,
        overrun,
    };
    let verdicts: Vec<_> = policy.rules.iter().map(|rule| rule.verdict).collect();
    let ten = Some(10 << 30);
    assert_eq!(
        verdicts,
        [
            RuleVerdict::Limit {
                mode: Mode::Enforce,
                limits: limits(ten, Some(1000), None)
            },
            RuleVerdict::Limit {
                mode: Mode::Observe,
                limits: limits(ten, None, None)
            },
            RuleVerdict::Limit {
                mode: Mode::Enforce,
                limits: limits(None, None, Some(7))
            },
        ]
    );
}

#[test]
fn selectors_become_patterns() {
    let policy = policy(
        "version: 1\nrules:\n  - name: a\n    exempt: true\n    match:\n      namespaces: [a-*, 123]\n      \
         images: ['registry.example:5000/team/*', '*/app', 'localhost/x', '[::1]:5000/x']\n",
    );
    let rule = &policy.rules[0];
    let written = |patterns: &[magi_engine::policy::Pattern]| {
        patterns
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(written(&rule.namespaces), "a-* 123");
    assert_eq!(
        written(&rule.images),
        "registry.example:5000/team/* */app localhost/x [::1]:5000/x"
    );
    assert!(rule.images[0].matches("registry.example:5000/team/a/b"));
}

#[test]
fn patterns_that_match_nothing_are_refused() {
    let refused = |key: &str, pattern: &str| {
        let text =
            format!("version: 1\nrules: [{{ name: a, exempt: true, match: {{ {key}: ['{pattern}'] }} }}]");
        parse_policy("p", &text).expect_err(pattern).problems()[0]
            .hint
            .clone()
            .unwrap_or_default()
    };
    for (pattern, hint) in [
        ("nginx", "docker.io/library/nginx"),
        ("registry.example", "registry.example/*"),
        ("docker.io/nginx", "docker.io/library/nginx"),
        ("team-a/app", "docker.io/team-a/app"),
        ("https://registry.example/app", "begin with the host"),
        ("registry.example/app:1.0", "leave the tag out"),
        ("registry.example/app@sha256*", "leave the digest out"),
        ("registry.example/{a,b}", "one pattern per item"),
        ("registry.example/[ab]", "only `*` and `?`"),
        ("registry.example/App", "lower case"),
        ("registry.example/", "registry.example/*"),
        ("", "to cover everything"),
    ] {
        let seen = refused("images", pattern);
        assert!(seen.contains(hint), "{pattern}: {seen}");
    }
    for pattern in ["Team", "a_b", "a.b", "a b", "", &"a".repeat(64)] {
        refused("namespaces", pattern);
    }
}

#[test]
fn scalars_are_taken_as_they_read() {
    let names = ["1.10", "no", "0x10", "2024-01-01", "true"];
    for name in names {
        let text =
            format!("version: 1\nrules: [{{ name: {name}, exempt: true, match: {{ images: ['*'] }} }}]");
        assert_eq!(policy(&text).rules[0].name, name);
    }
    let null = "version: 1\nrules: [{ name: null, exempt: true, match: { images: ['*'] } }]";
    assert_eq!(messages(null), ["rules[0].name: the value is missing"]);
}

#[test]
fn a_section_with_nothing_in_it_counts_as_left_out() {
    assert_eq!(policy("version: 1\nlimits:\n#  image: 1GiB\nrules:\n").rules, []);
    assert_eq!(
        parse_settings("s", "audit:\nlog: {}\n").unwrap(),
        Settings::default()
    );
    assert_eq!(parse_settings("s", "").unwrap(), Settings::default());
}

#[test]
fn a_rule_whose_limits_are_all_commented_out_says_nothing() {
    let text = "version: 1\nrules:\n- name: a\n  match: { images: ['*'] }\n  limits:\n#   image: 1GiB\n";
    assert_eq!(messages(text), ["rules[0]: the rule says nothing"]);
}

#[test]
fn a_misspelt_key_is_not_called_missing_too() {
    let text = "verson: 1\nrules: [{ nam: a, mach: { image: ['*'] }, exmpt: true }]";
    assert_eq!(
        messages(text),
        [
            ": unknown key `verson`",
            "rules[0]: unknown key `nam`",
            "rules[0]: unknown key `mach`",
            "rules[0]: unknown key `exmpt`"
        ]
    );
}

#[test]
fn the_revision_names_the_text_and_not_how_an_editor_saves_it() {
    let unix = policy("version: 1\nmode: observe\n");
    assert_eq!(unix.revision.len(), "sha256:".len() + 64);
    assert_eq!(unix.revision, policy("version: 1\r\nmode: observe\r\n").revision);
    assert_eq!(
        unix.revision,
        policy("\u{feff}version: 1\nmode: observe\n").revision
    );
    assert_ne!(unix.revision, policy("version: 1\nmode: enforce\n").revision);
    assert_eq!(
        policy("version: 1\n").revision,
        "sha256:09bfcc6a14b83e2192b8673677725c84883ee9cd0c70e45c9ec09daa8f2b2847"
    );
}

#[test]
fn settings_are_typed() {
    let settings = parse_settings(
        "settings.yaml",
        "containerd: { address: /c.sock, namespaces: [moby, k8s.io] }\npolicy: /p\ncontrol: { socket: /s }\n\
         audit: { path: /a, rotate: 1MB, keep: 9 }\nlog: { level: trace, format: json }\n\
         probes: { mode: off, btf: /b }\npoll: { active: 1.5s, idle: 1m }\ntrace: /t\ntraceMax: 1GiB\n",
    )
    .unwrap();
    assert_eq!(
        serde_json::to_value(settings).unwrap(),
        json!({
            "containerd": { "address": "/c.sock", "namespaces": ["moby", "k8s.io"] },
            "policy": "/p",
            "control": { "socket": "/s" },
            "audit": { "path": "/a", "rotate": 1_000_000, "keep": 9 },
            "log": { "level": "trace", "format": "json" },
            "probes": { "mode": "off", "btf": "/b" },
            "poll": { "active": { "secs": 1, "nanos": 500_000_000 }, "idle": { "secs": 60, "nanos": 0 } },
            "trace": "/t",
            "traceMax": 1_073_741_824,
        })
    );
}

#[test]
fn bounds_of_settings_are_inclusive() {
    for (good, bad) in [
        ("poll: { active: 20ms }", "poll: { active: 19ms }"),
        ("poll: { active: 10s }", "poll: { active: 10001ms }"),
        ("poll: { idle: 1s }", "poll: { idle: 999ms }"),
        ("poll: { idle: 10m }", "poll: { idle: 601s }"),
        ("audit: { rotate: 64KiB }", "audit: { rotate: 65535 }"),
        ("traceMax: 100GiB", "traceMax: 101GiB"),
        ("audit: { keep: 1 }", "audit: { keep: -1 }"),
        ("trace: ~", "policy: ~"),
        ("policy: /a", "policy: /a/"),
    ] {
        parse_settings("s", good).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(
            parse_settings("s", bad).expect_err(bad).problems().len(),
            1,
            "{bad}"
        );
    }
}

#[test]
fn machines_are_told_the_same() {
    let error = parse_policy("policy.yaml", "version: 1\nmod: enforce\n").unwrap_err();
    assert_eq!(error.file(), "policy.yaml");
    assert_eq!(
        serde_json::to_value(error.problems()).unwrap(),
        json!([{
            "line": 2,
            "column": 1,
            "path": "",
            "message": "unknown key `mod`",
            "hint": "did you mean `mode`?",
        }])
    );
}
