//! Layers that are small until they are unpacked.

use std::sync::OnceLock;

use anyhow::Result;

use super::{Attack, Case, Scene};
use crate::Behaviour;
use crate::image::{Compression, ImageBuilder, Layer, bombs};

const UNPACKED: u64 = 10 << 30;
const NO_BOUND: &str = "only magi-unpack bounds that, and containerd does not run it";

pub(super) const CASES: &[Case] = &[
    bomb("gzip-bomb", "gzip, 46 MB → 10 GiB in one file", |scene| {
        of(scene, bombs::gzip(scene.seed, 1, UNPACKED)?)
    }),
    bomb("gzip-bomb-files", "the same in 1,280 files", |scene| {
        of(scene, bombs::gzip(scene.seed, 1280, UNPACKED)?)
    }),
    bomb("zstd-bomb", "zstd, 0.3 MB → 10 GiB in one file", |scene| {
        of(scene, bombs::zstd(scene.seed, 1, UNPACKED)?)
    }),
    bomb("nested-bomb", "gzip in gzip → 10 GiB", |scene| {
        of(scene, bombs::nested(scene.seed, UNPACKED)?)
    }),
    bomb(
        "plain-type-bomb",
        "gzip, 46 MB → 10 GiB, as Docker's uncompressed layer type",
        |scene| {
            let layer = Layer {
                compression: Compression::None,
                ..bombs::gzip(scene.seed, 1, UNPACKED)?
            };
            let image = ImageBuilder::docker().layer(layer).build()?;
            Attack::of(scene.put(&scene.world.plain, &image, Behaviour::default()))
        },
    ),
    Case {
        if_it_escapes: "each layer is within the bound, and nothing bounds their sum",
        ..bomb(
            "repeated-layer",
            "a layer that unpacks to 200 MiB, listed 8 times",
            |scene| {
                let image = ImageBuilder::oci()
                    .layers(std::iter::repeat_n(honest()?, 8))
                    .build()?;
                Attack::of(scene.put(&scene.world.plain, &image, Behaviour::default()))
            },
        )
    },
    // containerd sorts the suffixes and goes by the last; it runs a stream processor for types that are listed only.
    bomb(
        "other-type-bomb",
        "gzip, 46 MB → 10 GiB, as `…layer.v1.tar+a+gzip`",
        |scene| {
            let image = ImageBuilder::oci()
                .layer(bombs::gzip(scene.seed, 1, UNPACKED)?)
                .layer_type("application/vnd.oci.image.layer.v1.tar+a+gzip")
                .build()?;
            Attack::of(scene.put(&scene.world.plain, &image, Behaviour::default()))
        },
    ),
];

const fn bomb(name: &'static str, what: &'static str, set: fn(&Scene<'_>) -> Result<Attack>) -> Case {
    Case {
        unpacks: true,
        if_it_escapes: NO_BOUND,
        ..Case::new(name, what, set)
    }
}

/// A layer of 200 MiB that is as it says it is; it takes a while to make.
fn honest() -> Result<Layer> {
    static ONCE: OnceLock<Layer> = OnceLock::new();
    if let Some(layer) = ONCE.get() {
        return Ok(layer.clone());
    }
    let layer = Layer::compressible(1, 200 << 20, Compression::Gzip)?;
    Ok(ONCE.get_or_init(|| layer).clone())
}

fn of(scene: &Scene<'_>, layer: Layer) -> Result<Attack> {
    let image = ImageBuilder::oci().layer(layer).build()?;
    Attack::of(scene.put(&scene.world.plain, &image, Behaviour::default()))
}
