//! The node's pods, as an external NRI plugin hears of them: who they are, and what they run.
//!
//! NRI tells of a pod the moment its sandbox starts, which is before the kubelet asks for its first image. It tells
//! nothing of pulls. What it leaves out CRI's own list shows a little later (see [`inventory`]).
//!
//! The plugin never delays a pod: it answers first, hands on through a channel that it does not wait for, and runs on
//! a thread of its own, since a full disk can hold up the rest of the agent for longer than the runtime waits.

mod decode;
mod events;
mod fields;
mod inventory;
mod list;
mod mux;
mod outbox;
mod session;
#[cfg(test)]
mod tests;
mod ttrpc;

pub(crate) use events::tell;
use inventory::{Pod, PodChange};

use std::path::PathBuf;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::causes;
use outbox::Outbox;
use session::{Ended, Session};

/// First and longest pause between two attempts.
const RECONNECT_FIRST: Duration = Duration::from_millis(50);
const RECONNECT_LONGEST: Duration = Duration::from_secs(2);
/// A connection that lasted so long was a good one: the next attempt comes soon.
const STEADY: Duration = Duration::from_secs(10);
/// Longest wait for the socket.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// How this source is set up.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// The runtime's socket for plugins, `/var/run/nri/nri.sock` by default.
    pub(crate) socket: PathBuf,
    /// containerd's socket, for CRI's list; `None` leaves the gap at registration open.
    pub(crate) cri: Option<PathBuf>,
}

/// Starts the source on a thread of its own. It ends when nobody listens to `changes` any more.
///
/// # Errors
/// There is no thread to be had.
pub(crate) fn start(config: Config, changes: mpsc::Sender<PodChange>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("nri".to_owned())
        .spawn(move || runtime.block_on(run(config, changes)))?;
    Ok(())
}

/// Runs until nobody listens any more: registers, listens, and registers again when the runtime went away.
pub(crate) async fn run(config: Config, changes: mpsc::Sender<PodChange>) {
    let mut outbox = Outbox::new(changes);
    let mut pause = RECONNECT_FIRST;
    let mut said = false;
    loop {
        match timeout(CONNECT_WITHIN, UnixStream::connect(&config.socket)).await {
            Ok(Ok(socket)) => {
                let since = Instant::now();
                let mut session = Session::new(socket, &mut outbox, config.cri.clone());
                let ended = session.run().await;
                let synchronized = session.is_synchronized();
                if let Ended::NobodyListens = ended {
                    return;
                }
                // A runtime that refuses would otherwise fill the log.
                if synchronized || !std::mem::replace(&mut said, true) {
                    warn!(
                        error = causes::in_one_line(&ended),
                        "lost NRI; trying again until it is there"
                    );
                }
                if synchronized && since.elapsed() > STEADY {
                    pause = RECONNECT_FIRST;
                    said = false;
                }
            }
            Ok(Err(error)) if !std::mem::replace(&mut said, true) => {
                info!(socket = %config.socket.display(), %error,
                      "no NRI: its socket cannot be reached; trying again until it is there");
            }
            Ok(Err(_)) | Err(_) => {}
        }
        outbox.go_down();
        let again = sleep(pause);
        tokio::pin!(again);
        loop {
            tokio::select! {
                () = &mut again => break,
                () = outbox.closed() => return,
                () = outbox.room(), if outbox.is_behind() => outbox.catch_up(None),
            }
        }
        pause = pause.saturating_mul(2).min(RECONNECT_LONGEST);
    }
}
