//! Good and bad pulls, without end, while things fail.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::sync::Mutex;

use super::pool::{self, Bad};
use super::stage::Client;
use crate::cri::Pod;
use crate::master::{self, Loss};

/// No pull of the pool takes a tenth of it.
pub(super) const HUNG: Duration = Duration::from_secs(30);
/// Pods of bad images go away after this, wherever their pull is then.
const LOST_AFTER: Duration = Duration::from_millis(400);
/// A node without pulls in flight would make the next one wait for nothing.
const BREATH: Duration = Duration::from_millis(20);

/// How a healthy pull went.
#[derive(Debug, Clone)]
pub(super) struct Pulled {
    pub(super) reference: String,
    pub(super) by_gateway: bool,
    pub(super) from: Instant,
    pub(super) to: Instant,
    /// What its caller was told, or what came out instead.
    pub(super) failed: Option<String>,
}

impl Pulled {
    pub(super) fn took(&self) -> Duration {
        self.to.duration_since(self.from)
    }
}

/// How a bad one went.
#[derive(Debug, Clone)]
pub(super) struct Attacked {
    pub(super) reference: String,
    pub(super) from: Instant,
    pub(super) to: Instant,
    /// It came through, or was never stopped.
    pub(super) escaped: Option<&'static str>,
}

/// Pulls this worker's images in turn, every other one by the gateway if there is one.
pub(super) async fn pull_healthy(
    client: Client,
    worker: u64,
    with_gateway: bool,
    over: &AtomicBool,
    done: &Mutex<Vec<Pulled>>,
) -> Result<()> {
    let mut turn = 0;
    while !over.load(Ordering::Relaxed) {
        let by_gateway = with_gateway && turn % 2 == 0;
        let reference = client.reference(&pool::healthy_name(worker, turn));
        let wanted = pool::healthy(worker, turn)?;
        let pod = Pod::new("team", &format!("web-{worker}-{turn}"));
        client.tell(&master::created(&pod, &reference))?;
        let cri = client.cri(by_gateway);
        let from = Instant::now();
        let pull = tokio::time::timeout(HUNG, cri.pull_as(&reference, Some(&pod), None)).await;
        let to = Instant::now();
        let failed = match pull.map(|pull| pull.outcome) {
            Ok(Ok(id)) if id == wanted.id() => None,
            Ok(Ok(id)) => Some(format!("it came out as {id}")),
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("it hung for {HUNG:?}")),
        };
        done.lock().await.push(Pulled {
            reference: reference.clone(),
            by_gateway,
            from,
            to,
            failed,
        });
        // If containerd is just being killed, the image stays until its next turn.
        let _ = client.cri(false).remove(&reference).await;
        turn += 1;
        tokio::time::sleep(BREATH).await;
    }
    Ok(())
}

/// Attacks in turn.
pub(super) async fn attack(client: Client, over: &AtomicBool) -> Result<Vec<Attacked>> {
    let mut attacks = Vec::new();
    let mut turn = 0;
    while !over.load(Ordering::Relaxed) {
        let reference = client.reference(&pool::bad_name(turn));
        let pod = Pod::new(&format!("tenant-{turn}"), "attacker");
        client.tell(&master::created(&pod, &reference))?;
        let cri = client.cri(false);
        let from = Instant::now();
        let pull = tokio::time::timeout(HUNG, cri.pull_as(&reference, Some(&pod), None));
        let lost = async {
            if Bad::of(turn) == Bad::Orphan {
                tokio::time::sleep(LOST_AFTER).await;
                client.tell(&[Loss::ForceDeleted.of(&pod, &reference)])?;
            }
            anyhow::Ok(())
        };
        let (pull, lost) = tokio::join!(pull, lost);
        lost?;
        let to = Instant::now();
        let escaped = match pull.map(|pull| pull.outcome) {
            Ok(Err(_)) => None,
            Ok(Ok(_)) => Some("it was pulled"),
            Err(_) => Some("it was not stopped"),
        };
        attacks.push(Attacked {
            reference,
            from,
            to,
            escaped,
        });
        turn += 1;
        tokio::time::sleep(BREATH).await;
    }
    Ok(attacks)
}
