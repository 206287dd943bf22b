//! Names that only the master needs; a node knows no other.

use magi_engine::ids::NameError;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A node, as the API server names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(Box<str>);

impl NodeName {
    /// The most bytes that a node's name has (a DNS subdomain, RFC 1123).
    pub const MAX: usize = 253;

    /// Checks length and takes the text.
    ///
    /// # Errors
    /// Empty, or longer than [`NodeName::MAX`].
    pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        if text.is_empty() {
            return Err(NameError::Empty { kind: "node name" });
        }
        if text.len() > Self::MAX {
            return Err(NameError::TooLong {
                kind: "node name",
                len: text.len(),
            });
        }
        Ok(Self(text.into_boxed_str()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for NodeName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> Self {
        name.0.into_string()
    }
}
