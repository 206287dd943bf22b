//! The node's side of a stream: connects, stays connected, and hands over each thing once.
//!
//! One client speaks to one master. It reads its certificates anew for each connection, waits with growing, jittered
//! pauses between two, and goes on where the last one was cut.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::keep::Keep;
use crate::message::{
    AuditMark, AuditRecord, Fate, Hello, KillSwitch, NodeFacts, PolicyAnswer, Pulls, Resume, Verdict,
    VerdictAnswer, VerdictId,
};
use crate::policy::{Assembly, PolicyVersion};
use crate::seen::Seen;
use crate::tls::{TlsError, TlsFiles, provider};

mod connect;
mod session;

pub use connect::{channel, operator};

/// Verdicts that are remembered as heard, so that a repeat has no effect.
const MAX_SEEN: usize = 8192;
/// Things from the master that wait for the node; while so many do, the stream is not read.
const MAX_NEWS: usize = 8;
/// The first pause between two attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest one.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Where the master is, and who is speaking.
#[derive(Clone, Debug)]
pub struct NodeClient {
    /// Host and port.
    pub master: String,
    /// The name that the master's certificate must be for.
    pub server_name: String,
    /// The node's certificate, its key, and the authorities of the master's.
    pub tls: TlsFiles,
    /// The node's name, as in its certificate.
    pub node: String,
    /// What it runs and sees.
    pub facts: NodeFacts,
    /// The policy in force that came from a master.
    pub policy: Option<PolicyVersion>,
    /// The longest pause between two attempts; [`NodeClient::LONGEST_PAUSE`] suits.
    pub longest_pause: Duration,
}

impl NodeClient {
    /// The longest pause between two attempts that suits a cluster.
    pub const LONGEST_PAUSE: Duration = LONGEST_PAUSE;
}

/// What a node has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToMaster {
    /// What it runs and sees, told with the next connection.
    Facts(NodeFacts),
    /// What became of a policy.
    Policy(PolicyAnswer),
    /// What became of a verdict. It may be said again as things go on.
    Verdict(VerdictAnswer),
    /// What is being pulled; the newest counts.
    Pulls(Pulls),
    /// A record of the audit trail, in order. It is kept until the master has stored it.
    Audit(AuditRecord),
    /// The kill switch of this revision is in force.
    KillSwitch(u64),
}

/// What a node hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromMaster {
    /// The master is there.
    Connected {
        /// Whether it goes on where the last connection was cut.
        resumed: bool,
        /// Verdicts for this node that the master had to forget.
        verdicts_lost: u64,
    },
    /// The master is gone; what it said holds.
    Disconnected {
        /// Why, in words.
        why: String,
    },
    /// Another policy, later than the one in force, and unbroken. Whether it makes sense is for the node to say.
    Policy {
        /// Its number and digest.
        version: PolicyVersion,
        /// Its text.
        bytes: Bytes,
    },
    /// A verdict that was not heard before. It wants an answer.
    Verdict(Verdict),
    /// Whether anything may be stopped. It wants an answer.
    KillSwitch(KillSwitch),
    /// The trail up to here is stored.
    AuditStored(AuditMark),
}

/// Why a connection could not be made, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The certificates cannot be used.
    #[error("cannot use the certificates")]
    Tls(#[source] TlsError),
    /// The name of the master cannot be one.
    #[error("{name:?} is no name of a server")]
    ServerName {
        /// The name.
        name: String,
    },
    /// The master cannot be reached, or is not what it should be.
    #[error("cannot connect to {master}")]
    Connect {
        /// Host and port.
        master: String,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// It took too long.
    #[error("{master} did not greet within {within:?}")]
    Slow {
        /// Host and port.
        master: String,
        /// How long was waited.
        within: Duration,
    },
    /// The master refused the stream, or ended it with an error.
    #[error("the master ended the stream")]
    Ended(#[source] Box<tonic::Status>),
    /// The master ended the stream.
    #[error("the master closed the stream")]
    Closed,
    /// Nothing was heard.
    #[error("nothing was heard for {after:?}")]
    Silent {
        /// For so long.
        after: Duration,
    },
    /// The first message was no greeting.
    #[error("the master did not greet")]
    NoWelcome,
}

/// Everything that outlives a connection.
///
/// Changed by: what the node says, what the master says, and connections that come and go.
#[derive(Debug)]
struct State {
    config: NodeClient,
    keep: Keep,
    seen: Seen,
    /// What the node has still to hear.
    news: VecDeque<FromMaster>,
    resume: Option<Resume>,
    in_force: Option<PolicyVersion>,
    assembly: Assembly,
}

/// Why a connection is over.
enum Over {
    /// The node wants no master any more.
    Stopped,
    /// It broke, or was never made.
    Broken(ClientError),
}

/// Speaks to the master until `stop`, or until the node's ends of the channels are gone. What the node says while there
/// is no master is kept within bounds.
pub async fn run(
    config: NodeClient,
    inbound: mpsc::Sender<FromMaster>,
    mut outbound: mpsc::Receiver<ToMaster>,
    stop: CancellationToken,
) {
    let mut random = random();
    let mut backoff = Backoff::new(FIRST_PAUSE.min(config.longest_pause), config.longest_pause);
    let mut state = State {
        in_force: config.policy,
        config,
        keep: Keep::default(),
        seen: Seen::new(MAX_SEEN),
        news: VecDeque::new(),
        resume: None,
        assembly: Assembly::default(),
    };
    loop {
        let connecting = connect::connect(state.config.clone(), state.hello());
        let over = match state.meanwhile(connecting, &inbound, &mut outbound, &stop).await {
            None => Over::Stopped,
            Some(Err(error)) => Over::Broken(error),
            Some(Ok(link)) => {
                backoff.reset();
                let over = state.attend(link, &inbound, &mut outbound, &stop).await;
                state.keep.cut();
                state.assembly = Assembly::default();
                over
            }
        };
        let error = match over {
            Over::Stopped => return,
            Over::Broken(error) => error,
        };
        let why = words(&error);
        tracing::info!(master = state.config.master, why, "no master");
        // A node that does not listen hears of the last loss only.
        state
            .news
            .retain(|news| !matches!(news, FromMaster::Disconnected { .. }));
        state.news.push_back(FromMaster::Disconnected { why });
        let pause = tokio::time::sleep(backoff.wait(&mut random));
        if state
            .meanwhile(pause, &inbound, &mut outbound, &stop)
            .await
            .is_none()
        {
            return;
        }
    }
}

impl State {
    fn hello(&self) -> Hello {
        Hello {
            node: self.config.node.clone(),
            facts: self.config.facts.clone(),
            policy: self.in_force,
            resume: self.resume,
            audit_lost: self.keep.records_lost(),
        }
    }

    /// Waits for `what`, and lets the node speak and hear meanwhile. None: it is time to stop.
    async fn meanwhile<T>(
        &mut self,
        what: impl Future<Output = T>,
        inbound: &mpsc::Sender<FromMaster>,
        outbound: &mut mpsc::Receiver<ToMaster>,
        stop: &CancellationToken,
    ) -> Option<T> {
        tokio::pin!(what);
        loop {
            tokio::select! {
                () = stop.cancelled() => return None,
                done = &mut what => return Some(done),
                said = outbound.recv() => self.take(said?),
                permit = inbound.reserve(), if !self.news.is_empty() => self.tell(permit.ok()?),
            }
        }
    }

    /// Takes what the node says.
    fn take(&mut self, said: ToMaster) {
        match said {
            ToMaster::Facts(facts) => self.config.facts = facts,
            ToMaster::Policy(answer) => {
                if answer.refused.is_none() {
                    self.in_force = Some(answer.version);
                }
                self.keep.answer_policy(answer);
            }
            ToMaster::Verdict(answer) => self.keep.answer_verdict(answer),
            ToMaster::Pulls(pulls) => self.keep.pulls(pulls),
            ToMaster::Audit(record) => self.keep.record(record),
            ToMaster::KillSwitch(revision) => self.keep.answer_kill_switch(revision),
        }
    }

    /// Tells the node what it has to hear next.
    fn tell(&mut self, permit: mpsc::Permit<'_, FromMaster>) {
        if let Some(news) = self.news.pop_front() {
            permit.send(news);
        }
    }

    fn answer(&mut self, id: VerdictId, fate: Fate, detail: &str) {
        self.keep.answer_verdict(VerdictAnswer {
            id,
            fate,
            detail: detail.to_owned(),
        });
    }
}

/// An error with its causes.
fn words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    // A chain of causes is short; the bound is for those that are none.
    for _ in 0..16 {
        let Some(cause) = next else { break };
        let cause_words = cause.to_string();
        if !words.ends_with(&cause_words) {
            words.push_str(": ");
            words.push_str(&cause_words);
        }
        next = cause.source();
    }
    words
}

/// A source of jitter; from the provider of cryptography, as that one is there already.
fn random() -> SmallRng {
    let mut seed = [0; 8];
    if provider().secure_random.fill(&mut seed).is_err() {
        // Jitter needs no secrets: any two nodes differ in this as well.
        seed = u64::from(std::process::id()).to_le_bytes();
    }
    SmallRng::seed_from_u64(u64::from_le_bytes(seed))
}
