//! Who pulls what, and when: the same in every phase.

use std::time::Duration;

use anyhow::Result;
use magi_integration::Registry;
use magi_integration::image::{Compression, Image, ImageBuilder, Layer};
use serde::Serialize;

use crate::options::Options;

/// Of the link, in megabits per second: 100 MB take four seconds.
pub(super) const MEGABITS: u64 = 200;
const MB: u64 = 1_000_000;
/// Of each layer of an attack's image.
const ATTACK_LAYER: u64 = 200 * MB;
/// The images of one round of attacks have 1 to so many layers.
const ROUND: u64 = 7;
/// Attacks whose layers are what they claim to be. Their bytes are more than the link carries in a phase, so of the others
/// no layer ever arrives, and nobody has to hash tens of gigabytes beforehand.
const REAL_ATTACKS: u64 = 5;
const LEGIT_LAYERS: u64 = 2;
/// Legit images in megabytes, and the milliseconds after which their pods are created. The original's two notebooks at 0 s
/// and 50 s, its web server at 70 s and its shop at 90 s, all 15 times as fast: so is the attack, with 2 s for 30 s.
const LEGIT: [(u64, u64); 12] = [
    (100, 0),
    (80, 3333),
    (10, 4667),
    (50, 6000),
    (15, 6050),
    (40, 6100),
    (5, 6150),
    (35, 6200),
    (20, 6250),
    (30, 6300),
    (10, 6350),
    (25, 6400),
];
const QUICK: [(u64, u64); 4] = [(50, 0), (10, 1300), (20, 3300), (5, 3350)];
/// The longest phase, in seconds.
const LIMIT: u64 = 80;
const QUICK_LIMIT: u64 = 16;

/// How a kubelet pulls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Queue {
    /// One image after the other, its default, and what the original was measured with.
    Serial,
    /// All at once (`serializeImagePulls: false`).
    Parallel,
}

impl Queue {
    pub(super) const ALL: [Self; 2] = [Self::Serial, Self::Parallel];

    /// How many pulls there are at a time.
    pub(super) fn slots(self) -> usize {
        match self {
            Self::Serial => 1,
            Self::Parallel => 1 << 10,
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Serial => "one pull at a time (kubelet's default)",
            Self::Parallel => "all pulls at once (serializeImagePulls: false)",
        }
    }
}

/// What happens beside the legit pulls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Phase {
    /// Nothing.
    Baseline,
    /// The attack.
    Attack,
    /// The attack, and magi.
    Magi,
    /// The attack, and somebody who cancels each of its pulls as its pod is deleted: what is left is the attack's by right.
    Hand,
}

impl Phase {
    pub(super) const ALL: [Self; 4] = [Self::Baseline, Self::Attack, Self::Magi, Self::Hand];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Attack => "attack",
            Self::Magi => "attack + magi",
            Self::Hand => "attack, cancelled at deletion",
        }
    }
}

/// An image that somebody needs.
#[derive(Debug)]
pub(super) struct Legit {
    pub(super) name: String,
    pub(super) bytes: u64,
    /// When its pod is created, after the phase's beginning.
    pub(super) at: Duration,
    image: Image,
}

impl Legit {
    /// Publishes it, and gives its reference.
    pub(super) fn publish(&self, registry: &Registry) -> String {
        registry.put(&self.name, "1", &self.image)
    }
}

/// The schedule.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) legit: Vec<Legit>,
    real: Vec<Layer>,
    /// The first pod of an attack is created then, after the phase's beginning.
    pub(super) attack_at: Duration,
    /// And then one every so often.
    pub(super) attack_every: Duration,
    /// It lives so long.
    pub(super) alive: Duration,
    /// What is not pulled after so long is not pulled in this phase.
    pub(super) limit: Duration,
}

impl Plan {
    /// Makes the images; hashes some gigabytes.
    pub(super) fn make(options: &Options) -> Result<Self> {
        let (wanted, limit) = if options.quick {
            (QUICK.as_slice(), QUICK_LIMIT)
        } else {
            (LEGIT.as_slice(), LIMIT)
        };
        let mut legit = Vec::new();
        for (number, (megabytes, at)) in (0_u64..).zip(wanted) {
            let bytes = megabytes * MB;
            let mut image = ImageBuilder::oci();
            for layer in 0..LEGIT_LAYERS {
                let seed = 1000 + number * LEGIT_LAYERS + layer;
                image = image.layer(Layer::random(seed, bytes / LEGIT_LAYERS, Compression::None)?);
            }
            legit.push(Legit {
                name: format!("legit-{:02}", number + 1),
                bytes,
                at: Duration::from_millis(*at),
                image: image.build()?,
            });
        }
        let count = (0..REAL_ATTACKS).map(layers_of).sum();
        let real = (0..count).map(|seed| Layer::random(seed, ATTACK_LAYER, Compression::None));
        Ok(Self {
            legit,
            real: real.collect::<Result<_>>()?,
            // The original's 20 s, 30 s and again 20 s. Its loop waits for kubectl besides: the second pod comes a moment
            // after the second notebook's.
            attack_at: Duration::from_millis(1400),
            attack_every: Duration::from_secs(2),
            alive: Duration::from_millis(1333),
            limit: Duration::from_secs(limit),
        })
    }

    /// How many attacks begin within a phase, at the most.
    pub(super) fn attacks(&self) -> u32 {
        let time = self.limit.saturating_sub(self.attack_at).as_millis();
        u32::try_from(time.div_ceil(self.attack_every.as_millis())).unwrap_or(u32::MAX)
    }

    /// The image of an attack, which nobody has seen before in this phase.
    pub(super) fn attack(&self, number: u64) -> Result<Image> {
        let before: u64 = (0..number).map(layers_of).sum();
        let seeds = before..before + layers_of(number);
        let layers = seeds.map(|seed| {
            let real = usize::try_from(seed).ok().and_then(|seed| self.real.get(seed));
            real.cloned()
                .unwrap_or_else(|| Layer::declared(seed, ATTACK_LAYER))
        });
        ImageBuilder::oci().layers(layers).build()
    }
}

/// How many layers that attack's image has.
pub(super) fn layers_of(attack: u64) -> u64 {
    attack % ROUND + 1
}

#[cfg(test)]
mod tests {
    use magi_integration::image::Image;

    use super::{ATTACK_LAYER, LEGIT, LIMIT, MB, MEGABITS, Plan, REAL_ATTACKS, layers_of};

    #[test]
    fn no_claimed_layer_can_arrive_within_a_phase() {
        let real = (0..REAL_ATTACKS).map(layers_of).sum::<u64>() * ATTACK_LAYER;
        assert!(real > MEGABITS * MB / 8 * LIMIT);
    }

    #[test]
    fn no_attack_has_a_layer_of_another() {
        let plan = Plan {
            legit: Vec::new(),
            real: Vec::new(),
            attack_at: std::time::Duration::ZERO,
            attack_every: std::time::Duration::from_secs(2),
            alive: std::time::Duration::ZERO,
            limit: std::time::Duration::from_secs(LIMIT),
        };
        let images: Vec<Image> = (0..u64::from(plan.attacks()))
            .map(|number| plan.attack(number).expect("an image"))
            .collect();
        let sizes: Vec<usize> = images.iter().take(8).map(|image| image.layers.len()).collect();
        assert_eq!((images.len(), sizes), (40, vec![1, 2, 3, 4, 5, 6, 7, 1]));
        let digests: Vec<&str> = images
            .iter()
            .flat_map(|image| image.layers.iter().map(|layer| layer.digest.as_str()))
            .collect();
        let different: std::collections::BTreeSet<&str> = digests.iter().copied().collect();
        assert_eq!(different.len(), digests.len());
    }

    #[test]
    fn legit_images_have_5_to_100_megabytes() {
        let sizes = || LEGIT.iter().map(|(megabytes, _)| *megabytes);
        assert_eq!((sizes().min(), sizes().max()), (Some(5), Some(100)));
    }
}
