//! What is allowed, checked, and how it applies to a pull whose owner or name may not be known.
//!
//! Written as YAML by people and read by `magi-config`, which is the only maker of a [`Policy`] outside tests.

use std::fmt;

use serde::{Deserialize, Serialize};
use wildmatch::WildMatch;

use crate::ids::{PodNamespace, RepositoryName};

/// Whether a condemned pull is stopped, or only reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Record what would be done.
    #[default]
    Observe,
    /// Do it.
    Enforce,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Observe => "observe",
            Self::Enforce => "enforce",
        })
    }
}

/// A glob: `*` stands for any run of characters, slashes included, `?` for one.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Pattern {
    text: Box<str>,
    compiled: WildMatch,
}

impl Pattern {
    /// Compiles the glob; every text is a valid one.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self {
            text: text.into(),
            compiled: WildMatch::new(text),
        }
    }

    /// Whether it covers the whole of `text`.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        self.compiled.matches(text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl From<String> for Pattern {
    fn from(text: String) -> Self {
        Self::new(&text)
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.text.into()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Limits in bytes; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Declared compressed size of all layers.
    pub image: Option<u64>,
    /// Declared compressed size of one layer.
    pub layer: Option<u64>,
    /// Bytes by which an ingest may exceed what its manifest declares before it counts as a lie. Zero is right:
    /// containerd writes exactly what an honest registry sends.
    pub overrun: Option<u64>,
}

/// A rule for some pulls. The first that matches decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its name in records.
    pub name: String,
    /// Kubernetes namespaces that it covers; empty: all.
    pub namespaces: Vec<Pattern>,
    /// Repositories (`host/path`) that it covers; empty: all.
    pub images: Vec<Pattern>,
    /// What it says of them.
    pub verdict: RuleVerdict,
}

/// What a rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RuleVerdict {
    /// Never stop these, whatever they do.
    Exempt,
    /// These limits and this mode.
    Limit {
        /// Observe or enforce.
        mode: Mode,
        /// The limits, inherited ones filled in.
        limits: Limits,
    },
}

/// A checked policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Identifies it in records: a digest over its text.
    pub revision: String,
    /// Rules, in order.
    pub rules: Vec<Rule>,
    /// What holds where no rule matches.
    pub fallback: RuleVerdict,
}

impl Default for Policy {
    /// Observes, and only what is certain: a layer that overruns its manifest.
    fn default() -> Self {
        Self {
            revision: "built-in".to_owned(),
            rules: Vec::new(),
            fallback: RuleVerdict::Limit {
                mode: Mode::Observe,
                limits: Limits {
                    image: None,
                    layer: None,
                    overrun: Some(0),
                },
            },
        }
    }
}

/// One way in which the policy may apply to a pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied<'a> {
    /// The rule's name; `None` is the fallback.
    pub rule: Option<&'a str>,
    /// What it says.
    pub verdict: RuleVerdict,
}

/// Whether a rule covers a pull, given what is known of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cover {
    Yes,
    No,
    Perhaps,
}

impl Policy {
    /// Every way in which the policy may apply to a pull, most specific first; never empty.
    ///
    /// An unknown namespace or repository leaves each rule that names one possible, so that the caller, who condemns
    /// only if all ways condemn, never stops a pull on a guess.
    pub fn applied<'a>(
        &'a self,
        namespace: Option<&PodNamespace>,
        repositories: &[RepositoryName],
    ) -> Vec<Applied<'a>> {
        let mut ways = Vec::new();
        for rule in &self.rules {
            let cover = rule.covers(namespace, repositories);
            if cover == Cover::No {
                continue;
            }
            ways.push(Applied {
                rule: Some(&rule.name),
                verdict: rule.verdict,
            });
            if cover == Cover::Yes {
                return ways;
            }
        }
        ways.push(Applied {
            rule: None,
            verdict: self.fallback,
        });
        ways
    }
}

impl Rule {
    fn covers(&self, namespace: Option<&PodNamespace>, repositories: &[RepositoryName]) -> Cover {
        let by_namespace = match namespace {
            _ if self.namespaces.is_empty() => Cover::Yes,
            None => Cover::Perhaps,
            Some(name) if self.namespaces.iter().any(|p| p.matches(name.as_str())) => Cover::Yes,
            Some(_) => Cover::No,
        };
        let by_image = if self.images.is_empty() {
            Cover::Yes
        } else if repositories.is_empty() {
            Cover::Perhaps
        } else {
            let hits = repositories
                .iter()
                .filter(|r| self.images.iter().any(|p| p.matches(r.as_str())))
                .count();
            match hits {
                0 => Cover::No,
                n if n == repositories.len() => Cover::Yes,
                _ => Cover::Perhaps,
            }
        };
        match (by_namespace, by_image) {
            (Cover::No, _) | (_, Cover::No) => Cover::No,
            (Cover::Yes, Cover::Yes) => Cover::Yes,
            (Cover::Perhaps, _) | (_, Cover::Perhaps) => Cover::Perhaps,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(name: &str, namespaces: &[&str], images: &[&str], verdict: RuleVerdict) -> Rule {
        let patterns = |texts: &[&str]| texts.iter().map(|t| Pattern::new(t)).collect();
        Rule {
            name: name.to_owned(),
            namespaces: patterns(namespaces),
            images: patterns(images),
            verdict,
        }
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
            names(&policy.applied(None, &[repository("registry.example/base/os")])),
            ["base"]
        );
        assert_eq!(
            names(&policy.applied(None, &[repository("registry.example/app")])),
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
        assert_eq!(names(&policy.applied(None, &[])), ["team", "host", "fallback"]);
        let known = PodNamespace::new("other").unwrap();
        assert_eq!(
            names(&policy.applied(Some(&known), &[repository("b.example/x")])),
            ["fallback"]
        );
        let two = [repository("a.example/x"), repository("b.example/x")];
        assert_eq!(names(&policy.applied(Some(&known), &two)), ["host", "fallback"]);
    }
}
