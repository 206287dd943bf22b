//! What there is to pull, and under which policies.

use std::sync::LazyLock;
use std::time::Duration;

use crate::ids::IngestKey;
use crate::manifest::Manifest;
use crate::policy::{Mode, Policy, RuleVerdict};
use crate::tests::build::{self, GIB, MIB, image, index, limits, rule};

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
        documents: vec![image(103, &[(1, 3 * MIB), (5, 2 * MIB)], &["reg/liar"])],
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
        plain(101, &[(1, 3 * MIB), (2, 48 * MIB)], &["reg/small"]),
        plain(102, &[(3, 5 * GIB), (4, 20 * MIB)], &["reg/huge"]),
        liar(2 * MIB),
        liar(0),
        // Innocent by rule or by size, and waits for layers of the bad ones.
        plain(104, &[(3, 5 * GIB)], &["reg/exempt/base"]),
        plain(
            105,
            &[(4, 20 * MIB), (2, 48 * MIB)],
            &["reg/exempt/small", "mirror/small"],
        ),
        plain(106, &[(6, 800 * MIB)], &[]),
        Image {
            documents: vec![
                index(107, &[108]),
                image(108, &[(7, 60 * MIB), (8, 61 * MIB)], &["reg/many"]),
            ],
            layers: honest(&[(7, 60 * MIB), (8, 61 * MIB)]),
        },
        // A layer that looks like a manifest, and says nothing true of the image.
        Image {
            documents: vec![
                image(109, &[(110, MIB), (9, 30 * MIB)], &["reg/mimic"]),
                image(110, &[(11, 700 * GIB)], &["reg/mimic"]),
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
    };
    let strict = limit(Mode::Enforce, Some(GIB), None, Some(0));
    let team = limit(Mode::Observe, Some(GIB), None, None);
    let huge = limit(Mode::Observe, Some(MIB), None, None);
    vec![
        with(Vec::new(), strict),
        with(
            vec![rule("base", &[], &["reg/exempt/*"], RuleVerdict::Exempt)],
            strict,
        ),
        with(Vec::new(), limit(Mode::Enforce, Some(4 * MIB), None, Some(0))),
        with(vec![rule("team", &["team-*"], &[], team)], strict),
        with(
            vec![rule("huge", &[], &["reg/huge"], huge)],
            limit(Mode::Enforce, None, Some(100 * MIB), Some(MIB)),
        ),
        with(Vec::new(), limit(Mode::Observe, Some(4 * MIB), None, Some(0))),
        with(Vec::new(), RuleVerdict::Exempt),
        Policy::default(),
    ]
});
