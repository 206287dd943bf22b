//! Which entries of an index this node would pull.
//!
//! Unlike `crate::manifest`, this reads documents strictly. A document that containerd would read otherwise is an error
//! here, and the question stays open; the pull itself is watched with containerd's own eyes.

use std::fmt;

use magi_engine::ids::{Digest, NameError};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};

/// Most entries that are fetched: variants of one architecture, and entries without a platform.
const MAX_ENTRIES: usize = 4;

/// Why an index does not tell what would be pulled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EntryError {
    /// Not JSON, or not of the shape that a manifest or index has.
    #[error("it cannot be read")]
    Malformed(#[source] serde_json::Error),
    /// Nothing for this node.
    #[error("it lists nothing for linux/{architecture}")]
    Nothing { architecture: &'static str },
    /// An entry for this node is named by something else than a digest.
    #[error("an entry has no digest")]
    NotADigest(#[source] NameError),
}

#[derive(Deserialize)]
struct Top {
    #[serde(default)]
    manifests: Option<Candidates>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    digest: String,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
}

/// The digests of entries for this node; others are not kept.
struct Candidates(Vec<String>);

/// The digests of the entries for this node, each once; none if the document is no index.
pub(super) fn for_this_node(bytes: &[u8]) -> Result<Vec<Digest>, EntryError> {
    let top: Top = serde_json::from_slice(bytes).map_err(EntryError::Malformed)?;
    let Some(Candidates(candidates)) = top.manifests else {
        return Ok(Vec::new());
    };
    if candidates.is_empty() {
        return Err(EntryError::Nothing {
            architecture: architecture(),
        });
    }
    let mut digests = Vec::new();
    for candidate in candidates {
        let digest = Digest::parse(&candidate).map_err(EntryError::NotADigest)?;
        if !digests.contains(&digest) {
            digests.push(digest);
        }
    }
    Ok(digests)
}

/// The name that images use for this machine's architecture.
/// Source: the values of Go's `GOARCH`, which OCI's image-index.md takes over.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

impl Entry {
    /// An entry that names no platform may be for any: containerd looks into its config.
    /// Source: containerd 2.1.9 core/images/image.go, `Manifest`.
    fn is_for_this_node(&self) -> bool {
        let known = self
            .platform
            .as_ref()
            .filter(|platform| !(platform.os.is_empty() && platform.architecture.is_empty()));
        known.is_none_or(|platform| platform.os == "linux" && platform.architecture == architecture())
    }
}

impl<'de> Deserialize<'de> for Candidates {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items;
        impl<'de> Visitor<'de> for Items {
            type Value = Candidates;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of manifests")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Candidates, A::Error> {
                let mut digests: Vec<String> = Vec::new();
                while let Some(entry) = seq.next_element::<Entry>()? {
                    if !entry.is_for_this_node() || digests.contains(&entry.digest) {
                        continue;
                    }
                    if digests.len() == MAX_ENTRIES {
                        return Err(A::Error::custom("more entries for this node than any image has"));
                    }
                    digests.push(entry.digest);
                }
                Ok(Candidates(digests))
            }
        }
        deserializer.deserialize_seq(Items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(n: u8, platform: &str) -> String {
        format!(
            r#"{{"digest":"sha256:{}"{platform}}}"#,
            format!("{n:02x}").repeat(32)
        )
    }

    fn platform(os: &str, architecture: &str) -> String {
        format!(r#","platform":{{"os":"{os}","architecture":"{architecture}","variant":"v8"}}"#)
    }

    fn chosen(entries: &[String]) -> Result<Vec<String>, EntryError> {
        let text = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
        let digests = for_this_node(text.as_bytes())?;
        Ok(digests
            .iter()
            .map(|digest| digest.as_str()[7..9].to_owned())
            .collect())
    }

    #[test]
    fn entries_for_this_node_are_chosen() {
        let ours = platform("linux", architecture());
        let entries = [
            entry(1, &platform("linux", "s390x")),
            entry(2, &ours),
            entry(3, &platform("windows", architecture())),
            entry(4, &platform("unknown", "unknown")),
            entry(5, ""),
            entry(2, &ours),
        ];
        assert_eq!(chosen(&entries).unwrap(), ["02", "05"]);
    }

    #[test]
    fn a_manifest_lists_nothing_and_that_is_no_error() {
        for text in [r#"{"config":{},"layers":[]}"#, r#"{"manifests":null}"#, "{}"] {
            assert_eq!(for_this_node(text.as_bytes()).unwrap(), [], "{text}");
        }
    }

    #[test]
    fn an_index_that_does_not_tell_is_an_error() {
        assert!(matches!(chosen(&[]), Err(EntryError::Nothing { .. })));
        assert!(matches!(
            chosen(&[entry(1, &platform("linux", "s390x"))]),
            Err(EntryError::Nothing { .. })
        ));
        assert!(matches!(
            chosen(&["{}".to_owned()]),
            Err(EntryError::NotADigest(_))
        ));
        let many: Vec<String> = (0..5).map(|n| entry(n, "")).collect();
        assert!(matches!(chosen(&many), Err(EntryError::Malformed(_))));
        assert_eq!(chosen(&many[..4]).unwrap().len(), 4);
        for text in [
            "",
            "7",
            r#"{"manifests":[7]}"#,
            r#"{"manifests":[],"manifests":[]}"#,
        ] {
            assert!(matches!(
                for_this_node(text.as_bytes()),
                Err(EntryError::Malformed(_))
            ));
        }
    }
}
