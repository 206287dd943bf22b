//! The pull policy: what its document looks like, and what must hold between its parts.

use std::collections::BTreeMap;

use magi_engine::policy::{Limits, Mode, Pattern, Policy, Rule, RuleVerdict};
use sha2::{Digest, Sha256};

use crate::document;
use crate::error::ConfigError;
use crate::patterns::{ImagePattern, NamespacePattern, RuleName};
use crate::problem::{Place, Problem, Sink, quoted};
use crate::schema::{Given, List, Said, section};
use crate::size::human_bytes;
use crate::values::{Choice, Flag, Limit, OneOf, Version};

/// Rules that one policy may have.
const MAX_RULES: usize = 1000;
/// Patterns that one list may have.
const MAX_PATTERNS: usize = 256;

impl Choice for Mode {
    const WORDS: &'static [(&'static str, Self)] = &[("observe", Self::Observe), ("enforce", Self::Enforce)];
}

section! {
    /// Which pulls may go on, and what happens to the others.
    struct RawPolicy {
        /// The format of this document.
        "version" version: Version = Required;
        /// Whether a condemned pull is stopped (`enforce`), or what would be done is only recorded (`observe`).
        "mode" mode: OneOf<Mode> = Yaml("observe");
        /// Limits where no rule matches, and for what a rule leaves out.
        "limits" limits: RawLimits = Words("only layers that overrun their manifest count");
        /// Rules for some pulls. The first that matches decides; a fact about a pull that is not known yet
        /// matches every pattern, and a pull is stopped only if all rules that may apply agree.
        "rules" rules: List<RawRule, 0, MAX_RULES> = Yaml("[]");
    }
}

section! {
    /// Bounds on what a pull may fetch. Sizes have a unit (B, KB, KiB, MB, MiB, GB, GiB, TB, TiB; a bare number is
    /// bytes); `none` is no limit.
    struct RawLimits {
        /// Declared compressed size of all layers together.
        "image" image: Limit = Words("`none`; in a rule, inherited");
        /// Declared compressed size of one layer.
        "layer" layer: Limit = Words("`none`; in a rule, inherited");
        /// Bytes by which a layer may exceed what its manifest declares before it counts as a lie. An honest registry
        /// sends exactly what is declared, so zero is right.
        "overrun" overrun: Limit = Words("`0B`; in a rule, inherited");
    }
}

section! {
    /// A rule for some pulls: it exempts them, or gives them limits, a mode, or both.
    struct RawRule {
        /// Its name in records and metrics.
        "name" name: RuleName = Required;
        /// The pulls that it covers.
        "match" selectors: RawMatch = Required;
        /// Never stop these pulls, whatever they do. Excludes `mode` and `limits`.
        "exempt" exempt: Flag = Yaml("false");
        /// As at the top level, for these pulls.
        "mode" mode: OneOf<Mode> = Words("inherited");
        /// As at the top level, for these pulls.
        "limits" limits: RawLimits = Words("inherited");
    }
}

section! {
    /// Selects pulls. At least one key; with both, both must match.
    struct RawMatch {
        /// Namespaces of the pods that the images are pulled for.
        "namespaces" namespaces: List<NamespacePattern, 1, MAX_PATTERNS> = Words("all");
        /// Repositories that the images come from, without tag and digest.
        "images" images: List<ImagePattern, 1, MAX_PATTERNS> = Words("all");
    }
}

/// Reads a policy from `text`; messages call it `file`.
///
/// # Errors
/// [`ConfigError::Invalid`] with everything that is wrong in it.
pub fn parse_policy(file: &str, text: &str) -> Result<Policy, ConfigError> {
    let text = document::normalised(text);
    let revision = format!("sha256:{}", hex::encode(Sha256::digest(text.as_bytes())));
    document::read(file, &text, |raw: RawPolicy, sink| check(raw, revision, sink))
}

fn check(raw: RawPolicy, revision: String, sink: &mut Sink) -> Option<Policy> {
    let built_in = Limits {
        image: None,
        layer: None,
        overrun: Some(0),
    };
    let limits = check_limits(raw.limits, built_in, "limits", sink);
    let mode = raw.mode.value().map_or(Mode::Observe, |mode| mode.0);
    let mut names = BTreeMap::new();
    let mut rules = Vec::new();
    for (index, rule) in raw.rules.value().map(|list| list.0).unwrap_or_default() {
        let path = format!("rules[{index}]");
        rules.extend(check_rule(
            rule,
            RuleVerdict::Limit { mode, limits },
            &path,
            &mut names,
            sink,
        ));
    }
    raw.version.value()?;
    Some(Policy {
        revision,
        rules,
        fallback: RuleVerdict::Limit { mode, limits },
    })
}

fn check_rule(
    rule: Given<RawRule>,
    inherited: RuleVerdict,
    path: &str,
    names: &mut BTreeMap<String, Place>,
    sink: &mut Sink,
) -> Option<Rule> {
    let Given {
        value:
            RawRule {
                name,
                selectors,
                exempt,
                mode,
                limits,
            },
        mark,
    } = rule;
    if let Some(Given {
        value: RuleName(text),
        mark,
    }) = name.given()
    {
        if let Some(first) = names.get(text) {
            let problem = Problem::new(
                format!("{path}.name"),
                format!("another rule is called {}", quoted(text)),
            );
            sink.report(
                mark,
                problem.hint(format!(
                    "it is in line {}: give each a name of its own",
                    first.line
                )),
            );
        } else {
            names.insert(text.clone(), mark.place);
        }
    }

    let limits_apply = !(mode.is_absent() && say_nothing(&limits));
    match &exempt {
        Said::Given(Given {
            value: Flag(true),
            mark,
        }) if limits_apply => {
            let problem = Problem::new(path, "the rule exempts, so its mode and limits would never apply");
            sink.report(
                mark,
                problem.hint("remove `exempt`, or remove `mode` and `limits`"),
            );
        }
        Said::Absent
        | Said::Given(Given {
            value: Flag(false), ..
        }) if !limits_apply => {
            let problem = Problem::new(path, "the rule says nothing");
            sink.report(&mark, problem.hint("add `exempt: true`, a `mode`, or `limits`"));
        }
        Said::Absent | Said::Wrong | Said::Given(_) => {}
    }
    let exempts = exempt.value().is_some_and(|flag| flag.0);

    let (namespaces, images) = check_match(selectors, &format!("{path}.match"), sink);
    let verdict = match inherited {
        _ if exempts => RuleVerdict::Exempt,
        RuleVerdict::Limit {
            mode: top_mode,
            limits: top_limits,
        } => RuleVerdict::Limit {
            mode: mode.value().map_or(top_mode, |mode| mode.0),
            limits: check_limits(limits, top_limits, &format!("{path}.limits"), sink),
        },
        RuleVerdict::Exempt => RuleVerdict::Exempt,
    };
    Some(Rule {
        name: name.value()?.0,
        namespaces,
        images,
        verdict,
    })
}

/// Whether no limit is written: the key is absent, or nothing is left behind it.
fn say_nothing(limits: &Said<RawLimits>) -> bool {
    match limits {
        Said::Absent => true,
        Said::Wrong => false,
        Said::Given(Given {
            value:
                RawLimits {
                    image,
                    layer,
                    overrun,
                },
            ..
        }) => image.is_absent() && layer.is_absent() && overrun.is_absent(),
    }
}

fn check_match(selectors: Said<RawMatch>, path: &str, sink: &mut Sink) -> (Vec<Pattern>, Vec<Pattern>) {
    let Said::Given(Given {
        value: RawMatch { namespaces, images },
        mark,
    }) = selectors
    else {
        return (Vec::new(), Vec::new());
    };
    if namespaces.is_absent() && images.is_absent() {
        let problem = Problem::new(path, "nothing is selected");
        let hint = "add `namespaces` or `images`; what is to hold for every pull belongs at the top level";
        sink.report(&mark, problem.hint(hint));
    }
    let namespaces = namespaces.value().map(|list| list.0).unwrap_or_default();
    let images = images.value().map(|list| list.0).unwrap_or_default();
    (
        namespaces.into_iter().map(|(_, given)| given.value.0).collect(),
        images.into_iter().map(|(_, given)| given.value.0).collect(),
    )
}

fn check_limits(raw: Said<RawLimits>, inherited: Limits, path: &str, sink: &mut Sink) -> Limits {
    let Some(raw) = raw.value() else { return inherited };
    // Only where both are written side by side: an inherited layer limit above a rule's image limit is no slip.
    if let (Some(image), Some(layer)) = (raw.image.given(), raw.layer.given())
        && let (Some(most), Some(of_one)) = (image.value.0, layer.value.0)
        && of_one > most
    {
        let message = format!(
            "the layer limit is above the image limit of {}, so it never applies",
            human_bytes(most)
        );
        let problem = Problem::new(format!("{path}.layer"), message);
        sink.report(&layer.mark, problem.hint("lower it, or leave it out"));
    }
    Limits {
        image: raw.image.value().map_or(inherited.image, |limit| limit.0),
        layer: raw.layer.value().map_or(inherited.layer, |limit| limit.0),
        overrun: raw.overrun.value().map_or(inherited.overrun, |limit| limit.0),
    }
}
