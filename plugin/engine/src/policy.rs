//! What is allowed, checked, and how it applies to a pull whose owner or name may not be known.
//!
//! Written as YAML by people and read by `magi-config`, which is the only maker of a [`Policy`] outside tests.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wildmatch::WildMatch;

use crate::ids::{Digest, PodNamespace, RepositoryName};
use crate::owner::Labels;
use crate::reference::Reference;

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

    /// Whether it may cover `repository`, whose host lacks the port that it has in truth.
    fn may_match_with_port(&self, repository: &str) -> bool {
        let Some((host, path)) = self.text.split_once('/') else {
            return false;
        };
        host.rsplit_once(':')
            .is_some_and(|(name, _)| Self::new(&format!("{name}/{path}")).matches(repository))
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
    /// The pulls that it covers.
    pub selector: Selector,
    /// What it says of them.
    pub verdict: RuleVerdict,
}

/// Selects pulls: what is not empty must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selector {
    /// Kubernetes namespaces.
    #[serde(default)]
    pub namespaces: Vec<Pattern>,
    /// Labels of the pod, all of them.
    #[serde(default)]
    pub labels: Vec<(String, Pattern)>,
    /// Repositories (`host/path`, the host with or without its port).
    #[serde(default)]
    pub images: Vec<Pattern>,
    /// Manifests or indexes.
    #[serde(default)]
    pub digests: Vec<Digest>,
}

/// What a rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RuleVerdict {
    /// Never stop these, whatever they do.
    Exempt,
    /// Nobody may have these.
    Deny {
        /// Observe or enforce.
        mode: Mode,
    },
    /// These limits and this mode.
    Limit {
        /// Observe or enforce.
        mode: Mode,
        /// The limits, inherited ones filled in.
        limits: Limits,
    },
}

impl RuleVerdict {
    /// Whether it stops anything; none: it never judges.
    #[must_use]
    pub const fn mode(&self) -> Option<Mode> {
        match self {
            Self::Exempt => None,
            Self::Deny { mode } | Self::Limit { mode, .. } => Some(*mode),
        }
    }
}

/// What each namespace that it covers may fetch in a span of time. Each namespace has an account of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// Its name in records.
    pub name: String,
    /// Kubernetes namespaces; empty: each.
    pub namespaces: Vec<Pattern>,
    /// The span, which ends now.
    pub window: Duration,
    /// Bytes that pulls may fetch in it; none: any.
    pub bytes: Option<u64>,
    /// Pulls that may begin in it; none: any number.
    pub pulls: Option<u64>,
    /// Observe or enforce.
    pub mode: Mode,
}

impl Budget {
    /// Whether pulls of this namespace count.
    #[must_use]
    pub fn covers(&self, namespace: &PodNamespace) -> bool {
        self.namespaces.is_empty() || self.namespaces.iter().any(|p| p.matches(namespace.as_str()))
    }
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
    /// What namespaces may fetch.
    #[serde(default)]
    pub budgets: Vec<Budget>,
    /// How long a digest that was stopped is denied; zero: not at all.
    #[serde(default)]
    pub deny_for: Duration,
    /// How long a pull goes on after its pod was deleted: the pod may be one of many that come again at once.
    #[serde(default = "orphan_grace")]
    pub orphan_grace: Duration,
    /// What is kept of a pull that was stopped because its pod is gone.
    #[serde(default)]
    pub orphan_keep: OrphanKeep,
    /// What is to stay free of the node's disks; none: pulls may fill them.
    #[serde(default)]
    pub headroom: Option<Headroom>,
    /// When magi no longer believes itself.
    #[serde(default)]
    pub breaker: Breaker,
}

/// How many pulls a node may stop in a span of time; then it only observes for as long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breaker {
    /// Pulls; zero: any number.
    pub stops: u32,
    /// The span.
    pub window: Duration,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            // Twice as many as a node has pods by default (the kubelet's `maxPods`, 110).
            stops: 220,
            window: Duration::from_secs(600),
        }
    }
}

/// What is to stay free of the disks that hold blobs and snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Headroom {
    /// Percent of the bytes; the kubelet's own line is `imagefs.available`, 15 by default.
    pub free_percent: u8,
    /// Percent of the inodes, of the disk that holds snapshots.
    pub inodes_percent: u8,
    /// Percent of its compressed size to which a layer is expected to unpack.
    pub unpack_percent: u32,
    /// A pull that still needs fewer bytes is never stopped for it.
    pub least: u64,
    /// Who is stopped first.
    pub first: DiskOrder,
    /// Kubernetes namespaces whose pulls come last.
    pub spare: Vec<Pattern>,
    /// Observe or enforce.
    pub mode: Mode,
}

/// Which pull is stopped first where the disk is too small for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskOrder {
    /// The one that declares most.
    #[default]
    Largest,
    /// The one that began last.
    Youngest,
}

/// Finished layers of pulls whose pods are gone: whoever creates the pod again need not fetch them again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrphanKeep {
    /// For how long; zero: nothing is kept.
    pub time: Duration,
    /// Bytes that are kept at any time, of all pulls together.
    pub bytes: u64,
    /// Nothing is kept while less of the disk is free.
    pub free_percent: u8,
}

impl Default for OrphanKeep {
    fn default() -> Self {
        Self {
            time: Duration::from_secs(600),
            bytes: 2 << 30,
            // Soon after that the kubelet would remove images: by default with 85 % in use.
            free_percent: 20,
        }
    }
}

const fn orphan_grace() -> Duration {
    Duration::from_secs(5)
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
            budgets: Vec::new(),
            deny_for: Duration::ZERO,
            orphan_grace: orphan_grace(),
            orphan_keep: OrphanKeep::default(),
            headroom: None,
            breaker: Breaker::default(),
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

/// What is known of a pull, as far as a policy asks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Subject<'a> {
    /// Its pod's namespace; none: not known.
    pub namespace: Option<&'a PodNamespace>,
    /// Its pod's labels; none: not known.
    pub labels: Option<&'a Labels>,
    /// What was asked for, exactly; none: not known.
    pub reference: Option<&'a Reference>,
    /// Where containerd says that its manifest comes from, hosts without their ports; empty: not known.
    pub repositories: &'a [RepositoryName],
    /// Its manifests and indexes, as far as known.
    pub digests: &'a [&'a Digest],
    /// Whether these are all.
    pub all_digests: bool,
}

/// Whether a rule covers a pull, given what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cover {
    Yes,
    No,
    Perhaps,
}

impl Cover {
    fn of(known: bool) -> Self {
        if known { Self::Yes } else { Self::No }
    }

    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Yes, Self::Yes) => Self::Yes,
            (Self::Perhaps, _) | (_, Self::Perhaps) => Self::Perhaps,
        }
    }
}

impl Policy {
    /// Every way in which the policy may apply to a pull, most specific first; never empty.
    ///
    /// An unknown namespace or repository leaves each rule that names one possible, so that the caller, who condemns
    /// only if all ways condemn, never stops a pull on a guess.
    #[must_use]
    pub fn applied<'a>(&'a self, subject: &Subject<'_>) -> Vec<Applied<'a>> {
        let mut ways = Vec::new();
        for rule in &self.rules {
            let cover = rule.selector.covers(subject);
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

impl Selector {
    fn covers(&self, subject: &Subject<'_>) -> Cover {
        self.covers_namespace(subject.namespace)
            .and(self.covers_labels(subject.labels))
            .and(self.covers_image(subject))
            .and(self.covers_digest(subject))
    }

    fn covers_namespace(&self, namespace: Option<&PodNamespace>) -> Cover {
        match namespace {
            _ if self.namespaces.is_empty() => Cover::Yes,
            None => Cover::Perhaps,
            Some(name) => Cover::of(self.namespaces.iter().any(|p| p.matches(name.as_str()))),
        }
    }

    fn covers_labels(&self, labels: Option<&Labels>) -> Cover {
        match labels {
            _ if self.labels.is_empty() => Cover::Yes,
            None => Cover::Perhaps,
            Some(labels) => Cover::of(
                self.labels
                    .iter()
                    .all(|(key, pattern)| labels.get(key).is_some_and(|value| pattern.matches(value))),
            ),
        }
    }

    fn covers_image(&self, subject: &Subject<'_>) -> Cover {
        if self.images.is_empty() {
            return Cover::Yes;
        }
        if let Some(reference) = subject.reference {
            let portless = format!("{}/{}", reference.domain_without_port(), reference.path());
            let hits = |p: &Pattern| p.matches(reference.repository().as_str()) || p.matches(&portless);
            return Cover::of(self.images.iter().any(hits));
        }
        let covered = subject.repositories.iter().map(|repository| {
            let name = repository.as_str();
            if self.images.iter().any(|p| p.matches(name)) {
                Cover::Yes
            } else if self.images.iter().any(|p| p.may_match_with_port(name)) {
                Cover::Perhaps
            } else {
                Cover::No
            }
        });
        covered
            .reduce(|one, other| if one == other { one } else { Cover::Perhaps })
            .unwrap_or(Cover::Perhaps)
    }

    fn covers_digest(&self, subject: &Subject<'_>) -> Cover {
        if self.digests.is_empty() {
            return Cover::Yes;
        }
        let listed = subject.digests.iter().any(|digest| self.digests.contains(digest));
        if listed || subject.all_digests {
            Cover::of(listed)
        } else {
            Cover::Perhaps
        }
    }
}

#[cfg(test)]
mod tests;
