//! What the master holds to be true of pods: the one task that feeds every intake into the ledger, and says verdicts.
//!
//! It takes from any mix of the audit log, the webhook and the watch. What they tell goes into ledger and judge, which the
//! streams ask too ([`Standing`](crate::stream::standing::Standing)); verdicts go into the streams' bounded queue; and only
//! when those of some lines were handed over there is the place behind the lines kept. So after a crash lines come again,
//! and the same verdicts with the same ids, which nodes take once.
//!
//! At its start it catches up: rotated parts of the log and then the log are read to where the log ended at that time. What
//! follows from that is held, looked at again in the light of all of it, and said if it is not too old. Where there is a watch,
//! its list comes after that: what is not in it is gone.
//!
//! Changed by: what the intakes tell, time (the end of catching up), and the order to stop.

mod catch_up;
mod known;
mod open;
mod register;
mod said;

use std::path::PathBuf;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use magi_config::MasterSettings;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::change::Change;
use crate::counters::{Count, Counters};
use crate::files::FileError;
use crate::intake::audit::Reader;
use crate::intake::file::{self, Batch, FollowError};
use crate::intake::lines::Line;
use crate::intake::watch;
use crate::intake::webhook::{Events, TokenError};
use crate::server::Intake;
use crate::verdict::Verdict;

use catch_up::CatchUp;
use known::Known;
use open::Sources;
use register::Register;

/// Verdicts that may wait for the streams, which take them in microseconds.
const MAX_QUEUE: usize = 1024;

/// Why an intake cannot be taken up.
#[derive(Debug, thiserror::Error)]
pub enum TruthError {
    /// There is no place to keep how far the audit log was read.
    #[error("cannot keep how far the audit log is read")]
    State(#[source] FileError),
    /// The audit log cannot be followed.
    #[error("cannot follow the audit log")]
    Follow(#[source] FollowError),
    /// The webhook's certificates cannot be used.
    #[error("cannot use the webhook's certificate")]
    Tls(#[source] magi_master_api::tls::TlsError),
    /// The webhook's token cannot be used.
    #[error("cannot use the webhook's token")]
    Token(#[source] TokenError),
    /// The webhook cannot listen.
    #[error("the webhook cannot listen on {address}")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The kubeconfig cannot be used.
    #[error("cannot use the kubeconfig {path}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: kube::config::KubeconfigError,
    },
    /// The master is in no cluster.
    #[error("cannot ask as a service account")]
    InCluster(#[source] kube::config::InClusterError),
    /// No client can be made for the API server.
    #[error("cannot speak to the API server")]
    Client(#[source] kube::Error),
}

/// Takes up the intakes that the settings name. Gives what the streams need of them, and the task, which ends with `stop`.
///
/// # Errors
/// One of them cannot be taken up.
pub async fn start(
    settings: &MasterSettings,
    stop: CancellationToken,
) -> Result<(Intake, JoinHandle<()>), TruthError> {
    let counters = Arc::new(Counters::default());
    let register = Arc::new(Register::default());
    let sources = open::open(settings, &register, &counters).await?;
    let known = Arc::new(Known::new(
        SignedDuration::try_from(settings.nodes.verdict_age).unwrap_or(SignedDuration::MAX),
        Arc::clone(&counters),
        Arc::clone(&register),
    ));
    register.announce();
    let (verdicts, queue) = mpsc::channel(MAX_QUEUE);
    let truth = Truth {
        known: Arc::clone(&known),
        register,
        counters: Arc::clone(&counters),
        verdicts,
        age: SignedDuration::try_from(settings.intake.age).unwrap_or(SignedDuration::MAX),
        sources,
        log_reader: Reader::default(),
        webhook_reader: Reader::default(),
        changes: Vec::new(),
        catch_up: None,
    };
    let intake = Intake {
        verdicts: queue,
        standing: known,
        counters,
    };
    Ok((intake, tokio::spawn(truth.run(stop))))
}

/// The streams take no verdicts any more.
struct Unheard;

/// What an intake told.
enum Heard {
    Log(file::Told),
    Webhook(Events),
    Watch(watch::Told),
    /// One of them has ended, which none does while it is listened to.
    Ended,
    /// It is time to say what was held.
    CaughtUp,
}

struct Truth {
    known: Arc<Known>,
    register: Arc<Register>,
    counters: Arc<Counters>,
    verdicts: mpsc::Sender<Verdict>,
    age: SignedDuration,
    sources: Sources,
    log_reader: Reader,
    webhook_reader: Reader,
    /// Empty between any two batches; kept for its room.
    changes: Vec<Change>,
    catch_up: Option<CatchUp>,
}

impl Truth {
    async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            // The streams are over, so the master is.
            Err(Unheard) = self.listen() => {}
        }
        self.sources.close().await;
    }

    async fn listen(&mut self) -> Result<std::convert::Infallible, Unheard> {
        self.read_rotated().await;
        loop {
            match self.next().await {
                Heard::Log(file::Told::Batch(batch)) => self.hear_log(&batch).await?,
                Heard::Log(file::Told::Trouble(problem)) => {
                    self.register.log(|log| log.trouble(&problem));
                    self.caught_up().await?;
                }
                Heard::Webhook(events) => self.hear_webhook(&events).await?,
                Heard::Watch(told) => self.hear_watch(told).await?,
                Heard::Ended => tracing::error!("an intake has ended"),
                Heard::CaughtUp => self.caught_up().await?,
            }
        }
    }

    /// While the log is being caught up with, the others wait: they are bounded, and what they tell is newer.
    async fn next(&mut self) -> Heard {
        let Sources {
            log, webhook, watch, ..
        } = &mut self.sources;
        if let Some(catch_up) = &self.catch_up {
            return tokio::select! {
                told = receive(log) => told.map_or(Heard::Ended, Heard::Log),
                () = tokio::time::sleep_until(catch_up.until()) => Heard::CaughtUp,
            };
        }
        tokio::select! {
            told = receive(log) => told.map_or(Heard::Ended, Heard::Log),
            events = receive(webhook) => events.map_or(Heard::Ended, Heard::Webhook),
            told = receive(watch) => told.map_or(Heard::Ended, Heard::Watch),
        }
    }

    /// Reads what was rotated away before the place from which the log is followed.
    async fn read_rotated(&mut self) {
        let Some(start) = self.sources.start.take() else {
            return;
        };
        self.catch_up = Some(CatchUp::new(start.end));
        if start.rotated.is_empty() {
            return;
        }
        let known = Arc::clone(&self.known);
        let mut reader = std::mem::take(&mut self.log_reader);
        let read = tokio::task::spawn_blocking(move || {
            let mut verdicts = Vec::new();
            catch_up::read(start.rotated, |line, changes| {
                read_line(&mut reader, line, changes);
                known.hear(changes, &mut verdicts);
                std::mem::take(&mut verdicts)
            })
            .map(|held| (reader, held))
        });
        match read.await {
            Ok(Ok((reader, held))) => {
                self.log_reader = reader;
                let now = Timestamp::now();
                for verdict in held {
                    self.hold(verdict, now);
                }
            }
            Ok(Err(problem)) => self.register.log(|log| log.trouble(&problem)),
            Err(_) => tracing::error!("rotated parts of the audit log could not be read"),
        }
    }

    async fn hear_log(&mut self, batch: &Batch) -> Result<(), Unheard> {
        for line in batch.lines() {
            read_line(&mut self.log_reader, &line, &mut self.changes);
        }
        let counts = self.log_reader.counts();
        self.register
            .log(|log| log.heard(counts.lines, Some(&counts.unusable)));
        self.take().await?;
        let is_over = self.catch_up.as_mut().map(|catch_up| catch_up.took(batch));
        match is_over {
            Some(true) => self.caught_up().await?,
            None if !batch.is_past => self.sources.keep(&batch.position),
            Some(false) | None => {}
        }
        Ok(())
    }

    async fn hear_webhook(&mut self, events: &Events) -> Result<(), Unheard> {
        for event in events.iter() {
            self.webhook_reader.item(event, &mut self.changes);
        }
        let counts = self.webhook_reader.counts();
        self.register
            .webhook(|webhook| webhook.heard(counts.items, Some(&counts.unusable)));
        self.take().await
    }

    async fn hear_watch(&mut self, told: watch::Told) -> Result<(), Unheard> {
        match told {
            watch::Told::Changes(mut changes) => {
                let count = changes.len() as u64;
                self.changes.append(&mut changes);
                self.register.watch(|watch| watch.heard_more(count));
                self.take().await
            }
            watch::Told::Whole => {
                self.register.watch(|watch| watch.heard_more(0));
                tracing::info!("all pods are listed");
                Ok(())
            }
            watch::Told::Trouble(problem) => {
                self.register.watch(|watch| watch.trouble(&problem));
                Ok(())
            }
            watch::Told::Unusable(count) => {
                self.register.watch(|watch| watch.unusable("not-a-pod", count));
                Ok(())
            }
        }
    }

    /// Takes the changes that were read, and says or holds what follows.
    async fn take(&mut self) -> Result<(), Unheard> {
        let mut verdicts = Vec::new();
        self.known.hear(&mut self.changes, &mut verdicts);
        let now = Timestamp::now();
        for verdict in verdicts {
            if self.catch_up.is_some() {
                self.hold(verdict, now);
            } else {
                self.say(verdict, now).await?;
            }
        }
        Ok(())
    }

    fn is_too_old(&self, verdict: &Verdict, now: Timestamp) -> bool {
        let is_too_old = now.duration_since(verdict.at) > self.age;
        if is_too_old {
            self.counters.one(Count::VerdictsTooOld);
        }
        is_too_old
    }

    fn hold(&mut self, verdict: Verdict, now: Timestamp) {
        if !self.is_too_old(&verdict, now)
            && let Some(catch_up) = &mut self.catch_up
            && catch_up.hold(verdict)
        {
            self.counters.one(Count::VerdictsHeldLost);
        }
    }

    async fn say(&self, verdict: Verdict, now: Timestamp) -> Result<(), Unheard> {
        if self.is_too_old(&verdict, now) {
            return Ok(());
        }
        self.known.remember(verdict.clone(), now);
        self.verdicts.send(verdict).await.map_err(|_| Unheard)
    }

    /// The ledger is as whole as the log makes it: what was held is judged anew, and said.
    async fn caught_up(&mut self) -> Result<(), Unheard> {
        let Some(catch_up) = self.catch_up.take() else {
            return Ok(());
        };
        let (held, position) = catch_up.end();
        let now = Timestamp::now();
        let (pods, said) = (self.known.size(), held.len());
        for verdict in held {
            for verdict in self.known.judge_again(verdict) {
                self.say(verdict, now).await?;
            }
        }
        tracing::info!(pods, said, "the audit log is caught up with");
        if let Some(position) = position {
            self.sources.keep(&position);
        }
        Ok(())
    }
}

fn read_line(reader: &mut Reader, line: &Line<'_>, changes: &mut Vec<Change>) {
    match line {
        Line::Whole(line) => reader.line(line, changes),
        Line::TooLong(bytes) => reader.too_long(*bytes),
    }
}

/// The next thing of an intake that there is; forgets one that has ended.
async fn receive<T>(intake: &mut Option<mpsc::Receiver<T>>) -> Option<T> {
    let Some(receiver) = intake else {
        return std::future::pending().await;
    };
    let received = receiver.recv().await;
    if received.is_none() {
        *intake = None;
    }
    received
}
