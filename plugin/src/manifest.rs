//! Manifests and indexes as containerd reads them, not as they ought to be written.
//!
//! The documents are hostile, and what counts is what containerd's decoder (Go's `encoding/json`) makes of them: it
//! takes keys in any case, the last of several equal ones, and null for nothing. A stricter parser here would be a
//! hole: a manifest that containerd pulls and magi cannot read is a pull without declared sizes. That is why
//! `oci-spec`'s types are not used for this one job.

use std::collections::BTreeMap;
use std::fmt;

use magi_engine::bounds::MAX_LAYERS;
use magi_engine::ids::Digest;
use magi_engine::manifest::{Layer, ManifestBody};
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de::Error as _};

/// Why a document is no manifest that magi can judge.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    /// Too long to read.
    #[error("the document has {size} bytes, at most {limit} are read")]
    TooLarge { size: u64, limit: u64 },
    /// Not JSON, or not of the shape that a manifest has.
    #[error("not a manifest: {problem}")]
    Malformed { problem: String },
    /// JSON of another kind, such as an image config.
    #[error("a document of another kind")]
    OtherDocument,
}

/// Whether `bytes` may begin a JSON object.
pub(crate) fn looks_like_json(bytes: &[u8]) -> bool {
    bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{')
}

/// What a document says.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) body: ManifestBody,
    /// A layer carries the annotation by which the image's author chooses a part of its ingest's name (containerd 2.1.9
    /// core/remotes/handlers.go, `MakeRefKey`).
    pub(crate) names_ingests: bool,
    /// A blob names other places that it may be had from.
    pub(crate) names_places: bool,
}

/// Reads a manifest or index of either family, Docker's or OCI's.
pub(crate) fn parse(bytes: &[u8]) -> Result<Parsed, Unreadable> {
    if !looks_like_json(bytes) {
        return Err(Unreadable::Malformed {
            problem: "it does not begin with an object".to_owned(),
        });
    }
    let document: Document = serde_json::from_slice(bytes).map_err(|error| Unreadable::Malformed {
        problem: error.to_string().chars().take(200).collect(),
    })?;
    if let (Some(config), Some(layers)) = (document.config, document.layers) {
        let names_places = config.names_places || layers.iter().any(|layer| layer.names_places);
        let config = digest(&config)?;
        let names_ingests = layers.iter().any(|layer| layer.names_ingest);
        let layers = merge(layers)?;
        return Ok(Parsed {
            body: ManifestBody::Image { config, layers },
            names_ingests,
            names_places,
        });
    }
    let Some(manifests) = document.manifests else {
        return Err(Unreadable::OtherDocument);
    };
    let manifests = manifests
        .iter()
        .take(MAX_LAYERS)
        .map(digest)
        .collect::<Result<_, _>>()?;
    Ok(Parsed {
        body: ManifestBody::Index { manifests },
        names_ingests: false,
        names_places: false,
    })
}

/// One entry per digest. Of more layers than are remembered the largest stay, so that a limit is missed by nobody
/// who hides a large image among tiny layers.
fn merge(descriptors: Vec<Descriptor>) -> Result<Vec<Layer>, Unreadable> {
    let mut seen: BTreeMap<Digest, usize> = BTreeMap::new();
    let mut layers: Vec<Layer> = Vec::new();
    for descriptor in descriptors {
        let digest = digest(&descriptor)?;
        let size = u64::try_from(descriptor.size).unwrap_or(0);
        match seen.get(&digest).and_then(|at| layers.get_mut(*at)) {
            Some(layer) => layer.size = layer.size.max(size),
            None => {
                seen.insert(digest.clone(), layers.len());
                layers.push(Layer { digest, size });
            }
        }
    }
    if layers.len() > MAX_LAYERS {
        layers.sort_by_key(|layer| std::cmp::Reverse(layer.size));
        layers.truncate(MAX_LAYERS);
    }
    Ok(layers)
}

fn digest(descriptor: &Descriptor) -> Result<Digest, Unreadable> {
    Digest::parse(&descriptor.digest).map_err(|error| Unreadable::Malformed {
        problem: error.to_string(),
    })
}

#[derive(Default)]
struct Document {
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

#[derive(Default)]
struct Descriptor {
    digest: String,
    size: i64,
    names_ingest: bool,
    names_places: bool,
}

/// The annotation that changes the name of an ingest. Source: OCI image-spec annotations.md, and containerd's
/// `MakeRefKey`.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Whether Go's decoder would take `key` for `field`: equal under simple case folding, where two letters outside
/// ASCII fold to `k` and `s`.
fn is_field(key: &str, field: &str) -> bool {
    let folded = key.chars().map(|c| match c {
        '\u{212A}' => 'k',
        '\u{017F}' => 's',
        c => c.to_ascii_lowercase(),
    });
    folded.eq(field.chars())
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Document;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a manifest")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
                let mut document = Document::default();
                while let Some(key) = map.next_key::<String>()? {
                    if is_field(&key, "config") {
                        document.config = map.next_value::<Option<Descriptor>>()?.or(document.config);
                    } else if is_field(&key, "layers") {
                        document.layers = map.next_value::<Option<List>>()?.map(|list| list.0);
                    } else if is_field(&key, "manifests") {
                        document.manifests = map.next_value::<Option<List>>()?.map(|list| list.0);
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(document)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

impl<'de> Deserialize<'de> for Descriptor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Descriptor;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a descriptor")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Descriptor, A::Error> {
                let mut descriptor = Descriptor::default();
                while let Some(key) = map.next_key::<String>()? {
                    if is_field(&key, "digest") {
                        descriptor.digest = map.next_value::<Option<String>>()?.unwrap_or(descriptor.digest);
                    } else if is_field(&key, "size") {
                        descriptor.size = map.next_value::<Option<i64>>()?.unwrap_or(descriptor.size);
                    } else if is_field(&key, "annotations") {
                        let annotations = map.next_value::<Option<BTreeMap<String, IgnoredAny>>>()?;
                        descriptor.names_ingest |=
                            annotations.is_some_and(|annotations| annotations.contains_key(REF_NAME));
                    } else if is_field(&key, "urls") {
                        let places = map.next_value::<Option<Vec<IgnoredAny>>>()?;
                        descriptor.names_places |= places.is_some_and(|places| !places.is_empty());
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(descriptor)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// A list of descriptors, bounded.
struct List(Vec<Descriptor>);

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// No document of the size that is read can hold more real entries; null entries could come cheaper.
        const MOST: usize = 200_000;
        struct Items;
        impl<'de> Visitor<'de> for Items {
            type Value = List;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of descriptors")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element::<Descriptor>()? {
                    if items.len() >= MOST {
                        return Err(A::Error::custom("more entries than any image has"));
                    }
                    items.push(item);
                }
                Ok(List(items))
            }
        }
        deserializer.deserialize_seq(Items)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hex(n: u8) -> String {
        format!("sha256:{}", format!("{n:02x}").repeat(32))
    }

    fn sizes(body: &ManifestBody) -> Vec<u64> {
        match body {
            ManifestBody::Image { layers, .. } => layers.iter().map(|layer| layer.size).collect(),
            ManifestBody::Index { .. } => panic!("an index"),
        }
    }

    #[test]
    fn both_families_are_read() {
        for media in [
            "application/vnd.docker.distribution.manifest.v2+json",
            "application/vnd.oci.image.manifest.v1+json",
        ] {
            let text = format!(
                r#"{{"schemaVersion":2,"mediaType":"{media}","config":{{"digest":"{}","size":7}},
                   "layers":[{{"digest":"{}","size":10}},{{"digest":"{}","size":20}}]}}"#,
                hex(1),
                hex(2),
                hex(3)
            );
            assert_eq!(sizes(&parse(text.as_bytes()).unwrap().body), [10, 20]);
        }
        let index = format!(r#"{{"manifests":[{{"digest":"{}","size":1}}]}}"#, hex(9));
        assert!(
            matches!(parse(index.as_bytes()).unwrap().body, ManifestBody::Index { manifests } if manifests.len() == 1)
        );
    }

    #[test]
    fn a_layer_whose_author_names_its_ingest_is_seen() {
        for (annotations, named) in [
            ("null", false),
            (r#"{"org.opencontainers.image.title":"x"}"#, false),
            (r#"{"org.opencontainers.image.ref.name":"x"}"#, true),
        ] {
            let text = format!(
                r#"{{"config":{{"digest":"{}"}},"layers":[{{"digest":"{}","annotations":{annotations}}}]}}"#,
                hex(1),
                hex(2)
            );
            assert_eq!(
                parse(text.as_bytes()).unwrap().names_ingests,
                named,
                "{annotations}"
            );
        }
    }

    #[test]
    fn blobs_that_name_other_places_are_seen() {
        for (config, layer, named) in [
            ("", "", false),
            (r#","urls":null"#, r#","urls":[]"#, false),
            ("", r#","URLs":["https://elsewhere.example/blob"]"#, true),
            (r#","urls":["https://elsewhere.example/blob"]"#, "", true),
        ] {
            let text = format!(
                r#"{{"config":{{"digest":"{}"{config}}},"layers":[{{"digest":"{}"{layer}}}]}}"#,
                hex(1),
                hex(2)
            );
            assert_eq!(parse(text.as_bytes()).unwrap().names_places, named, "{text}");
        }
    }

    #[test]
    fn keys_are_taken_as_go_takes_them() {
        let text = format!(
            "{{\"CONFIG\":{{\"Digest\":\"{}\"}},\"layers\":[],\"Layer\u{017F}\":[{{\"digest\":\"{}\",\"\u{017F}IZE\":5,\"size\":6}}]}}",
            hex(1),
            hex(2)
        );
        assert_eq!(sizes(&parse(text.as_bytes()).unwrap().body), [6]);
    }

    #[test]
    fn what_is_no_manifest_is_said_to_be_none() {
        assert_eq!(
            parse(br#"{"architecture":"amd64","rootfs":{}}"#).map(|parsed| parsed.body),
            Err(Unreadable::OtherDocument)
        );
        for text in [
            "",
            "[]",
            "{\"layers\":",
            "{\"config\":{\"digest\":\"x\"},\"layers\":[]}",
            "\u{1}",
        ] {
            assert!(
                matches!(parse(text.as_bytes()), Err(Unreadable::Malformed { .. })),
                "{text:?}"
            );
        }
    }

    #[test]
    fn of_too_many_layers_the_largest_stay() {
        let mut text = format!(r#"{{"config":{{"digest":"{}"}},"layers":["#, hex(1));
        for n in 0..20_000u64 {
            let comma = if n == 0 { "" } else { "," };
            text.push_str(&format!(r#"{comma}{{"digest":"sha256:{n:064x}","size":{n}}}"#));
        }
        text.push_str("]}");
        let kept = sizes(&parse(text.as_bytes()).unwrap().body);
        assert_eq!((kept.len(), kept.first()), (MAX_LAYERS, Some(&19_999)));
    }

    #[test]
    fn deep_nesting_is_refused() {
        let text = format!("{{\"layers\":{}", "[".repeat(100_000));
        assert!(matches!(
            parse(text.as_bytes()),
            Err(Unreadable::Malformed { .. })
        ));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = parse(&bytes);
        }
    }
}
