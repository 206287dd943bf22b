//! A stage for the tests of the checkers: one condemned pull, and a lever for it that is right in every way.

use std::time::Duration;

use super::{Broken, Checker, Invariant};
use crate::action::{Action, Answer, Lever};
use crate::audit::{AuditRecord, Entry, PullFacts};
use crate::event::{Event, Question, View};
use crate::evidence::{Evidence, Reason, Source, TieMethod};
use crate::ids::{AttemptId, LeaseKey, PullId, RequestId};
use crate::policy::Policy;
use crate::tests::build::{
    GIB, MIB, digest, feed, image, ingest_dir, ingest_key, ingest_ref, ingest_view, lease_key, lease_view,
    socket,
};
use crate::time::Time;

pub(super) const K8S: &str = "k8s.io";

/// A checker that knows of one condemned pull: lease `huge`, ingest 3, socket 7.
pub(super) struct Stage {
    pub(super) checker: Checker,
    pub(super) now: Time,
    pub(super) view: View,
}

pub(super) fn huge() -> LeaseKey {
    lease_key(K8S, "huge")
}

impl Stage {
    pub(super) fn new(policy: Policy) -> Self {
        let mut stage = Self {
            checker: Checker::default(),
            now: Time::from_micros(1_000_000),
            view: View {
                begun: None,
                leases: vec![lease_view(huge(), &[3])],
                ingests: vec![ingest_view(K8S, 3, MIB, 5 * GIB)],
                extracts: None,
            },
        };
        stage.tell(Event::PolicyLoaded { policy });
        for source in [Source::Containerd, Source::Probes, Source::SocketTable] {
            stage.tell(Event::SourceUp { source });
        }
        stage.look();
        let manifest = image(30, &[(3, 5 * GIB)], &[]);
        stage.tell(Event::ManifestRead {
            lease: huge(),
            manifest,
        });
        stage.tell(Event::SocketFed {
            feed: feed(7, ingest_dir(K8S, 3), MIB),
        });
        stage
    }

    /// An event after which the engine sleeps a little.
    pub(super) fn tell(&mut self, event: Event) {
        self.see(event, vec![]).unwrap();
    }

    pub(super) fn look(&mut self) {
        let view = self.view.clone();
        self.tell(Event::Looked { view });
    }

    pub(super) fn see(&mut self, event: Event, mut effects: Vec<Action>) -> Result<(), Broken> {
        effects.push(self.wake(1));
        self.checker.observe(self.now, &event, &effects)
    }

    pub(super) fn wake(&self, seconds: u64) -> Action {
        Action::WakeAt {
            at: self.now.after(Duration::from_secs(seconds)),
        }
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now = self.now.after(time);
    }

    pub(super) fn broken_by(&mut self, event: Event, effects: Vec<Action>) -> Option<Invariant> {
        self.see(event, effects).err().map(|broken| broken.invariant)
    }

    pub(super) fn broken_by_lever(&mut self, lever: Pulled) -> Option<Invariant> {
        let action = lever.action();
        self.broken_by(Event::Tick, vec![action])
    }
}

/// A lever that is right in every way until a test changes something.
pub(super) struct Pulled {
    pub(super) attempt: u64,
    pub(super) pull: Option<PullFacts>,
    pub(super) lever: Lever,
    pub(super) reason: Reason,
    pub(super) evidence: Vec<Evidence>,
}

pub(super) fn facts(id: u64, lease: LeaseKey) -> PullFacts {
    PullFacts {
        id: PullId(id),
        lease,
        repositories: Vec::new(),
        owner: None,
        owner_candidates: Vec::new(),
        declared: None,
        stored: 0,
    }
}

pub(super) fn declared(bytes: u64) -> Evidence {
    Evidence::DeclaredImage {
        manifest: digest(30),
        declared: bytes,
        limit: GIB,
    }
}

pub(super) fn feeds(cookie: u64) -> Evidence {
    Evidence::SocketFeeds {
        socket: socket(cookie),
        ingest: ingest_ref(3),
        method: TieMethod::Goroutine,
        bytes: MIB,
    }
}

pub(super) fn asked() -> Evidence {
    Evidence::Asked {
        actor: "root".to_owned(),
    }
}

pub(super) fn right() -> Pulled {
    Pulled {
        attempt: 1,
        pull: Some(facts(1, huge())),
        lever: Lever::DestroySocket { socket: socket(7) },
        reason: Reason::ImageTooLarge,
        evidence: vec![declared(5 * GIB), feeds(7)],
    }
}

pub(super) fn abort_ingest() -> Pulled {
    Pulled {
        attempt: 2,
        lever: Lever::AbortIngest {
            ingest: ingest_key(K8S, 3),
        },
        ..right()
    }
}

pub(super) fn panic_lever(sockets: &[u64]) -> Pulled {
    Pulled {
        pull: None,
        lever: Lever::DestroyAll {
            sockets: sockets.iter().map(|cookie| socket(*cookie)).collect(),
        },
        reason: Reason::Operator,
        evidence: vec![asked(), Evidence::SocketsOpen { count: 1 }],
        ..right()
    }
}

impl Pulled {
    pub(super) fn action(self) -> Action {
        let socket = match &self.lever {
            Lever::DestroySocket { socket } | Lever::DisconnectSocket { socket } => Some(*socket),
            Lever::CancelCalls { .. }
            | Lever::DeleteLease { .. }
            | Lever::DestroyAll { .. }
            | Lever::AbortIngest { .. }
            | Lever::RemoveSnapshot { .. } => None,
        };
        Action::PullLever {
            attempt: AttemptId(self.attempt),
            recorded: false,
            intent: AuditRecord {
                pull: self.pull,
                policy: "test".to_owned(),
                entry: Entry::Intent {
                    attempt: AttemptId(self.attempt),
                    reason: self.reason,
                    rule: None,
                    lever: self.lever.code().to_owned(),
                    socket,
                    evidence: self.evidence,
                },
            },
            lever: self.lever,
        }
    }
}

pub(super) fn answer(request: u64, answer: Answer) -> Action {
    Action::Answer {
        request: RequestId(request),
        answer,
    }
}

pub(super) fn ask(request: u64, question: Question) -> Event {
    Event::Asked {
        request: RequestId(request),
        question,
    }
}

pub(super) fn abort(request: u64) -> Event {
    ask(
        request,
        Question::Abort {
            pull: PullId(1),
            actor: "root".to_owned(),
        },
    )
}

pub(super) fn panic_button(request: u64) -> Event {
    ask(
        request,
        Question::Panic {
            actor: "root".to_owned(),
        },
    )
}
