//! What may be asked: as it stands on the line, and as the node hears it.

use std::fmt;

use magi_engine::event::{Question, UnpackStop};
use magi_engine::ids::{Digest, ImageName, PullId};
use serde::{Deserialize, Serialize};

/// A request as it stands on the line. It names no asker: nobody can speak in another's name.
///
/// Every variant has braces so that an unknown field is refused rather than ignored: a newer magictl must not believe
/// that an older node heeded it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Ask {
    /// The pulls in flight and, if wanted, those that ended lately.
    Pulls {
        /// Ended ones too.
        #[serde(default)]
        ended: bool,
    },
    /// Stop this pull; answered when it has ended, or when the node's patience is over.
    Abort {
        /// The pull.
        pull: PullId,
    },
    /// Close every registry connection of containerd.
    Panic {},
    /// Whether an image may be pulled; from `magi-verify`, which containerd's image verifier runs.
    Verify {
        /// The image, as it was asked for.
        image: ImageName,
        /// The manifest or index that the registry names for it.
        digest: Digest,
        /// Its media type.
        #[serde(default)]
        media_type: String,
        /// Its own size in bytes, not the image's.
        #[serde(default)]
        size: u64,
    },
    /// The pods that NRI shows.
    Pods {},
    /// A layer was stopped while it was unpacked; from `magi-unpack`, which containerd runs for each layer.
    UnpackStopped {
        /// What it stopped.
        stop: UnpackStop,
    },
    /// How the node itself does.
    Status {},
    /// From here on the connection is a conversation with magi-gateway (`gateway.rs`).
    Gateway {},
}

/// Who is at the other end, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The user.
    pub uid: u32,
    /// The process, if it is visible from here.
    pub pid: Option<i32>,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "uid {} (pid {pid})", self.uid),
            None => write!(f, "uid {}", self.uid),
        }
    }
}

/// A request as the node hears it, its asker filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// For the engine.
    Question(Question),
    /// For the engine, and for the resolver if the engine does not know the image.
    Verify {
        /// The image, as it was asked for.
        image: ImageName,
        /// What the registry names for it.
        digest: Digest,
    },
    /// For the node itself.
    Status,
    /// A conversation with magi-gateway; the server begins it, and no handler is asked.
    Gateway,
}

impl Ask {
    /// Fills in who asks.
    #[must_use]
    pub fn from_peer(self, peer: Peer) -> Request {
        match self {
            Self::Pulls { ended } => Request::Question(Question::Pulls { ended }),
            Self::Abort { pull } => Request::Question(Question::Abort {
                pull,
                actor: peer.to_string(),
            }),
            Self::Panic {} => Request::Question(Question::Panic {
                actor: peer.to_string(),
            }),
            Self::Verify { image, digest, .. } => Request::Verify { image, digest },
            Self::Pods {} => Request::Question(Question::Pods),
            Self::UnpackStopped { stop } => Request::Question(Question::UnpackStopped { stop }),
            Self::Status {} => Request::Status,
            Self::Gateway {} => Request::Gateway,
        }
    }
}

#[cfg(test)]
mod tests {
    use magi_engine::event::UnpackLimit;

    use super::*;

    #[test]
    fn the_verifier_asks_in_these_words() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let line = format!(
            r#"{{"v":1,"ask":"verify","image":"a.example/x:1","digest":"{digest}","media_type":"m","size":7}}"#
        );
        let ask = Ask::Verify {
            image: ImageName::new("a.example/x:1").unwrap(),
            digest: Digest::parse(&digest).unwrap(),
            media_type: "m".to_owned(),
            size: 7,
        };
        assert_eq!(crate::line::write_request(ask.clone()).unwrap(), line);
        assert_eq!(crate::line::read_request(&line), Ok(ask));
    }

    #[test]
    fn the_stream_processor_tells_in_these_words() {
        let layer = format!("sha256:{}", "a".repeat(64));
        for (words, layer, limit) in [
            (
                format!(r#""layer":"{layer}","limit":{{"unpacked":{{"bytes":9}}}}"#),
                Some(Digest::parse(&layer).unwrap()),
                UnpackLimit::Unpacked { bytes: 9 },
            ),
            (
                r#""layer":null,"limit":{"ratio":{"times":7,"compressed":8}}"#.to_owned(),
                None,
                UnpackLimit::Ratio {
                    times: 7,
                    compressed: 8,
                },
            ),
        ] {
            let line =
                format!(r#"{{"v":1,"ask":"unpack-stopped","stop":{{{words},"unpacked":10,"passed":3}}}}"#);
            let stop = UnpackStop {
                layer,
                limit,
                unpacked: 10,
                passed: 3,
            };
            let ask = Ask::UnpackStopped { stop };
            assert_eq!(crate::line::write_request(ask.clone()).unwrap(), line);
            assert_eq!(crate::line::read_request(&line), Ok(ask));
        }
    }
}
