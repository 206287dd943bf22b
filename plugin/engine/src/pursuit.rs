//! From a verdict to the proven end of a pull: which lever, when, and what if it does not help.
//!
//! ```text
//! Hunting ──target and two sources──► InFlight ──done──► Verifying ──lease gone──► (ended: aftermath.rs)
//!    ▲  ▲                                │ failed           │ time over: next socket, then the other lever
//!    │  └────────── Resting ◄────────────┘                  │
//!    └──────────────────────────────────────────────────────┘
//! ```
//!
//! Changed by: the engine calling [`Pursuit::next`] after every event, the outcome of a lever, and what the engine
//! tells of looks, lost sources and changed verdicts.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::action::{Lever, LeverOutcome};
use crate::bounds::{
    CALL_KNOWN_WITHIN, LEVER_LOST_AFTER, LOOK_FIRST, LOOK_FOR_TARGET, LOOK_LONGEST, LOOK_RARE,
    LOOK_RARE_SHARE, MAX_ATTEMPTS, REPORT_UNREACHABLE_AFTER, RETRY_AFTER, STUBBORN_PAUSE, VERIFY_GONE_WITHIN,
    VERIFY_WITHIN,
};
use crate::evidence::{Evidence, Reason, suffices};
use crate::ids::{AttemptId, CallId, Cookie, LeaseKey, SocketName};
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
    /// Why the last one was.
    pub(crate) acted: Option<Acted>,
    /// Reported as would-abort (observe mode) or as not stopped (enforce mode).
    pub(crate) reported: bool,
    /// The intent of a lever was written, for this reason.
    pub(crate) recorded: Option<Reason>,
    step: Step,
    tried: BTreeSet<Aim>,
    /// A lever has deleted the pull's lease, or may have: its end shows only in its request's.
    pub(crate) lease_deleted: Option<CallId>,
    hunting_since: Option<Time>,
    look_pause: Duration,
    /// A round of attempts is over without success.
    given_out: bool,
}

/// Why a lever was pulled.
#[derive(Clone, Debug)]
pub(crate) struct Acted {
    pub(crate) reason: Reason,
    pub(crate) rule: Option<String>,
    pub(crate) evidence: Vec<Evidence>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    /// Looks for a socket to close.
    #[default]
    Hunting,
    /// A lever is being pulled.
    InFlight {
        attempt: AttemptId,
        aim: Aim,
        since: Time,
    },
    /// A lever came back; the end of the pull is awaited.
    Verifying { until: Time, after: Aim },
    /// Nothing is tried before this time.
    Resting { until: Time },
}

/// What a lever was aimed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Aim {
    Calls,
    Lease,
    Socket(Cookie, Means),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Means {
    Destroy,
    Disconnect,
}

impl Means {
    const fn lever(self, socket: SocketName) -> Lever {
        match self {
            Self::Destroy => Lever::DestroySocket { socket },
            Self::Disconnect => Lever::DisconnectSocket { socket },
        }
    }
}

/// The lever on a pull's calls in the gateway.
#[derive(Clone, Debug)]
pub(crate) struct Cancellation {
    pub(crate) lever: Lever,
    /// That they are there.
    pub(crate) evidence: Evidence,
}

/// What the pursuit must know of the world around its pull.
#[derive(Clone, Debug)]
pub(crate) struct Circumstances {
    /// The pull's calls in the gateway, if it is known which they are.
    pub(crate) calls: Option<Cancellation>,
    /// That may be known any moment, and other levers can wait so long.
    pub(crate) calls_soon: bool,
    /// The pull's lease, if it may be deleted: none of its layers has begun, and its end will show in its request's.
    pub(crate) lease: Option<LeaseKey>,
    /// The kernel destroys sockets on request.
    pub(crate) can_destroy: bool,
    /// The probes work.
    pub(crate) probes: bool,
    /// The pull has no transfer of its own at present.
    pub(crate) waits: bool,
    /// The last look is fresh enough to act on.
    pub(crate) fresh: bool,
}

/// What the pursuit wants next.
#[derive(Debug)]
pub(crate) enum Wish {
    /// Pull this lever, on this evidence; then call [`Pursuit::started`].
    Lever { lever: Lever, evidence: Vec<Evidence> },
    /// Report that the pull was not stopped.
    NotStopped { why: &'static str },
    /// Look again by then; list the sockets too where the probes are silent.
    LookBy { at: Time, sockets: bool },
}

impl Pursuit {
    /// What to do now. `targets` are this pull's, the surest first.
    pub(crate) fn next(
        &mut self,
        now: Time,
        verdict: &Verdict,
        targets: &[Target],
        circumstances: &Circumstances,
    ) -> Wish {
        if std::mem::take(&mut self.given_out) {
            self.reported = true;
            return Wish::NotStopped { why: EVERY_LEVER };
        }
        let look_by = |at| Wish::LookBy { at, sockets: false };
        match self.step {
            Step::InFlight { since, .. } => {
                if !self.reported && now.since(since) >= LEVER_LOST_AFTER {
                    self.reported = true;
                    return Wish::NotStopped { why: LEVER_LOST };
                }
                return look_by(now.after(self.pause()));
            }
            Step::Resting { until } if now < until => return look_by(now.after(self.pause()).min(until)),
            // A layer had begun before its lease was gone: its socket must be closed, and at once.
            Step::Verifying {
                after: Aim::Lease, ..
            } if !targets.is_empty() => {
                self.step = Step::Hunting;
                self.hunting_since = Some(now);
            }
            Step::Verifying { until, .. } if now < until => {
                return look_by(now.after(self.look_pause).min(until));
            }
            Step::Resting { .. } | Step::Verifying { .. } => {
                self.step = Step::Hunting;
                self.hunting_since = Some(now);
            }
            Step::Hunting => {}
        }
        self.hunt(now, verdict, targets, circumstances)
    }

    /// Pause between looks while nothing can be done.
    const fn pause(&self) -> Duration {
        if self.reported { LOOK_RARE } else { LOOK_LONGEST }
    }

    fn hunt(&mut self, now: Time, verdict: &Verdict, targets: &[Target], around: &Circumstances) -> Wish {
        let since = *self.hunting_since.get_or_insert(now);
        let hunted = now.since(since);
        let first = self.first.is_none() && around.calls.is_none();
        if first && around.calls_soon && hunted < CALL_KNOWN_WITHIN {
            return Wish::LookBy {
                at: now.after(LOOK_FIRST),
                sockets: false,
            };
        }
        let mut choice = self.choose(verdict, targets, around);
        if choice.is_none() && self.reported && hunted >= VERIFY_WITHIN {
            // Every socket was tried by every means, and yet one of them still feeds: start over.
            self.tried.clear();
            choice = self.choose(verdict, targets, around);
        }
        match choice {
            Some(_) if !around.fresh => {
                return Wish::LookBy {
                    at: now,
                    sockets: false,
                };
            }
            Some((lever, evidence)) => return Wish::Lever { lever, evidence },
            None => {}
        }
        if !self.reported && hunted >= REPORT_UNREACHABLE_AFTER {
            self.reported = true;
            self.tried.clear();
            return Wish::NotStopped {
                why: obstacle(targets, around.waits),
            };
        }
        let pause = if targets.iter().any(|target| !target.confirmed) {
            LOOK_FIRST
        } else if self.reported {
            (hunted / LOOK_RARE_SHARE).clamp(LOOK_LONGEST, LOOK_RARE)
        } else {
            LOOK_FOR_TARGET
        };
        let silent = !around.probes || hunted >= VERIFY_WITHIN;
        Wish::LookBy {
            at: now.after(pause),
            sockets: targets.is_empty() && !around.waits && silent,
        }
    }

    fn choose(
        &self,
        verdict: &Verdict,
        targets: &[Target],
        around: &Circumstances,
    ) -> Option<(Lever, Vec<Evidence>)> {
        // Whatever stage the pull is in, it ends, and its caller hears why.
        if let Some(cancellation) = &around.calls
            && !self.tried.contains(&Aim::Calls)
        {
            let mut evidence = verdict.evidence.clone();
            evidence.push(cancellation.evidence.clone());
            if suffices(verdict.reason, &evidence) {
                return Some((cancellation.lever.clone(), evidence));
            }
        }
        if let Some(lease) = &around.lease
            && !self.tried.contains(&Aim::Lease)
            && suffices(verdict.reason, &verdict.evidence)
        {
            let lease = lease.clone();
            return Some((Lever::DeleteLease { lease }, verdict.evidence.clone()));
        }
        let means: &[Means] = if around.can_destroy {
            &[Means::Destroy, Means::Disconnect]
        } else {
            &[Means::Disconnect]
        };
        means.iter().find_map(|means| {
            targets
                .iter()
                .filter(|target| target.confirmed)
                .filter(|target| {
                    let aim = Aim::Socket(target.feed.socket.cookie, *means);
                    !self.tried.contains(&aim)
                })
                .find_map(|target| {
                    let mut evidence = verdict.evidence.clone();
                    evidence.push(target.evidence());
                    let lever = means.lever(target.feed.socket);
                    suffices(verdict.reason, &evidence).then_some((lever, evidence))
                })
        })
    }

    /// The lever that was wished for is on its way.
    pub(crate) fn started(
        &mut self,
        now: Time,
        attempt: AttemptId,
        lever: &Lever,
        call: Option<CallId>,
        acted: Acted,
    ) {
        let aim = match lever {
            Lever::CancelCalls { .. } => Aim::Calls,
            Lever::DeleteLease { .. } => Aim::Lease,
            Lever::DestroySocket { socket } => Aim::Socket(socket.cookie, Means::Destroy),
            Lever::DisconnectSocket { socket } => Aim::Socket(socket.cookie, Means::Disconnect),
            Lever::DestroyAll { .. } | Lever::AbortIngest { .. } | Lever::RemoveSnapshot { .. } => return,
        };
        self.tried.insert(aim);
        self.lease_deleted = self.lease_deleted.or(call.filter(|_| aim == Aim::Lease));
        self.acted = Some(acted);
        self.step = Step::InFlight {
            attempt,
            aim,
            since: now,
        };
        self.attempts = self.attempts.saturating_add(1);
        self.first.get_or_insert(now);
    }

    /// The lever that is being pulled.
    pub(crate) const fn in_flight(&self) -> Option<AttemptId> {
        match self.step {
            Step::InFlight { attempt, .. } => Some(attempt),
            Step::Hunting | Step::Verifying { .. } | Step::Resting { .. } => None,
        }
    }

    /// The lever came back. Tells whether it said that this kernel cannot destroy sockets.
    pub(crate) fn came_back(&mut self, now: Time, attempt: AttemptId, outcome: &LeverOutcome) -> bool {
        let Step::InFlight {
            attempt: ours, aim, ..
        } = self.step
        else {
            return false;
        };
        if ours != attempt {
            return false;
        }
        self.look_pause = LOOK_FIRST;
        if !matches!(outcome, LeverOutcome::IntentNotWritten { .. }) {
            self.recorded = self.acted.as_ref().map(|acted| acted.reason);
        }
        self.step = match outcome {
            LeverOutcome::Done { .. } => Step::Verifying {
                until: now.after(VERIFY_WITHIN),
                after: aim,
            },
            LeverOutcome::AlreadyGone => Step::Verifying {
                until: now.after(VERIFY_GONE_WITHIN),
                after: aim,
            },
            LeverOutcome::NotAsExpected { .. } | LeverOutcome::Unsupported { .. } => Step::Hunting,
            // A gateway that does not answer is no reason to wait with the other levers.
            LeverOutcome::Failed { .. } if aim == Aim::Calls => Step::Hunting,
            LeverOutcome::Failed { .. } | LeverOutcome::IntentNotWritten { .. } => Step::Resting {
                until: now.after(RETRY_AFTER),
            },
        };
        match (aim, outcome) {
            // Nothing was tried.
            (Aim::Calls, LeverOutcome::IntentNotWritten { .. }) => {
                self.tried.remove(&aim);
            }
            (Aim::Calls, _) => {}
            (Aim::Lease, LeverOutcome::IntentNotWritten { .. }) => {
                self.tried.remove(&aim);
                self.lease_deleted = None;
            }
            (Aim::Lease, _) => {}
            (Aim::Socket(cookie, _), LeverOutcome::IntentNotWritten { .. }) => self
                .tried
                .retain(|tried| !matches!(tried, Aim::Socket(tried, _) if *tried == cookie)),
            // No other means will find what this one did not.
            (Aim::Socket(cookie, _), LeverOutcome::AlreadyGone | LeverOutcome::NotAsExpected { .. }) => {
                self.tried.extend([
                    Aim::Socket(cookie, Means::Destroy),
                    Aim::Socket(cookie, Means::Disconnect),
                ]);
            }
            (
                Aim::Socket(..),
                LeverOutcome::Done { .. } | LeverOutcome::Unsupported { .. } | LeverOutcome::Failed { .. },
            ) => {}
        }
        if self.attempts >= MAX_ATTEMPTS {
            self.step = Step::Resting {
                until: now.after(STUBBORN_PAUSE),
            };
            self.tried.clear();
            self.given_out = self.attempts.is_multiple_of(MAX_ATTEMPTS);
        }
        self.hunting_since = Some(now);
        let destroyed = matches!(aim, Aim::Socket(_, Means::Destroy));
        destroyed && matches!(outcome, LeverOutcome::Unsupported { .. })
    }

    /// A look came and the lease was still there: the next one comes later.
    pub(crate) fn still_there(&mut self) {
        self.look_pause = self.look_pause.saturating_mul(2).clamp(LOOK_FIRST, LOOK_LONGEST);
    }

    /// Sources were gone: time without them is no time of the hunt.
    pub(crate) fn interrupted(&mut self) {
        self.hunting_since = None;
    }

    /// The verdict was withdrawn or changed its mode: nothing of the old one is remembered but the count.
    pub(crate) fn reset(&mut self) {
        if self.in_flight().is_none() {
            self.step = Step::Hunting;
            self.hunting_since = None;
            self.tried.clear();
        }
        self.reported = false;
        self.given_out = false;
        self.recorded = None;
    }
}

const EVERY_LEVER: &str = "levers were pulled again and again, and its lease is still there";
const LEVER_LOST: &str = "a lever was pulled and has not come back";

fn obstacle(targets: &[Target], waits: bool) -> &'static str {
    if targets.iter().any(|target| target.confirmed) {
        "its sockets were closed, and its lease is still there"
    } else if !targets.is_empty() {
        "containerd does not answer whose ingest its sockets feed"
    } else if waits {
        "it has no transfer of its own: it waits for a layer that another pull fetches, for a free download slot, or it unpacks"
    } else {
        "no socket could be tied to its ingests, or the ingest is not its alone"
    }
}
