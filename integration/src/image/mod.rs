//! Builds images: real layers with files, layers that only exist as a claim, and manifests that no honest builder makes.

mod bad;
pub mod bombs;
mod layer;
mod manifest;
pub mod shapes;

pub use bad::{
    Raw, garbage, index_loop, index_of_itself, many_layers, nested_indexes, padded_manifest,
    truncated_manifest,
};
pub use layer::{Compression, Layer};
pub use manifest::{Document, Format, Image, ImageBuilder};
