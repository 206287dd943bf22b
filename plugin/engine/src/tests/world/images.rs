//! What there is to pull, and under which policies.

use std::sync::LazyLock;
use std::time::Duration;

use crate::ids::IngestKey;
use crate::manifest::Manifest;
use crate::policy::{
    Breaker, Budget, DiskOrder, Headroom, Mode, Pattern, Policy, Rule, RuleVerdict, Selector,
};
use crate::tests::build::{self, GIB, KEEP, KIB, MIB, image, index, limits, rule};

/// A layer, and how many bytes its registry really sends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) layer: u64,
    pub(super) bytes: u64,
    /// What containerd writes as the ingest's total; zero: it knows none.
    pub(super) total: u64,
}

struct Image {
    documents: Vec<Manifest>,
    layers: Vec<Sent>,
}

fn honest(layers: &[(u64, u64)]) -> Vec<Sent> {
    layers
        .iter()
        .map(|(layer, bytes)| Sent {
            layer: *layer,
            bytes: *bytes,
            total: *bytes,
        })
        .collect()
}

static IMAGES: LazyLock<Vec<Image>> = LazyLock::new(|| {
    let plain = |document, layers: &[(u64, u64)], repositories: &[&str]| Image {
        documents: vec![image(document, layers, repositories)],
        layers: honest(layers),
    };
    let liar = |total| Image {
        documents: vec![image(103, &[(1, 3 * MIB), (5, 2 * MIB)], &["reg.x/liar"])],
        layers: vec![
            Sent {
                layer: 1,
                bytes: 3 * MIB,
                total: 3 * MIB,
            },
            Sent {
                layer: 5,
                bytes: 900 * GIB,
                total,
            },
        ],
    };
    vec![
        plain(101, &[(1, 3 * MIB), (2, 48 * MIB)], &["reg.x/small"]),
        plain(102, &[(3, 5 * GIB), (4, 20 * MIB)], &["reg.x/huge"]),
        liar(2 * MIB),
        liar(0),
        // Innocent by rule or by size, and waits for layers of the bad ones.
        plain(104, &[(3, 5 * GIB)], &["reg.x/exempt/base"]),
        plain(
            105,
            &[(4, 20 * MIB), (2, 48 * MIB)],
            &["reg.x/exempt/small", "mirror.x/small"],
        ),
        plain(106, &[(6, 800 * MIB)], &[]),
        Image {
            documents: vec![
                index(107, &[108]),
                image(108, &[(7, 60 * MIB), (8, 61 * MIB)], &["reg.x/many"]),
            ],
            layers: honest(&[(7, 60 * MIB), (8, 61 * MIB)]),
        },
        // A layer that looks like a manifest, and says nothing true of the image.
        Image {
            documents: vec![
                image(109, &[(110, MIB), (9, 30 * MIB)], &["reg.x/mimic"]),
                image(110, &[(11, 700 * GIB)], &["reg.x/mimic"]),
            ],
            layers: honest(&[(110, MIB), (9, 30 * MIB)]),
        },
    ]
});

pub(super) fn count() -> usize {
    IMAGES.len()
}

pub(super) fn documents(image: usize) -> &'static [Manifest] {
    &IMAGES[image % IMAGES.len()].documents
}

pub(super) fn layers(image: usize) -> &'static [Sent] {
    &IMAGES[image % IMAGES.len()].layers
}

/// What a client asks for to get it; one of them with its registry's port.
pub(super) fn reference(image: usize) -> String {
    let image = image % IMAGES.len();
    let repositories = || documents(image).iter().flat_map(|one| &one.repositories);
    match repositories().next() {
        Some(name) if image == 1 => format!("{}:1", name.as_str().replace("reg.x/", "reg.x:5000/")),
        Some(name) => format!("{name}:1"),
        None => format!("reg.x/image-{image}@{}", documents(image)[0].digest),
    }
}

pub(super) fn ingest_key(key: super::LayerKey) -> IngestKey {
    build::ingest_key(key.0, key.1)
}

/// The policies that come and go.
pub(super) static POLICIES: LazyLock<Vec<Policy>> = LazyLock::new(|| {
    let limit = |mode, image, layer, overrun| RuleVerdict::Limit {
        mode,
        limits: limits(image, layer, overrun),
    };
    let with = |rules, fallback| Policy {
        revision: "generated".to_owned(),
        rules,
        fallback,
        budgets: Vec::new(),
        deny_for: Duration::ZERO,
        orphan_grace: Duration::from_secs(2),
        orphan_keep: KEEP,
        headroom: None,
        breaker: Breaker::default(),
    };
    let deny = |mode| RuleVerdict::Deny { mode };
    let strict = limit(Mode::Enforce, Some(GIB), None, Some(0));
    let small = limit(Mode::Enforce, Some(4 * MIB), None, Some(0));
    let lenient = limit(Mode::Enforce, Some(60 * GIB), None, None);
    let team = limit(Mode::Observe, Some(GIB), None, None);
    let huge = limit(Mode::Observe, Some(MIB), None, None);
    let base = || rule("base", &[], &["reg.x/exempt/*"], RuleVerdict::Exempt);
    let by_selector = |name: &str, selector, verdict| Rule {
        name: name.to_owned(),
        selector,
        verdict,
    };
    let labelled = Selector {
        labels: vec![("app".to_owned(), Pattern::new("one*"))],
        ..Selector::default()
    };
    let digests = Selector {
        digests: vec![build::digest(107), build::digest(104)],
        ..Selector::default()
    };
    let budget = |name: &str, namespaces: &[&str], seconds, bytes, pulls| Budget {
        name: name.to_owned(),
        namespaces: namespaces.iter().map(|text| Pattern::new(text)).collect(),
        window: Duration::from_secs(seconds),
        bytes,
        pulls,
        mode: Mode::Enforce,
    };
    vec![
        with(Vec::new(), strict),
        Policy {
            deny_for: Duration::from_secs(30),
            ..with(vec![base()], strict)
        },
        Policy {
            deny_for: Duration::from_secs(30),
            ..with(Vec::new(), small)
        },
        with(vec![rule("team", &["team-*"], &[], team)], strict),
        with(
            vec![rule("huge", &[], &["reg.x/huge"], huge)],
            limit(Mode::Enforce, None, Some(100 * MIB), Some(MIB)),
        ),
        with(Vec::new(), limit(Mode::Observe, Some(4 * MIB), None, Some(0))),
        with(Vec::new(), RuleVerdict::Exempt),
        Policy::default(),
        // From here on: who asks counts, and what was before.
        Policy {
            deny_for: Duration::from_secs(20),
            ..with(vec![base(), rule("team", &["team-*"], &[], small)], lenient)
        },
        Policy {
            budgets: vec![
                budget("bytes", &["team-a"], 15, Some(2 * MIB), None),
                budget("pulls", &["team-b", "free"], 20, None, Some(1)),
            ],
            ..with(vec![base()], lenient)
        },
        Policy {
            deny_for: Duration::from_secs(8),
            budgets: vec![Budget {
                mode: Mode::Observe,
                ..budget("all", &[], 20, Some(MIB), None)
            }],
            ..with(
                vec![by_selector("labelled", labelled, RuleVerdict::Exempt)],
                small,
            )
        },
        Policy {
            headroom: Some(Headroom {
                least: 64 * KIB,
                ..build::headroom(Mode::Enforce)
            }),
            ..with(vec![base()], lenient)
        },
        Policy {
            breaker: Breaker {
                stops: 2,
                window: Duration::from_secs(4),
            },
            ..with(vec![base()], small)
        },
        Policy {
            headroom: Some(Headroom {
                first: DiskOrder::Youngest,
                spare: vec![Pattern::new("team-a")],
                ..build::headroom(Mode::Enforce)
            }),
            ..with(Vec::new(), team)
        },
        with(
            vec![
                by_selector("digests", digests, deny(Mode::Enforce)),
                rule(
                    "small",
                    &["free", "team-b"],
                    &["reg.x/small", "reg.x/l*"],
                    deny(Mode::Enforce),
                ),
                rule("port", &[], &["reg.x:5000/*"], deny(Mode::Observe)),
            ],
            lenient,
        ),
    ]
});
