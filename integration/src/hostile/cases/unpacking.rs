//! Layers that are small until they are unpacked.

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

fn of(scene: &Scene<'_>, layer: Layer) -> Result<Attack> {
    let image = ImageBuilder::oci().layer(layer).build()?;
    Attack::of(scene.put(&scene.world.plain, &image, Behaviour::default()))
}
