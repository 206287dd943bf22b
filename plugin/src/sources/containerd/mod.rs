//! containerd's view of its pulls: leases, ingests, manifests.
//!
//! Events only wake this source up; the lists are the truth (containerd.md §20). A look asks for the ingests first
//! and for the leases after them, so that an ingest that no listed lease holds really had no owner. While no lease is
//! in flight nothing is polled but a slow safety look.
//!
//! Triggers: an event of containerd, a wish of the engine, the pace, a broken connection.

mod attach;
mod decode;
mod documents;
mod look;
mod wake;

pub(crate) use attach::Attached;

use std::path::PathBuf;
use std::time::Duration;

use magi_engine::ids::ContainerdNamespace;
use magi_engine::{Event, Source};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::containerd::{Api, ApiError, Scope};
use crate::inbox::Inbox;
use look::Looker;

/// First and longest pause between two attempts to reach containerd.
const RECONNECT_FIRST: Duration = Duration::from_millis(50);
const RECONNECT_LONGEST: Duration = Duration::from_secs(1);

/// A look that takes longer than this is followed by a rest of so many times its length, at most the longest.
const COSTLY: Duration = Duration::from_millis(25);
const REST: u32 = 4;
const LONGEST_REST: Duration = Duration::from_secs(2);

/// What the engine wants looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LookWish {
    /// Extract snapshots as well.
    pub(crate) extracts: bool,
}

/// How this source is set up.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) address: PathBuf,
    pub(crate) namespaces: Vec<ContainerdNamespace>,
    /// Pause between looks while a lease is in flight.
    pub(crate) active: Duration,
    /// Pause between looks while none is.
    pub(crate) idle: Duration,
}

/// Runs for ever: attaches, watches, and attaches again when containerd went away.
pub(crate) async fn run(
    config: Config,
    inbox: Inbox,
    mut wishes: mpsc::Receiver<LookWish>,
    attached: watch::Sender<Option<Attached>>,
) {
    let mut pause = RECONNECT_FIRST;
    let mut said = false;
    loop {
        match attach::attach(&config.address).await {
            Ok((api, found)) => {
                info!(address = %config.address.display(), version = %found.version, pid = found.pid,
                      content = %found.content_root.display(), "attached to containerd");
                pause = RECONNECT_FIRST;
                said = false;
                attached.send_replace(Some(found.clone()));
                if let Err(error) = watch_pulls(&config, &api, &found, &inbox, &mut wishes).await {
                    warn!(error = report(&error), "lost containerd");
                }
                attached.send_replace(None);
                if inbox
                    .send(Event::SourceDown {
                        source: Source::Containerd,
                    })
                    .await
                    .is_err()
                {
                    return;
                }
            }
            Err(error) if !std::mem::replace(&mut said, true) => {
                warn!(
                    error = report(&error),
                    "cannot attach to containerd; trying again until it is there"
                );
            }
            Err(_) => {}
        }
        tokio::time::sleep(pause).await;
        pause = pause.saturating_mul(2).min(RECONNECT_LONGEST);
        while wishes.try_recv().is_ok() {}
    }
}

async fn watch_pulls(
    config: &Config,
    api: &Api,
    found: &Attached,
    inbox: &Inbox,
    wishes: &mut mpsc::Receiver<LookWish>,
) -> Result<(), ApiError> {
    let scopes = config
        .namespaces
        .iter()
        .cloned()
        .map(Scope::new)
        .collect::<Result<Vec<_>, _>>()?;
    let mut events = wake::Wakes::subscribe(api, &config.namespaces);
    let mut looker = Looker::new(api.clone(), scopes, found.content_root.clone());
    if inbox
        .send(Event::SourceUp {
            source: Source::Containerd,
        })
        .await
        .is_err()
    {
        return Ok(());
    }
    let mut extracts = false;
    loop {
        let began = Instant::now();
        let in_flight = match looker.look(extracts, inbox).await? {
            look::Looked::InFlight(leases) => leases,
            look::Looked::NobodyListens => return Ok(()),
        };
        extracts = false;
        let took = began.elapsed();
        if took > COSTLY {
            // An image of ten thousand layers makes a look dear, and containerd must not pay for magi's curiosity.
            sleep_until(Instant::now() + took.saturating_mul(REST).min(LONGEST_REST)).await;
        }
        let pace = if in_flight > 0 { config.active } else { config.idle };
        let next = Instant::now() + pace;
        tokio::select! {
            woken = events.next() => woken?,
            wish = wishes.recv() => match wish {
                Some(wish) => extracts |= wish.extracts,
                None => return Ok(()),
            },
            () = sleep_until(next) => {}
        }
        // What came meanwhile is answered by the same look.
        while let Ok(wish) = wishes.try_recv() {
            extracts |= wish.extracts;
        }
    }
}

/// An error with its causes, in one line.
fn report(error: &dyn std::error::Error) -> String {
    crate::causes::in_one_line(error)
}
