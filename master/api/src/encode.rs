//! To the wire. Values that are within the contract's bounds stay so; text for people is cut to them here.

use bytes::Bytes;

use crate::bounds::{MAX_TEXT, MAX_VERSION};
use crate::message::{
    AuditBatch, AuditMark, Down, Fate, Hello, KillSwitch, NodeFacts, PolicyAnswer, PolicyPart, Pulls, Up,
    Verdict, VerdictAnswer, VerdictKind, Welcome,
};
use crate::policy::PolicyVersion;
use crate::wire;

/// `text`, cut to `most` bytes between two characters.
fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        let end = (0..=most).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or_default());
    }
    text
}

impl From<Up> for wire::Up {
    fn from(up: Up) -> Self {
        use wire::up::Message;
        let message = match up {
            Up::Hello(hello) => Message::Hello(hello.into()),
            Up::Policy(PolicyAnswer { version, refused }) => Message::Policy(wire::PolicyAnswer {
                version: Some(version.into()),
                refused: cut(refused.unwrap_or_default(), MAX_TEXT),
            }),
            Up::Verdict(VerdictAnswer { id, fate, detail }) => Message::Verdict(wire::VerdictAnswer {
                id: Bytes::copy_from_slice(&id.0),
                fate: wire::VerdictFate::from(fate).into(),
                detail: cut(detail, MAX_TEXT),
            }),
            Up::Pulls(pulls) => Message::Pulls(pulls.into()),
            Up::Audit(AuditBatch { records, lost }) => Message::Audit(wire::Audit {
                records: records
                    .into_iter()
                    .map(|record| wire::AuditRecord {
                        mark: Some(record.mark.into()),
                        json: record.json,
                    })
                    .collect(),
                lost,
            }),
            Up::Pong(nonce) => Message::Pong(wire::Pong { nonce }),
            Up::KillSwitch(revision) => Message::KillSwitch(wire::KillSwitchAnswer { revision }),
        };
        Self {
            message: Some(message),
        }
    }
}

impl From<Hello> for wire::Hello {
    fn from(hello: Hello) -> Self {
        let NodeFacts {
            version,
            containerd,
            kernel,
            coverage,
        } = hello.facts;
        Self {
            node: hello.node,
            version: cut(version, MAX_VERSION),
            containerd: cut(containerd, MAX_VERSION),
            kernel: cut(kernel, MAX_VERSION),
            coverage: coverage
                .into_iter()
                .map(|one| wire::Coverage {
                    name: one.name,
                    works: one.works,
                    detail: cut(one.detail, MAX_TEXT),
                })
                .collect(),
            policy: hello.policy.map(Into::into),
            resume: hello.resume.map(|resume| wire::Resume {
                token: resume.token,
                verdict: resume.verdict,
            }),
            audit_lost: hello.audit_lost,
        }
    }
}

impl From<PolicyVersion> for wire::PolicyVersion {
    fn from(version: PolicyVersion) -> Self {
        Self {
            revision: version.revision,
            sha256: Bytes::copy_from_slice(&version.sha256),
        }
    }
}

impl From<Fate> for wire::VerdictFate {
    fn from(fate: Fate) -> Self {
        match fate {
            Fate::Condemned => Self::Condemned,
            Fate::Remembered => Self::Remembered,
            Fate::Observed => Self::Observed,
            Fate::Wanted => Self::Wanted,
            Fate::Repeated => Self::Repeated,
            Fate::NotUnderstood => Self::NotUnderstood,
            Fate::Ended => Self::Ended,
        }
    }
}

impl From<Pulls> for wire::Pulls {
    fn from(pulls: Pulls) -> Self {
        Self {
            in_flight: pulls.in_flight,
            condemned: pulls.condemned,
            bytes_stored: pulls.bytes_stored,
            stopped: pulls.stopped,
            would_have_stopped: pulls.would_have_stopped,
        }
    }
}

impl From<AuditMark> for wire::AuditMark {
    fn from(mark: AuditMark) -> Self {
        Self {
            run: mark.run,
            sequence: mark.sequence,
        }
    }
}

impl From<KillSwitch> for wire::KillSwitch {
    fn from(switch: KillSwitch) -> Self {
        Self {
            revision: switch.revision,
            engaged: switch.engaged,
            by: cut(switch.by, MAX_TEXT),
            reason: cut(switch.reason, MAX_TEXT),
        }
    }
}

impl From<Down> for wire::Down {
    fn from(down: Down) -> Self {
        use wire::down::Message;
        let message = match down {
            Down::Welcome(welcome) => Message::Welcome(welcome.into()),
            Down::Policy(part) => Message::Policy(part.into()),
            Down::Verdict(verdict) => Message::Verdict(verdict.into()),
            Down::KillSwitch(switch) => Message::KillSwitch(switch.into()),
            Down::Ping(nonce) => Message::Ping(wire::Ping { nonce }),
            Down::AuditStored(mark) => Message::Audit(wire::AuditStored {
                mark: Some(mark.into()),
            }),
        };
        Self {
            message: Some(message),
        }
    }
}

impl From<Welcome> for wire::Welcome {
    fn from(welcome: Welcome) -> Self {
        Self {
            token: welcome.token,
            resumed: welcome.resumed,
            verdicts_lost: welcome.verdicts_lost,
            ping_every_ms: u32::try_from(welcome.ping_every.as_millis()).unwrap_or(u32::MAX),
            audit: welcome.audit.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<PolicyPart> for wire::PolicyPart {
    fn from(part: PolicyPart) -> Self {
        let number = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        Self {
            version: Some(part.version.into()),
            total: number(part.total),
            offset: number(part.offset),
            bytes: part.bytes,
        }
    }
}

impl From<Verdict> for wire::Verdict {
    fn from(verdict: Verdict) -> Self {
        Self {
            number: verdict.number,
            id: Bytes::copy_from_slice(&verdict.id.0),
            at_micros: verdict.at_micros,
            kind: match verdict.kind {
                VerdictKind::PodGone => wire::VerdictKind::PodGone,
                VerdictKind::ImagesReplaced => wire::VerdictKind::ImagesReplaced,
            }
            .into(),
            cause: verdict.cause,
            uid: verdict.uid,
            namespace: verdict.namespace,
            name: verdict.name,
            images: verdict.images,
        }
    }
}
