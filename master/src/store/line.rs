//! One line of the store: which node said it, where in its trail, when it came, and the record as the node wrote it.

use std::borrow::Cow;

use bytes::Bytes;
use magi_master_api::message::AuditMark;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::names::NodeName;

/// A record in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Whose it is.
    pub node: NodeName,
    /// Its place in that node's trail.
    pub mark: AuditMark,
    /// When it was stored, in milliseconds since the epoch.
    pub at_ms: u64,
    /// What the node wrote: one JSON object.
    pub json: Bytes,
}

/// As it stands in the file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Line<'a> {
    #[serde(borrow)]
    pub(super) node: Cow<'a, str>,
    pub(super) run: u64,
    pub(super) seq: u64,
    pub(super) stored: u64,
    #[serde(borrow)]
    pub(super) record: &'a RawValue,
}

impl Stored {
    /// The line, with its end. None: the record is no JSON object.
    pub(crate) fn line(&self) -> Option<Vec<u8>> {
        let text = std::str::from_utf8(&self.json).ok()?;
        serde_json::from_str::<std::collections::HashMap<Cow<'_, str>, IgnoredAny>>(text).ok()?;
        let record: &RawValue = serde_json::from_str(text).ok()?;
        let line = Line {
            node: Cow::Borrowed(self.node.as_str()),
            run: self.mark.run,
            seq: self.mark.sequence,
            stored: self.at_ms,
            record,
        };
        let mut bytes = serde_json::to_vec(&line).ok()?;
        bytes.push(b'\n');
        Some(bytes)
    }
}

impl Line<'_> {
    /// Reads a line, without its end. None: it is not one of the store's.
    pub(super) fn parse(bytes: &[u8]) -> Option<Line<'_>> {
        serde_json::from_slice(bytes).ok()
    }

    pub(super) fn mark(&self) -> AuditMark {
        AuditMark {
            run: self.run,
            sequence: self.seq,
        }
    }

    pub(super) fn stored(&self) -> Option<Stored> {
        Some(Stored {
            node: NodeName::new(self.node.as_ref()).ok()?,
            mark: self.mark(),
            at_ms: self.stored,
            json: Bytes::copy_from_slice(self.record.get().as_bytes()),
        })
    }
}
