//! From a verdict to the proven end of a pull: which lever, when, and what if it does not help.
//!
//! ```text
//! Hunting ──target and two sources──► InFlight ──done──► Verifying ──lease gone──► (ended: aftermath.rs)
//!    ▲  ▲                                │ failed           │ time over: next socket, then the other lever
//!    │  └────────── Resting ◄────────────┘                  │
//!    └──────────────────────────────────────────────────────┘
//! ```
//!
//! Changed by: the engine calling [`Pursuit::next`] after every event, and the outcome of a lever.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::action::{Lever, LeverOutcome};
use crate::bounds::{
    LOOK_FIRST, LOOK_FOR_TARGET, LOOK_LONGEST, MAX_ATTEMPTS, REPORT_UNREACHABLE_AFTER, RETRY_AFTER,
    STUBBORN_PAUSE, VERIFY_GONE_WITHIN, VERIFY_WITHIN,
};
use crate::evidence::{Evidence, suffices};
use crate::ids::{AttemptId, Cookie};
use crate::pull::Verdict;
use crate::ties::Target;
use crate::time::Time;

/// How far the pursuit of one pull has come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pursuit {
    /// Levers pulled.
    pub(crate) attempts: u32,
    /// When the first was.
    pub(crate) first: Option<Time>,
    /// The evidence for the last one.
    pub(crate) acted_on: Vec<Evidence>,
    /// Reported as would-abort (observe mode) or as not stopped (enforce mode).
    pub(crate) reported: bool,
    step: Step,
    tried: BTreeSet<(Cookie, Means)>,
    hunting_since: Option<Time>,
    look_pause: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    /// Looks for a socket to close.
    #[default]
    Hunting,
    /// A lever is being pulled.
    InFlight(AttemptId),
    /// A lever came back; the end of the pull is awaited.
    Verifying { until: Time },
    /// Nothing is tried before this time.
    Resting { until: Time },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Means {
    Destroy,
    Disconnect,
}

/// What the pursuit must know of the world around its pull.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Circumstances {
    /// The kernel destroys sockets on request.
    pub(crate) can_destroy: bool,
    /// The probes work.
    pub(crate) probes: bool,
    /// The pull has no transfer of its own at present.
    pub(crate) waits: bool,
}

/// What the pursuit wants next.
#[derive(Debug)]
pub(crate) enum Wish {
    /// Pull this lever, on this evidence; then call [`Pursuit::started`].
    Lever { lever: Lever, evidence: Vec<Evidence> },
    /// Report that nothing can be closed. Said once.
    Unreachable { why: &'static str },
    /// Look again by then; list the sockets too where the probes are silent.
    LookBy { at: Time, sockets: bool },
    /// Nothing before this time.
    Wait { until: Time },
    /// Nothing until a lever comes back.
    Nothing,
}

impl Pursuit {
    /// What to do now. `targets` are this pull's, the surest first.
    pub(crate) fn next(
        &mut self,
        now: Time,
        verdict: &Verdict,
        targets: &[Target],
        circumstances: Circumstances,
    ) -> Wish {
        match self.step {
            Step::InFlight(_) => return Wish::Nothing,
            Step::Resting { until } if now < until => return Wish::Wait { until },
            Step::Verifying { until } if now < until => {
                let at = now.after(self.look_pause).min(until);
                return Wish::LookBy { at, sockets: false };
            }
            Step::Resting { .. } | Step::Verifying { .. } => {
                self.step = Step::Hunting;
                self.hunting_since = Some(now);
            }
            Step::Hunting => {}
        }
        let since = *self.hunting_since.get_or_insert(now);
        match self.choose(verdict, targets, circumstances.can_destroy) {
            Some((means, target, evidence)) => {
                let socket = target.feed.socket;
                self.tried.insert((socket.cookie, means));
                let lever = match means {
                    Means::Destroy => Lever::DestroySocket { socket },
                    Means::Disconnect => Lever::DisconnectSocket { socket },
                };
                Wish::Lever { lever, evidence }
            }
            None if !self.reported && now.since(since) >= REPORT_UNREACHABLE_AFTER => {
                self.reported = true;
                Wish::Unreachable {
                    why: obstacle(targets, circumstances.waits),
                }
            }
            None => {
                if !targets.is_empty() && now.since(since) >= VERIFY_WITHIN {
                    // Every socket was tried by every means, and yet one of them still feeds: start over.
                    self.tried.clear();
                }
                let pause = if self.reported {
                    LOOK_LONGEST
                } else {
                    LOOK_FOR_TARGET
                };
                let silent = !circumstances.probes || now.since(since) >= VERIFY_WITHIN;
                Wish::LookBy {
                    at: now.after(pause),
                    sockets: targets.is_empty() && !circumstances.waits && silent,
                }
            }
        }
    }

    fn choose<'a>(
        &self,
        verdict: &Verdict,
        targets: &'a [Target],
        can_destroy: bool,
    ) -> Option<(Means, &'a Target, Vec<Evidence>)> {
        let means: &[Means] = if can_destroy {
            &[Means::Destroy, Means::Disconnect]
        } else {
            &[Means::Disconnect]
        };
        means.iter().find_map(|means| {
            targets
                .iter()
                .filter(|t| !self.tried.contains(&(t.feed.socket.cookie, *means)))
                .find_map(|target| {
                    let mut evidence = verdict.evidence.clone();
                    evidence.push(target.evidence());
                    suffices(verdict.reason, &evidence).then_some((*means, target, evidence))
                })
        })
    }

    /// The lever that was wished for is on its way.
    pub(crate) fn started(&mut self, now: Time, attempt: AttemptId, evidence: Vec<Evidence>) {
        self.acted_on = evidence;
        self.step = Step::InFlight(attempt);
        self.attempts = self.attempts.saturating_add(1);
        self.first.get_or_insert(now);
    }

    /// The lever came back.
    pub(crate) fn came_back(&mut self, now: Time, attempt: AttemptId, outcome: &LeverOutcome) {
        if self.step != Step::InFlight(attempt) {
            return;
        }
        self.look_pause = LOOK_FIRST;
        self.step = match outcome {
            LeverOutcome::Done { .. } => Step::Verifying {
                until: now.after(VERIFY_WITHIN),
            },
            LeverOutcome::AlreadyGone => Step::Verifying {
                until: now.after(VERIFY_GONE_WITHIN),
            },
            LeverOutcome::NotAsExpected { .. } | LeverOutcome::Unsupported { .. } => Step::Hunting,
            LeverOutcome::Failed { .. } | LeverOutcome::IntentNotWritten { .. } => Step::Resting {
                until: now.after(RETRY_AFTER),
            },
        };
        if self.attempts >= MAX_ATTEMPTS && self.attempts.is_multiple_of(MAX_ATTEMPTS) {
            self.step = Step::Resting {
                until: now.after(STUBBORN_PAUSE),
            };
            self.tried.clear();
            self.reported = false;
        }
        self.hunting_since = Some(now);
    }

    /// A look came and the lease was still there: the next one comes later.
    pub(crate) fn still_there(&mut self) {
        self.look_pause = self.look_pause.saturating_mul(2).clamp(LOOK_FIRST, LOOK_LONGEST);
    }

    /// The verdict was withdrawn or changed its mode: nothing of the old one is remembered but the count.
    pub(crate) fn reset(&mut self) {
        if !matches!(self.step, Step::InFlight(_)) {
            self.step = Step::Hunting;
            self.hunting_since = None;
            self.tried.clear();
        }
        self.reported = false;
    }
}

fn obstacle(targets: &[Target], waits: bool) -> &'static str {
    if !targets.is_empty() {
        "its sockets were closed, or the evidence for them comes from one source only"
    } else if waits {
        "it has no transfer of its own: it waits for a layer that another pull fetches, for a free download slot, or it unpacks"
    } else {
        "no socket could be tied to its ingests"
    }
}
