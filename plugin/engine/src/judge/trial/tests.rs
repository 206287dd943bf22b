//! Recorded pulls, judged as far as the record goes.

use super::*;
use crate::ids::{ImageName, PodName, PodNamespace, PodUid, VerdictId};
use crate::owner::PodIdentity;
use crate::policy::{Limits, Pattern, Rule, RuleVerdict, Selector};

const MIB: u64 = 1 << 20;

fn pod(namespace: &str) -> PodIdentity {
    PodIdentity {
        uid: PodUid::new("uid").unwrap(),
        namespace: PodNamespace::new(namespace).unwrap(),
        name: PodName::new("web-0").unwrap(),
    }
}

fn owner(namespace: &str) -> Owner {
    Owner {
        image: ImageName::new("registry.example/team/app:1").unwrap(),
        pod: Some(pod(namespace)),
        proof: Vec::new(),
    }
}

fn recorded(namespaces: &[&str], declared: Option<u64>) -> Recorded {
    Recorded {
        owners: namespaces.iter().map(|namespace| owner(namespace)).collect(),
        declared,
        ..Recorded::default()
    }
}

fn limits(image: Option<u64>, layer: Option<u64>, mode: Mode) -> RuleVerdict {
    let limits = Limits {
        image,
        layer,
        overrun: Some(0),
    };
    RuleVerdict::Limit { mode, limits }
}

fn policy(fallback: RuleVerdict, rules: &[(Selector, RuleVerdict)]) -> Policy {
    let rules = rules.iter().cloned().enumerate();
    Policy {
        fallback,
        rules: rules
            .map(|(number, (selector, verdict))| Rule {
                name: format!("rule-{number}"),
                selector,
                verdict,
            })
            .collect(),
        ..Policy::default()
    }
}

fn in_namespace(name: &str) -> Selector {
    Selector {
        namespaces: vec![Pattern::new(name)],
        ..Selector::default()
    }
}

fn condemned(reason: Reason, mode: Mode, rule: Option<&str>) -> Opinion {
    Opinion::Condemned {
        reason,
        mode,
        rule: rule.map(ToOwned::to_owned),
    }
}

#[test]
fn sizes_are_judged_as_far_as_they_are_known() {
    let image = policy(limits(Some(MIB), None, Mode::Enforce), &[]);
    let too_large = condemned(Reason::ImageTooLarge, Mode::Enforce, None);
    assert_eq!(judge(&image, &recorded(&["a"], Some(MIB + 1))), too_large);
    assert_eq!(judge(&image, &recorded(&["a"], Some(MIB))), Opinion::Spared);
    let unknown = Opinion::Unknown(vec![Missing::ImageSize, Missing::LayerSize]);
    assert_eq!(judge(&image, &recorded(&["a"], None)), unknown);

    let layer = policy(limits(None, Some(MIB), Mode::Observe), &[]);
    assert_eq!(
        judge(&layer, &recorded(&["a"], Some(MIB))),
        Opinion::Spared,
        "no layer is larger than all of them"
    );
    let large = recorded(&["a"], Some(5 * MIB));
    assert_eq!(judge(&layer, &large), Opinion::Unknown(vec![Missing::LayerSize]));
    let known = Recorded {
        largest: Some(MIB),
        is_largest: true,
        ..large.clone()
    };
    assert_eq!(judge(&layer, &known), Opinion::Spared);
    let known = Recorded {
        largest: Some(2 * MIB),
        ..large
    };
    let too_large = condemned(Reason::LayerTooLarge, Mode::Observe, None);
    assert_eq!(judge(&layer, &known), too_large);
}

#[test]
fn a_rule_that_may_or_may_not_apply_leaves_it_open() {
    let strict = limits(Some(MIB), None, Mode::Enforce);
    let policy = policy(RuleVerdict::Exempt, &[(in_namespace("team-*"), strict)]);
    let large = Some(2 * MIB);
    let by_rule = condemned(Reason::ImageTooLarge, Mode::Enforce, Some("rule-0"));
    assert_eq!(judge(&policy, &recorded(&["team-a"], large)), by_rule);
    assert_eq!(judge(&policy, &recorded(&["team-a", "team-b"], large)), by_rule);
    assert_eq!(judge(&policy, &recorded(&["other"], large)), Opinion::Spared);
    for namespaces in [&[][..], &["team-a", "other"]] {
        let opinion = judge(&policy, &recorded(namespaces, large));
        assert!(
            matches!(&opinion, Opinion::Unknown(missing) if missing.contains(&Missing::Owner)),
            "{opinion:?}"
        );
    }
    assert_eq!(
        judge(&policy, &recorded(&[], Some(MIB))),
        Opinion::Spared,
        "small enough for every rule"
    );
}

#[test]
fn names_digests_overruns_and_lost_pods_count() {
    let deny = RuleVerdict::Deny { mode: Mode::Enforce };
    let by_image = Selector {
        images: vec![Pattern::new("registry.example/team/*")],
        ..Selector::default()
    };
    let none = limits(None, None, Mode::Enforce);
    let denied = condemned(Reason::DeniedByRule, Mode::Enforce, Some("rule-0"));
    assert_eq!(
        judge(&policy(none, &[(by_image, deny)]), &recorded(&["a"], None)),
        denied
    );

    let digest = Digest::parse(&format!("sha256:{:064}", 7)).unwrap();
    let by_digest = Selector {
        digests: vec![digest.clone()],
        ..Selector::default()
    };
    let by_digest = policy(none, &[(by_digest, deny)]);
    let known = Recorded {
        digests: vec![digest],
        ..recorded(&["a"], Some(1))
    };
    assert_eq!(judge(&by_digest, &known), denied);
    let other = judge(&by_digest, &recorded(&["a"], Some(1)));
    assert!(
        matches!(&other, Opinion::Unknown(missing) if missing.contains(&Missing::Digests)),
        "an index that leads to it may be named: {other:?}"
    );

    let lies = Recorded {
        overrun: Some((11, 10)),
        ..recorded(&["a"], Some(10))
    };
    let overrun = condemned(Reason::LayerOverrunsManifest, Mode::Enforce, None);
    assert_eq!(judge(&policy(none, &[]), &lies), overrun);

    let lost = LostPod {
        id: VerdictId::new("verdict").unwrap(),
        pod: pod("a"),
        images: vec![owner("a").image],
        cause: "deleted".to_owned(),
    };
    let orphan = Recorded {
        lost: vec![lost],
        ..recorded(&["a"], Some(10))
    };
    let orphaned = condemned(Reason::Orphaned, Mode::Enforce, None);
    assert_eq!(judge(&policy(none, &[]), &orphan), orphaned);
    let twin = Recorded {
        owners: vec![owner("a"), owner("b")],
        ..orphan
    };
    assert!(matches!(judge(&policy(none, &[]), &twin), Opinion::Unknown(_)));
}
