//! What a `PullImage` request says, as far as magi-node wants to know it.
//!
//! Only the fields named here are ever copied out of the request: the credentials (`auth`, number 2) and the annotations
//! are passed over as unknown fields, so there is no copy of them to be wiped. That is why these shapes are written down
//! here, and those of `magi-wire`, which hold all fields, are not used.
//!
//! Source: k8s.io/cri-api/pkg/apis/runtime/v1/api.proto (`magi-wire` has the file).

use std::collections::{HashMap, VecDeque};

use bytes::{Buf, Bytes};
use magi_engine::ids::{ImageName, PodName, PodNamespace, PodUid};
use magi_engine::owner::{PodIdentity, PullRequest};
use prost::Message as _;

use crate::bounds::MAX_LABEL_BYTES;

/// Bytes before a message: whether it is compressed, and its length, big-endian.
const PREFIX: usize = 5;

#[derive(Clone, PartialEq, prost::Message)]
struct PullImageRequest {
    #[prost(message, optional, tag = "1")]
    image: Option<ImageSpec>,
    #[prost(message, optional, tag = "3")]
    sandbox_config: Option<PodSandboxConfig>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ImageSpec {
    #[prost(string, tag = "1")]
    image: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PodSandboxConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<PodSandboxMetadata>,
    #[prost(map = "string, string", tag = "6")]
    labels: HashMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PodSandboxMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

/// A message as it comes, in pieces that are shared with whoever passes them on: no byte of it is copied.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    pieces: VecDeque<Bytes>,
    bytes: usize,
}

impl Message {
    /// The next piece.
    pub(crate) fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.bytes = self.bytes.saturating_add(piece.len());
            self.pieces.push_back(piece);
        }
    }

    /// Whether all of it is there that its prefix announces.
    pub(crate) fn is_whole(&self) -> bool {
        let mut begin = self.clone();
        begin.prefix().is_some_and(|(_, length)| begin.bytes >= length)
    }

    /// What is asked for; none if it cannot be read, or names an image or a pod in a way that Kubernetes never does.
    pub(crate) fn pull_request(mut self) -> Option<PullRequest> {
        let (compressed, length) = self.prefix()?;
        if compressed != 0 || self.bytes < length {
            return None;
        }
        let request = PullImageRequest::decode(self.take(length)).ok()?;
        told(request)
    }

    /// Whether it is compressed, and how long it is; takes them off.
    fn prefix(&mut self) -> Option<(u8, usize)> {
        if self.bytes < PREFIX {
            return None;
        }
        let compressed = self.get_u8();
        Some((compressed, usize::try_from(self.get_u32()).ok()?))
    }
}

impl Buf for Message {
    fn remaining(&self) -> usize {
        self.bytes
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| piece.chunk())
    }

    fn advance(&mut self, mut count: usize) {
        self.bytes = self.bytes.saturating_sub(count);
        while count > 0
            && let Some(piece) = self.pieces.front_mut()
        {
            let taken = piece.len().min(count);
            piece.advance(taken);
            count -= taken;
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
    }
}

fn told(request: PullImageRequest) -> Option<PullRequest> {
    let (pod, labels) = match request.sandbox_config {
        Some(PodSandboxConfig {
            metadata: Some(metadata),
            labels,
        }) => {
            let identity = PodIdentity {
                uid: PodUid::new(metadata.uid).ok()?,
                namespace: PodNamespace::new(metadata.namespace).ok()?,
                name: PodName::new(metadata.name).ok()?,
            };
            let bytes = labels
                .iter()
                .map(|(key, value)| key.len() + value.len())
                .sum::<usize>();
            let labels = (bytes <= MAX_LABEL_BYTES).then(|| labels.into_iter().collect());
            (Some(identity), labels)
        }
        Some(PodSandboxConfig { metadata: None, .. }) | None => (None, None),
    };
    Some(PullRequest {
        image: ImageName::new(request.image?.image).ok()?,
        pod,
        labels,
        certain: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field of bytes, as protobuf writes it; short ones only.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let length = u8::try_from(bytes.len()).unwrap();
        assert!(length < 128, "one byte of length");
        [&[number << 3 | 2, length], bytes].concat()
    }

    fn framed(message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[0], length.as_slice(), message].concat()
    }

    fn sandbox() -> Vec<u8> {
        let metadata = [field(1, b"pod"), field(2, b"uid"), field(3, b"team")].concat();
        let label = [field(1, b"app"), field(2, b"web")].concat();
        let annotation = [field(1, b"key"), field(2, b"long")].concat();
        [field(1, &metadata), field(6, &label), field(7, &annotation)].concat()
    }

    fn pull_request(bytes: &[u8]) -> Option<PullRequest> {
        let mut message = Message::default();
        message.push(Bytes::copy_from_slice(bytes));
        message.pull_request()
    }

    #[test]
    fn image_pod_and_labels_are_read_and_nothing_else() {
        let secret = b"correct-horse-battery-staple";
        let message = [
            field(1, &field(1, b"r.example/x:1")),
            field(2, &field(2, secret)),
            field(3, &sandbox()),
        ]
        .concat();
        let framed = framed(&message);
        for piece in [1, 7, framed.len()] {
            let mut message = Message::default();
            for piece in framed.chunks(piece) {
                assert!(!message.is_whole());
                message.push(Bytes::copy_from_slice(piece));
            }
            assert!(message.is_whole());
            assert_eq!(message.pull_request(), pull_request(&framed));
        }
        let request = pull_request(&framed).unwrap();
        assert_eq!(request.image.as_str(), "r.example/x:1");
        let pod = request.pod.as_ref().unwrap();
        assert_eq!((pod.to_string().as_str(), pod.uid.as_str()), ("team/pod", "uid"));
        assert_eq!(request.labels.as_ref().unwrap()["app"], "web");
        assert!(request.certain);
        assert!(!format!("{request:?}").contains("correct"));
    }

    #[test]
    fn what_cannot_be_read_is_nobody_s() {
        let good = field(1, &field(1, b"x"));
        assert!(pull_request(&framed(&good)).is_some());
        let mut compressed = framed(&good);
        compressed[0] = 1;
        let no_uid = field(3, &field(1, &[field(1, b"pod"), field(3, b"team")].concat()));
        for bad in [
            Vec::new(),
            vec![0, 0],
            compressed,
            framed(b""),
            framed(&good[..good.len() - 1]),
            framed(&[good, no_uid].concat()),
        ] {
            assert_eq!(pull_request(&bad), None, "{bad:?}");
        }
    }
}
