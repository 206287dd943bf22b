//! One attack, and the healthy pull beside it.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use super::stage::Stage;
use crate::cri::{Pod, Pull};
use crate::image::{Compression, Image, ImageBuilder, Layer};
use crate::master::{self, Loss};
use crate::{Behaviour, Registry};

/// No attack is let go on for longer; by itself only the bomb would end earlier.
const ESCAPED_AFTER: Duration = Duration::from_secs(15);
/// For a registry's first bytes.
const BEGUN_WITHIN: Duration = Duration::from_secs(20);
const MIB: u64 = 1 << 20;
/// Bytes per second and request of what never ends, and of what is only too large.
const ENDLESS_RATE: u64 = 10_000_000;
const RATE: u64 = 1_000_000;
/// An orphaned pull would take a minute.
const ORPHAN_SIZE: u64 = 30_000_000;
const ORPHAN_RATE: u64 = 500_000;
/// Unpacks to four times what the bound allows.
const BOMB: u64 = 256 * MIB;
/// The layer that a good and a bad image have in common takes about a second.
const SHARED: u64 = 4_000_000;

/// How an attack tries to do harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Declares more than an image may have.
    ImageTooLarge,
    /// Declares a layer over the limit.
    LayerTooLarge,
    /// Declares little and never stops to send, chunked.
    Endless,
    /// The same, under a Content-Length of a tebibyte.
    EndlessWithLength,
    /// Declares little and sends a gigabyte.
    Lying,
    /// Small, and unpacks to more than is allowed.
    Bomb,
    /// Its pod goes away in the middle of the pull.
    Orphan,
    /// A rule denies it.
    Banned,
    /// Too large, and its first layer is that of the healthy image beside it.
    SharedLayer,
}

impl Kind {
    /// All of them, in the order in which they take turns.
    pub const ALL: [Self; 9] = [
        Self::ImageTooLarge,
        Self::LayerTooLarge,
        Self::Endless,
        Self::EndlessWithLength,
        Self::Lying,
        Self::Bomb,
        Self::Orphan,
        Self::Banned,
        Self::SharedLayer,
    ];

    /// The reason that its audit record must name; none: magi-unpack stops it, and says so in a record of its own.
    pub(super) fn reason(self) -> Option<&'static str> {
        match self {
            Self::ImageTooLarge | Self::SharedLayer => Some("image-too-large"),
            Self::LayerTooLarge => Some("layer-too-large"),
            Self::Endless | Self::EndlessWithLength | Self::Lying => Some("layer-overruns-manifest"),
            Self::Bomb => None,
            Self::Orphan => Some("orphaned"),
            Self::Banned => Some("denied-by-rule"),
        }
    }

    fn of(number: u64) -> Self {
        let index = usize::try_from(number).unwrap_or_default() % Self::ALL.len();
        Self::ALL.get(index).copied().unwrap_or(Self::Endless)
    }

    fn layers(self, seed: u64, shared: &Layer) -> Result<Vec<Layer>> {
        Ok(match self {
            Self::ImageTooLarge => (0..3).map(|n| Layer::declared(seed + n, 40 * MIB)).collect(),
            Self::LayerTooLarge => vec![Layer::declared(seed, 60 * MIB)],
            Self::Endless | Self::EndlessWithLength => vec![Layer::declared(seed, MIB)],
            Self::Lying => vec![Layer::lying(seed, MIB, 1 << 30)],
            Self::Bomb => vec![Layer::bomb(seed, BOMB)?],
            Self::Orphan => vec![Layer::random(seed, ORPHAN_SIZE, Compression::None)?],
            Self::Banned => vec![Layer::declared(seed, 20 * MIB)],
            Self::SharedLayer => vec![
                shared.clone(),
                Layer::declared(seed, 40 * MIB),
                Layer::declared(seed + 1, 40 * MIB),
            ],
        })
    }

    fn behaviour(self) -> Behaviour {
        match self {
            Self::Endless => Behaviour::endless().at(ENDLESS_RATE),
            Self::EndlessWithLength => Behaviour::endless_with_length().at(ENDLESS_RATE),
            Self::Lying | Self::Bomb => Behaviour::rate(ENDLESS_RATE),
            Self::Orphan => Behaviour::rate(ORPHAN_RATE),
            Self::ImageTooLarge | Self::LayerTooLarge | Self::Banned | Self::SharedLayer => {
                Behaviour::rate(RATE)
            }
        }
    }
}

/// How an attack ended.
#[derive(Debug)]
pub(super) struct Attack {
    pub(super) kind: Kind,
    pub(super) repository: String,
    /// Its manifest's, and those of the layers that no other image has.
    pub(super) digests: Vec<String>,
    /// From its request to its end.
    pub(super) took: Duration,
    /// Bytes of its layers that the registry handed to sockets.
    pub(super) layer_bytes: u64,
    /// Why it counts as escaped.
    pub(super) escaped: Option<String>,
    /// What its caller was told.
    pub(super) told: String,
}

/// How the pull beside it went.
#[derive(Debug)]
pub(super) struct Beside {
    pub(super) repository: String,
    pub(super) took: Duration,
    /// What was wrong with it.
    pub(super) failed: Option<String>,
}

/// Both begin at once; the next begins when both have ended.
pub(super) async fn with_a_healthy_pull(
    stage: &Stage,
    registry: &Registry,
    number: u64,
) -> Result<(Attack, Beside)> {
    let kind = Kind::of(number);
    let seed = 1_000_000 + 16 * number;
    let shared = Layer::random(seed, SHARED, Compression::None)?;
    let layers = kind.layers(seed + 1, &shared)?;
    let mut digests: Vec<_> = layers.iter().map(|layer| layer.digest.clone()).collect();
    digests.retain(|digest| *digest != shared.digest);
    let attack = ImageBuilder::oci().layers(layers).build()?;
    digests.push(attack.digest().to_owned());
    let own = Layer::random(seed + 8, MIB + number % 7 * 400_000, Compression::Gzip)?;
    let healthy = if kind == Kind::SharedLayer {
        ImageBuilder::oci().layer(shared.clone()).layer(own).build()?
    } else {
        ImageBuilder::docker().layer(own).build()?
    };
    let (attack, beside) = tokio::join!(
        attack_with(stage, registry, number, &attack),
        healthy_pull(stage, registry, number, &healthy)
    );
    Ok((Attack { digests, ..attack? }, beside?))
}

async fn attack_with(stage: &Stage, registry: &Registry, number: u64, image: &Image) -> Result<Attack> {
    let kind = Kind::of(number);
    let name = if kind == Kind::Banned { "banned" } else { "attack" };
    let repository = format!("{name}-{number}");
    let reference = registry.put(&repository, "1", image);
    registry.behave(&repository, kind.behaviour());
    let pod = Pod::new(&format!("tenant-{number}"), "attacker");
    stage
        .master()
        .api_server_writes(&master::created(&pod, &reference))?;
    let cri = stage.node().cri();
    let pull = tokio::time::timeout(ESCAPED_AFTER, cri.pull_as(&reference, Some(&pod), None));
    let lost = lose_if_orphan(stage, registry, number, &repository, (&pod, &reference));
    let (pull, lost) = tokio::join!(pull, lost);
    lost?;
    let (took, escaped) = match &pull {
        Err(_) => (
            ESCAPED_AFTER,
            Some(format!("it still ran after {ESCAPED_AFTER:?}")),
        ),
        Ok(pull) => (pull.elapsed(), escape(pull)),
    };
    if matches!(&pull, Ok(Pull { outcome: Ok(_), .. })) {
        cri.remove(&reference).await?;
    }
    Ok(Attack {
        kind,
        layer_bytes: registry.log().layer_bytes(&repository),
        repository,
        digests: Vec::new(),
        took,
        escaped,
        told: pull.map_or_else(|_| String::new(), |pull| pull.error().to_owned()),
    })
}

fn escape(pull: &Pull) -> Option<String> {
    match &pull.outcome {
        Ok(_) => Some("it was pulled".to_owned()),
        Err(_) => None,
    }
}

/// The API server takes the pod away once some of the image was sent, each time some more.
async fn lose_if_orphan(
    stage: &Stage,
    registry: &Registry,
    number: u64,
    repository: &str,
    (pod, reference): (&Pod, &str),
) -> Result<()> {
    if Kind::of(number) != Kind::Orphan {
        return Ok(());
    }
    let turn = usize::try_from(number).unwrap_or_default() / Kind::ALL.len();
    let sent = 1 + number % 5 * 100_000;
    registry
        .log()
        .wait_layer_bytes(repository, sent, BEGUN_WITHIN)
        .await?;
    let loss = Loss::ALL
        .get(turn % Loss::ALL.len())
        .context("a way to lose a pod")?;
    stage.master().api_server_writes(&[loss.of(pod, reference)])
}

async fn healthy_pull(stage: &Stage, registry: &Registry, number: u64, image: &Image) -> Result<Beside> {
    let repository = format!("healthy-{number}");
    let reference = registry.put(&repository, "1", image);
    registry.behave(&repository, Behaviour::rate(SHARED));
    let pod = Pod::new(&format!("team-{}", number % 5), &format!("web-{number}"));
    stage
        .master()
        .api_server_writes(&master::created(&pod, &reference))?;
    let cri = stage.node().cri();
    let pull = cri.pull_as(&reference, Some(&pod), None).await;
    let failed = match &pull.outcome {
        Ok(id) if id == image.id() => None,
        Ok(id) => Some(format!("it came out as {id}")),
        Err(error) => Some(error.to_string()),
    };
    if pull.outcome.is_ok() {
        cri.remove(&reference).await?;
    }
    Ok(Beside {
        repository,
        took: pull.elapsed(),
        failed,
    })
}
