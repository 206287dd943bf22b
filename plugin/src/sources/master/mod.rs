//! The master: its verdicts, policies and kill switch come in; answers and audit records go out.
//!
//! [`magi_master_api::client`] keeps the stream; this source gives its words a meaning here. Nothing waits for the
//! master: what it said holds while it is gone, and what is to be said to it is kept within bounds.
//!
//! Triggers: news from the master; for what goes out, the audit trail, the pace of [`pulls`], and sources that come and
//! go.

mod decode;
mod facts;
mod kept;
mod pulls;
#[cfg(test)]
mod tests;
mod trail;

pub(crate) use kept::{Held, Kept};
pub(crate) use trail::{Stops, Trail};

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use magi_engine::switch::SwitchHolder;
use magi_engine::{Event, Source};
use magi_master_api::client::{self, FromMaster, NodeClient, ToMaster};
use magi_master_api::message::{Fate, KillSwitch, PolicyAnswer, Verdict, VerdictAnswer};
use magi_master_api::policy::PolicyVersion;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::containerd::Attached;
use crate::asking::Asking;
use crate::causes;
use crate::inbox::{Inbox, Stopping};

/// Things to say that may wait for the client, which takes them at once and keeps them itself.
const MAX_SAID: usize = 1024;
/// News that may wait for us; while so many do, the stream is not read.
const MAX_NEWS: usize = 4;
/// So long the first greeting waits for containerd: what a node runs is told with a greeting only.
const SETTLED_WITHIN: Duration = Duration::from_secs(2);

/// A policy that the master wants to be in force.
#[derive(Debug)]
pub(crate) struct Pushed {
    /// Its number and digest, which is that of `bytes`.
    pub(crate) version: PolicyVersion,
    /// Its text.
    pub(crate) bytes: Bytes,
    /// Wants to know: in force, or why it is not.
    pub(crate) reply: oneshot::Sender<Result<(), String>>,
}

/// What is said to the master, on its way to the client.
#[derive(Debug)]
pub(crate) struct Outbox {
    say: mpsc::Sender<ToMaster>,
    said: mpsc::Receiver<ToMaster>,
}

impl Outbox {
    pub(crate) fn new() -> Self {
        let (say, said) = mpsc::channel(MAX_SAID);
        Self { say, said }
    }

    /// The end for the audit trail.
    pub(crate) fn trail(&self) -> Trail {
        Trail::new(self.say.clone())
    }
}

/// What the source is tied to.
#[derive(Debug)]
pub(crate) struct Ties {
    pub(crate) inbox: Inbox,
    pub(crate) policies: mpsc::Sender<Pushed>,
    pub(crate) outbox: Outbox,
    pub(crate) asking: Asking,
    pub(crate) stops: Stops,
    /// For the greeting.
    pub(crate) attached: watch::Receiver<Option<Attached>>,
    /// For the greeting: sources that work.
    pub(crate) up: watch::Receiver<BTreeSet<Source>>,
    /// For the greeting: sources that there could be.
    pub(crate) watched: Vec<Source>,
    /// Where the master's kill switch is kept.
    pub(crate) held: Held,
}

/// Runs until the agent stops. `client.facts` are filled in here.
pub(crate) async fn run(mut client: NodeClient, ties: Ties) {
    let Ties {
        inbox,
        policies,
        outbox: Outbox { say, said },
        asking,
        stops,
        attached,
        mut up,
        watched,
        held,
    } = ties;
    let settled = up.wait_for(|up| up.contains(&Source::Containerd));
    // Late or not, the master is greeted.
    drop(tokio::time::timeout(SETTLED_WITHIN, settled).await);
    let known = facts::Known {
        attached,
        up,
        watched,
    };
    client.facts = known.facts();
    let (inbound, mut news) = mpsc::channel(MAX_NEWS);
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let mut hearing = Hearing {
        inbox,
        policies,
        say: say.clone(),
        is_up: false,
        is_missed: false,
        not_understood: 0,
        held,
    };
    if hearing.recall().await.is_err() {
        return;
    }
    let hear = async {
        while let Some(one) = news.recv().await {
            if hearing.hear(one).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = client::run(client, inbound, said, stop) => {}
        () = hear => {}
        () = facts::tell(known, say.clone()) => {}
        () = pulls::tell(asking, stops, say) => {}
    }
}

/// Gives what the master says a meaning.
///
/// Changed by: news from the master.
struct Hearing {
    inbox: Inbox,
    policies: mpsc::Sender<Pushed>,
    say: mpsc::Sender<ToMaster>,
    /// The engine was told that the master is there.
    is_up: bool,
    /// The log has it that it cannot be reached; each attempt would fill it.
    is_missed: bool,
    /// Verdicts that made no sense, since the start.
    not_understood: u64,
    /// The master's kill switch, on disk.
    held: Held,
}

impl Hearing {
    /// The kill switch as the master left it.
    async fn recall(&mut self) -> Result<(), Stopping> {
        let held = self.held.clone();
        let by = match spawn_blocking(move || held.load()).await {
            Ok(Ok(None)) => return Ok(()),
            Ok(Ok(Some(by))) => by,
            // What cannot be read may say that nothing is to be stopped.
            Ok(Err(failed)) => causes::in_one_line(&failed),
            Err(failed) => failed.to_string(),
        };
        warn!(by, "the master's kill switch was on, and is on");
        self.inbox
            .send(Event::KillSwitch {
                holder: SwitchHolder::Master,
                engaged: true,
                by,
            })
            .await
    }

    async fn hear(&mut self, news: FromMaster) -> Result<(), Stopping> {
        let source = Source::Master;
        match news {
            FromMaster::Connected {
                resumed,
                verdicts_lost,
            } => {
                info!(resumed, "the master is there");
                self.is_missed = false;
                if verdicts_lost > 0 {
                    warn!(
                        verdicts_lost,
                        "the master had to forget verdicts: pulls for those pods go on"
                    );
                }
                if !std::mem::replace(&mut self.is_up, true) {
                    self.inbox.send(Event::SourceUp { source }).await?;
                }
                Ok(())
            }
            FromMaster::Disconnected { why } => {
                if std::mem::replace(&mut self.is_up, false) {
                    warn!(why, "lost the master; what it said holds");
                    self.is_missed = true;
                    self.inbox.send(Event::SourceDown { source }).await?;
                } else if !std::mem::replace(&mut self.is_missed, true) {
                    warn!(
                        why,
                        "the master cannot be reached; trying again until it is there"
                    );
                }
                Ok(())
            }
            FromMaster::Verdict(verdict) => self.hear_verdict(verdict).await,
            FromMaster::Policy { version, bytes } => self.hear_policy(version, bytes).await,
            FromMaster::KillSwitch(switch) => self.hear_kill_switch(switch).await,
            FromMaster::AuditStored(_) => Ok(()),
        }
    }

    async fn hear_verdict(&mut self, verdict: Verdict) -> Result<(), Stopping> {
        let id = verdict.id;
        let (fate, detail) = match decode::lost_pod(verdict) {
            Ok(lost) => {
                self.inbox.send(Event::PodLost { lost }).await?;
                (Fate::Remembered, String::new())
            }
            Err(error) => {
                self.not_understood = self.not_understood.saturating_add(1);
                let why = causes::in_one_line(&error);
                warn!(verdict = %id, why, so_far = self.not_understood, "a verdict of the master makes no sense");
                (Fate::NotUnderstood, why)
            }
        };
        self.say(ToMaster::Verdict(VerdictAnswer { id, fate, detail }))
            .await
    }

    async fn hear_policy(&mut self, version: PolicyVersion, bytes: Bytes) -> Result<(), Stopping> {
        let (reply, taken) = oneshot::channel();
        let pushed = Pushed {
            version,
            bytes,
            reply,
        };
        self.policies.send(pushed).await.map_err(|_| Stopping)?;
        let refused = taken.await.map_err(|_| Stopping)?.err();
        self.say(ToMaster::Policy(PolicyAnswer { version, refused }))
            .await
    }

    /// It holds while the master is gone, and over a restart.
    async fn hear_kill_switch(&mut self, switch: KillSwitch) -> Result<(), Stopping> {
        let by = decode::who(&switch);
        warn!(engaged = switch.engaged, by, "the master sets its kill switch");
        self.inbox
            .send(Event::KillSwitch {
                holder: SwitchHolder::Master,
                engaged: switch.engaged,
                by: by.clone(),
            })
            .await?;
        let held = self.held.clone();
        let kept = spawn_blocking(move || held.save(switch.engaged.then_some(by.as_str()))).await;
        match kept {
            Ok(Ok(())) => {}
            Ok(Err(failed)) => warn!(
                error = causes::in_one_line(&failed),
                "the master's kill switch holds, and is forgotten at a restart"
            ),
            Err(failed) => warn!(error = %failed, "the master's kill switch could not be kept"),
        }
        self.say(ToMaster::KillSwitch(switch.revision)).await
    }

    async fn say(&self, what: ToMaster) -> Result<(), Stopping> {
        self.say.send(what).await.map_err(|_| Stopping)
    }
}
