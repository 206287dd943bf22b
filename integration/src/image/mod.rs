//! Builds images: real layers with files, or layers that only exist as a claim.

mod layer;
mod manifest;

pub use layer::{Compression, Layer};
pub use manifest::{Document, Format, Image, ImageBuilder};
