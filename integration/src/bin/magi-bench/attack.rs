//! One gigantic pull that is stopped, and what that looked like from outside.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use magi_integration::api::Counts;
use magi_integration::image::{Image, ImageBuilder, Layer};
use magi_integration::magi::Magi;
use magi_integration::registry::Kind;
use magi_integration::{Behaviour, Containerd, Registry};
use serde::Serialize;

use crate::by_hand::Lever;

/// Bytes per second of each layer.
pub(crate) const RATE: u64 = 20_000_000;
pub(crate) const DECLARED: u64 = 4 << 30;
const LAYERS: u64 = 3;
/// The limit that the image breaks.
pub(crate) const LIMIT: &str = "1GiB";
/// A pull that lives longer was not stopped.
const STOPPED_WITHIN: Duration = Duration::from_secs(20);
const CLEAN_WITHIN: Duration = Duration::from_secs(30);

/// Who stops it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum By<'a> {
    /// The agent that watches the node.
    Magi(&'a Magi),
    /// We do.
    Hand(&'a Lever),
}

/// A stopped pull. Times are milliseconds from the first byte of any layer that the registry gave to a socket.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Stopped {
    pub(crate) by: &'static str,
    /// PullImage returned.
    pub(crate) returned_ms: f64,
    /// By hand: before the kernel was asked. magi: the intent in its audit trail, by its own clock.
    pub(crate) lever_ms: f64,
    /// Bytes of layers that the registry gave to sockets.
    pub(crate) sent: u64,
    /// Levers that were pulled.
    pub(crate) levers: usize,
    /// What PullImage returned.
    pub(crate) error: String,
}

/// A new gigantic image: nothing of it is known to containerd.
fn gigantic(seed: u64) -> Result<Image> {
    ImageBuilder::oci()
        .layers((0..LAYERS).map(|layer| Layer::declared(seed * LAYERS + layer, DECLARED / LAYERS)))
        .build()
}

/// Runs one attack, and waits until nothing of it is left.
pub(crate) async fn attack(node: &Containerd, registry: &Registry, seed: u64, by: By<'_>) -> Result<Stopped> {
    let repository = format!("gigantic{seed}");
    let reference = registry.put(&repository, "1", &gigantic(seed)?);
    registry.behave(&repository, Behaviour::rate(RATE));
    let before = match by {
        By::Magi(magi) => magi.audit_of("intent")?.len(),
        By::Hand(_) => 0,
    };
    let (clock, wall) = (Instant::now(), SystemTime::now());
    let cri = node.cri();
    let pull = tokio::time::timeout(STOPPED_WITHIN, cri.pull(&reference));
    let (pull, by_hand) = match by {
        By::Magi(_) => (pull.await, None),
        By::Hand(lever) => {
            let (pull, lever) = tokio::join!(pull, close_first(registry, &repository, lever));
            (pull, Some(lever?))
        }
    };
    let pull = pull.with_context(|| match by {
        By::Magi(magi) => format!("the pull was not stopped\n{}", magi.log_tail(40)),
        By::Hand(_) => "the pull was not stopped".to_owned(),
    })?;
    ensure!(pull.outcome.is_err(), "the gigantic pull came through");
    let first = registry
        .log()
        .first_layer_byte(&repository)
        .context("no byte of a layer was sent")?;
    let sent = registry.log().layer_bytes(&repository);
    node.expect_nothing_left(&Counts::default(), CLEAN_WITHIN).await?;
    registry.log().clear();
    let (lever_ms, levers) = match (by, by_hand) {
        (By::Magi(magi), _) => {
            let intents = magi.audit_of("intent")?.split_off(before);
            let intent = intents.first().context("it ended, but not by magi")?;
            let at = intent["at"].as_str().context("a record without a time")?;
            let at: jiff::Timestamp = at.parse().with_context(|| format!("the time {at}"))?;
            // Their clocks are anchored apart, and magi may act before the first byte.
            let at = SystemTime::from(at)
                .duration_since(wall)
                .context("an intent before the pull")?;
            (signed_ms(clock + at, first), intents.len())
        }
        (By::Hand(_), Some(at)) => (signed_ms(at, first), 1),
        (By::Hand(_), None) => (0.0, 0),
    };
    Ok(Stopped {
        by: match by {
            By::Magi(_) => "magi",
            By::Hand(_) => "hand",
        },
        returned_ms: signed_ms(pull.ended, first),
        lever_ms,
        sent,
        levers,
        error: pull.error().to_owned(),
    })
}

/// Waits for the first byte of a layer, and ends the connection that carries it. Returns when the kernel was asked.
async fn close_first(registry: &Registry, repository: &str, lever: &Lever) -> Result<Instant> {
    let under_way = |requests: &[magi_integration::registry::Request]| {
        requests
            .iter()
            .find(|request| {
                request.kind == Kind::Layer
                    && request.repository == repository
                    && request.first_body_byte.is_some()
            })
            .map(|request| (request.peer, request.local, request.body_sent))
    };
    let log = registry.log();
    let (client, server): (SocketAddr, SocketAddr) = loop {
        let (client, server, sent) = log
            .wait_for("the first byte of a layer", STOPPED_WITHIN, under_way)
            .await?;
        // Taken by the HTTP library is not yet given to the socket; the one follows the other within microseconds.
        if sent > 0 {
            break (client, server);
        }
        tokio::task::yield_now().await;
    };
    let at = Instant::now();
    lever.pull(client, server)?;
    Ok(at)
}

fn signed_ms(at: Instant, from: Instant) -> f64 {
    if at >= from {
        at.duration_since(from).as_secs_f64() * 1e3
    } else {
        -from.duration_since(at).as_secs_f64() * 1e3
    }
}
