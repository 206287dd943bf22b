//! Bodies and manifests that lie: too much, too little, too slow, without end, or not what was said.

use std::time::Duration;

use anyhow::Result;

use super::{Attack, Case, DECLARED, MIB, RATE, Scene};
use crate::Behaviour;
use crate::image::{Compression, Image, ImageBuilder, Layer};

/// As many layers as containerd 2.x has download slots.
const SLOTS: u64 = 3;
/// The first mebibyte of a layer takes nearly two minutes.
const TRICKLE: u64 = 10_000;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "endless-chunked",
        "layer without end, chunked; 1 MiB declared",
        |scene| endless(scene, Behaviour::endless()),
    ),
    Case::new(
        "endless-length",
        "layer without end, Content-Length 1 TiB; 1 MiB declared",
        |scene| endless(scene, Behaviour::endless_with_length()),
    ),
    Case::new("huge-image", "image of 3 × 4 GiB, declared", |scene| {
        let image = ImageBuilder::oci()
            .layers((0..3).map(|number| Layer::declared(scene.seed + number, 4 << 30)))
            .build()?;
        Attack::of(scene.put(&scene.world.plain, &image, Behaviour::rate(RATE)))
    }),
    Case::new("huge-layer", "one layer of 10 GiB, declared", |scene| {
        one(
            scene,
            Layer::declared(scene.seed, 10 << 30),
            Behaviour::rate(RATE),
        )
    }),
    Case::new("says-less", "manifest declares 1 MiB, 40 MiB are sent", |scene| {
        let layer = Layer::lying(scene.seed, DECLARED, 40 * MIB);
        one(scene, layer, Behaviour::rate(RATE))
    }),
    Case::new("says-more", "manifest declares 20 MiB, 1 MiB is sent", |scene| {
        let layer = Layer::random(scene.seed, MIB, Compression::Gzip)?.declaring(20 * MIB);
        one(scene, layer, Behaviour::rate(RATE))
    }),
    Case {
        layers_first: 3,
        if_it_goes_on: Some("goes on, but nobody waits for its slots; `magictl abort` ends it"),
        ..Case::new(
            "trickle",
            "3 layers of 10 MiB at 10 kB/s each: every download slot of 2.x",
            |scene| {
                let image = ImageBuilder::oci()
                    .layers((0..SLOTS).map(|number| Layer::declared(scene.seed + number, 10 * MIB)))
                    .build()?;
                Attack::of(scene.put(&scene.world.plain, &image, Behaviour::rate(TRICKLE)))
            },
        )
    },
    Case {
        patience: Duration::from_secs(50),
        ..Case::new("stall", "silence after 1.5 MiB of a layer", |scene| {
            let layer = Layer::declared(scene.seed, 10 * MIB);
            one(scene, layer, Behaviour::stall_after(3 * MIB / 2).at(RATE))
        })
    },
    Case::new(
        "swapped-manifest",
        "HEAD names a small image, GET gives one of 12 GiB",
        swapped,
    ),
    Case::new(
        "ignores-range",
        "closes after 2 MiB of 20, and resumes from the first byte each time",
        |scene| again_and_again(scene, 0),
    ),
    Case {
        if_it_escapes: "it is within its limits, and bytes on the wire are not judged",
        ..Case::new(
            "ignores-range-slowly",
            "the same, with 64 KiB more each time",
            |scene| again_and_again(scene, 64 << 10),
        )
    },
    Case {
        unpacks: true,
        ..Case::new(
            "encoding-bomb",
            "Content-Encoding: gzip, 64 GiB of zeros; 1 MiB declared",
            |scene| {
                let layer = Layer::declared(scene.seed, DECLARED);
                one(scene, layer, Behaviour::encoding_bomb(64 << 30).at(RATE / 100))
            },
        )
    },
    Case::new(
        "shared-layer",
        "a good image's layer, and one without end; 1 MiB declared",
        shared,
    ),
    Case {
        patience: Duration::from_secs(60),
        if_pulled: Some("an image within its limits"),
        ..Case::new("tiny-layers", "1,000 layers of a few bytes", |scene| {
            let layers =
                (0..1000).map(|number| Layer::random(scene.seed * 1000 + number, 16, Compression::Gzip));
            let image = ImageBuilder::oci()
                .layers(layers.collect::<Result<Vec<_>>>()?)
                .build()?;
            Attack::of(scene.put(&scene.world.plain, &image, Behaviour::default()))
        })
    },
    Case::new("429", "429 for every layer, for ever", |scene| {
        let layer = Layer::declared(scene.seed, DECLARED);
        one(scene, layer, Behaviour::too_many_requests())
    }),
];

fn one(scene: &Scene<'_>, layer: Layer, behaviour: Behaviour) -> Result<Attack> {
    let image = ImageBuilder::oci().layer(layer).build()?;
    Attack::of(scene.put(&scene.world.plain, &image, behaviour))
}

fn again_and_again(scene: &Scene<'_>, step: u64) -> Result<Attack> {
    let layer = Layer::random(scene.seed, 20 * MIB, Compression::Gzip)?;
    one(scene, layer, Behaviour::from_the_start(2 * MIB, step))
}

fn endless(scene: &Scene<'_>, behaviour: Behaviour) -> Result<Attack> {
    one(scene, Layer::declared(scene.seed, DECLARED), behaviour.at(RATE))
}

fn swapped(scene: &Scene<'_>) -> Result<Attack> {
    let small = ImageBuilder::oci()
        .layer(Layer::random(scene.seed, 1000, Compression::Gzip)?)
        .build()?;
    let huge = ImageBuilder::oci()
        .layer(Layer::declared(scene.seed + 1, 12 << 30))
        .build()?;
    let registry = &scene.world.plain;
    let _reference = scene.put(registry, &huge, Behaviour::rate(RATE));
    let reference = scene.put(registry, &small, Behaviour::rate(RATE));
    for name in ["1", small.digest()] {
        registry.swap_manifest(&scene.repository, name, &huge);
    }
    Attack::of(reference)
}

/// The one who pulls the good image may wait for the bad one's download of the layer that both have.
fn shared(scene: &Scene<'_>) -> Result<Attack> {
    let common = Layer::random(scene.seed, 8 * MIB, Compression::Gzip)?;
    let image = |more: Layer| -> Result<Image> { ImageBuilder::oci().layers([common.clone(), more]).build() };
    let bad = image(Layer::declared(scene.seed + 1, DECLARED))?;
    let good = image(Layer::random(scene.seed + 2, 100_000, Compression::Gzip)?)?;
    let registry = &scene.world.plain;
    let reference = scene.put(registry, &bad, Behaviour::endless().at(RATE / 2));
    let repository = format!("{}-good", scene.repository);
    let good_reference = registry.put(&repository, "1", &good);
    for name in [&scene.repository, &repository] {
        registry.behave_blob(name, &common.digest, Behaviour::rate(RATE / 4))?;
    }
    Ok(Attack {
        pulls: vec![reference],
        healthy: Some((good_reference, good)),
    })
}
