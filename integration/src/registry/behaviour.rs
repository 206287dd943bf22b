//! How a repository, or one blob of it, answers: well, slowly, or with one of the tricks of an attacker.

use std::time::Duration;

/// What the body of a layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Body {
    /// The layer's bytes with their right length.
    #[default]
    Honest,
    /// The layer's bytes, then random ones without end, in chunked encoding.
    EndlessChunked,
    /// The same, under a Content-Length that is claimed to be this long.
    EndlessClaiming(u64),
    /// The right number of bytes, but others.
    WrongBytes,
    /// Zeros, about this many, under `Content-Encoding: gzip`: a thousandth of that on the wire.
    GzipEncoded(u64),
}

/// How layer blobs are served; manifests and configs are honest unless said otherwise. `Behaviour::default()` is good
/// and as fast as it goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Behaviour {
    /// Bytes per second, for each request on its own.
    pub rate: Option<u64>,
    /// Silence after this many bytes of the body, with the connection open.
    pub stall_after: Option<u64>,
    /// The connection is closed after this many bytes of the body.
    pub close_after: Option<u64>,
    /// Whoever resumes gets all of it again from its first byte, and before it is closed this many bytes more each time.
    pub from_the_start: Option<u64>,
    /// What is sent.
    pub body: Body,
    /// 307 to the same path at this base (`scheme://host:port`).
    pub redirect_to: Option<String>,
    /// This status, for layers, for ever (429 for instance).
    pub status: Option<u16>,
    /// This status, for everything but the ping, for ever.
    pub status_for_all: Option<u16>,
    /// Silence before the headers of a layer.
    pub delay: Duration,
    /// Silence before the headers of a manifest or config.
    pub delay_manifests: Duration,
}

impl Behaviour {
    /// Good, at this many bytes per second and request.
    pub fn rate(bytes_per_second: u64) -> Self {
        Self {
            rate: Some(bytes_per_second),
            ..Self::default()
        }
    }

    /// Silent after this many bytes of each layer.
    pub fn stall_after(bytes: u64) -> Self {
        Self {
            stall_after: Some(bytes),
            ..Self::default()
        }
    }

    /// Layers that never end, chunked.
    pub fn endless() -> Self {
        Self {
            body: Body::EndlessChunked,
            ..Self::default()
        }
    }

    /// Layers that never end, with a Content-Length of 1 TiB.
    pub fn endless_with_length() -> Self {
        Self {
            body: Body::EndlessClaiming(1 << 40),
            ..Self::default()
        }
    }

    /// Layers whose connection is closed after this many bytes, and a step more each time, always from the first byte.
    pub fn from_the_start(bytes: u64, step: u64) -> Self {
        Self {
            close_after: Some(bytes),
            from_the_start: Some(step),
            ..Self::default()
        }
    }

    /// Layers of the right length and wrong bytes.
    pub fn wrong_bytes() -> Self {
        Self {
            body: Body::WrongBytes,
            ..Self::default()
        }
    }

    /// Layers that decode to about this many zeros by their Content-Encoding.
    pub fn encoding_bomb(bytes: u64) -> Self {
        Self {
            body: Body::GzipEncoded(bytes),
            ..Self::default()
        }
    }

    /// Layers are sent by another server.
    pub fn redirect_to(base: impl Into<String>) -> Self {
        Self {
            redirect_to: Some(base.into()),
            ..Self::default()
        }
    }

    /// Layers are refused with 429 for ever.
    pub fn too_many_requests() -> Self {
        Self {
            status: Some(429),
            ..Self::default()
        }
    }

    /// The same behaviour at this rate.
    #[must_use]
    pub fn at(mut self, bytes_per_second: u64) -> Self {
        self.rate = Some(bytes_per_second);
        self
    }
}
