//! The pull policy: what its document looks like, and what must hold between its parts.

use std::collections::BTreeMap;
use std::time::Duration;

use magi_engine::policy::{
    Breaker, Budget, DiskOrder, Headroom, Limits, Mode, OrphanKeep, Policy, Rule, RuleVerdict, Selector,
    Starving,
};
use sha2::{Digest, Sha256};

use crate::document;
use crate::error::ConfigError;
use crate::patterns::{ImageDigest, ImagePattern, LabelPattern, NamespacePattern, RuleName};
use crate::problem::{Place, Problem, Sink, quoted};
use crate::schema::{Given, List, Said, section};
use crate::size::human_bytes;
use crate::values::{Choice, Count, Flag, Limit, OneOf, Size, Span, Version};

/// Rules that one policy may have.
const MAX_RULES: usize = 1000;
/// Patterns that one list may have.
const MAX_PATTERNS: usize = 256;
/// Digests that one rule may name.
const MAX_DIGESTS: usize = 1000;
/// Budgets that one policy may have: every pull is held against each.
const MAX_BUDGETS: usize = 100;
const SECOND: u64 = 1000;
const DAY: u64 = 24 * 3600 * SECOND;
const MIB: u64 = 1 << 20;
const PIB: u64 = 1 << 50;
/// How long a stopped image stays denied unless the policy says otherwise.
const DENY_FOR: Duration = Duration::from_secs(600);
/// How long a pull whose pod is gone goes on unless the policy says otherwise.
const ORPHAN_GRACE: Duration = Duration::from_secs(5);
/// How long a slow pull may hold download slots unless the policy says otherwise.
const STARVING_FOR: Duration = Duration::from_secs(30);
/// The span of a budget unless the policy says otherwise.
const BUDGET_WINDOW: Duration = Duration::from_secs(3600);

impl Choice for DiskOrder {
    const WORDS: &'static [(&'static str, Self)] =
        &[("largest", Self::Largest), ("youngest", Self::Youngest)];
}

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
        /// How long an image whose pull was stopped for its size is refused without another try; `0s`: not at all. Only
        /// where the same limits would stop it again, and where `enforce` holds. If it was stopped because more bytes
        /// came than its manifest declares, only from the same repository: that is no fault of the image.
        "denyFor" deny_for: Span<0, DAY> = Yaml("10m");
        /// How long a pull goes on after the API server has taken its pod away; what comes back in that time finds it
        /// running. `0s`: not at all. Needs a master.
        "orphanGrace" orphan_grace: Span<0, DAY> = Yaml("5s");
        /// What is kept of a pull that was stopped because its pod is gone.
        "orphanKeep" orphan_keep: RawOrphanKeep = Words("see there");
        /// What is to stay free of the node's disks: of the pulls in flight that do not fit together, the fewest are stopped.
        "headroom" headroom: RawHeadroom = Words("pulls may fill the disks");
        /// How slow a pull may be while others wait for a download slot.
        "starving" starving: RawStarving = Words("as slow as it likes");
        /// When magi no longer believes itself.
        "breaker" breaker: RawBreaker = Words("see there");
        /// What the pulls of a namespace may fetch in a span of time. Pulls whose namespace is not known for sure are
        /// not counted, and exempt ones are never stopped.
        "budgets" budgets: List<RawBudget, 0, MAX_BUDGETS> = Yaml("[]");
    }
}

section! {
    /// What is kept of a pull that was stopped because its pod is gone: layers that are there as a whole, so that a pod
    /// that is created again fetches only what is missing. Released early where the disk is short.
    struct RawOrphanKeep {
        /// For how long; `0s`: nothing is kept.
        "for" time: Span<0, DAY> = Yaml("10m");
        /// Bytes that are kept at any time, of all such pulls of a node together.
        "bytes" bytes: Size<MIB, PIB> = Yaml("2GiB");
        /// Percent of the disk that must be free; with less, nothing is kept.
        "free" free: Count<0, 100> = Yaml("20");
    }
}

section! {
    /// What is to stay free of the disks that hold containerd's blobs and snapshots. A pull needs what it has yet to fetch
    /// and what that unpacks to; what it needs is known once its first layer has begun. Exempt pulls are never stopped.
    struct RawHeadroom {
        /// Percent of the bytes that stay free. Keep it above the kubelet's line (`imagefs.available`, 15 % by default).
        "free" free: Count<0, 100> = Yaml("20");
        /// Percent of the inodes that stay free, where snapshots are; with less, one pull at a time is stopped.
        "inodes" inodes: Count<0, 100> = Yaml("5");
        /// Percent of its compressed size to which a layer is expected to unpack.
        "unpacksTo" unpacks_to: Count<100, 100_000> = Yaml("250");
        /// A pull that still needs less is never stopped for it.
        "least" least: Size<0, PIB> = Yaml("256MiB");
        /// Who is stopped first: the `largest`, by what its manifest declares, or the `youngest`.
        "first" first: OneOf<DiskOrder> = Yaml("largest");
        /// Namespaces of the pods whose pulls come last; so do pulls whose pod is not known.
        "spare" spare: List<NamespacePattern, 1, MAX_PATTERNS> = Words("none");
        /// As at the top level, for this.
        "mode" mode: OneOf<Mode> = Words("inherited");
    }
}

section! {
    /// What is asked of a pull that holds download slots while others wait for one, as containerd 2.1 and later have so
    /// many for the whole node. One pull at a time is stopped, the one that is furthest behind; who waits or unpacks is
    /// not slow, and exempt pulls are never stopped.
    struct RawStarving {
        /// Bytes per second that a pull must bring, all of its layers together.
        "rate" rate: Size<1, PIB> = Required;
        /// It may fall behind by what the rate brings in that time; in any case by 2 MiB for each layer that it downloads,
        /// as containerd shows progress in steps of 1 MiB. Without kernel probes nothing shows before the first of these
        /// whether a layer is slow or waits itself.
        "for" time: Span<SECOND, DAY> = Yaml("30s");
        /// Downloads that containerd runs at once (its `max_concurrent_downloads`).
        "slots" slots: Count<1, 10_000> = Yaml("3");
        /// As at the top level, for this.
        "mode" mode: OneOf<Mode> = Words("inherited");
    }
}

section! {
    /// How many pulls a node may stop in a span of time. Then it only observes for as long, and says so. Pulls that a
    /// person asks to be stopped, and repetitions of one that was, do not count.
    struct RawBreaker {
        /// Pulls; 0: any number.
        "stops" stops: Count<0, 1_000_000> = Yaml("220");
        /// The span, which always ends now.
        "window" window: Span<SECOND, DAY> = Yaml("10m");
    }
}

section! {
    /// A budget. Each namespace that it covers has an account of its own; the pull that exceeds it is stopped, those
    /// that began before it go on.
    struct RawBudget {
        /// Its name in records and metrics.
        "name" name: RuleName = Required;
        /// Namespaces of the pods that the images are pulled for.
        "namespaces" namespaces: List<NamespacePattern, 1, MAX_PATTERNS> = Words("each");
        /// The span, which always ends now.
        "window" window: Span<SECOND, { 7 * DAY }> = Yaml("1h");
        /// Bytes that are fetched in it.
        "bytes" bytes: Limit = Words("`none`");
        /// Pulls that begin in it.
        "pulls" pulls: Count<1, 1_000_000> = Words("any number");
        /// As at the top level, for this budget.
        "mode" mode: OneOf<Mode> = Words("inherited");
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
    /// A rule for some pulls: it exempts them, denies them, or gives them limits, a mode, or both.
    struct RawRule {
        /// Its name in records and metrics.
        "name" name: RuleName = Required;
        /// The pulls that it covers.
        "match" selectors: RawMatch = Required;
        /// Never stop these pulls, whatever they do. Excludes `mode` and `limits`.
        "exempt" exempt: Flag = Yaml("false");
        /// Nobody may pull these. Excludes `exempt` and `limits`.
        "deny" deny: Flag = Yaml("false");
        /// As at the top level, for these pulls.
        "mode" mode: OneOf<Mode> = Words("inherited");
        /// As at the top level, for these pulls.
        "limits" limits: RawLimits = Words("inherited");
    }
}

section! {
    /// Selects pulls. At least one key; with several, all must match.
    struct RawMatch {
        /// Namespaces of the pods that the images are pulled for.
        "namespaces" namespaces: List<NamespacePattern, 1, MAX_PATTERNS> = Words("all");
        /// Labels of these pods, as `key=value`; all must match.
        "podLabels" labels: List<LabelPattern, 1, MAX_PATTERNS> = Words("all");
        /// Repositories that the images come from, without tag and digest; the host with its port or without.
        "images" images: List<ImagePattern, 1, MAX_PATTERNS> = Words("all");
        /// Manifests, or indexes that lead to them.
        "digests" digests: List<ImageDigest, 1, MAX_DIGESTS> = Words("all");
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
    let budgets = check_budgets(raw.budgets, mode, sink);
    raw.version.value()?;
    Some(Policy {
        revision,
        rules,
        fallback: RuleVerdict::Limit { mode, limits },
        budgets,
        deny_for: raw.deny_for.value().map_or(DENY_FOR, |span| span.0),
        orphan_grace: raw.orphan_grace.value().map_or(ORPHAN_GRACE, |span| span.0),
        orphan_keep: raw.orphan_keep.value().map(check_orphan_keep).unwrap_or_default(),
        headroom: raw.headroom.value().map(|raw| check_headroom(raw, mode)),
        breaker: raw.breaker.value().map(check_breaker).unwrap_or_default(),
        starving: raw.starving.value().and_then(|raw| check_starving(raw, mode)),
    })
}

fn check_starving(raw: RawStarving, inherited: Mode) -> Option<Starving> {
    Some(Starving {
        rate: raw.rate.value()?.0,
        time: raw.time.value().map_or(STARVING_FOR, |span| span.0),
        slots: raw.slots.value().map_or(3, |count| count.0),
        mode: raw.mode.value().map_or(inherited, |mode| mode.0),
    })
}

fn check_breaker(raw: RawBreaker) -> Breaker {
    let built_in = Breaker::default();
    Breaker {
        stops: raw.stops.value().map_or(built_in.stops, |count| count.0),
        window: raw.window.value().map_or(built_in.window, |span| span.0),
    }
}

fn check_headroom(raw: RawHeadroom, inherited: Mode) -> Headroom {
    let percent = |count: Option<u32>, built_in| {
        count
            .and_then(|count| u8::try_from(count).ok())
            .unwrap_or(built_in)
    };
    Headroom {
        free_percent: percent(raw.free.value().map(|count| count.0), 20),
        inodes_percent: percent(raw.inodes.value().map(|count| count.0), 5),
        unpack_percent: raw.unpacks_to.value().map_or(250, |count| count.0),
        least: raw.least.value().map_or(256 * MIB, |size| size.0),
        first: raw.first.value().map(|first| first.0).unwrap_or_default(),
        spare: patterns(raw.spare, |pattern: NamespacePattern| pattern.0),
        mode: raw.mode.value().map_or(inherited, |mode| mode.0),
    }
}

fn check_orphan_keep(raw: RawOrphanKeep) -> OrphanKeep {
    let built_in = OrphanKeep::default();
    OrphanKeep {
        time: raw.time.value().map_or(built_in.time, |span| span.0),
        bytes: raw.bytes.value().map_or(built_in.bytes, |size| size.0),
        free_percent: raw
            .free
            .value()
            .and_then(|percent| u8::try_from(percent.0).ok())
            .unwrap_or(built_in.free_percent),
    }
}

fn check_budgets(
    raw: Said<List<RawBudget, 0, MAX_BUDGETS>>,
    inherited: Mode,
    sink: &mut Sink,
) -> Vec<Budget> {
    let mut names = BTreeMap::new();
    let mut budgets = Vec::new();
    for (index, Given { value, mark }) in raw.value().map(|list| list.0).unwrap_or_default() {
        let path = format!("budgets[{index}]");
        is_unique(&value.name, "budget", &path, &mut names, sink);
        // What is wrong was reported already.
        let is_wrong = matches!(value.bytes, Said::Wrong) || matches!(value.pulls, Said::Wrong);
        let bytes = value.bytes.value().and_then(|limit| limit.0);
        let pulls = value.pulls.value().map(|count| u64::from(count.0));
        if !is_wrong && bytes.is_none() && pulls.is_none() {
            let problem = Problem::new(path, "the budget allows everything");
            sink.report(&mark, problem.hint("add `bytes` or `pulls`"));
        }
        let Some(RuleName(name)) = value.name.value() else {
            continue;
        };
        budgets.push(Budget {
            name,
            namespaces: patterns(value.namespaces, |pattern: NamespacePattern| pattern.0),
            window: value.window.value().map_or(BUDGET_WINDOW, |span| span.0),
            bytes,
            pulls,
            mode: value.mode.value().map_or(inherited, |mode| mode.0),
        });
    }
    budgets
}

/// Complains about a name that another one has already.
fn is_unique(
    name: &Said<RuleName>,
    what: &str,
    path: &str,
    names: &mut BTreeMap<String, Place>,
    sink: &mut Sink,
) {
    let Some(Given {
        value: RuleName(text),
        mark,
    }) = name.given()
    else {
        return;
    };
    if let Some(first) = names.get(text) {
        let problem = Problem::new(
            format!("{path}.name"),
            format!("another {what} is called {}", quoted(text)),
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
                deny,
                mode,
                limits,
            },
        mark,
    } = rule;
    is_unique(&name, "rule", path, names, sink);

    let limits_apply = !(mode.is_absent() && say_nothing(&limits));
    let denies = deny.given().is_some_and(|given| given.value.0);
    if denies
        && let Some(Given { mark, .. }) = deny.given()
        && (!say_nothing(&limits) || exempt.given().is_some_and(|given| given.value.0))
    {
        let problem = Problem::new(
            path,
            "the rule denies, so its limits or its exemption would never apply",
        );
        sink.report(mark, problem.hint("remove `deny`, or the others"));
    }
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
        }) if !limits_apply && !denies => {
            let problem = Problem::new(path, "the rule says nothing");
            sink.report(
                &mark,
                problem.hint("add `exempt: true`, `deny: true`, a `mode`, or `limits`"),
            );
        }
        Said::Absent | Said::Wrong | Said::Given(_) => {}
    }
    let exempts = exempt.value().is_some_and(|flag| flag.0);

    let selector = check_match(selectors, &format!("{path}.match"), sink);
    let verdict = match inherited {
        _ if exempts => RuleVerdict::Exempt,
        RuleVerdict::Limit { mode: top_mode, .. } if denies => RuleVerdict::Deny {
            mode: mode.value().map_or(top_mode, |mode| mode.0),
        },
        RuleVerdict::Limit {
            mode: top_mode,
            limits: top_limits,
        } => RuleVerdict::Limit {
            mode: mode.value().map_or(top_mode, |mode| mode.0),
            limits: check_limits(limits, top_limits, &format!("{path}.limits"), sink),
        },
        RuleVerdict::Exempt | RuleVerdict::Deny { .. } => inherited,
    };
    Some(Rule {
        name: name.value()?.0,
        selector,
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

fn check_match(selectors: Said<RawMatch>, path: &str, sink: &mut Sink) -> Selector {
    let Said::Given(Given {
        value:
            RawMatch {
                namespaces,
                labels,
                images,
                digests,
            },
        mark,
    }) = selectors
    else {
        return Selector::default();
    };
    if namespaces.is_absent() && labels.is_absent() && images.is_absent() && digests.is_absent() {
        let problem = Problem::new(path, "nothing is selected");
        let hint = "add `namespaces`, `podLabels`, `images` or `digests`; what is to hold for every pull belongs at \
                    the top level";
        sink.report(&mark, problem.hint(hint));
    }
    Selector {
        namespaces: patterns(namespaces, |pattern: NamespacePattern| pattern.0),
        labels: patterns(labels, |label: LabelPattern| (label.key, label.value)),
        images: patterns(images, |pattern: ImagePattern| pattern.0),
        digests: patterns(digests, |digest: ImageDigest| digest.0),
    }
}

/// The items of a list, in the engine's form.
fn patterns<T, U, const LEAST: usize, const MOST: usize>(
    list: Said<List<T, LEAST, MOST>>,
    form: impl Fn(T) -> U,
) -> Vec<U> {
    let items = list.value().map(|list| list.0).unwrap_or_default();
    items.into_iter().map(|(_, given)| form(given.value)).collect()
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
