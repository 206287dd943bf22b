//! Changes in and out of order, with and without uids, and what the ledger makes of them.

use jiff::Timestamp;
use magi_engine::ids::{ImageName, PodName, PodNamespace, PodUid};

use super::{Bounds, Ledger, Turn};
use crate::change::{Act, Change, Images, Marked, Node, Phase, PodFacts, Slot, SlotList, SlotPatch, What};
use crate::names::NodeName;
use crate::verdict::{Cause, Judge, Verdict, VerdictKind};

/// A ledger with its judge, and a clock in seconds.
struct Story {
    ledger: Ledger,
    judge: Judge,
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn image(text: &str) -> ImageName {
    ImageName::new(text).unwrap()
}

fn named(name: &str) -> PodFacts {
    PodFacts::named(PodNamespace::new("n").unwrap(), PodName::new(name).unwrap())
}

/// What an answer of RequestResponse tells.
fn whole(name: &str, uid: &str, version: u64, node: Option<&str>, images: &[&str]) -> PodFacts {
    let slots = images.iter().enumerate().map(|(at, text)| Slot {
        list: SlotList::Main,
        name: format!("c{at}").into(),
        image: image(text),
    });
    PodFacts {
        uid: Some(PodUid::new(uid).unwrap()),
        version: Some(version),
        node: node.map_or(Node::None, |node| Node::On(NodeName::new(node).unwrap())),
        images: Images::Whole(slots.collect()),
        phase: Some(Phase::Active),
        mirror: Some(false),
        ..named(name)
    }
}

/// The same without uid and version, as Request tells it.
fn asked(name: &str, node: Option<&str>, images: &[&str]) -> PodFacts {
    PodFacts {
        uid: None,
        version: None,
        phase: None,
        mirror: None,
        ..whole(name, "u", 0, node, images)
    }
}

fn bound(name: &str, uid: Option<&str>, node: &str) -> PodFacts {
    PodFacts {
        uid: uid.map(|uid| PodUid::new(uid).unwrap()),
        node: Node::On(NodeName::new(node).unwrap()),
        ..named(name)
    }
}

fn gone(cause: Cause) -> Act {
    Act::Gone {
        cause,
        static_too: false,
    }
}

impl Story {
    fn new() -> Self {
        Self::bounded(Bounds::default())
    }

    fn bounded(bounds: Bounds) -> Self {
        Self {
            ledger: Ledger::new(bounds),
            judge: Judge::default(),
        }
    }

    fn change(&mut self, change: Change) -> Vec<Verdict> {
        let (mut turns, mut verdicts): (Vec<Turn>, _) = (Vec::new(), Vec::new());
        self.ledger.hear(change, &mut turns);
        self.judge.hear(&self.ledger, turns, &mut verdicts);
        verdicts
    }

    /// A request that took the whole of this second.
    fn hear(&mut self, second: i64, act: Act, facts: PodFacts) -> Vec<String> {
        let change = Change {
            began: at(second),
            at: at(second)
                .checked_add(jiff::SignedDuration::from_millis(999))
                .unwrap(),
            what: What::Pod(act, Box::new(facts)),
        };
        said(&self.change(change))
    }
}

/// Verdicts, short: `kind cause uid node images`.
fn said(verdicts: &[Verdict]) -> Vec<String> {
    let short = |verdict: &Verdict| {
        let kind = match verdict.kind {
            VerdictKind::PodGone => "gone",
            VerdictKind::ImagesReplaced => "replaced",
        };
        let images: Vec<&str> = verdict.images.iter().map(ImageName::as_str).collect();
        format!(
            "{kind} {:?} {} {} {}",
            verdict.cause,
            verdict.uid,
            verdict.node,
            images.join(" ")
        )
    };
    verdicts.iter().map(short).collect()
}

const NOTHING: [String; 0] = [];

#[test]
fn a_pod_is_gone_once() {
    let mut story = Story::new();
    assert_eq!(
        story.hear(1, Act::Created, whole("p", "u", 1, None, &["i:1", "i:2"])),
        NOTHING
    );
    assert_eq!(story.hear(2, Act::Bound, bound("p", Some("u"), "a")), NOTHING);
    let marked = PodFacts {
        marked: Some(Marked { at_once: false }),
        ..whole("p", "u", 5, Some("a"), &["i:1", "i:2"])
    };
    assert_eq!(
        story.hear(3, gone(Cause::Deleted), marked.clone()),
        ["gone Deleted u a i:1 i:2"]
    );
    assert_eq!(story.hear(4, Act::Seen, marked.clone()), NOTHING);
    assert_eq!(story.hear(9, gone(Cause::ForceDeleted), marked), NOTHING);
    assert_eq!(story.hear(9, gone(Cause::Evicted), named("p")), NOTHING);
    assert_eq!(story.ledger.size(), (0, 1));
}

#[test]
fn what_comes_late_is_put_in_its_place() {
    // The binding's line before the creation's, the deletion's before both.
    let mut story = Story::new();
    assert_eq!(story.hear(3, gone(Cause::Evicted), named("p")), NOTHING);
    assert_eq!(story.hear(2, Act::Bound, bound("p", Some("u"), "a")), NOTHING);
    let late = story.hear(1, Act::Created, whole("p", "u", 1, None, &["i:1"]));
    assert_eq!(late, ["gone Evicted u a i:1"]);
    // A creation that comes after the deletion of its uid was heard brings nothing back.
    let mut story = Story::new();
    let deleted = whole("p", "u", 5, Some("a"), &["i:1"]);
    assert_eq!(story.hear(3, gone(Cause::Deleted), deleted).len(), 1);
    assert_eq!(
        story.hear(1, Act::Created, whole("p", "u", 1, None, &["i:1"])),
        NOTHING
    );
    assert_eq!(story.ledger.size(), (0, 1));
}

#[test]
fn a_name_means_the_pod_of_that_time() {
    let mut story = Story::new();
    story.hear(10, Act::Created, whole("p", "u2", 20, Some("a"), &["i:2"]));
    // This deletion ended before the pod was there.
    assert_eq!(story.hear(5, gone(Cause::Evicted), named("p")), NOTHING);
    assert_eq!(story.ledger.counts().about_an_earlier_pod, 1);
    // The creation of the pod that had the name before, late; and its end.
    assert_eq!(
        story.hear(1, Act::Created, whole("p", "u1", 3, Some("b"), &["i:1"])),
        ["gone NameReused u1 b i:1"]
    );
    assert_eq!(
        story.hear(5, gone(Cause::Deleted), whole("p", "u1", 4, Some("b"), &["i:1"])),
        NOTHING
    );
    assert_eq!(
        story.hear(11, gone(Cause::Evicted), named("p")),
        ["gone Evicted u2 a i:2"]
    );
}

#[test]
fn a_name_that_is_used_again_ends_its_pod() {
    let mut story = Story::new();
    story.hear(1, Act::Created, whole("p", "u1", 1, Some("a"), &["i:1"]));
    let again = story.hear(5, Act::Created, whole("p", "u2", 9, None, &["i:1"]));
    assert_eq!(again, ["gone NameReused u1 a i:1"]);
    // By name alone, too.
    let mut story = Story::new();
    story.hear(1, Act::Created, asked("p", Some("a"), &["i:1"]));
    story.hear(2, Act::Bound, bound("p", Some("u1"), "a"));
    assert_eq!(
        story.hear(5, Act::Created, asked("p", None, &["i:2"])),
        ["gone NameReused u1 a i:1"]
    );
    assert_eq!(story.hear(6, Act::Bound, bound("p", Some("u2"), "b")), NOTHING);
    assert_eq!(
        story.hear(7, gone(Cause::Deleted), named("p")),
        ["gone Deleted u2 b i:2"]
    );
}

#[test]
fn at_request_level_the_scheduler_tells_the_uid() {
    let mut story = Story::new();
    story.hear(1, Act::Created, asked("p", None, &["i:1"]));
    assert_eq!(story.hear(2, Act::Bound, bound("p", Some("u"), "a")), NOTHING);
    // Patched by a client that asked for no answer.
    let patch = |facts: SlotPatch| PodFacts {
        images: Images::Patched(vec![facts]),
        ..named("p")
    };
    let new = Slot {
        list: SlotList::Main,
        name: "c0".into(),
        image: image("i:2"),
    };
    assert_eq!(
        story.hear(3, Act::Seen, patch(SlotPatch::Named(new))),
        ["replaced ImageChanged u a i:1"]
    );
    let third = SlotPatch::At {
        list: SlotList::Main,
        index: 0,
        image: image("i:3"),
    };
    assert_eq!(
        story.hear(4, Act::Seen, patch(third)),
        ["replaced ImageChanged u a i:2"]
    );
    assert_eq!(
        story.hear(5, gone(Cause::Deleted), named("p")),
        ["gone Deleted u a i:3"]
    );
    // A patch of a pod that is marked brings nobody back.
    assert_eq!(story.hear(6, Act::Seen, named("p")), NOTHING);
    assert_eq!(story.ledger.size(), (0, 1));
}

#[test]
fn an_older_version_replaces_nothing() {
    let mut story = Story::new();
    story.hear(1, Act::Created, whole("p", "u", 1, Some("a"), &["i:1"]));
    assert_eq!(
        story.hear(3, Act::Seen, whole("p", "u", 3, Some("a"), &["i:3"])),
        ["replaced ImageChanged u a i:1"]
    );
    assert_eq!(
        story.hear(4, Act::Seen, whole("p", "u", 2, Some("a"), &["i:2"])),
        NOTHING
    );
    assert_eq!(
        story.hear(5, gone(Cause::Deleted), whole("p", "u", 3, Some("a"), &["i:3"])),
        ["gone Deleted u a i:3"]
    );
}

#[test]
fn images_of_pods_without_a_node_are_nobodys_pulls() {
    let mut story = Story::new();
    story.hear(1, Act::Created, whole("p", "u", 1, None, &["i:1"]));
    assert_eq!(
        story.hear(2, Act::Seen, whole("p", "u", 2, None, &["i:2"])),
        NOTHING
    );
    assert_eq!(
        story.hear(3, gone(Cause::Deleted), whole("p", "u", 2, None, &["i:2"])),
        NOTHING
    );
    assert_eq!(story.ledger.unknowable().never_bound, 1);
    // Told by name only, the end does not say whether it had a node; the binding may be lost, or late.
    story.hear(4, Act::Created, whole("q", "v", 4, None, &["i:1"]));
    assert_eq!(story.hear(6, gone(Cause::Evicted), named("q")), NOTHING);
    assert_eq!(story.ledger.unknowable().no_node, 1);
    assert_eq!(
        story.hear(5, Act::Bound, bound("q", Some("v"), "a")),
        ["gone Evicted v a i:1"]
    );
    assert_eq!(story.ledger.unknowable().no_node, 0);
}

#[test]
fn what_another_live_pod_of_the_node_wants_is_withheld_until_it_goes() {
    let mut story = Story::new();
    story.hear(1, Act::Created, whole("p", "u", 1, Some("a"), &["nginx", "i:2"]));
    story.hear(
        1,
        Act::Created,
        whole("q", "v", 2, Some("a"), &["docker.io/library/nginx:latest"]),
    );
    story.hear(1, Act::Created, whole("r", "w", 3, Some("b"), &["nginx", "i:2"]));
    assert_eq!(
        story.hear(2, gone(Cause::Deleted), named("p")),
        ["gone Deleted u a i:2"]
    );
    let both = story.hear(3, gone(Cause::ForceDeleted), named("q"));
    assert_eq!(
        both,
        [
            "gone ForceDeleted v a docker.io/library/nginx:latest",
            "gone Deleted u a nginx"
        ]
    );
    let counts = story.judge.counts();
    assert_eq!((counts.withheld, counts.said_later, counts.given_up), (1, 1, 0));
}

#[test]
fn what_is_withheld_for_too_long_is_given_up() {
    let mut story = Story::new();
    story.hear(1, Act::Created, whole("p", "u", 1, Some("a"), &["i:1"]));
    story.hear(1, Act::Created, whole("q", "v", 2, Some("a"), &["i:1"]));
    assert_eq!(story.hear(2, gone(Cause::Deleted), named("p")), NOTHING);
    assert_eq!(
        story.hear(4000, gone(Cause::Deleted), named("q")),
        ["gone Deleted v a i:1"]
    );
    assert_eq!(story.judge.counts().given_up, 1);
}

#[test]
fn a_pod_that_wants_an_image_back_keeps_it() {
    let mut story = Story::new();
    story.hear(1, Act::Created, whole("p", "u", 1, Some("a"), &["i:1"]));
    story.hear(1, Act::Created, whole("q", "v", 2, Some("a"), &["i:1"]));
    assert_eq!(
        story.hear(2, Act::Seen, whole("p", "u", 3, Some("a"), &["i:2"])),
        NOTHING,
        "q wants i:1"
    );
    assert_eq!(
        story.hear(3, Act::Seen, whole("p", "u", 4, Some("a"), &["i:1"])),
        ["replaced ImageChanged u a i:2"]
    );
    assert_eq!(
        story.hear(4, gone(Cause::Deleted), named("q")),
        NOTHING,
        "p wants i:1 again"
    );
    // Now all of it at once, and each image once.
    assert_eq!(
        story.hear(5, gone(Cause::Deleted), named("p")),
        ["gone Deleted u a i:1", "gone Deleted v a i:1"]
    );
}

#[test]
fn pods_that_ended_want_nothing_and_those_given_up_are_gone() {
    let mut story = Story::new();
    story.hear(1, Act::Created, whole("p", "u", 1, Some("a"), &["i:1"]));
    story.hear(1, Act::Created, whole("q", "v", 2, Some("a"), &["i:1"]));
    let ended = PodFacts {
        phase: Some(Phase::Ended),
        ..whole("q", "v", 3, Some("a"), &["i:1"])
    };
    assert_eq!(story.hear(2, Act::Seen, ended.clone()), NOTHING);
    assert_eq!(
        story.hear(3, gone(Cause::Deleted), named("p")),
        ["gone Deleted u a i:1"]
    );
    assert_eq!(
        story.hear(4, gone(Cause::Deleted), ended),
        ["gone Deleted v a i:1"],
        "it is gone, if for nothing"
    );
    story.hear(5, Act::Created, whole("r", "w", 9, Some("a"), &["i:1"]));
    let given_up = PodFacts {
        phase: Some(Phase::GivenUp),
        ..whole("r", "w", 10, Some("a"), &["i:1"])
    };
    assert_eq!(
        story.hear(6, Act::Seen, given_up.clone()),
        ["gone Failed w a i:1"]
    );
    assert_eq!(story.hear(7, gone(Cause::Deleted), given_up), NOTHING);
}

#[test]
fn a_mirror_pod_speaks_for_its_static_pod() {
    let mirror = |uid: &str, version| PodFacts {
        mirror: Some(true),
        ..whole("s", uid, version, Some("a"), &["i:1"])
    };
    let mut story = Story::new();
    story.hear(1, Act::Created, mirror("m1", 1));
    story.hear(2, Act::Created, whole("p", "u", 2, Some("a"), &["i:1"]));
    story.hear(2, Act::Created, whole("q", "v", 3, Some("a"), &["i:1"]));
    assert_eq!(story.hear(3, gone(Cause::Deleted), mirror("m1", 4)), NOTHING);
    assert_eq!(
        story.hear(3, gone(Cause::Deleted), named("p")),
        NOTHING,
        "the static pod goes on"
    );
    assert_eq!(story.hear(4, Act::Created, mirror("m2", 6)), NOTHING);
    let removed = Act::Gone {
        cause: Cause::ForceDeleted,
        static_too: true,
    };
    assert_eq!(story.hear(50, removed, mirror("m2", 7)), NOTHING, "q wants it");
    assert_eq!(
        story.hear(51, gone(Cause::Deleted), named("q")),
        ["gone Deleted v a i:1", "gone Deleted u a i:1"]
    );
    assert_eq!(story.ledger.unknowable().mirror, 2);
    // One that never comes back speaks for a while only.
    story.hear(60, Act::Created, mirror("m3", 8));
    story.hear(60, Act::Created, whole("r", "w", 9, Some("a"), &["i:1"]));
    story.hear(61, gone(Cause::Deleted), mirror("m3", 8));
    assert_eq!(story.hear(62, gone(Cause::Deleted), named("r")), NOTHING);
    assert_eq!(
        story.hear(99, Act::Seen, named("unrelated")),
        ["gone Deleted w a i:1"]
    );
}

#[test]
fn a_namespace_is_cleared_of_whom_it_had_then() {
    let mut story = Story::new();
    story.hear(1, Act::Created, whole("p", "u", 1, Some("a"), &["i:1"]));
    story.hear(9, Act::Created, whole("q", "v", 2, Some("a"), &["i:2"]));
    let cleared = Change {
        began: at(5),
        at: at(6),
        what: What::NamespaceCleared(PodNamespace::new("n").unwrap(), Cause::NamespaceDeleted),
    };
    assert_eq!(
        said(&story.change(cleared.clone())),
        ["gone NamespaceDeleted u a i:1"]
    );
    assert_eq!(said(&story.change(cleared)), NOTHING);
}

#[test]
fn whoever_is_not_listed_is_gone() {
    let mut story = Story::new();
    story.hear(1, Act::Created, whole("p", "u", 1, Some("a"), &["i:1"]));
    story.hear(1, Act::Created, whole("q", "v", 2, Some("a"), &["i:2"]));
    story.hear(9, Act::Created, whole("r", "w", 50, Some("a"), &["i:3"]));
    story.hear(1, Act::Created, asked("s", Some("a"), &["i:4"]));
    let listed = Change {
        began: at(20),
        at: at(20),
        what: What::AllListed {
            version: 10,
            uids: [PodUid::new("v").unwrap()].into(),
        },
    };
    assert_eq!(
        said(&story.change(listed)),
        ["gone Vanished u a i:1"],
        "r is newer than the list"
    );
    assert_eq!(
        (story.ledger.size(), story.ledger.unknowable().no_uid),
        ((2, 2), 1)
    );
}

#[test]
fn a_uid_never_changes_its_name() {
    let mut story = Story::new();
    story.hear(1, Act::Created, whole("p", "u", 1, Some("a"), &["i:1"]));
    assert_eq!(
        story.hear(2, gone(Cause::Deleted), whole("q", "u", 2, Some("a"), &["i:1"])),
        NOTHING
    );
    assert_eq!(
        (story.ledger.counts().contradictions, story.ledger.size()),
        (1, (1, 0))
    );
}

#[test]
fn room_is_bounded_and_what_is_forgotten_counted() {
    let mut story = Story::bounded(Bounds { live: 10, gone: 5 });
    for n in 0..100u64 {
        let name = format!("p{n}");
        story.hear(1, Act::Created, whole(&name, &name, n, Some("a"), &["i:1"]));
    }
    assert_eq!(
        (story.ledger.size(), story.ledger.counts().forgotten_live),
        ((10, 0), 90)
    );
    for n in 0..100u64 {
        story.hear(2, gone(Cause::Evicted), named(&format!("p{n}")));
    }
    assert_eq!(
        (story.ledger.size(), story.ledger.counts().forgotten_gone),
        ((0, 5), 95)
    );
    assert_eq!(story.ledger.unknowable().no_uid, 90);
    assert!(
        !story
            .ledger
            .is_wanted(&NodeName::new("a").unwrap(), &image("i:1"))
    );
    assert_eq!((story.ledger.by_uid.len(), story.ledger.pods.len()), (5, 5));
    assert_eq!(
        story
            .ledger
            .by_name
            .values()
            .map(std::collections::BTreeMap::len)
            .sum::<usize>(),
        5
    );
}
