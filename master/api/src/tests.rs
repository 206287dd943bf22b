//! What is encoded is decoded again, and what strangers send is decoded or refused.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use prost::Message;

use crate::bounds::{MAX_DOWN, MAX_IMAGE, MAX_IMAGE_BYTES, MAX_IMAGES, MAX_POD, MAX_RECORD, MAX_UID, MAX_UP};
use crate::decode::DecodeError;
use crate::message::{
    AuditBatch, AuditMark, AuditRecord, Coverage, Down, Fate, Hello, KillSwitch, NodeFacts, PolicyAnswer,
    PolicyPart, Pulls, Resume, Up, Verdict, VerdictAnswer, VerdictId, VerdictKind, Welcome,
};
use crate::policy::PolicyVersion;
use crate::wire;

fn version() -> impl Strategy<Value = PolicyVersion> {
    (any::<u64>(), any::<[u8; 32]>()).prop_map(|(revision, sha256)| PolicyVersion { revision, sha256 })
}

fn mark() -> impl Strategy<Value = AuditMark> {
    (any::<u64>(), any::<u64>()).prop_map(|(run, sequence)| AuditMark { run, sequence })
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        Just(Fate::Condemned),
        Just(Fate::Remembered),
        Just(Fate::Observed),
        Just(Fate::Wanted),
        Just(Fate::Repeated),
        Just(Fate::NotUnderstood),
        Just(Fate::Ended),
    ]
}

fn hello() -> impl Strategy<Value = Hello> {
    let coverage = ("[a-z0-9-]{1,64}", any::<bool>(), ".{0,40}").prop_map(|(name, works, detail)| Coverage {
        name,
        works,
        detail,
    });
    let resume = (any::<u64>(), any::<u64>()).prop_map(|(token, verdict)| Resume { token, verdict });
    (
        "[a-z]{1,20}",
        ".{0,40}",
        vec(coverage, 0..5),
        option::of(version()),
        option::of(resume),
        any::<u64>(),
    )
        .prop_map(|(node, text, coverage, policy, resume, audit_lost)| Hello {
            node,
            facts: NodeFacts {
                version: text.clone(),
                containerd: text.clone(),
                kernel: text,
                coverage,
            },
            policy,
            resume,
            audit_lost,
        })
}

fn up() -> impl Strategy<Value = Up> {
    let record = (mark(), "[ -~]{0,40}").prop_map(|(mark, json)| AuditRecord {
        mark,
        json: json.into(),
    });
    prop_oneof![
        hello().prop_map(Up::Hello),
        (version(), option::of(".{1,40}"))
            .prop_map(|(version, refused)| Up::Policy(PolicyAnswer { version, refused })),
        (any::<[u8; 16]>(), fate(), ".{0,40}").prop_map(|(id, fate, detail)| Up::Verdict(VerdictAnswer {
            id: VerdictId(id),
            fate,
            detail
        })),
        (any::<u32>(), any::<u64>()).prop_map(|(small, large)| Up::Pulls(Pulls {
            in_flight: small,
            condemned: small / 2,
            bytes_stored: large,
            stopped: large / 2,
            would_have_stopped: large / 3,
        })),
        (vec(record, 0..5), any::<u64>()).prop_map(|(records, lost)| Up::Audit(AuditBatch { records, lost })),
        any::<u64>().prop_map(Up::Pong),
        any::<u64>().prop_map(Up::KillSwitch),
    ]
}

fn down() -> impl Strategy<Value = Down> {
    let kind = prop_oneof![Just(VerdictKind::PodGone), Just(VerdictKind::ImagesReplaced)];
    let verdict = (
        any::<u64>(),
        any::<[u8; 16]>(),
        any::<i64>(),
        kind,
        "[a-z-]{1,20}",
        vec(".{1,40}", 0..5),
    );
    prop_oneof![
        (any::<u64>(), any::<bool>(), 100_u64..120_000, vec(mark(), 0..4)).prop_map(
            |(token, resumed, ping, audit)| Down::Welcome(Welcome {
                token,
                resumed,
                verdicts_lost: token / 2,
                ping_every: std::time::Duration::from_millis(ping),
                audit
            })
        ),
        (version(), 0..1_usize << 20, vec(any::<u8>(), 0..100)).prop_map(|(version, total, bytes)| {
            Down::Policy(PolicyPart {
                version,
                total,
                offset: total / 2,
                bytes: bytes.into(),
            })
        }),
        verdict.prop_map(
            |(number, id, at_micros, kind, cause, images)| Down::Verdict(Verdict {
                number,
                id: VerdictId(id),
                at_micros,
                kind,
                uid: cause.clone(),
                namespace: cause.clone(),
                name: cause.clone(),
                cause,
                images
            })
        ),
        (any::<u64>(), any::<bool>(), ".{0,40}").prop_map(|(revision, engaged, text)| Down::KillSwitch(
            KillSwitch {
                revision,
                engaged,
                by: text.clone(),
                reason: text
            }
        )),
        any::<u64>().prop_map(Down::Ping),
        mark().prop_map(Down::AuditStored),
    ]
}

proptest! {
    #[test]
    fn what_a_node_says_is_heard(up in up()) {
        let bytes = wire::Up::from(up.clone()).encode_to_vec();
        prop_assert_eq!(Up::try_from(wire::Up::decode(&*bytes).unwrap()), Ok(up));
    }

    #[test]
    fn what_a_master_says_is_heard(down in down()) {
        let bytes = wire::Down::from(down.clone()).encode_to_vec();
        prop_assert_eq!(Down::try_from(wire::Down::decode(&*bytes).unwrap()), Ok(down));
    }

    /// Bytes of a message, some of them changed: whatever is decoded can be encoded, and is the same again.
    #[test]
    fn broken_messages_are_refused_or_make_sense(
        up in up(),
        down in down(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
    ) {
        let broken = |mut bytes: Vec<u8>| {
            for (index, byte) in &changes {
                let length = bytes.len();
                if length > 0 {
                    bytes[index.index(length)] = *byte;
                }
            }
            bytes
        };
        if let Ok(message) = wire::Up::decode(&*broken(wire::Up::from(up).encode_to_vec()))
            && let Ok(up) = Up::try_from(message)
        {
            prop_assert_eq!(Up::try_from(wire::Up::from(up.clone())), Ok(up));
        }
        if let Ok(message) = wire::Down::decode(&*broken(wire::Down::from(down).encode_to_vec()))
            && let Ok(down) = Down::try_from(message)
        {
            prop_assert_eq!(Down::try_from(wire::Down::from(down.clone())), Ok(down));
        }
    }
}

#[test]
fn the_largest_of_each_kind_fits_into_a_message() {
    let record = AuditRecord {
        mark: AuditMark {
            run: u64::MAX,
            sequence: u64::MAX,
        },
        json: Bytes::from(vec![b' '; MAX_RECORD]),
    };
    let batch = Up::Audit(AuditBatch {
        records: vec![record],
        lost: u64::MAX,
    });
    assert!(wire::Up::from(batch).encoded_len() <= MAX_UP);
    let images = vec!["x".repeat(MAX_IMAGE_BYTES / MAX_IMAGES); MAX_IMAGES];
    let verdict = Down::Verdict(Verdict {
        number: u64::MAX,
        id: VerdictId([0xff; 16]),
        at_micros: i64::MAX,
        kind: VerdictKind::ImagesReplaced,
        cause: "x".repeat(64),
        uid: "x".repeat(MAX_UID),
        namespace: "x".repeat(MAX_POD),
        name: "x".repeat(MAX_POD),
        images,
    });
    assert!(wire::Down::from(verdict.clone()).encoded_len() <= MAX_DOWN);
    assert_eq!(Down::try_from(wire::Down::from(verdict.clone())), Ok(verdict));
}

#[test]
fn what_is_out_of_bounds_says_which_field() {
    let hello = |change: fn(&mut wire::Hello)| {
        let mut hello = wire::Hello {
            node: "a".to_owned(),
            ..wire::Hello::default()
        };
        change(&mut hello);
        Hello::try_from(hello).unwrap_err()
    };
    assert_eq!(
        hello(|hello| hello.node.clear()),
        DecodeError::Missing { field: "hello.node" }
    );
    assert!(matches!(
        hello(|hello| hello.kernel = "x".repeat(257)),
        DecodeError::TooLong {
            field: "hello.kernel",
            ..
        }
    ));
    assert!(matches!(
        hello(|hello| hello.coverage = vec![wire::Coverage::default(); 65]),
        DecodeError::TooMany { .. }
    ));
    assert!(matches!(
        hello(|hello| {
            hello.policy = Some(wire::PolicyVersion {
                revision: 1,
                sha256: vec![0; 31].into(),
            });
        }),
        DecodeError::WrongLength { wanted: 32, .. }
    ));
    let audit = wire::Audit {
        records: vec![wire::AuditRecord {
            mark: Some(wire::AuditMark::default()),
            json: "{\n}".into(),
        }],
        lost: 0,
    };
    assert_eq!(AuditBatch::try_from(audit), Err(DecodeError::LineBreak));
    let image = "x".repeat(MAX_IMAGE + 1);
    let verdict = wire::Verdict {
        id: vec![0; 16].into(),
        kind: wire::VerdictKind::PodGone.into(),
        cause: "deleted".to_owned(),
        uid: "u".to_owned(),
        namespace: "n".to_owned(),
        name: "p".to_owned(),
        images: vec![image],
        ..wire::Verdict::default()
    };
    assert!(matches!(
        Verdict::try_from(verdict),
        Err(DecodeError::TooLong {
            field: "verdict.images",
            ..
        })
    ));
}
