//! The wiring of `magi-master run`: settings in, every part started, and ended in order.

use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;
use magi_config::MasterSettings;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::counters::Counters;
use crate::files::{self, FileError};
use crate::policy::{PolicyError, Publisher};
use crate::push::{Bounds, PushError, Pusher};
use crate::settings;
use crate::store::{Store, StoreError};
use crate::stream::standing::Standing;
use crate::stream::{Parts, Server, StreamError};
use crate::switch::{SwitchError, Switchboard};
use crate::verdict::Verdict;

/// Why the master cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no place for what must outlive it.
    #[error("cannot keep state")]
    State(#[source] FileError),
    /// The policy that was kept cannot be read.
    #[error("cannot take up the last policy")]
    Policy(#[source] PolicyError),
    /// The kill switch cannot be read.
    #[error("cannot take up the kill switch")]
    Switch(#[source] SwitchError),
    /// The audit store cannot be opened.
    #[error("cannot open the audit store")]
    Store(#[source] StoreError),
    /// The receiver of audit records cannot be spoken to as the settings say.
    #[error("cannot push audit records")]
    Push(#[source] PushError),
    /// The streams cannot be served.
    #[error("cannot serve nodes")]
    Stream(#[source] StreamError),
}

/// What the intake gives the streams.
pub struct Intake {
    /// Verdicts, as they are found.
    pub verdicts: mpsc::Receiver<Verdict>,
    /// What is known of earlier ones.
    pub standing: Arc<dyn Standing>,
    /// What is counted.
    pub counters: Arc<Counters>,
}

/// A master whose parts are ready.
#[derive(Debug)]
pub struct Master {
    server: Server,
    publisher: Arc<Publisher>,
    pusher: Option<Pusher>,
    counters: Arc<Counters>,
    stop: CancellationToken,
}

impl Master {
    /// Makes every part ready, and listens.
    ///
    /// # Errors
    /// A part cannot be made ready.
    pub async fn start(
        settings: &MasterSettings,
        intake: Intake,
        stop: CancellationToken,
    ) -> Result<Self, RunError> {
        let counters = intake.counters;
        files::folder(&settings.state).map_err(RunError::State)?;
        let publisher = Publisher::open(settings.policy.as_deref(), &settings.state, Arc::clone(&counters))
            .map_err(RunError::Policy)?;
        let publisher = Arc::new(publisher);
        publisher.look(Timestamp::now());
        let switchboard = Switchboard::open(&settings.state).map_err(RunError::Switch)?;
        let pusher = match &settings.audit_push {
            Some(push) => {
                let seed = Timestamp::now().subsec_nanosecond().unsigned_abs();
                let pusher = Pusher::new(push, Bounds::default(), Arc::clone(&counters), seed.into());
                Some(pusher.map_err(RunError::Push)?)
            }
            None => None,
        };
        let queue = pusher.as_ref().map(Pusher::queue);
        let store =
            Store::open(settings::store(settings), queue, Arc::clone(&counters)).map_err(RunError::Store)?;
        let parts = Parts {
            verdicts: intake.verdicts,
            standing: intake.standing,
            policies: Arc::clone(&publisher),
            switchboard: Arc::new(switchboard),
            store,
            counters: Arc::clone(&counters),
            tls: settings::tls(settings),
            limits: settings::limits(settings),
            stop: stop.clone(),
        };
        let server = Server::bind(settings.listen, parts)
            .await
            .map_err(RunError::Stream)?;
        tracing::info!(address = %server.address(), "the master listens");
        Ok(Self {
            server,
            publisher,
            pusher,
            counters,
            stop,
        })
    }

    /// Where nodes connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// What is counted.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Works until it is told to stop.
    pub async fn run(self) {
        let pushing = self
            .pusher
            .map(|pusher| tokio::spawn(pusher.run(self.stop.clone())));
        let following = tokio::spawn(self.publisher.follow(settings::POLICY_EVERY, self.stop));
        self.server.serve().await;
        // It stops by the same token; a panic there was told already.
        drop(following.await);
        if let Some(pushing) = pushing {
            drop(pushing.await);
        }
        tracing::info!("the master is gone");
    }
}
