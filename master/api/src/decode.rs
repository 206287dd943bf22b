//! From the wire: messages become values within the contract's bounds, or an error that says which field is not.

use std::time::Duration;

use crate::bounds::{
    MAX_COVERAGE, MAX_IMAGE, MAX_IMAGE_BYTES, MAX_IMAGES, MAX_NODE, MAX_POD, MAX_POLICY, MAX_RECORD,
    MAX_RECORDS, MAX_RUNS, MAX_TEXT, MAX_UID, MAX_VERSION, MAX_WORD, PING_EVERY,
};
use crate::message::{
    AuditBatch, AuditMark, AuditRecord, Coverage, Down, Fate, Hello, KillSwitch, NodeFacts, PolicyAnswer,
    PolicyPart, Pulls, Resume, Up, Verdict, VerdictAnswer, VerdictId, VerdictKind, Welcome,
};
use crate::policy::PolicyVersion;
use crate::wire;

/// What is wrong with a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It says nothing that this release knows.
    #[error("the message says nothing that is known")]
    Unknown,
    /// Something that must be there is not.
    #[error("{field} is missing")]
    Missing {
        /// What.
        field: &'static str,
    },
    /// Something is too long.
    #[error("{field} has {len} bytes, {most} are allowed")]
    TooLong {
        /// What.
        field: &'static str,
        /// Its bytes.
        len: usize,
        /// Those that are allowed.
        most: usize,
    },
    /// Something is listed too often.
    #[error("{field} has {len} entries, {most} are allowed")]
    TooMany {
        /// What.
        field: &'static str,
        /// Its entries.
        len: usize,
        /// Those that are allowed.
        most: usize,
    },
    /// A digest or an id of another length.
    #[error("{field} has {len} bytes, not {wanted}")]
    WrongLength {
        /// What.
        field: &'static str,
        /// Its bytes.
        len: usize,
        /// Those that it must have.
        wanted: usize,
    },
    /// Not a word in lower case with dashes.
    #[error("{field} is no word of lower-case letters, digits and dashes")]
    NotAWord {
        /// What.
        field: &'static str,
    },
    /// A value that makes no sense.
    #[error("{field} is out of bounds")]
    OutOfBounds {
        /// What.
        field: &'static str,
    },
    /// A record that would become two lines.
    #[error("an audit record has a line break")]
    LineBreak,
}

fn text(field: &'static str, text: String, most: usize) -> Result<String, DecodeError> {
    if text.len() > most {
        return Err(DecodeError::TooLong {
            field,
            len: text.len(),
            most,
        });
    }
    Ok(text)
}

fn name(field: &'static str, name: String, most: usize) -> Result<String, DecodeError> {
    if name.is_empty() {
        return Err(DecodeError::Missing { field });
    }
    text(field, name, most)
}

fn word(field: &'static str, word: String) -> Result<String, DecodeError> {
    let word = name(field, word, MAX_WORD)?;
    let is_one = word
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if is_one {
        Ok(word)
    } else {
        Err(DecodeError::NotAWord { field })
    }
}

fn few<T>(field: &'static str, list: Vec<T>, most: usize) -> Result<Vec<T>, DecodeError> {
    if list.len() > most {
        return Err(DecodeError::TooMany {
            field,
            len: list.len(),
            most,
        });
    }
    Ok(list)
}

fn exactly<const N: usize>(field: &'static str, bytes: &[u8]) -> Result<[u8; N], DecodeError> {
    bytes.try_into().map_err(|_| DecodeError::WrongLength {
        field,
        len: bytes.len(),
        wanted: N,
    })
}

impl TryFrom<wire::Up> for Up {
    type Error = DecodeError;

    fn try_from(up: wire::Up) -> Result<Self, DecodeError> {
        use wire::up::Message;
        Ok(match up.message.ok_or(DecodeError::Unknown)? {
            Message::Hello(hello) => Self::Hello(hello.try_into()?),
            Message::Policy(answer) => Self::Policy(PolicyAnswer {
                version: version(answer.version)?,
                refused: Some(text("policy.refused", answer.refused, MAX_TEXT)?)
                    .filter(|why| !why.is_empty()),
            }),
            Message::Verdict(answer) => Self::Verdict(VerdictAnswer {
                fate: fate(answer.fate())?,
                id: VerdictId(exactly("verdict.id", &answer.id)?),
                detail: text("verdict.detail", answer.detail, MAX_TEXT)?,
            }),
            Message::Pulls(pulls) => Self::Pulls(pulls.into()),
            Message::Audit(audit) => Self::Audit(audit.try_into()?),
            Message::Pong(pong) => Self::Pong(pong.nonce),
            Message::KillSwitch(answer) => Self::KillSwitch(answer.revision),
        })
    }
}

impl TryFrom<wire::Hello> for Hello {
    type Error = DecodeError;

    fn try_from(hello: wire::Hello) -> Result<Self, DecodeError> {
        let coverage = few("hello.coverage", hello.coverage, MAX_COVERAGE)?;
        Ok(Self {
            node: name("hello.node", hello.node, MAX_NODE)?,
            facts: NodeFacts {
                version: text("hello.version", hello.version, MAX_VERSION)?,
                containerd: text("hello.containerd", hello.containerd, MAX_VERSION)?,
                kernel: text("hello.kernel", hello.kernel, MAX_VERSION)?,
                coverage: coverage
                    .into_iter()
                    .map(|one| {
                        Ok(Coverage {
                            name: word("hello.coverage.name", one.name)?,
                            works: one.works,
                            detail: text("hello.coverage.detail", one.detail, MAX_TEXT)?,
                        })
                    })
                    .collect::<Result<_, DecodeError>>()?,
            },
            policy: hello.policy.map(|one| version(Some(one))).transpose()?,
            resume: hello.resume.map(|resume| Resume {
                token: resume.token,
                verdict: resume.verdict,
            }),
            audit_lost: hello.audit_lost,
        })
    }
}

fn version(version: Option<wire::PolicyVersion>) -> Result<PolicyVersion, DecodeError> {
    let version = version.ok_or(DecodeError::Missing {
        field: "policy.version",
    })?;
    Ok(PolicyVersion {
        revision: version.revision,
        sha256: exactly("policy.version.sha256", &version.sha256)?,
    })
}

fn fate(fate: wire::VerdictFate) -> Result<Fate, DecodeError> {
    use wire::VerdictFate as Wire;
    Ok(match fate {
        Wire::Condemned => Fate::Condemned,
        Wire::Remembered => Fate::Remembered,
        Wire::Observed => Fate::Observed,
        Wire::Wanted => Fate::Wanted,
        Wire::Repeated => Fate::Repeated,
        Wire::NotUnderstood => Fate::NotUnderstood,
        Wire::Ended => Fate::Ended,
        Wire::Unspecified => {
            return Err(DecodeError::OutOfBounds {
                field: "verdict.fate",
            });
        }
    })
}

impl From<wire::Pulls> for Pulls {
    fn from(pulls: wire::Pulls) -> Self {
        Self {
            in_flight: pulls.in_flight,
            condemned: pulls.condemned,
            bytes_stored: pulls.bytes_stored,
            stopped: pulls.stopped,
            would_have_stopped: pulls.would_have_stopped,
        }
    }
}

impl TryFrom<wire::Audit> for AuditBatch {
    type Error = DecodeError;

    fn try_from(audit: wire::Audit) -> Result<Self, DecodeError> {
        let records = few("audit.records", audit.records, MAX_RECORDS)?;
        Ok(Self {
            records: records
                .into_iter()
                .map(|record| {
                    let json = record.json;
                    if json.len() > MAX_RECORD {
                        return Err(DecodeError::TooLong {
                            field: "audit.records.json",
                            len: json.len(),
                            most: MAX_RECORD,
                        });
                    }
                    if json.contains(&b'\n') || json.contains(&b'\r') {
                        return Err(DecodeError::LineBreak);
                    }
                    Ok(AuditRecord {
                        mark: mark(record.mark)?,
                        json,
                    })
                })
                .collect::<Result<_, DecodeError>>()?,
            lost: audit.lost,
        })
    }
}

fn mark(mark: Option<wire::AuditMark>) -> Result<AuditMark, DecodeError> {
    let mark = mark.ok_or(DecodeError::Missing { field: "audit.mark" })?;
    Ok(AuditMark {
        run: mark.run,
        sequence: mark.sequence,
    })
}

impl TryFrom<wire::Down> for Down {
    type Error = DecodeError;

    fn try_from(down: wire::Down) -> Result<Self, DecodeError> {
        use wire::down::Message;
        Ok(match down.message.ok_or(DecodeError::Unknown)? {
            Message::Welcome(welcome) => Self::Welcome(welcome.try_into()?),
            Message::Policy(part) => Self::Policy(part.try_into()?),
            Message::Verdict(verdict) => Self::Verdict(verdict.try_into()?),
            Message::KillSwitch(switch) => Self::KillSwitch(KillSwitch {
                revision: switch.revision,
                engaged: switch.engaged,
                by: text("killSwitch.by", switch.by, MAX_TEXT)?,
                reason: text("killSwitch.reason", switch.reason, MAX_TEXT)?,
            }),
            Message::Ping(ping) => Self::Ping(ping.nonce),
            Message::Audit(stored) => Self::AuditStored(mark(stored.mark)?),
        })
    }
}

impl TryFrom<wire::Welcome> for Welcome {
    type Error = DecodeError;

    fn try_from(welcome: wire::Welcome) -> Result<Self, DecodeError> {
        let ping_every = Duration::from_millis(welcome.ping_every_ms.into());
        if !PING_EVERY.contains(&ping_every) {
            return Err(DecodeError::OutOfBounds {
                field: "welcome.pingEvery",
            });
        }
        let audit = few("welcome.audit", welcome.audit, MAX_RUNS)?;
        Ok(Self {
            token: welcome.token,
            resumed: welcome.resumed,
            verdicts_lost: welcome.verdicts_lost,
            ping_every,
            audit: audit
                .into_iter()
                .map(|one| mark(Some(one)))
                .collect::<Result<_, _>>()?,
        })
    }
}

impl TryFrom<wire::PolicyPart> for PolicyPart {
    type Error = DecodeError;

    fn try_from(part: wire::PolicyPart) -> Result<Self, DecodeError> {
        let bounded = |field, number: u32| {
            usize::try_from(number)
                .ok()
                .filter(|number| *number <= MAX_POLICY)
                .ok_or(DecodeError::OutOfBounds { field })
        };
        Ok(Self {
            version: version(part.version)?,
            total: bounded("policy.total", part.total)?,
            offset: bounded("policy.offset", part.offset)?,
            bytes: part.bytes,
        })
    }
}

impl TryFrom<wire::Verdict> for Verdict {
    type Error = DecodeError;

    fn try_from(verdict: wire::Verdict) -> Result<Self, DecodeError> {
        let kind = match verdict.kind() {
            wire::VerdictKind::PodGone => VerdictKind::PodGone,
            wire::VerdictKind::ImagesReplaced => VerdictKind::ImagesReplaced,
            wire::VerdictKind::Unspecified => {
                return Err(DecodeError::OutOfBounds {
                    field: "verdict.kind",
                });
            }
        };
        let images = few("verdict.images", verdict.images, MAX_IMAGES)?;
        let bytes = images.iter().map(String::len).sum::<usize>();
        if bytes > MAX_IMAGE_BYTES {
            return Err(DecodeError::TooLong {
                field: "verdict.images",
                len: bytes,
                most: MAX_IMAGE_BYTES,
            });
        }
        Ok(Self {
            number: verdict.number,
            id: VerdictId(exactly("verdict.id", &verdict.id)?),
            at_micros: verdict.at_micros,
            kind,
            cause: word("verdict.cause", verdict.cause)?,
            uid: name("verdict.uid", verdict.uid, MAX_UID)?,
            namespace: name("verdict.namespace", verdict.namespace, MAX_POD)?,
            name: name("verdict.name", verdict.name, MAX_POD)?,
            images: images
                .into_iter()
                .map(|image| name("verdict.images", image, MAX_IMAGE))
                .collect::<Result<_, _>>()?,
        })
    }
}
