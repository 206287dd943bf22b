//! Which rules apply to a pull of which not everything is known.

use super::*;

fn rule(name: &str, namespaces: &[&str], images: &[&str], verdict: RuleVerdict) -> Rule {
    let patterns = |texts: &[&str]| texts.iter().map(|t| Pattern::new(t)).collect();
    Rule {
        name: name.to_owned(),
        selector: Selector {
            namespaces: patterns(namespaces),
            images: patterns(images),
            ..Selector::default()
        },
        verdict,
    }
}

fn applied<'a>(
    policy: &'a Policy,
    namespace: Option<&PodNamespace>,
    repositories: &[RepositoryName],
) -> Vec<Applied<'a>> {
    policy.applied(&Subject {
        namespace,
        repositories,
        ..Subject::default()
    })
}

fn names(ways: &[Applied<'_>]) -> Vec<String> {
    ways.iter()
        .map(|way| way.rule.unwrap_or("fallback").to_owned())
        .collect()
}

fn repository(text: &str) -> RepositoryName {
    RepositoryName::new(text).unwrap()
}

#[test]
fn the_first_rule_that_surely_matches_decides() {
    let policy = Policy {
        rules: vec![
            rule("base", &[], &["registry.example/base/*"], RuleVerdict::Exempt),
            rule("all", &[], &["*"], RuleVerdict::Exempt),
        ],
        ..Policy::default()
    };
    assert_eq!(
        names(&applied(&policy, None, &[repository("registry.example/base/os")])),
        ["base"]
    );
    assert_eq!(
        names(&applied(&policy, None, &[repository("registry.example/app")])),
        ["all"]
    );
}

#[test]
fn what_is_unknown_stays_possible() {
    let policy = Policy {
        rules: vec![
            rule("team", &["team-*"], &[], RuleVerdict::Exempt),
            rule("host", &[], &["a.example/*"], RuleVerdict::Exempt),
        ],
        ..Policy::default()
    };
    assert_eq!(names(&applied(&policy, None, &[])), ["team", "host", "fallback"]);
    let known = PodNamespace::new("other").unwrap();
    assert_eq!(
        names(&applied(&policy, Some(&known), &[repository("b.example/x")])),
        ["fallback"]
    );
    let two = [repository("a.example/x"), repository("b.example/x")];
    assert_eq!(names(&applied(&policy, Some(&known), &two)), ["host", "fallback"]);
}
