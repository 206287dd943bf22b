//! What the lines of an audit log were, in numbers.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// What lines were.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Lines, the unusable ones among them.
    pub lines: u64,
    /// Bytes, with one for each line's end.
    pub bytes: u64,
    /// Lines, or events in lists, that cannot be about pods, or are of a stage in which nothing has happened yet.
    pub of_no_interest: u64,
    /// Lines that were lists of events.
    pub lists: u64,
    /// Events in them.
    pub items: u64,
    /// Understood events, by what they were.
    pub kinds: BTreeMap<Kind, u64>,
    /// Events that could not be used, or not in full, by why.
    pub unusable: BTreeMap<Unusable, u64>,
}

impl Counts {
    pub(super) fn kind(&mut self, kind: Kind) {
        *self.kinds.entry(kind).or_default() += 1;
    }

    pub(super) fn unusable(&mut self, unusable: Unusable) {
        *self.unusable.entry(unusable).or_default() += 1;
    }
}

macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $text,)* })
            }
        }
    };
}

named! {
    /// What an understood event was.
    Kind {
        /// A pod was created.
        Created = "created",
        /// A pod was changed: its metadata, specification or status.
        Changed = "changed",
        /// A pod was bound to a node.
        Bound = "bound",
        /// A pod was deleted, or marked for it.
        Deleted = "deleted",
        /// A pod was evicted.
        Evicted = "evicted",
        /// Pods were deleted together.
        CollectionDeleted = "collection-deleted",
        /// A namespace was deleted; its pods follow.
        NamespaceDeleted = "namespace-deleted",
        /// A deleted namespace has become empty.
        NamespaceEmptied = "namespace-emptied",
        /// A pod, or a list of pods, was read.
        Seen = "seen",
        /// The request was refused or failed: nothing changed.
        Refused = "refused",
        /// The request was a dry run: nothing changed.
        DryRun = "dry-run",
        /// Something else about pods: a watch, an exec, a log.
        Other = "other",
    }
}

named! {
    /// Why an event could not be used, or not in full.
    Unusable {
        /// The line is longer than is read.
        TooLong = "too-long",
        /// The line is not UTF-8.
        NotUtf8 = "not-utf8",
        /// The line is no JSON, or nested deeper than is read.
        NotJson = "not-json",
        /// The line is no event of audit.k8s.io/v1.
        NotAnEvent = "not-an-event",
        /// The API server panicked: what became of the request is not known.
        Panicked = "panicked",
        /// The event has no times.
        NoTime = "no-time",
        /// The audit policy's level leaves out the body that would tell.
        BodyNotRecorded = "body-not-recorded",
        /// The event was cut: neither body is in it.
        BodyTruncated = "body-truncated",
        /// A body is not what it should be.
        BodyNotUnderstood = "body-not-understood",
        /// Whether a deletion was a dry run cannot be known: the body that would tell is not in the event, or it
        /// contradicts the query.
        DryRunInDoubt = "dry-run-in-doubt",
        /// The pod's name is not in the event.
        NoName = "no-name",
        /// The node of a binding is not in the event.
        NoNode = "no-node",
        /// Which pods were deleted is not in the event.
        NoPods = "no-pods",
        /// The client asked for an answer without the pod's specification, and the request does not tell it either.
        AnswerWithoutSpec = "answer-without-spec",
        /// A name is longer than any that the API server gives.
        BadName = "bad-name",
    }
}
