//! The loop around the engine: one event in, its effects carried out in order, their outcomes fed back.
//!
//! Everything that acts goes through here, so this is the one place where the order holds: intent written, lever
//! pulled, outcome heard.

use std::collections::BTreeMap;

use magi_engine::action::{Answer, Hold, LeverOutcome};
use magi_engine::event::Question;
use magi_engine::ids::{AttemptId, ContainerdNamespace, Digest, RequestId};
use magi_engine::policy::Policy;
use magi_engine::switch::KillSwitch;
use magi_engine::trace::Line;
use magi_engine::{Action, AuditRecord, Effects, Engine, Event, Lever, Time};
use magi_master_api::message::AuditMark;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::sleep_until;
use tracing::{error, info, warn};

use crate::audit::{AuditError, AuditLog};
use crate::causes;
use crate::clock::Clock;
use crate::levers::{Calls, Removal, Remover, Sockets};
use crate::recorder::Recorder;
use crate::sources::containerd::{Attached, LookWish};
use crate::sources::master::Trail;

/// Somebody asks on the control socket.
pub(crate) struct Asked {
    /// What the engine must hear before the question, which otherwise overtakes what sources tell.
    pub(crate) before: Vec<Event>,
    pub(crate) question: Question,
    pub(crate) reply: oneshot::Sender<(Time, Answer)>,
}

/// What comes in from outside.
pub(crate) struct Inputs {
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) asked: mpsc::Receiver<Asked>,
    pub(crate) policies: mpsc::Receiver<Policy>,
}

/// Where wishes to the sources go.
pub(crate) struct Wishes {
    pub(crate) look: mpsc::Sender<LookWish>,
    pub(crate) list: mpsc::Sender<()>,
}

pub(crate) struct Core {
    pub(crate) clock: Clock,
    pub(crate) audit: AuditLog,
    /// The way of the trail to the master, if there is one.
    pub(crate) trail: Option<Trail>,
    pub(crate) recorder: Option<Recorder>,
    pub(crate) sockets: Sockets,
    pub(crate) remover: Remover,
    pub(crate) calls: Calls,
    pub(crate) attached: watch::Receiver<Option<Attached>>,
    pub(crate) wishes: Wishes,
    pub(crate) sources: watch::Sender<Sources>,
    /// Who holds the kill switch.
    pub(crate) switch: watch::Sender<KillSwitch>,
}

/// Which sources the engine counts on, for the status.
pub(crate) type Sources = std::collections::BTreeSet<magi_engine::Source>;

/// What the loop itself remembers.
#[derive(Default)]
struct State {
    engine: Engine,
    effects: Effects,
    /// Events that carrying out effects gave rise to; handled before anything new comes in.
    follow_ups: Vec<Event>,
    askers: BTreeMap<RequestId, oneshot::Sender<(Time, Answer)>>,
    asked: u64,
    wake: Option<Time>,
    /// What containerd was asked to do, and what the engine is told when it is done.
    calls: JoinSet<Option<Event>>,
}

impl Core {
    /// Runs until the sources are gone.
    pub(crate) async fn run(mut self, mut inputs: Inputs) {
        let mut state = State::default();
        loop {
            let clock = self.clock;
            let wake = state.wake;
            let tick = async move {
                match wake {
                    Some(at) => sleep_until(clock.instant(at).into()).await,
                    None => std::future::pending().await,
                }
            };
            let event = tokio::select! {
                biased;
                Some(done) = state.calls.join_next() => match done {
                    Ok(Some(event)) => event,
                    Ok(None) => continue,
                    Err(failed) => {
                        error!(error = %failed, "a call of containerd did not come back");
                        continue;
                    }
                },
                Some(Asked { before, question, reply }) = inputs.asked.recv() => {
                    for event in before {
                        self.handle(&mut state, event);
                    }
                    state.asked = state.asked.saturating_add(1);
                    let request = RequestId(state.asked);
                    state.askers.insert(request, reply);
                    Event::Asked { request, question }
                }
                Some(policy) = inputs.policies.recv() => Event::PolicyLoaded { policy },
                event = inputs.events.recv() => match event {
                    Some(event) => event,
                    None => return,
                },
                () = tick => {
                    state.wake = None;
                    Event::Tick
                }
            };
            self.handle(&mut state, event);
            while !state.follow_ups.is_empty() {
                for event in std::mem::take(&mut state.follow_ups) {
                    self.handle(&mut state, event);
                }
            }
        }
    }

    fn handle(&mut self, state: &mut State, event: Event) {
        let now = self.clock.now();
        if let Event::SourceUp { source } = &event {
            self.sources.send_modify(|up| up.extend([*source]));
        } else if let Event::SourceDown { source } = &event {
            self.sources.send_modify(|up| up.retain(|one| one != source));
        }
        let recorded = self.recorder.as_ref().map(|_| event.clone());
        state.engine.handle(now, event, &mut state.effects);
        self.switch.send_if_modified(|before| {
            let changed = before != state.engine.kill_switch();
            if changed {
                before.clone_from(state.engine.kill_switch());
            }
            changed
        });
        let actions = state.effects.take();
        if let (Some(recorder), Some(event)) = (&mut self.recorder, recorded)
            && let Err(error) = recorder.record(&Line {
                at: now,
                event,
                effects: Some(actions.clone()),
            })
        {
            error!(error = causes::in_one_line(&error), "the trace ends here");
            self.recorder = None;
        }
        for action in actions {
            self.carry_out(state, now, action);
        }
    }

    fn carry_out(&mut self, state: &mut State, now: Time, action: Action) {
        match action {
            Action::PullLever {
                attempt,
                lever,
                intent,
                recorded,
            } => self.pull_lever(state, now, attempt, lever, (!recorded).then_some(&intent)),
            Action::Record { record } => {
                if let Err(error) = self.write_down(now, &record) {
                    error!(error = causes::in_one_line(&error), "an audit record is lost");
                }
                log(&record);
            }
            Action::Look { extracts } => {
                // A full queue holds a wish already, and one look answers them all.
                let _full = self.wishes.look.try_send(LookWish { extracts });
            }
            Action::ListSockets => {
                let _full = self.wishes.list.try_send(());
            }
            Action::WakeAt { at } => state.wake = Some(at),
            Action::Keep { hold, content } => self.keep(state, hold, content),
            Action::Collect { namespace } => self.collect(state, now, namespace),
            Action::Release { hold } => self.release(state, hold),
            Action::Answer { request, answer } => {
                if let Some(reply) = state.askers.remove(&request) {
                    let _asker_gone = reply.send((now, answer));
                }
            }
        }
    }

    /// An agent that was killed has written no outcome of the levers that it had pulled just then.
    pub(crate) fn close_what_an_earlier_run_left_open(&mut self) {
        let now = self.clock.now();
        let closed = self.audit.unfinished();
        let written = closed.and_then(|records| {
            records.iter().try_for_each(|record| {
                self.write_down(now, record)?;
                log(record);
                Ok(())
            })
        });
        if let Err(error) = written {
            error!(
                error = causes::in_one_line(&error),
                "what an earlier run left open in the audit trail stays so"
            );
        }
    }

    /// Only what stands in the node's own trail goes to the master.
    fn write_down(&mut self, now: Time, record: &AuditRecord) -> Result<(), AuditError> {
        let written = self.audit.write(now, record)?;
        if let Some(trail) = &mut self.trail {
            let mark = AuditMark {
                run: written.run.as_micros(),
                sequence: written.sequence,
            };
            trail.hand(mark, written.line, &record.entry);
        }
        Ok(())
    }

    fn pull_lever(
        &mut self,
        state: &mut State,
        now: Time,
        attempt: AttemptId,
        lever: Lever,
        intent: Option<&AuditRecord>,
    ) {
        if let Some(intent) = intent {
            if let Err(error) = self.write_down(now, intent) {
                let why = causes::in_one_line(&error);
                error!(why, "no lever is pulled, because its intent cannot be written");
                let outcome = LeverOutcome::IntentNotWritten { why };
                state.follow_ups.push(Event::LeverDone { attempt, outcome });
                return;
            }
            log(intent);
        }
        let pid = self.attached.borrow().as_ref().map(|found| found.pid);
        let outcome = match lever {
            Lever::DestroySocket { socket } => self.sockets.destroy(pid, &socket),
            Lever::DisconnectSocket { socket } => self.sockets.disconnect(pid, &socket),
            Lever::DestroyAll { sockets } => self.sockets.destroy_all(pid, &sockets),
            Lever::CancelCalls { calls, refusal } => {
                let lever = self.calls.clone();
                state.calls.spawn(async move {
                    let outcome = lever.cancel(&calls, refusal).await;
                    Some(Event::LeverDone { attempt, outcome })
                });
                return;
            }
            Lever::DeleteLease { lease } => return self.clean(state, attempt, Removal::Lease(lease)),
            Lever::AbortIngest { ingest } => return self.clean(state, attempt, Removal::Ingest(ingest)),
            Lever::RemoveSnapshot { snapshot } => {
                return self.clean(state, attempt, Removal::Snapshot(snapshot));
            }
        };
        state.follow_ups.push(Event::LeverDone { attempt, outcome });
    }

    fn clean(&self, state: &mut State, attempt: AttemptId, removal: Removal) {
        let remover = self.remover.clone();
        state.calls.spawn(async move {
            let outcome = remover.remove(removal).await;
            Some(Event::LeverDone { attempt, outcome })
        });
    }

    fn keep(&self, state: &mut State, hold: Hold, content: Vec<Digest>) {
        let remover = self.remover.clone();
        state.calls.spawn(async move {
            let kept = remover.keep(&hold, content).await;
            let failed = kept.err().map(|error| causes::in_one_line(&error));
            let keep = hold.keep;
            Some(Event::KeepDone { keep, failed })
        });
    }

    fn collect(&self, state: &mut State, now: Time, namespace: ContainerdNamespace) {
        let remover = self.remover.clone();
        state.calls.spawn(async move {
            if let Err(error) = remover.collect(namespace, now).await {
                let why = causes::in_one_line(&error);
                warn!(why, "containerd was asked to collect its garbage, and does not");
            }
            Some(Event::CollectDone)
        });
    }

    fn release(&self, state: &mut State, hold: Hold) {
        let remover = self.remover.clone();
        state.calls.spawn(async move {
            if let Err(error) = remover.release(&hold).await {
                let why = causes::in_one_line(&error);
                warn!(why, "what was kept of a pull stays until it expires");
            }
            None
        });
    }
}

/// The record as a log line, so that who reads only the journal misses nothing that happened.
fn log(record: &AuditRecord) {
    let pull = record.pull.as_ref();
    let id = pull.map(|pull| tracing::field::display(pull.id));
    let image = pull
        .and_then(|pull| pull.repositories.first())
        .map(tracing::field::display);
    info!(target: "magi::audit", id, image, "{}", record.entry);
}
