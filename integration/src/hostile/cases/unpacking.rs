//! Layers that are small until they are unpacked.

use anyhow::Result;

use super::{Attack, Case, Scene};
use crate::Behaviour;
use crate::image::{ImageBuilder, Layer, bombs};

const UNPACKED: u64 = 10 << 30;
const NO_BOUND: &str = "without magi-unpack nothing bounds what a layer unpacks to";

pub(super) const CASES: &[Case] = &[
    bomb("gzip-bomb", "gzip, 46 MB → 10 GiB in one file", |scene| {
        of(scene, bombs::gzip(scene.seed, 1, UNPACKED)?)
    }),
    bomb("gzip-bomb-files", "the same in 1,280 files", |scene| {
        of(scene, bombs::gzip(scene.seed, 1280, UNPACKED)?)
    }),
    bomb("zstd-bomb", "zstd, 10 GiB in one file", |scene| {
        of(scene, bombs::zstd(scene.seed, 1, UNPACKED)?)
    }),
    bomb("nested-bomb", "gzip in gzip → 10 GiB", |scene| {
        of(scene, bombs::nested(scene.seed, UNPACKED)?)
    }),
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
