//! Which policy is in force: the local file's, or the master's once there was one.
//!
//! Every policy goes the same way, whoever brings it: validated, then handed to the engine as a whole. One that is no
//! good changes nothing. The master's last good one is kept on disk, so that a start without the master goes on with it;
//! the local file is what holds before there was one, or when that is lost.
//!
//! Changed by: the start, SIGHUP (the local file again), a policy that the master pushes.

use std::path::PathBuf;

use magi_config::ConfigError;
use magi_engine::policy::Policy;
use magi_master_api::policy::PolicyVersion;
use magi_node_api::PolicyStatus;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, spawn_blocking};
use tracing::{error, info, warn};

use crate::causes;
use crate::sources::master::{Kept, Pushed};

/// Problems of a policy that the master is told of; the log has all of them.
const MAX_TOLD: usize = 8;

#[derive(Debug)]
pub(crate) struct Policies {
    local: PathBuf,
    /// Where the master's is kept; none: there is no master.
    kept: Option<Kept>,
    /// The master's policy that is in force; none: the local file's is.
    pushed: Option<PolicyVersion>,
    engine: mpsc::Sender<Policy>,
    said: watch::Sender<PolicyStatus>,
}

impl Policies {
    pub(crate) fn new(
        local: PathBuf,
        kept: Option<Kept>,
        engine: mpsc::Sender<Policy>,
        said: watch::Sender<PolicyStatus>,
    ) -> Self {
        Self {
            local,
            kept,
            pushed: None,
            engine,
            said,
        }
    }

    /// The master's policy that is in force.
    pub(crate) fn pushed(&self) -> Option<PolicyVersion> {
        self.pushed
    }

    /// Puts the first policy into force: the master's last good one, else the local file's.
    pub(crate) async fn start(&mut self) {
        if let Some(kept) = self.kept.clone()
            && let Some((version, policy)) = load(kept).await
        {
            info!(%version, "the master's last good policy is taken up");
            self.pushed = Some(version);
            self.put_into_force(policy).await;
        } else {
            self.reload().await;
        }
    }

    /// Reads the local file again. While the master's policy is in force the file is checked and no more.
    pub(crate) async fn reload(&mut self) {
        let file = self.local.clone();
        let read = spawn_blocking(move || magi_config::load_policy(&file)).await;
        match (checked(read), self.pushed) {
            (Some(policy), None) => self.put_into_force(policy).await,
            (Some(_), Some(version)) => {
                info!(%version, path = %self.local.display(), "the local policy is good, and the master's stays in force");
            }
            (None, _) => self.say_it_stays(),
        }
    }

    /// Takes a policy of the master's. The asker hears whether it is in force.
    pub(crate) async fn take(&mut self, pushed: Pushed) {
        let Pushed {
            version,
            bytes,
            reply,
        } = pushed;
        let text = bytes.clone();
        let result = match spawn_blocking(move || parse(&version, &text)).await {
            Ok(Ok(policy)) => {
                self.keep(version, bytes.to_vec()).await;
                self.pushed = Some(version);
                self.put_into_force(policy).await;
                Ok(())
            }
            Ok(Err(why)) => {
                warn!(%version, why, "the master's policy is refused");
                self.say_it_stays();
                Err(why)
            }
            Err(failed) => {
                error!(error = %failed, "the master's policy could not be read");
                Err("the policy could not be read".to_owned())
            }
        };
        let _asker_gone = reply.send(result);
    }

    /// A full disk must not keep a policy from being in force: a restart then goes on with an older one, and the master
    /// sends this one again.
    async fn keep(&self, version: PolicyVersion, bytes: Vec<u8>) {
        let Some(kept) = self.kept.clone() else { return };
        match spawn_blocking(move || kept.save(&version, &bytes)).await {
            Ok(Ok(())) => {}
            Ok(Err(failed)) => error!(
                error = causes::in_one_line(&failed),
                "the master's policy is in force, and not kept for a restart"
            ),
            Err(failed) => error!(error = %failed, "the master's policy could not be kept"),
        }
    }

    async fn put_into_force(&self, policy: Policy) {
        info!(revision = policy.revision, "policy loaded");
        self.said.send_replace(PolicyStatus::of(&policy));
        let _stopping = self.engine.send(policy).await;
    }

    fn say_it_stays(&self) {
        warn!(
            in_force = self.said.borrow().revision,
            "the policy in force stays"
        );
    }
}

/// What is kept, if it can be used.
async fn load(kept: Kept) -> Option<(PolicyVersion, Policy)> {
    let loaded = spawn_blocking(move || {
        let Some((version, text)) = kept.load().map_err(|error| causes::in_one_line(&error))? else {
            return Ok(None);
        };
        parse(&version, text.as_bytes()).map(|policy| Some((version, policy)))
    });
    match loaded.await {
        Ok(Ok(found)) => found,
        Ok(Err(why)) => {
            warn!(why, "the master's last good policy cannot be used");
            None
        }
        Err(failed) => {
            error!(error = %failed, "the master's last good policy could not be read");
            None
        }
    }
}

/// Reads a policy of the master's as the local file is read; else everything that is wrong with it, in a line.
fn parse(version: &PolicyVersion, bytes: &[u8]) -> Result<Policy, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| format!("it is no UTF-8 text: {error}"))?;
    let name = format!("revision {} of the master", version.revision);
    magi_config::parse_policy(&name, text).map_err(|error| in_words(&error))
}

fn in_words(error: &ConfigError) -> String {
    let problems = error.problems();
    let mut words: Vec<String> = problems
        .iter()
        .take(MAX_TOLD)
        .map(|problem| match problem.place {
            Some(place) => format!("line {}: {}: {}", place.line, problem.path, problem.message),
            None => format!("{}: {}", problem.path, problem.message),
        })
        .collect();
    if problems.len() > MAX_TOLD {
        words.push(format!("{} more", problems.len().saturating_sub(MAX_TOLD)));
    }
    words.join("; ")
}

/// The policy of the local file; none, after the log has everything that is wrong with it.
fn checked(read: Result<Result<Policy, ConfigError>, JoinError>) -> Option<Policy> {
    match read {
        Ok(Ok(policy)) => Some(policy),
        Ok(Err(problem)) => {
            for line in problem.to_string().lines() {
                error!("{line}");
            }
            None
        }
        Err(failed) => {
            error!(error = %failed, "the policy could not be read");
            None
        }
    }
}
