//! What documents mean: inheritance, defaults, revisions, what is taken as text, and what a machine is told of problems.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

use magi_config::{Settings, parse_policy, parse_settings};
use magi_engine::ids::PodNamespace;
use magi_engine::policy::{Limits, Mode, Policy, Rule, RuleVerdict};
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
    let selector = &rule.selector;
    assert_eq!(written(&selector.namespaces), "a-* 123");
    assert_eq!(
        written(&selector.images),
        "registry.example:5000/team/* */app localhost/x [::1]:5000/x"
    );
    assert!(selector.images[0].matches("registry.example:5000/team/a/b"));
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

const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// The one rule of a policy that enforces.
fn rule(rest: &str) -> Rule {
    let text = format!("version: 1\nmode: enforce\nrules: [{{ name: a, {rest} }}]");
    policy(&text).rules.remove(0)
}

#[test]
fn labels_and_digests_select() {
    let rule = rule(&format!(
        "exempt: true, match: {{ podLabels: ['app=web-*', 'example.org/tier=', 'x=*'], digests: ['{DIGEST}'] }}"
    ));
    let labels: Vec<String> = rule
        .selector
        .labels
        .iter()
        .map(|(key, pattern)| format!("{key}={pattern}"))
        .collect();
    assert_eq!(labels, ["app=web-*", "example.org/tier=", "x=*"]);
    assert_eq!(rule.selector.digests[0].to_string(), DIGEST);
    assert!(rule.selector.images.is_empty() && rule.selector.namespaces.is_empty());
}

#[test]
fn labels_digests_and_hosts_that_are_none_are_refused() {
    for (key, wrong) in [
        ("podLabels", "app"),
        ("podLabels", "=web"),
        ("podLabels", "a b=web"),
        ("podLabels", "ap*=web"),
        ("digests", "sha256:12"),
        ("digests", "latest"),
    ] {
        let text =
            format!("version: 1\nrules: [{{ name: a, exempt: true, match: {{ {key}: ['{wrong}'] }} }}]");
        assert_eq!(messages(&text).len(), 1, "{wrong}");
    }
    for wrong in ["https://a", "a/b", "", "a b"] {
        let text = format!("resolver: {{ insecure: ['{wrong}'] }}");
        let problems = parse_settings("s", &text).expect_err(wrong);
        assert_eq!(problems.problems().len(), 1, "{wrong}");
    }
}

#[test]
fn a_rule_denies_in_its_own_mode_or_the_inherited_one() {
    let all = "match: { images: ['*'] }";
    let denies = |mode| RuleVerdict::Deny { mode };
    assert_eq!(rule(&format!("deny: true, {all}")).verdict, denies(Mode::Enforce));
    assert_eq!(
        rule(&format!("deny: true, mode: observe, {all}")).verdict,
        denies(Mode::Observe)
    );
    let limited = rule(&format!("deny: false, limits: {{ image: 1 }}, {all}")).verdict;
    assert!(matches!(
        limited,
        RuleVerdict::Limit {
            mode: Mode::Enforce,
            ..
        }
    ));
}

#[test]
fn a_rule_that_denies_does_nothing_else() {
    let text = |rest: &str| format!("version: 1\nrules: [{{ name: a, match: {{ images: ['*'] }}, {rest} }}]");
    let wrong = "rules[0]: the rule denies, so its limits or its exemption would never apply";
    assert_eq!(messages(&text("deny: true, limits: { image: 1 }")), [wrong]);
    assert_eq!(messages(&text("deny: true, exempt: true")), [wrong]);
    assert_eq!(
        messages(&text("deny: false")),
        ["rules[0]: the rule says nothing"]
    );
}

#[test]
fn how_long_an_image_is_denied_has_a_default_and_bounds() {
    let seconds = |text: &str| policy(text).deny_for.as_secs();
    assert_eq!(seconds("version: 1"), 600);
    assert_eq!(seconds("version: 1\ndenyFor: 0s"), 0);
    assert_eq!(seconds("version: 1\ndenyFor: 24h"), 86_400);
    assert_eq!(messages("version: 1\ndenyFor: 25h").len(), 1);
}

#[test]
fn budgets_inherit_the_mode_and_have_defaults() {
    let policy = policy(
        "version: 1\nmode: enforce\nbudgets:\n- { name: a, bytes: 1GiB }\n- { name: b, namespaces: ['t-*'], window: 5m, \
         pulls: 7, mode: observe }\n",
    );
    let [a, b] = policy.budgets.as_slice() else {
        panic!("{:?}", policy.budgets);
    };
    assert_eq!(
        (a.bytes, a.pulls, a.mode, a.window.as_secs()),
        (Some(1 << 30), None, Mode::Enforce, 3600)
    );
    assert_eq!(
        (b.bytes, b.pulls, b.mode, b.window.as_secs()),
        (None, Some(7), Mode::Observe, 300)
    );
    let namespace = |name| PodNamespace::new(name).unwrap();
    assert!(a.covers(&namespace("any")) && b.covers(&namespace("t-1")) && !b.covers(&namespace("any")));
}

#[test]
fn budgets_that_say_nothing_or_the_same_are_refused() {
    let text = "version: 1\nbudgets:\n- { name: a }\n- { name: a, bytes: none }\n- { name: b, pulls: 0 }\n";
    assert_eq!(
        messages(text),
        [
            "budgets[0]: the budget allows everything",
            "budgets[1]: the budget allows everything",
            "budgets[1].name: another budget is called `a`",
            "budgets[2].pulls: `0` is out of bounds",
        ]
    );
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
        "containerd: { address: /c.sock, namespaces: [moby, k8s.io] }\npolicy: /p\ncontrol: { socket: /s, killSwitch: /k }\n\
         audit: { path: /a, rotate: 1MB, keep: 9 }\nlog: { level: trace, format: json }\n\
         probes: { mode: off, btf: /b }\nrequests: { mode: off }\nnri: { mode: off, socket: /n }\nresolver: { mode: on, \
         deadline: 2s, insecure: ['a.example:5000'], credentials: /d }\npoll: { active: 1.5s, idle: 1m }\ntrace: /t\ntraceMax: 1GiB\n\
         master: { address: m.example:7443, ca: /m/ca, cert: /m/cert, key: /m/key, node: w-1, state: /m/state }\n",
    )
    .unwrap();
    assert_eq!(
        serde_json::to_value(settings).unwrap(),
        json!({
            "containerd": { "address": "/c.sock", "namespaces": ["moby", "k8s.io"] },
            "policy": "/p",
            "control": { "socket": "/s", "killSwitch": "/k" },
            "audit": { "path": "/a", "rotate": 1_000_000, "keep": 9 },
            "log": { "level": "trace", "format": "json" },
            "probes": { "mode": "off", "btf": "/b" },
            "requests": "off",
            "nri": { "mode": "off", "socket": "/n" },
            "resolver": {
                "mode": "on",
                "deadline": { "secs": 2, "nanos": 0 },
                "insecure": ["a.example:5000"],
                "credentials": "/d",
            },
            "poll": { "active": { "secs": 1, "nanos": 500_000_000 }, "idle": { "secs": 60, "nanos": 0 } },
            "master": {
                "address": "m.example:7443",
                "serverName": "m.example",
                "ca": "/m/ca",
                "certificate": "/m/cert",
                "key": "/m/key",
                "node": "w-1",
                "state": "/m/state",
            },
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
        ("resolver: { deadline: 50ms }", "resolver: { deadline: 49ms }"),
        ("resolver: { deadline: 5s }", "resolver: { deadline: 6s }"),
        (
            "resolver: { credentials: ~ }",
            "resolver: { credentials: docker.json }",
        ),
        ("nri: { mode: auto }", "nri: { mode: on }"),
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
