//! Conversations of a real client and of `ctr` with real containerds, as a relay between them read them.
//!
//! A file in `corpus/` is a row of records: kind (0 from the client, 1 to it, 2 closed, 3 records lost), connection,
//! milliseconds since the record before, length in two bytes (big-endian), bytes. Any bytes can be read as such a row, so
//! the fuzzer starts from the same files. The credentials in them were made up.

use super::*;

/// What passed, by containerd's version.
pub(crate) const CAPTURED: [(&str, &[u8]); 2] = [
    ("1.7.24", include_bytes!("../../corpus/containerd-1.7.24.talk")),
    ("2.1.9", include_bytes!("../../corpus/containerd-2.1.9.talk")),
];
/// Stands in every request with credentials.
pub(crate) const PASSWORD: &str = "made-up-password-41";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) kind: u8,
    pub(crate) connection: u8,
    pub(crate) pause: u8,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) fn records(mut tape: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    while let Some(([kind, connection, pause, high, low], rest)) = tape.split_first_chunk::<5>() {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (bytes, after) = rest.split_at(length);
        records.push(Record {
            kind: *kind,
            connection: *connection,
            pause: *pause,
            bytes: bytes.to_vec(),
        });
        tape = after;
    }
    records
}

/// Plays a record to `ear`; or lets it pass unheard.
pub(crate) fn play(ear: &mut Ear, record: &Record, is_heard: bool) {
    ear.at += u64::from(record.pause) * 1_000_000;
    let connection = u64::from(record.connection);
    let direction = match record.kind % 4 {
        0 => Direction::FromClient,
        1 => Direction::ToClient,
        2 => {
            ear.offsets.retain(|(of, _), _| *of != connection);
            return ear.snoop.closed(connection, ear.at, &mut ear.seen);
        }
        _ => return ear.snoop.lost(ear.at, &mut ear.seen),
    };
    if is_heard {
        ear.hear(connection, direction, &record.bytes);
    } else {
        ear.miss(connection, direction, &record.bytes);
    }
}

/// What is seen of a conversation from the record `from` on.
pub(crate) fn heard(records: &[Record], from: usize) -> Ear {
    let mut ear = Ear::new();
    ear.pause();
    for record in &records[from..] {
        play(&mut ear, record, true);
    }
    ear
}

/// `pod: image → end`, in the order of the ends, without what differs from run to run.
fn story(ear: &Ear) -> Vec<String> {
    let mut asked = BTreeMap::new();
    let mut story = Vec::new();
    for seen in &ear.seen {
        match seen {
            Seen::Began { call, request, .. } => {
                let pod = request.pod.as_ref().map_or("?".to_owned(), |pod| {
                    format!("{}/{} {} {}", pod.namespace, pod.name, pod.uid, pod.attempt)
                });
                let (_, image) = request.image.split_once('/').unwrap_or(("", &request.image));
                asked.insert(*call, format!("{pod}: {image}"));
            }
            Seen::Ended { call, how, .. } => story.push(format!("{} {how:?}", asked[call])),
            Seen::Missed { .. } => story.push("missed".to_owned()),
        }
    }
    story
}

#[test]
fn a_real_conversation_is_understood() {
    for (version, tape) in CAPTURED {
        let ear = heard(&records(tape), 0);
        let mut story = story(&ear);
        // A call of containerd's own API that 2.x has; no reference, so it can do no harm.
        story.retain(|line| line != "?: containerd.types.transfer.ImageStore Answered");
        // These two were asked at once.
        story[3..5].sort();
        assert_eq!(
            story,
            [
                "?: team/web:1 Answered",
                "team-a/web-0 uid-team-a-web-0 0: team/web:1 Answered",
                "team-a/web-0 uid-team-a-web-0 0: team/none:1 Refused",
                "team-a/web-1 uid-team-a-web-1 0: team/web:1 Answered",
                "team-b/web-2 uid-team-b-web-2 0: team/web:2 Answered",
                "?: team/web:2 Answered",
                // Annotations of 45 kB before the pod.
                "team-c/web-3 uid-team-c-web-3 2: team/web:1 Answered",
                "team-b/web-2 uid-team-b-web-2 0: team/slow:1 Cancelled",
                // ListContainers by id, and RemoveImage; ctr's calls are among those that were told apart.
                "?: 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef Answered",
                "?: team/web:2 Answered",
            ],
            "{version}"
        );
        assert_eq!(ear.snoop.held(), 0);
        assert!(
            tape.windows(PASSWORD.len())
                .any(|window| window == PASSWORD.as_bytes())
        );
        assert!(!format!("{:?}", ear.seen).contains(PASSWORD));
    }
}

#[test]
fn a_real_conversation_that_is_joined_late_has_only_fewer_calls() {
    for (version, tape) in CAPTURED {
        let records = records(tape);
        let whole = heard(&records, 0);
        for from in 0..records.len() {
            let late = heard(&records, from);
            for request in late.requests() {
                assert!(
                    whole.requests().contains(&request),
                    "{version}, from {from}: {request:?}"
                );
            }
        }
    }
}
